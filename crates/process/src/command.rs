//! A command as plain data: what to run, where, with which input and bounds.
//!
//! Nothing here touches the system; the same spec can be run any number of
//! times, logged and compared.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::ProcessError;
use crate::limits::{OUTPUT_BYTES_DEFAULT, TIMEOUT_DEFAULT};

/// What to run, built step by step.
///
/// Without further words the program gets this process's environment and
/// working directory, nothing on its standard input,
/// [`TIMEOUT_DEFAULT`] and [`OUTPUT_BYTES_DEFAULT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSpec {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) env_clear: bool,
    /// In the order given; `None` removes.
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) stdin: Option<Vec<u8>>,
    pub(crate) timeout: Duration,
    pub(crate) max_output: usize,
}

impl CommandSpec {
    /// A program, looked up in `PATH` unless its name contains a slash.
    pub fn new(program: impl Into<OsString>) -> CommandSpec {
        CommandSpec {
            program: program.into(),
            args: Vec::new(),
            cwd: None,
            env_clear: false,
            env: Vec::new(),
            stdin: None,
            timeout: TIMEOUT_DEFAULT,
            max_output: OUTPUT_BYTES_DEFAULT,
        }
    }

    /// A program and its arguments in one list.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Invalid`] when the list is empty.
    pub fn from_argv<I>(argv: I) -> Result<CommandSpec, ProcessError>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let mut argv = argv.into_iter();
        let Some(program) = argv.next() else {
            return Err(ProcessError::Invalid {
                program: OsString::new(),
                source: io::Error::new(io::ErrorKind::InvalidInput, "empty argument list"),
            });
        };
        Ok(CommandSpec::new(program).args(argv))
    }

    /// `text` as a script for `/bin/sh -c`.
    pub fn shell(text: impl Into<OsString>) -> CommandSpec {
        CommandSpec::new("/bin/sh").arg("-c").arg(text)
    }

    /// `text` as a script for `bash -c`.
    pub fn bash(text: impl Into<OsString>) -> CommandSpec {
        CommandSpec::new("bash").arg("-c").arg(text)
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> CommandSpec {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I>(mut self, args: I) -> CommandSpec
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Runs in this directory. A program named with a relative path is then
    /// looked up from there.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> CommandSpec {
        self.cwd = Some(cwd.into());
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> CommandSpec {
        self.env.push((key.into(), Some(value.into())));
        self
    }

    /// Removes a variable of the environment.
    #[must_use]
    pub fn env_remove(mut self, key: impl Into<OsString>) -> CommandSpec {
        self.env.push((key.into(), None));
        self
    }

    /// Starts from an empty environment, whatever the order of the calls:
    /// variables given with [`env`](Self::env) stay.
    #[must_use]
    pub fn env_clear(mut self) -> CommandSpec {
        self.env_clear = true;
        self
    }

    /// What the program reads on its standard input, as from a file: after the
    /// last byte it sees the end.
    #[must_use]
    pub fn stdin_bytes(mut self, bytes: impl Into<Vec<u8>>) -> CommandSpec {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long [`run`](crate::run()) lets it run. A long-lived
    /// [`Child`](crate::Child) has no timeout of its own.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> CommandSpec {
        self.timeout = timeout;
        self
    }

    /// How many bytes of each stream [`run`](crate::run()) keeps, and how long
    /// a line of a [`Child`](crate::Child) may be.
    #[must_use]
    pub fn max_output(mut self, bytes: usize) -> CommandSpec {
        self.max_output = bytes;
        self
    }

    /// The program as it was named.
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    /// The arguments, without the program.
    pub fn arguments(&self) -> &[OsString] {
        &self.args
    }

    /// The working directory, unless it is this process's.
    pub fn working_directory(&self) -> Option<&Path> {
        self.cwd.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_argv_is_refused() {
        let error = CommandSpec::from_argv(Vec::<String>::new()).unwrap_err();
        assert!(matches!(error, ProcessError::Invalid { .. }), "{error:?}");
    }

    #[test]
    fn argv_is_split_into_program_and_arguments() {
        let spec = CommandSpec::from_argv(["a", "b", "c d"]).unwrap();
        assert_eq!(spec.program(), "a");
        assert_eq!(spec.arguments(), ["b", "c d"]);
        assert_eq!(spec, CommandSpec::new("a").arg("b").arg("c d"));
    }
}

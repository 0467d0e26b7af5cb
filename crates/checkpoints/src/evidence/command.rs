//! Evidence that a command ended as it should: the exit code that was recorded
//! is compared with the expected one, and on request the command is run again.
//! A command that a signal killed has no exit code and never passes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_core::limits::{RECHECK_TIMEOUT_DEFAULT, RECHECK_TIMEOUT_MAX};
use agentos_core::{InvalidInput, LimitExceeded, StorageError};
use agentos_process::{CommandSpec, Outcome, run};
use serde::{Deserialize, Serialize};

use crate::error::{CheckpointError, with_causes};
use crate::evidence::{Check, check_path};
use crate::paths::Base;

/// A command ended with the expected exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandExit {
    argv: Vec<String>,
    exit_code: Option<i32>,
    expected: i32,
    recheck: Option<Recheck>,
}

impl CommandExit {
    /// The command `argv` was run and exited with `exit_code`; `None` when a
    /// signal killed it. It was expected to exit with 0.
    pub fn new<I>(argv: I, exit_code: Option<i32>) -> CommandExit
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        CommandExit {
            argv: argv.into_iter().map(Into::into).collect(),
            exit_code,
            expected: 0,
            recheck: None,
        }
    }

    /// It was expected to exit with this code.
    #[must_use]
    pub fn expected(mut self, code: i32) -> CommandExit {
        self.expected = code;
        self
    }

    /// Whenever the evidence is checked this is run, and must exit with the
    /// expected code as well.
    #[must_use]
    pub fn recheck(mut self, recheck: Recheck) -> CommandExit {
        self.recheck = Some(recheck);
        self
    }

    /// The directory that a recheck runs in, as it was given.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.recheck.as_ref()?.cwd.as_deref()
    }

    pub(crate) fn validate(&self) -> Result<(), CheckpointError> {
        check_argv(&self.argv)?;
        match &self.recheck {
            Some(recheck) => recheck.validate(),
            None => Ok(()),
        }
    }

    pub(crate) fn check(&self, base: &Base<'_>) -> Result<Check, CheckpointError> {
        let expected = self.expected;
        let recorded = match self.exit_code {
            Some(code) if code == expected => return self.run_again(base),
            Some(code) => format!("exited with {code}"),
            None => "was killed by a signal".into(),
        };
        let program = &self.argv[0];
        Ok(Check::failed(format!(
            "{program:?} {recorded}, expected exit code {expected}"
        )))
    }

    fn run_again(&self, base: &Base<'_>) -> Result<Check, CheckpointError> {
        match &self.recheck {
            Some(recheck) => recheck.check(self.expected, base),
            None => Ok(Check::Passed),
        }
    }
}

/// A command to run when evidence is checked. It gets this process's
/// environment and no input; its output is dropped; it and what it started are
/// killed when it is over or its time is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recheck {
    argv: Vec<String>,
    cwd: Option<PathBuf>,
    timeout_ms: u64,
}

impl Recheck {
    /// Runs `argv` in the base directory, at most [`RECHECK_TIMEOUT_DEFAULT`].
    pub fn new<I>(argv: I) -> Recheck
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Recheck {
            argv: argv.into_iter().map(Into::into).collect(),
            cwd: None,
            timeout_ms: millis(RECHECK_TIMEOUT_DEFAULT),
        }
    }

    /// Runs in this directory, under the rules for all paths of evidence.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> Recheck {
        self.cwd = Some(cwd.into());
        self
    }

    /// How long it may run, in whole milliseconds, at most
    /// [`RECHECK_TIMEOUT_MAX`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Recheck {
        self.timeout_ms = millis(timeout);
        self
    }

    fn validate(&self) -> Result<(), CheckpointError> {
        check_argv(&self.argv)?;
        if let Some(cwd) = &self.cwd {
            check_path(cwd)?;
        }
        let limit = millis(RECHECK_TIMEOUT_MAX);
        if self.timeout_ms > limit {
            return Err(LimitExceeded {
                name: "recheck timeout milliseconds",
                limit,
                value: self.timeout_ms,
            }
            .into());
        }
        if self.timeout_ms == 0 {
            return Err(InvalidInput::new("recheck timeout", "is zero").into());
        }
        Ok(())
    }

    fn check(&self, expected: i32, base: &Base<'_>) -> Result<Check, CheckpointError> {
        let failed = |reason: String| Check::failed(format!("recheck {:?} {reason}", self.argv[0]));
        let cwd = match &self.cwd {
            None => base.dir().to_owned(),
            Some(cwd) => match base.find(cwd) {
                Ok(found) => found.place.path,
                Err(problem) => return Ok(failed(format!("in {}: {problem}", cwd.display()))),
            },
        };
        let spec = CommandSpec::new(&self.argv[0])
            .args(&self.argv[1..])
            .cwd(cwd)
            .timeout(Duration::from_millis(self.timeout_ms))
            .max_output(0);
        Ok(match run(&spec).map(|finished| finished.outcome) {
            Ok(Outcome::Exited { code }) if code == expected => Check::Passed,
            Ok(Outcome::Exited { code }) => {
                failed(format!("exited with {code}, expected {expected}"))
            }
            Ok(Outcome::Signalled { signal }) => failed(format!("was killed by signal {signal}")),
            Ok(Outcome::Cancelled) => failed("was cancelled".into()),
            Ok(Outcome::TimedOut) => failed(format!("was not over after {} ms", self.timeout_ms)),
            Err(error) if error.is_machine() => {
                return Err(CheckpointError::Machine(Box::new(error)));
            }
            Err(error) => failed(format!("could not be run: {}", with_causes(&error))),
        })
    }
}

/// Whole milliseconds; a part of one counts as one.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Refuses what no system could run.
fn check_argv(argv: &[String]) -> Result<(), StorageError> {
    let reason = match argv.first() {
        None => "is empty",
        Some(program) if program.is_empty() => "names no program",
        Some(_) if argv.iter().any(|word| word.contains('\0')) => "contains NUL",
        Some(_) => return Ok(()),
    };
    Err(InvalidInput::new("command", reason).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(evidence: &CommandExit) -> Check {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        std::fs::create_dir(top.join("sub")).unwrap();
        evidence.check(&Base::new(&top, false, &[])).unwrap()
    }

    fn succeeded() -> CommandExit {
        CommandExit::new(["make", "all"], Some(0))
    }

    fn shell(script: &str) -> Recheck {
        Recheck::new(["/bin/sh", "-c", script])
    }

    #[track_caller]
    fn fails_with(evidence: &CommandExit, reason: &str) {
        assert_eq!(check(evidence), Check::failed(reason));
    }

    #[test]
    fn the_recorded_code_must_be_the_expected_one() {
        assert_eq!(check(&succeeded()), Check::Passed);
        assert_eq!(
            check(&CommandExit::new(["grep"], Some(1)).expected(1)),
            Check::Passed
        );
        fails_with(
            &CommandExit::new(["make"], Some(1)),
            "\"make\" exited with 1, expected exit code 0",
        );
        fails_with(
            &succeeded().expected(1),
            "\"make\" exited with 0, expected exit code 1",
        );
        fails_with(
            &CommandExit::new(["make"], None),
            "\"make\" was killed by a signal, expected exit code 0",
        );
    }

    #[test]
    fn a_recheck_does_not_mend_a_recorded_failure() {
        fails_with(
            &CommandExit::new(["make"], Some(1)).recheck(shell("exit 0")),
            "\"make\" exited with 1, expected exit code 0",
        );
    }

    #[test]
    fn a_recheck_must_exit_with_the_expected_code() {
        assert_eq!(check(&succeeded().recheck(shell("exit 0"))), Check::Passed);
        assert_eq!(
            check(
                &CommandExit::new(["grep"], Some(3))
                    .expected(3)
                    .recheck(shell("exit 3"))
            ),
            Check::Passed
        );
        fails_with(
            &succeeded().recheck(shell("exit 7")),
            "recheck \"/bin/sh\" exited with 7, expected 0",
        );
        fails_with(
            &succeeded().recheck(shell("kill -9 $$")),
            "recheck \"/bin/sh\" was killed by signal 9",
        );
    }

    #[test]
    fn a_recheck_has_its_time() {
        let slow = shell("sleep 600").timeout(Duration::from_millis(30));
        fails_with(
            &succeeded().recheck(slow),
            "recheck \"/bin/sh\" was not over after 30 ms",
        );
    }

    #[test]
    fn a_recheck_runs_in_the_base_directory_or_below() {
        let script = |name| format!("test \"$(basename \"$PWD\")\" = {name}");
        assert_eq!(
            check(&succeeded().recheck(shell(&script("sub")).cwd("sub"))),
            Check::Passed
        );
        fails_with(
            &succeeded().recheck(shell("exit 0").cwd("..")),
            "recheck \"/bin/sh\" in ..: leaves the base directory",
        );
        assert!(matches!(
            check(&succeeded().recheck(shell("exit 0").cwd("missing"))),
            Check::Failed(_)
        ));
    }

    #[test]
    fn a_program_that_is_not_there_fails_with_its_name() {
        let missing = succeeded().recheck(Recheck::new(["/nowhere/agentos-no-such-program"]));
        let Check::Failed(reason) = check(&missing) else {
            panic!("it passed");
        };
        assert!(
            reason.starts_with("recheck \"/nowhere/agentos-no-such-program\" could not be run: "),
            "{reason}"
        );
    }

    #[test]
    fn much_output_holds_nobody_up() {
        let loud = shell("head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2");
        assert_eq!(check(&succeeded().recheck(loud)), Check::Passed);
    }

    #[test]
    fn what_could_never_run_is_refused() {
        for evidence in [
            CommandExit::new([""; 0], Some(0)),
            CommandExit::new([""], Some(0)),
            CommandExit::new(["a\0b"], Some(0)),
            succeeded().recheck(Recheck::new([""; 0])),
            succeeded().recheck(shell("true").timeout(Duration::ZERO)),
            succeeded().recheck(shell("true").timeout(Duration::MAX)),
            succeeded().recheck(shell("true").cwd("a\0b")),
        ] {
            assert!(evidence.validate().is_err(), "{evidence:?}");
        }
        let longest = shell("true").timeout(RECHECK_TIMEOUT_MAX);
        assert!(succeeded().recheck(longest).validate().is_ok());
        assert_eq!(millis(Duration::from_nanos(1)), 1);
    }
}

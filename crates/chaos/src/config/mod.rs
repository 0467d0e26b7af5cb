//! A program under test that a TOML file names: for any language, without a line
//! of Rust.
//!
//! The file says how the program is started, how it acknowledges, which command
//! checks what it left behind, and which strikes are to be made. A check is a
//! program of its own: code 0 says that all holds, 1 that something is broken, and
//! any other end says that the check itself is broken, so that nothing is judged.
//! `docs/CHAOS.md` explains every field.

mod file;
mod steps;
mod template;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use file::Contents;

use crate::crash::{Chaos, PATIENCE_DEFAULT, Staged, Strike, Subject, quoted};

/// How long a file of this kind may be.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How long the prepare command, and the check, may take when nothing is said.
const COMMAND_DEFAULT: Duration = Duration::from_secs(20);

/// What starting and ending processes may take on a busy machine, beside all that
/// has a bound of its own.
const SLACK: Duration = Duration::from_secs(20);

/// The file is of no use. Nothing ran: correct it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says what it may not say.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The character in the line, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
}

/// What a TOML file says of a program, its check and the strikes.
#[derive(Debug, Clone)]
pub struct Config {
    path: PathBuf,
    directory: PathBuf,
    contents: Contents,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the line of what is wrong. Nothing is started.
    pub fn load(path: impl Into<PathBuf>) -> Result<Config, ConfigError> {
        let path = path.into();
        match read(&path) {
            Ok(text) => Config::parse(path, &text),
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        }
    }

    /// Reads what stands, or would stand, in this file.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn parse(path: impl Into<PathBuf>, text: &str) -> Result<Config, ConfigError> {
        let path = path.into();
        let contents = Contents::parse(text).map_err(|(place, message)| {
            let (line, column) = position(text, place);
            ConfigError::Invalid {
                path: path.clone(),
                line,
                column,
                message,
            }
        })?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let directory = std::path::absolute(match directory.as_os_str().is_empty() {
            true => Path::new("."),
            false => directory,
        });
        match directory {
            Ok(directory) => Ok(Config {
                directory,
                path,
                contents,
            }),
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        }
    }

    /// The subject's name.
    pub fn name(&self) -> &str {
        &self.contents.name
    }

    /// The program and its check.
    pub fn subject(&self) -> Subject {
        let config = self.clone();
        let mut subject = Subject::staged(self.name(), move |run, size| {
            config.prepare(run, size)?;
            let program = &config.contents.program;
            let mut spec = config.spec("program", &program.command, run, size)?;
            if let Some(prefix) = &program.ack {
                spec = spec.ack_prefix(prefix.as_str());
            }
            let config = config.clone();
            Ok(Staged::new(spec, move |run, after| {
                config.check(run, after)
            }))
        });
        let contents = &self.contents;
        if let Some(goal) = &contents.goal {
            subject = subject.goal(goal);
        }
        if let Some(size) = contents.size {
            subject = subject.size(size);
        }
        if let Some(smallest) = &contents.smallest {
            subject = subject.smallest(*smallest.get_ref());
        }
        if contents.program.may_hang {
            subject = subject.may_hang();
        }
        subject
    }

    /// The subject with the strikes of the file. A runner that is given to it needs
    /// [`timeout`](Self::timeout).
    pub fn chaos(&self) -> Chaos {
        let strikes = self.contents.strikes.get_ref();
        let faults = strikes.faults.iter().map(|fault| fault.0);
        let mut chaos = Chaos::new(self.subject())
            .kills(strikes.kills)
            .faults_of(faults)
            .patience(self.patience());
        if strikes.points {
            chaos = chaos.every_point();
        }
        if strikes.calls {
            chaos = chaos.every_syscall();
        }
        if let Some(budget) = strikes.budget {
            chaos = chaos.budget(budget);
        }
        chaos
    }

    /// How long one run may take: the program's patience, and the bounds of the
    /// prepare command and the check.
    pub fn timeout(&self) -> Duration {
        let commands = 1 + u32::from(self.contents.prepare.is_some());
        self.patience()
            .saturating_add(self.command_timeout().saturating_mul(commands))
            .saturating_add(SLACK)
    }

    /// The line that makes one strike again, for a command that takes `--config`,
    /// `--strike`, `--size` and `--seed`. Variables of the environment that the file
    /// asks for are set in it.
    pub fn replay_line(&self, command: &str, strike: &Strike, size: u64, seed: u64) -> String {
        let mut line = String::new();
        for (name, value) in self.contents.variables() {
            line.push_str(&format!("{name}={} ", quoted(&value)));
        }
        let path = quoted(&self.path.to_string_lossy());
        let strike = quoted(&strike.to_string());
        line.push_str(&format!(
            "{command} --config {path} --strike {strike} --size {size} --seed {seed}"
        ));
        line
    }

    fn patience(&self) -> Duration {
        let given = self.contents.limits.patience_ms;
        given.map_or(PATIENCE_DEFAULT, |ms| Duration::from_millis(ms.get()))
    }

    fn command_timeout(&self) -> Duration {
        let given = self.contents.limits.command_ms;
        given.map_or(COMMAND_DEFAULT, |ms| Duration::from_millis(ms.get()))
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        let words = format!("it is longer than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
    }
    Ok(text)
}

/// Line and character of a place in the text, from 1 each.
fn position(text: &str, place: usize) -> (usize, usize) {
    let before = text.get(..place).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let last = before.rsplit('\n').next().unwrap_or_default();
    (line, last.chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
name = "save"
goal = "what was saved is there"
size = 6
smallest = 2

[program]
argv = ["{config_dir}/save", "{dir}", "{size}"]
cwd = "somewhere"
env = { MODE = "{{fast}}" }
ack = "saved "
may_hang = true

[prepare]
argv = ["mkdir", "{dir}/data"]

[check]
argv = ["check"]

[strikes]
kills = 20
points = true
calls = true
faults = ["EIO", "short"]
budget = 99

[limits]
patience_ms = 1500
command_ms = 700
"#;

    fn refused(text: &str) -> String {
        Config::parse("a/b.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_file_is_read() {
        let config = Config::parse("/a/b.toml", WHOLE).unwrap();
        assert_eq!(config.name(), "save");
        assert_eq!(config.directory, Path::new("/a"));
        let subject = config.subject();
        assert_eq!((subject.default_size(), subject.smallest), (6, 2));
        assert!(subject.may_hang);
        assert_eq!(config.patience(), Duration::from_millis(1500));
        let timeout = Duration::from_millis(1500 + 2 * 700) + SLACK;
        assert_eq!(config.timeout(), timeout);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let cases = [
            ("goal = ", "goals = ", "3:1: unknown field `goals`"),
            ("kills = 20", "kills = -1", "21:9: invalid value"),
            ("kills = 20", "kill = 20", "21:1: unknown field `kill`"),
            ("kills = 20", "kills = 100001", "20:1: 100001 kills"),
            (r#"["check"]"#, "[]", "18:8: a command has a program"),
            (r#""EIO""#, r#""EPERM""#, "24:10: \"EPERM\" is no fault"),
            ("{size}", "{sise}", "8:8: there is no placeholder {sise}"),
            ("{{fast}}", "{fast", "10:16: a brace is open"),
            ("{{fast}}", "fast}", "10:16: a brace is closed"),
            ("smallest = 2", "smallest = 7", "5:12: the smallest size"),
            ("size = 6", "size 6", "4:6: "),
            ("\"save\"", "\"\"", "2:8: a name"),
            ("patience_ms = 1500", "patience_ms = 0", "28:15: "),
            ("ack = \"saved \"", "ack = \"\"", "11:7: "),
            ("{size}", "{env:NOT_SET_ANYWHERE}", "8:8: the variable"),
        ];
        for (right, wrong, expected) in cases {
            assert!(WHOLE.contains(right), "{right}");
            let text = refused(&WHOLE.replacen(right, wrong, 1));
            let start = format!("a/b.toml:{expected}");
            assert!(text.starts_with(&start), "{text}\nand not {start}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
        let nothing = WHOLE.split("[strikes]").next().unwrap();
        let text = refused(nothing);
        assert!(text.contains("missing field `strikes`"), "{text}");
        let text = refused(&format!("{nothing}[strikes]\nbudget = 3\n"));
        assert!(text.starts_with("a/b.toml:20:1: no strike"), "{text}");
    }

    #[test]
    fn a_file_that_is_not_there_is_told_by_its_name() {
        let error = Config::load("/nowhere/at/all.toml").unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/at/all.toml cannot be read");
    }

    #[test]
    fn a_replay_line_is_one_for_a_shell() {
        let text = WHOLE.replacen("{size}", "{env:PATH}", 1);
        let config = Config::parse("a b.toml", &text).unwrap();
        let strike: Strike = "call:1/1#3:after".parse().unwrap();
        let line = config.replay_line("run it", &strike, 2, 7);
        let path = quoted(&std::env::var("PATH").unwrap());
        assert_eq!(
            line,
            format!(
                "PATH={path} run it --config 'a b.toml' --strike 'call:1/1#3:after' --size 2 --seed 7"
            )
        );
    }
}

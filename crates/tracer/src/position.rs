//! Where in a process tree a call happens, in a form that is the same in the
//! next run of a deterministic program.
//!
//! Ids of processes and threads differ from run to run, and so does the order
//! in which two threads get on. What stays is lineage: who created whom as the
//! k-th, and the n-th call of one thread.
//!
//! ```text
//! position = process "/" thread "#" nth
//! process  = "1" { "." k [ "@" thread ] }
//! thread   = "1" { "+" k }
//! ```
//!
//! The process that was started is `1`; `1.2` is the second child process that
//! its main thread created, `1.2@1+3` the second that its thread `1+3` created.
//! The main thread is `1`; `1+3` is the third thread that the main thread
//! created. Executing another program changes neither. So `1.2/1#17` is the
//! 17th interesting call of the main thread of the second child process.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::POSITION_BYTES_MAX;

/// A thread within its process: `1` is the main thread, `1+2` the second thread
/// that it created.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ThreadPath(Vec<u32>);

/// A process within the tree: `1` is the one that was started, `1.2` the second
/// child process that its main thread created.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProcessPath(Vec<Birth>);

/// The `k`-th child process that `thread` of the parent created.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Birth {
    k: u32,
    thread: ThreadPath,
}

/// One interesting call: the `nth` of its thread, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    /// The process.
    pub process: ProcessPath,
    /// The thread of that process.
    pub thread: ThreadPath,
    /// Which interesting call of that thread, from 1.
    pub nth: u64,
}

/// The text is no position, process or thread of the form that this module
/// describes: correct it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no position such as 1/1#17 or 1.2@1+3/1+1#4")]
pub struct PositionError {
    /// The text, cut when it is long.
    pub text: String,
}

impl PositionError {
    fn of(text: &str) -> PositionError {
        PositionError {
            text: text.chars().take(80).collect(),
        }
    }
}

impl ThreadPath {
    /// The main thread.
    pub fn main() -> ThreadPath {
        ThreadPath(vec![1])
    }

    /// The `k`-th thread that this thread created, from 1.
    #[must_use]
    pub fn child(&self, k: u32) -> ThreadPath {
        let mut path = self.0.clone();
        path.push(k);
        ThreadPath(path)
    }

    /// Whether it is the main thread.
    pub fn is_main(&self) -> bool {
        self.0.len() == 1
    }
}

impl ProcessPath {
    /// The process that was started.
    pub fn root() -> ProcessPath {
        ProcessPath(Vec::new())
    }

    /// The `k`-th child process that `thread` of this process created, from 1.
    #[must_use]
    pub fn child(&self, thread: &ThreadPath, k: u32) -> ProcessPath {
        let mut path = self.0.clone();
        path.push(Birth {
            k,
            thread: thread.clone(),
        });
        ProcessPath(path)
    }

    /// Whether it is the process that was started.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl Position {
    /// The `nth` interesting call of `thread` in `process`.
    pub fn new(process: ProcessPath, thread: ThreadPath, nth: u64) -> Position {
        Position {
            process,
            thread,
            nth,
        }
    }
}

impl fmt::Display for ThreadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, k) in self.0.iter().enumerate() {
            if depth > 0 {
                f.write_str("+")?;
            }
            write!(f, "{k}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ProcessPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("1")?;
        for birth in &self.0 {
            write!(f, ".{}", birth.k)?;
            if !birth.thread.is_main() {
                write!(f, "@{}", birth.thread)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.process, self.thread, self.nth)
    }
}

/// A number from 1 as it is printed: digits alone, no leading zero.
fn number<N: FromStr>(text: &str) -> Option<N> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

fn thread(text: &str) -> Option<ThreadPath> {
    let path: Option<Vec<u32>> = text.split('+').map(number).collect();
    path.filter(|path| path[0] == 1).map(ThreadPath)
}

fn process(text: &str) -> Option<ProcessPath> {
    let mut parts = text.split('.');
    if parts.next() != Some("1") {
        return None;
    }
    let births = parts.map(|part| {
        let (k, creator) = match part.split_once('@') {
            None => (part, ThreadPath::main()),
            // The main thread is never written, so that one process has one text.
            Some((k, creator)) => (k, thread(creator).filter(|path| !path.is_main())?),
        };
        Some(Birth {
            k: number(k)?,
            thread: creator,
        })
    });
    births.collect::<Option<Vec<_>>>().map(ProcessPath)
}

fn position(text: &str) -> Option<Position> {
    let (path, nth) = text.split_once('#')?;
    let (of_process, of_thread) = path.split_once('/')?;
    Some(Position {
        process: process(of_process)?,
        thread: thread(of_thread)?,
        nth: number(nth)?,
    })
}

/// `FromStr` and both directions of serde, which go through the text.
macro_rules! as_text {
    ($name:ident, $parse:ident) => {
        impl FromStr for $name {
            type Err = PositionError;

            fn from_str(text: &str) -> Result<$name, PositionError> {
                if text.len() > POSITION_BYTES_MAX {
                    return Err(PositionError::of(text));
                }
                $parse(text).ok_or_else(|| PositionError::of(text))
            }
        }

        impl TryFrom<String> for $name {
            type Error = PositionError;

            fn try_from(text: String) -> Result<$name, PositionError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(path: $name) -> String {
                path.to_string()
            }
        }
    };
}

as_text!(ThreadPath, thread);
as_text!(ProcessPath, process);
as_text!(Position, position);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_printed_and_parsed_back() {
        let thread = ThreadPath::main().child(3).child(1);
        let process = ProcessPath::root()
            .child(&ThreadPath::main(), 2)
            .child(&thread, 7);
        let position = Position::new(process, ThreadPath::main().child(4), 17);
        assert_eq!(position.to_string(), "1.2.7@1+3+1/1+4#17");
        assert_eq!(position.to_string().parse(), Ok(position.clone()));
        let json = serde_json::to_string(&position).unwrap();
        assert_eq!(json, "\"1.2.7@1+3+1/1+4#17\"");
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), position);
        let first = Position::new(ProcessPath::root(), ThreadPath::main(), 1);
        assert_eq!(first.to_string(), "1/1#1");
    }

    #[test]
    fn a_text_that_is_no_position_is_refused() {
        for text in [
            "",
            "1",
            "1/1",
            "1/1#",
            "1/1#0",
            "1/1#01",
            "2/1#1",
            "1/2#1",
            "1.0/1#1",
            "1./1#1",
            "1.1@1/1#1",
            "1.1@2/1#1",
            "1/1+#1",
            "1/1#+1",
            "1/1#1 ",
            "1/1#99999999999999999999999",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
        let long = format!("1{}/1#1", ".1".repeat(POSITION_BYTES_MAX));
        assert!(long.parse::<Position>().is_err());
    }
}

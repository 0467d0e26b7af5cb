//! Which call of which thread of which process.

use std::fmt;
use std::str::FromStr;

/// The place of a system call in a process tree: `process/thread#n`, where a
/// process and a thread are named by the order in which they were started, and
/// `n` counts that thread's calls, from 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(String);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A text that is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no position of a call")]
pub struct PositionError(pub String);

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Position, PositionError> {
        let number = |text: &str| text.parse::<u64>().is_ok_and(|number| number > 0);
        let path = |text: &str| text.split('.').all(number);
        let is_one = text
            .split_once('#')
            .and_then(|(at, nth)| Some((at.split_once('/')?, nth)))
            .is_some_and(|((process, thread), nth)| path(process) && path(thread) && number(nth));
        if is_one {
            Ok(Position(text.to_owned()))
        } else {
            Err(PositionError(text.to_owned()))
        }
    }
}

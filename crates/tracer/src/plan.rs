//! What is to happen to one run, as plain data.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::calls::CallKind;
use crate::position::Position;

/// What is to happen to one run: nothing, or one thing at one call.
///
/// ```
/// use agentos_tracer::{CallKind, Fault, Plan, When};
///
/// let at: agentos_tracer::Position = "1/1#17".parse()?;
/// let kill = Plan::kill(at.clone(), When::Before).expecting(CallKind::named("fsync").unwrap());
/// let fail = Plan::fail(at, Fault::Enospc);
/// assert_ne!(kill, fail);
/// # Ok::<(), agentos_tracer::PositionError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// Nothing: every interesting call is reported.
    Count,
    /// The whole process tree is killed with SIGKILL at this call.
    Kill {
        /// The call.
        at: Position,
        /// What call is expected there. Another one is killed at all the same;
        /// the [`Hit`](crate::Hit) says which it was.
        expected: Option<CallKind>,
        /// Before or after it.
        when: When,
    },
    /// This call fails, and the program goes on.
    Fail {
        /// The call.
        at: Position,
        /// What call is expected there. Another one fails all the same, where
        /// the fault makes sense for it.
        expected: Option<CallKind>,
        /// In which way.
        fault: Fault,
    },
}

impl Plan {
    /// Kills the tree before or after the call at this position.
    pub fn kill(at: Position, when: When) -> Plan {
        Plan::Kill {
            at,
            expected: None,
            when,
        }
    }

    /// Makes the call at this position fail.
    pub fn fail(at: Position, fault: Fault) -> Plan {
        Plan::Fail {
            at,
            expected: None,
            fault,
        }
    }

    /// Says which call is expected at the position.
    #[must_use]
    pub fn expecting(mut self, kind: CallKind) -> Plan {
        match &mut self {
            Plan::Count => {}
            Plan::Kill { expected, .. } | Plan::Fail { expected, .. } => *expected = Some(kind),
        }
        self
    }

    /// The position that is to be struck, if any.
    pub fn position(&self) -> Option<&Position> {
        match self {
            Plan::Count => None,
            Plan::Kill { at, .. } | Plan::Fail { at, .. } => Some(at),
        }
    }

    /// The call that is expected there, if one is.
    pub fn expected(&self) -> Option<CallKind> {
        match self {
            Plan::Count => None,
            Plan::Kill { expected, .. } | Plan::Fail { expected, .. } => *expected,
        }
    }
}

/// On which side of a call the tree is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The call is never executed.
    Before,
    /// The call has been executed; the program never sees its result.
    After,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            When::Before => "before",
            When::After => "after",
        })
    }
}

impl FromStr for When {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<When, UnknownWord> {
        match text {
            "before" => Ok(When::Before),
            "after" => Ok(When::After),
            _ => Err(UnknownWord::of(text)),
        }
    }
}

/// In which way a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The disk failed. The call is not executed.
    Eio,
    /// The disk is full. The call is not executed.
    Enospc,
    /// A signal interrupted it before it did anything. It is not executed.
    Eintr,
    /// Half of the bytes (at least one) are written and reported as such. A
    /// vector of several buffers loses its second half of buffers.
    ShortWrite,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 4] = [Fault::Eio, Fault::Enospc, Fault::Eintr, Fault::ShortWrite];

    /// The error number that the program sees; none for a short write.
    pub fn errno(self) -> Option<i32> {
        use rustix::io::Errno;
        match self {
            Fault::Eio => Some(Errno::IO.raw_os_error()),
            Fault::Enospc => Some(Errno::NOSPC.raw_os_error()),
            Fault::Eintr => Some(Errno::INTR.raw_os_error()),
            Fault::ShortWrite => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Eio => "EIO",
            Fault::Enospc => "ENOSPC",
            Fault::Eintr => "EINTR",
            Fault::ShortWrite => "short",
        })
    }
}

impl FromStr for Fault {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Fault, UnknownWord> {
        Fault::ALL
            .into_iter()
            .find(|fault| fault.to_string() == text)
            .ok_or_else(|| UnknownWord::of(text))
    }
}

/// The text is none of the words that were possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is none of before, after, EIO, ENOSPC, EINTR, short")]
pub struct UnknownWord {
    /// The text, cut when it is long.
    pub word: String,
}

impl UnknownWord {
    fn of(text: &str) -> UnknownWord {
        UnknownWord {
            word: text.chars().take(80).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_printed_and_parsed_back() {
        for when in [When::Before, When::After] {
            assert_eq!(when.to_string().parse(), Ok(when));
        }
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        assert!("eio".parse::<Fault>().is_err());
        assert!("".parse::<When>().is_err());
    }
}

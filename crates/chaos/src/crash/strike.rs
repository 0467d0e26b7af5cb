//! One way in which one run is struck, as plain data with a text form of one
//! line.
//!
//! Printing and parsing are inverse: a strike that was found in one run is typed
//! into another.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

use agentos_tracer::{Fault, Position, When};

/// How a run is struck.
///
/// ```
/// use agentos_chaos::Strike;
///
/// let strike: Strike = "point:store.before_commit#3".parse()?;
/// assert_eq!(strike.to_string(), "point:store.before_commit#3");
/// # Ok::<(), agentos_chaos::StrikeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Strike {
    /// `none`: nobody is struck.
    None,
    /// `kill:3acks+120us`: SIGKILL to the victim and all that it started, so
    /// long after that acknowledgement; with 0, after its start.
    Kill {
        /// Acknowledgements that are waited for.
        acks: usize,
        /// Whole microseconds after the last of them.
        offset: Duration,
    },
    /// `point:NAME#3`: the process that reaches that crash point for that time
    /// dies there.
    Point {
        /// The point's name.
        name: String,
        /// The how-manieth time, from 1, in one process.
        hit: u64,
    },
    /// `call:1/1#17:before`: SIGKILL to the victim's whole process tree at a
    /// system call.
    Call {
        /// Which call.
        position: Position,
        /// Before or after it.
        when: When,
    },
    /// `fail:1/1#17:EIO`: a system call fails.
    Fail {
        /// Which call.
        position: Position,
        /// In which way.
        fault: Fault,
    },
}

/// The kinds of strikes, in the order of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Nobody is struck.
    None,
    /// At a moment.
    Kill,
    /// At a named point.
    Point,
    /// At a system call.
    Call,
    /// A system call fails.
    Fail,
}

impl Strike {
    /// What kind of a strike it is.
    pub fn family(&self) -> Family {
        match self {
            Strike::None => Family::None,
            Strike::Kill { .. } => Family::Kill,
            Strike::Point { .. } => Family::Point,
            Strike::Call { .. } => Family::Call,
            Strike::Fail { .. } => Family::Fail,
        }
    }
}

impl Family {
    /// The word that stands in reports, and before the colon of a strike.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::None => "none",
            Family::Kill => "kill",
            Family::Point => "point",
            Family::Call => "call",
            Family::Fail => "fail",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Family {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Strike::None => f.write_str("none"),
            Strike::Kill { acks, offset } => {
                write!(f, "kill:{acks}acks+{}us", offset.as_micros())
            }
            Strike::Point { name, hit } => write!(f, "point:{name}#{hit}"),
            Strike::Call { position, when } => write!(f, "call:{position}:{when}"),
            Strike::Fail { position, fault } => write!(f, "fail:{position}:{fault}"),
        }
    }
}

/// A text that is no strike.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no strike; strikes are none, kill:3acks+120us, point:NAME#3, \
     call:1/1#17:before and fail:1/1#17:EIO"
)]
pub struct StrikeError(pub String);

impl FromStr for Strike {
    type Err = StrikeError;

    fn from_str(text: &str) -> Result<Strike, StrikeError> {
        parse(text).ok_or_else(|| StrikeError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Strike> {
    if text == "none" {
        return Some(Strike::None);
    }
    let (family, rest) = text.split_once(':')?;
    match family {
        "kill" => {
            let (acks, offset) = rest.split_once("acks+")?;
            let offset = offset.strip_suffix("us")?;
            Some(Strike::Kill {
                acks: acks.parse().ok()?,
                offset: Duration::from_micros(offset.parse().ok()?),
            })
        }
        "point" => {
            let (name, hit) = rest.rsplit_once('#')?;
            let hit = hit.parse().ok().filter(|hit| *hit > 0)?;
            let name = name.to_owned();
            (!name.is_empty()).then_some(Strike::Point { name, hit })
        }
        "call" => {
            let (position, when) = rest.rsplit_once(':')?;
            Some(Strike::Call {
                position: position.parse().ok()?,
                when: when.parse().ok()?,
            })
        }
        "fail" => {
            let (position, fault) = rest.rsplit_once(':')?;
            Some(Strike::Fail {
                position: position.parse().ok()?,
                fault: fault.parse().ok()?,
            })
        }
        _ => None,
    }
}

impl Serialize for Strike {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Strike {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strike, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use agentos_tracer::{ProcessPath, ThreadPath};
    use proptest::prelude::*;

    use super::*;

    fn position() -> impl Strategy<Value = Position> {
        let path = || proptest::collection::vec(1..50_u32, 1..4);
        (path(), path(), 1..100_000_u64).prop_map(|(process, thread, nth)| {
            let creator = ThreadPath::main().child(7);
            let process = process
                .into_iter()
                .fold(ProcessPath::root(), |path, k| path.child(&creator, k));
            let thread = thread
                .into_iter()
                .fold(ThreadPath::main(), |path, k| path.child(k));
            Position::new(process, thread, nth)
        })
    }

    fn strike() -> impl Strategy<Value = Strike> {
        prop_oneof![
            Just(Strike::None),
            (0..1000_usize, any::<u32>()).prop_map(|(acks, us)| Strike::Kill {
                acks,
                offset: Duration::from_micros(us.into()),
            }),
            ("[a-z#:.! é]{1,20}", 1..u64::MAX).prop_map(|(name, hit)| Strike::Point { name, hit }),
            (position(), any::<bool>()).prop_map(|(position, before)| Strike::Call {
                position,
                when: if before { When::Before } else { When::After },
            }),
            (position(), proptest::sample::select(&Fault::ALL[..]))
                .prop_map(|(position, fault)| Strike::Fail { position, fault }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same(strike in strike()) {
            let text = strike.to_string();
            prop_assert_eq!(text.parse::<Strike>().unwrap(), strike.clone());
            let json = serde_json::to_string(&strike).unwrap();
            prop_assert_eq!(serde_json::from_str::<Strike>(&json).unwrap(), strike);
        }

        #[test]
        fn what_parses_is_printed_the_same(text in "(kill|point|call|fail):[a-z0-9/#:+]{0,12}") {
            if let Ok(strike) = text.parse::<Strike>() {
                prop_assert_eq!(strike.to_string().parse::<Strike>().unwrap(), strike);
            }
        }
    }

    #[test]
    fn the_text_forms_are_fixed() {
        for text in [
            "none",
            "kill:3acks+120us",
            "point:store.before_commit#3",
            "call:1/1#17:before",
            "fail:1.2/1#17:ENOSPC",
            "fail:1/1#17:short",
        ] {
            assert_eq!(text.parse::<Strike>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_strike_is_refused_by_name() {
        for text in [
            "",
            "kill:3",
            "kill:acks+1us",
            "point:a",
            "point:#1",
            "point:a#0",
            "call:1/1#17",
            "call:1/1#17:between",
            "call:x:before",
            "fail:1/1#17:EPERM",
            "shout:1",
        ] {
            assert_eq!(text.parse::<Strike>(), Err(StrikeError(text.to_owned())));
        }
    }
}

//! What must be true of a history of idempotency keys: what several processes asked
//! of one store, which bodies ran, what was told, and what is in the database
//! afterwards. Pure.
//!
//! Each process writes a line before or after what it does, with a moment of the
//! clock that all processes of the machine read (`SystemClock.boot()`); the order in
//! which lines reach a supervisor does not matter. What is asked for took effect, if
//! it did, somewhere between the line before it and the line after it. Only what ended
//! before another thing began is known to have come first. So a line that is late
//! finds less, and never what is not so, as long as
//!
//! - `asks` and `starts` are written before, and answers after what they speak of;
//! - `ends` is written after the body ended and before its outcome is recorded;
//! - `finds` is written before what was found out is recorded;
//! - `dead` is written once the process is known to be gone.
//!
//! A process was alive until its last line at least.

mod lines;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

pub(crate) use self::lines::{Event, LineError, line, parse};
pub(crate) use self::rules::judge_once;

/// The name of the error after which nobody knows whether a key was begun.
pub(crate) const COMMIT_UNKNOWN: &str = "commit-unknown";

/// A moment of the clock that all processes read, in microseconds.
pub(crate) type Moment = i64;

/// Which execution of a key: the number of the key and the token, as the permit has
/// them. A later execution is greater, also after the key was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Execution {
    /// The number of the key.
    pub(crate) key: i64,
    /// The token.
    pub(crate) token: i64,
}

impl fmt::Display for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.key, self.token)
    }
}

/// How a body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With an outcome of this digest, which is to be recorded.
    Outcome(String),
    /// It did nothing, and the execution is to be as if it had never been.
    Abandoned,
    /// Nobody knows what it did: it is to be in doubt.
    Unknown,
}

/// A body that was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    /// Under which permit.
    pub(crate) execution: Execution,
    pub(crate) started: Moment,
    pub(crate) ended: Option<(Moment, Ended)>,
}

/// What was found out about a key in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) at: Moment,
    /// It happened, with an outcome of this digest; `None`: it did not happen.
    pub(crate) outcome: Option<String>,
}

/// What a caller was told in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// How its body ended is recorded.
    Recorded,
    /// It is not, since the permit is over.
    Refused,
    /// An outcome of this digest was recorded before.
    Replayed(String),
    /// Somebody else executes it.
    InFlight,
    /// Nobody knows whether it was executed.
    InDoubt,
    /// What it found out is recorded.
    Resolved,
    /// Something else went wrong. Of what it asked for last nothing is known.
    Failed,
    /// It was given an error of this name before any body, and was not made to wait.
    Erred(String),
}

/// One call of one process about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) process: String,
    pub(crate) key: String,
    pub(crate) asked: Moment,
    pub(crate) found: Option<Found>,
    pub(crate) body: Option<Body>,
    /// What came back, and when; `None` when nothing did.
    pub(crate) answer: Option<(Moment, Answer)>,
}

impl Call {
    fn answered(&self, with: &Answer) -> Option<Moment> {
        match &self.answer {
            Some((at, answer)) if answer == with => Some(*at),
            _ => None,
        }
    }
}

/// What a key is at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It is not there.
    Absent,
    /// It was begun, and this execution was the newest.
    Pending(Execution),
    /// An outcome of this digest is recorded.
    Recorded(Execution, String),
}

/// All that happened, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct History {
    /// In any order.
    pub(crate) calls: Vec<Call>,
    /// The last line of each process.
    pub(crate) last: BTreeMap<String, Moment>,
    /// When each process that was killed was known to be dead.
    pub(crate) dead: BTreeMap<String, Moment>,
    /// From when on each process that was stopped, or whose clock was moved, may have
    /// lost its permits alive.
    pub(crate) stalled: BTreeMap<String, Moment>,
    /// What was found at the end, of the keys that were looked at.
    pub(crate) states: BTreeMap<String, State>,
}

/// How the calls of a key were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Whether an execution whose owner is gone is taken over: then nobody is ever
    /// told of doubt. Else it is never taken over.
    pub(crate) take_over: bool,
    /// Whether a recorded outcome may be made again though it counts.
    pub(crate) again: bool,
    /// How long an outcome counts, in microseconds.
    pub(crate) ttl: Option<Moment>,
    /// How long a permit outlives its owner at most, in microseconds.
    pub(crate) lease: Moment,
}

/// What a history must keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// No two executions have one token, and a later one has a greater one.
    TokensGrow,
    /// No body starts while the permit of another one lives.
    OneBody,
    /// No body starts once an outcome is recorded, as long as it counts.
    NothingAgain,
    /// At most one outcome is recorded, as long as it counts.
    OneOutcome,
    /// A replay is what was recorded, and counts.
    ReplaysRecord,
    /// Nothing is replayed before it is recorded.
    RecordedFirst,
    /// In flight is what somebody may still execute.
    InFlightIsHeld,
    /// In doubt is what somebody left behind, and only where it is not taken over.
    DoubtHasReason,
    /// What nobody knows of is not run again in silence.
    NeverSilentlyAgain,
    /// What was begun is not forgotten, and what was recorded stays.
    NeverForgotten,
    /// No permit is lost while its owner lives and nothing holds it up.
    LossHasReason,
    /// Who lives is answered.
    Answered,
    /// The dead say nothing.
    DeadAreSilent,
}

/// A rule that a history breaks, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) rule: Rule,
    pub(crate) key: String,
    pub(crate) why: String,
    /// The calls that show it, by their place in the history.
    pub(crate) calls: Vec<usize>,
    /// The same, in words.
    shown: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Broken {
            rule,
            key,
            why,
            shown,
            ..
        } = self;
        write!(f, "{rule:?}: key {key}: {why}{shown}")
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} asks at {}", self.process, self.asked)?;
        if let Some(found) = &self.found {
            write!(f, ", finds {:?} at {}", found.outcome, found.at)?;
        }
        if let Some(body) = &self.body {
            write!(f, ", starts {} at {}", body.execution, body.started)?;
            if let Some((at, ended)) = &body.ended {
                write!(f, ", ends at {at}: {ended:?}")?;
            }
        }
        match &self.answer {
            Some((at, answer)) => write!(f, ", is told at {at}: {answer:?}"),
            None => f.write_str(", unanswered"),
        }
    }
}

/// How often what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Bodies that started.
    pub(crate) executions: u64,
    /// Bodies of which the owner was told that the outcome is recorded.
    pub(crate) recorded: u64,
    /// Bodies that started, and whose owner died before it was told anything.
    pub(crate) cut_off: u64,
    /// Answers that were replays.
    pub(crate) replays: u64,
    /// Answers that it is in doubt.
    pub(crate) in_doubt: u64,
    /// Findings about what was in doubt.
    pub(crate) findings: u64,
}

impl History {
    /// Counts what happened to the keys that are asked for.
    pub(crate) fn tally(&self, of: impl Fn(&str) -> bool) -> Tally {
        let mut tally = Tally::default();
        for call in self.calls.iter().filter(|call| of(&call.key)) {
            tally.executions += u64::from(call.body.is_some());
            tally.findings += u64::from(call.found.is_some());
            match &call.answer {
                Some((_, Answer::Recorded)) => tally.recorded += 1,
                Some((_, Answer::Replayed(_))) => tally.replays += 1,
                Some((_, Answer::InDoubt)) => tally.in_doubt += 1,
                Some(_) => {}
                None => {
                    let died = self.dead.contains_key(&call.process);
                    tally.cut_off += u64::from(call.body.is_some() && died);
                }
            }
        }
        tally
    }
}

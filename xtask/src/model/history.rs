//! What must be true of a history of leases: what several processes asked of one
//! store, what they were told, and what is in the database afterwards. Pure.
//!
//! Each operation is an interval. It begins before its request is made and ends
//! after its answer is there, on one clock that all processes of the machine read
//! (`SystemClock.boot()`); somewhere in between it took effect, if it did. Only
//! what ended before another thing began is known to have come first. The order in
//! which a supervisor reads the lines of several pipes is no such clock: a begin
//! mark may lie unread while another process is told of something.
//!
//! An operation without an answer may have taken effect or not. A mark may also be
//! too early at the begin, or too late at the end: that finds less, and never what
//! is not so. Who does not claim itself (a handler of a pool) keeps one claim open
//! and ends it with what it was given. A renewal of several leases is one operation
//! each.

mod record;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use agentos_core::{
    Attempt, AttemptOutcome, Fence, FencingToken, WorkItem, WorkItemId, WorkItemStatus,
};

pub(crate) use self::record::{Record, begin_line, end_line};
pub(crate) use self::rules::judge_history;

/// A moment of the clock that all processes read, in microseconds.
pub(crate) type Moment = i64;

/// What a process asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// Whatever is due.
    Claim,
    /// More time.
    Renew(Fence),
    /// Something that is found in the database by its value, which no other write
    /// of the item has.
    Write(Fence, String),
    /// The end of the item, with a result that no other completion of it has.
    Complete(Fence, String),
    /// The end of the attempt.
    Fail(Fence),
    /// The end of the attempt, which does not count.
    Release(Fence),
    /// Nothing: it says that it takes the lease for lost.
    Lose(Fence),
}

impl Call {
    /// The claim under which it is made.
    pub(crate) fn fence(&self) -> Option<Fence> {
        match self {
            Call::Claim => None,
            Call::Renew(fence)
            | Call::Write(fence, _)
            | Call::Complete(fence, _)
            | Call::Fail(fence)
            | Call::Release(fence)
            | Call::Lose(fence) => Some(*fence),
        }
    }

    /// How the attempt ends that it ends, if it does.
    pub(crate) fn outcome(&self) -> Option<AttemptOutcome> {
        match self {
            Call::Complete(..) => Some(AttemptOutcome::Succeeded),
            Call::Fail(_) => Some(AttemptOutcome::Failed),
            Call::Release(_) => Some(AttemptOutcome::Released),
            Call::Claim | Call::Renew(_) | Call::Write(..) | Call::Lose(_) => None,
        }
    }
}

/// What a process is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// These are its own now; none, when nothing was due.
    Claimed(Vec<Fence>),
    /// It is done.
    Done,
    /// It is not, since the lease is not held any more.
    Stale,
    /// It is not, for another reason: nothing was written.
    Refused,
}

/// One call of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    /// Which start of which worker, as `Worker` is displayed.
    pub(crate) process: String,
    pub(crate) call: Call,
    pub(crate) began: Moment,
    /// What came back, and when; `None` when nothing did, or nothing that tells.
    pub(crate) reply: Option<(Moment, Reply)>,
}

impl Operation {
    /// When it was acknowledged, if it was.
    pub(crate) fn done(&self) -> Option<Moment> {
        match self.reply {
            Some((at, Reply::Done)) => Some(at),
            _ => None,
        }
    }

    /// Whether it is known that it changed nothing.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(&self.reply, Some((_, Reply::Stale | Reply::Refused)))
    }
}

/// An attempt's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundAttempt {
    pub(crate) number: FencingToken,
    /// As `Worker` is displayed.
    pub(crate) process: String,
    pub(crate) outcome: Option<AttemptOutcome>,
}

/// An item as it is found at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundItem {
    pub(crate) status: WorkItemStatus,
    pub(crate) newest: Option<FencingToken>,
    pub(crate) result: Option<String>,
    /// In order.
    pub(crate) attempts: Vec<FoundAttempt>,
    /// The values that were written under its leases, in the order of their
    /// commits.
    pub(crate) written: Vec<String>,
}

impl FoundItem {
    /// From what the store gives.
    pub(crate) fn new(item: &WorkItem, attempts: &[Attempt], written: Vec<String>) -> FoundItem {
        let attempts = attempts.iter().map(|attempt| FoundAttempt {
            number: attempt.number,
            process: attempt.worker.to_string(),
            outcome: attempt.end.as_ref().map(|end| end.outcome),
        });
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        FoundItem {
            status: item.summary.status,
            newest: item.summary.newest_token,
            result: item.result.as_ref().map(text),
            attempts: attempts.collect(),
            written,
        }
    }
}

/// All that happened, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct History {
    /// In any order.
    pub(crate) operations: Vec<Operation>,
    /// When each process that was killed was known to be dead.
    pub(crate) deaths: BTreeMap<String, Moment>,
    pub(crate) items: BTreeMap<WorkItemId, FoundItem>,
}

/// What a history must keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// Each claim of an item gets a greater token than all before.
    TokensGrow,
    /// A process works under what it was given.
    ClaimedFirst,
    /// Once a later claim is acknowledged, nothing more is under an earlier one.
    Fenced,
    /// Once a claim's end is acknowledged, nothing more is under it.
    EndedOnce,
    /// Who was refused under a claim is refused for good, and so is everybody.
    RefusedForGood,
    /// At most one completion of an item is acknowledged.
    OneCompletion,
    /// The result is that of the completion, and nothing follows it.
    ResultStays,
    /// Each claim has its row, and each row its claim.
    AttemptRows,
    /// Each attempt is closed once, as it ended, and all but a running one are.
    AttemptsClosed,
    /// What was acknowledged as written is there, once and in order; what was
    /// refused, or never asked for, is not.
    WritesStay,
    /// The dead say nothing.
    DeadAreSilent,
}

/// A rule that a history breaks, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) rule: Rule,
    pub(crate) item: Option<WorkItemId>,
    pub(crate) why: String,
    /// The operations that show it, by their place in the history.
    pub(crate) events: Vec<usize>,
    /// The same, in words.
    shown: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: ", self.rule)?;
        if let Some(item) = self.item {
            write!(f, "item {item}: ")?;
        }
        write!(f, "{}{}", self.why, self.shown)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.process)?;
        match &self.call {
            Call::Claim => f.write_str("claims")?,
            Call::Renew(fence) => write!(f, "renews {}", fence.token)?,
            Call::Write(fence, value) => write!(f, "writes {value:?} under {}", fence.token)?,
            Call::Complete(fence, result) => {
                write!(f, "completes {} with {result:?}", fence.token)?;
            }
            Call::Fail(fence) => write!(f, "fails {}", fence.token)?,
            Call::Release(fence) => write!(f, "releases {}", fence.token)?,
            Call::Lose(fence) => write!(f, "loses {}", fence.token)?,
        }
        match &self.reply {
            None => write!(f, " from {} on, unanswered", self.began),
            Some((at, Reply::Claimed(fences))) => {
                let given = fences.iter();
                let given = given.map(|fence| format!("{}/{}", fence.item, fence.token));
                let given: Vec<_> = given.collect();
                write!(f, " from {} to {at}: {given:?}", self.began)
            }
            Some((at, reply)) => write!(f, " from {} to {at}: {reply:?}", self.began),
        }
    }
}

//! What was seen of one run.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::calls::{CallKind, Class};
use crate::limits::CALLS_MAX;
use crate::plan::Fault;
use crate::position::Position;

/// What a call acts on, as far as it can be named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A file or directory, by its path; bytes that are no UTF-8 are replaced.
    /// A file that was unlinked is followed by ` (deleted)`, as in `/proc`.
    Path(String),
    /// Two paths, as of `rename` and `link`.
    Paths {
        /// The one that is there.
        from: String,
        /// The one that is made.
        to: String,
    },
    /// A pipe.
    Pipe,
    /// A socket.
    Socket,
    /// Memory, or a file in memory.
    Memory,
    /// Anything else: what `/proc` calls it, or why it has no name.
    Other(String),
}

impl Target {
    /// Whether it is named by a path, so that it may be stored on a disk.
    pub fn is_path(&self) -> bool {
        matches!(self, Target::Path(_) | Target::Paths { .. })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Path(path) => f.write_str(path),
            Target::Paths { from, to } => write!(f, "{from} -> {to}"),
            Target::Pipe => f.write_str("pipe"),
            Target::Socket => f.write_str("socket"),
            Target::Memory => f.write_str("memory"),
            Target::Other(what) => f.write_str(what),
        }
    }
}

/// One interesting call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Call {
    /// Where it happened.
    pub position: Position,
    /// Which call it was.
    pub kind: CallKind,
    /// What it acted on.
    pub target: Target,
    /// What it returned: a negative error number when it failed. None when it
    /// did not return: it was not executed, or its process ended in it.
    pub result: Option<i64>,
}

impl Call {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// What kind of change it makes.
    pub fn class(&self) -> Class {
        self.kind.class()
    }

    /// The faults that this call can meet in reality: what is no file has no
    /// disk that could be full or broken. What is written to anything else, such
    /// as an `eventfd`, is taken whole and at once.
    pub fn faults(&self) -> impl Iterator<Item = Fault> + use<'_> {
        let is_sync = self.kind.class() == Class::Sync;
        let on_disk = self.target.is_path() || is_sync;
        let is_other = matches!(self.target, Target::Other(_)) && !is_sync;
        let all = self.kind.faults().iter().copied();
        all.filter(move |fault| on_disk || !matches!(fault, Fault::Eio | Fault::Enospc))
            .filter(move |_| !is_other)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.position, self.kind, self.target)?;
        match self.result {
            Some(result) => write!(f, " = {result}"),
            None => Ok(()),
        }
    }
}

/// What was done to the call that was struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// The tree was killed there.
    Killed,
    /// The call failed as planned.
    Failed,
    /// Nothing: the fault makes no sense for this call, e.g. a short write of
    /// one byte.
    Nothing,
}

/// The call that the plan's position named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hit {
    /// The call that was there.
    pub call: Call,
    /// The one that the plan expected, if it said so.
    pub expected: Option<CallKind>,
    /// What was done to it.
    pub done: Done,
}

impl Hit {
    /// Whether it was the call that the plan expected, or it expected none.
    pub fn as_expected(&self) -> bool {
        self.expected.is_none_or(|kind| kind == self.call.kind)
    }
}

/// What was seen of one run, up to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The interesting calls in the order in which they began, at most
    /// [`CALLS_MAX`].
    pub calls: Vec<Call>,
    /// For each of these, how many calls of the trace had begun when it returned; `None`
    /// when it did not return. What a thread did after a call stands behind that place.
    #[serde(default)]
    pub returned: Vec<Option<usize>>,
    /// How many there were of each kind, with those that were not kept.
    pub counts: BTreeMap<CallKind, u64>,
    /// The call that was struck. None when nothing was planned, or when the run
    /// never got to the position.
    pub hit: Option<Hit>,
    /// How many processes there were, the first included.
    pub processes: u64,
    /// How many threads there were in all processes.
    pub threads: u64,
    /// Calls of 32-bit programs, which are neither counted nor struck.
    pub foreign: u64,
    /// Whether something of the tree still ran and was killed when the tracer
    /// finished.
    pub left_running: bool,
}

impl Trace {
    /// How many interesting calls there were, with those that were not kept.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How many calls are not in [`calls`](Self::calls) for want of room.
    pub fn dropped(&self) -> u64 {
        self.total() - self.calls.len() as u64
    }

    /// Where the call of this position is kept.
    pub(crate) fn place_of(&self, position: &Position) -> Option<usize> {
        self.calls
            .iter()
            .rposition(|call| call.position == *position)
    }

    /// Counts a call and keeps it while there is room; says where.
    pub(crate) fn push(&mut self, call: &Call) -> Option<usize> {
        *self.counts.entry(call.kind).or_default() += 1;
        if self.calls.len() >= CALLS_MAX {
            return None;
        }
        self.calls.push(call.clone());
        self.returned.push(None);
        Some(self.calls.len() - 1)
    }

    /// A call that is kept at this place has returned.
    pub(crate) fn has_returned(&mut self, at: usize, result: i64) {
        let begun = self.calls.len();
        if let (Some(call), Some(returned)) = (self.calls.get_mut(at), self.returned.get_mut(at)) {
            call.result = Some(result);
            *returned = Some(begun);
        }
    }
}

//! The lease protocol in plain memory: items, the processes that work on them,
//! and whatever can happen to both. `step.rs` says what follows.

use agentos_core::{AttemptOutcome, Next, Retry, RetryRule, WorkItemStatus};

/// A length of time, or what is left of one. Not above zero: over.
pub(crate) type Micros = i64;

/// What is left of a lease of an earlier boot, whatever the clock says.
pub(crate) const GONE: Micros = Micros::MIN;

/// How the product is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not.
    None,
    /// Writes are not fenced.
    NoFence,
    /// The fence asks for the holder's name alone.
    FenceByName,
    /// A sweep sets the token back.
    TokenReset,
    /// A renewal does not ask for the token.
    RenewById,
    /// A sweep looks for expired leases first, and takes them away later by id.
    SweepById,
    /// A sweep leaves items alone that have no attempt left.
    SweepLeavesLast,
    /// A lost attempt does not count.
    LossIsFree,
    /// A worker counts its lease from the answer, not from before the request.
    CountsFromAnswer,
}

/// What holds for a whole history.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) fault: Fault,
    pub(crate) after_loss: RetryRule,
    /// Whether what grows without end is kept: attempts, numbers of checkpoints,
    /// and for how long something has been over.
    pub(crate) keeps_all: bool,
}

/// One start of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Who {
    /// Its worker's name. Two processes may have the same.
    pub(crate) name: u8,
    pub(crate) process: usize,
    pub(crate) start: u32,
}

/// What every write under a lease is checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Held {
    pub(crate) item: usize,
    pub(crate) token: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Item {
    pub(crate) priority: i32,
    pub(crate) max_attempts: u32,
    pub(crate) status: WorkItemStatus,
    pub(crate) token: i64,
    pub(crate) attempts: u32,
    pub(crate) losses: u32,
    pub(crate) holder: Option<Who>,
    /// Until its lease runs out.
    pub(crate) left: Option<Micros>,
    /// Until it is due.
    pub(crate) wait: Micros,
    /// The claim that completed it.
    pub(crate) result: Option<i64>,
    /// How often it was claimed: the true number of its newest claim.
    pub(crate) claims: i64,
    /// The claim whose completion was acknowledged first.
    pub(crate) acknowledged: Option<i64>,
    /// Whether anything took effect under a claim that was no longer its.
    pub(crate) trespassed: bool,
    pub(crate) checkpoints: u64,
    pub(crate) attempts_made: Vec<(i64, Who, Option<AttemptOutcome>)>,
}

/// What a process believes that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Belief {
    pub(crate) held: Held,
    /// The true number of the claim.
    pub(crate) claim: i64,
    /// How long it may still rely on it, by its own clock.
    pub(crate) sure: Micros,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) name: u8,
    pub(crate) start: u32,
    pub(crate) alive: bool,
    pub(crate) beliefs: Vec<Belief>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) items: Vec<Item>,
    pub(crate) processes: Vec<Process>,
    /// What a sweep that is broken has found and not yet taken away.
    pub(crate) found: Vec<usize>,
}

/// One step: of a process, of an operator, of a sweep, or of the clocks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Claim {
        process: usize,
        of: Option<usize>,
        at_most: usize,
        lease: Micros,
    },
    Renew {
        process: usize,
        held: Vec<Held>,
        lease: Micros,
    },
    /// Appends a checkpoint under the lease.
    Write {
        process: usize,
        held: Held,
    },
    /// `heard` is false when the answer is lost on its way.
    Complete {
        process: usize,
        held: Held,
        heard: bool,
    },
    Fail {
        process: usize,
        held: Held,
        retry: Retry,
    },
    Release {
        process: usize,
        held: Held,
    },
    /// The process gives up what it believes to hold.
    Forget {
        process: usize,
        held: Held,
    },
    Crash {
        process: usize,
    },
    Restart {
        process: usize,
    },
    Sweep,
    /// The first half of a sweep that is broken.
    Look,
    /// A sweep of what earlier starts of this process's name hold.
    TakeBack {
        process: usize,
    },
    Cancel {
        item: usize,
    },
    Requeue {
        item: usize,
    },
    /// Time passes, by all clocks.
    Elapse(Micros),
    /// The boot-time clock jumps by so much.
    JumpBoot(Micros),
    /// The wall clock jumps by so much.
    JumpWall(Micros),
    /// Another boot begins. The processes live on, which is worse than true.
    Reboot,
    /// The store's clock says this of one lease.
    Lease {
        item: usize,
        left: Micros,
    },
    /// The store's clock says this of one item that waits.
    Due {
        item: usize,
        wait: Micros,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stale {
    pub(crate) status: WorkItemStatus,
    pub(crate) newest: Option<i64>,
    pub(crate) holder: Option<Who>,
}

/// What the one who takes a step is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// Item, token and attempt of each.
    Claimed(Vec<(Held, u32)>),
    Renewed(Vec<Result<(), Stale>>),
    /// The number of the checkpoint.
    Written(u64),
    Completed,
    Failed(Next),
    Released,
    Stale(Stale),
    Swept(Vec<(Held, Who, Next)>),
    Cancelled,
    Requeued,
    /// The item is in a state from which this does not lead on.
    Illegal(WorkItemStatus),
    Done,
}

impl Item {
    pub(crate) fn pending(priority: i32, max_attempts: u32) -> Item {
        Item {
            priority,
            max_attempts,
            status: WorkItemStatus::INITIAL,
            token: 0,
            attempts: 0,
            losses: 0,
            holder: None,
            left: None,
            wait: 0,
            result: None,
            claims: 0,
            acknowledged: None,
            trespassed: false,
            checkpoints: 0,
            attempts_made: Vec::new(),
        }
    }

    /// Whether nothing more is to happen to it by itself.
    pub(crate) fn is_finished(&self) -> bool {
        use WorkItemStatus::{Cancelled, Failed, Succeeded};
        matches!(self.status, Succeeded | Failed | Cancelled)
    }

    /// Whether its lease has run out, by the store's clock.
    pub(crate) fn is_over(&self) -> bool {
        self.left.is_some_and(|left| left <= 0)
    }
}

impl State {
    /// These items, and a live process of each name.
    pub(crate) fn new(items: Vec<Item>, names: &[u8]) -> State {
        let process = |name: &u8| Process {
            name: *name,
            start: 1,
            alive: true,
            beliefs: Vec::new(),
        };
        State {
            items,
            processes: names.iter().map(process).collect(),
            found: Vec::new(),
        }
    }

    pub(crate) fn who(&self, process: usize) -> Who {
        let Process { name, start, .. } = self.processes[process];
        Who {
            name,
            process,
            start,
        }
    }
}

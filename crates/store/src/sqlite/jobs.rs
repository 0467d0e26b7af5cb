//! What the writer is asked to do, and what it answers.

use std::time::Duration;

use agentos_core::{
    BeginKey, Begun, ClaimRequest, Commit, Fence, KeyFence, Next, PartOutcome, Receipt, Reclaimed,
    Renewed, RenewedPermit, StaleLease, StalePermit, SweepRequest, Swept,
};

use super::chores::Chore;
use super::claims::Claimed;

/// What the writer is asked to do.
pub(crate) enum Job {
    /// Parts that become visible together.
    Commit(Commit),
    /// Claims work.
    Claim(ClaimRequest),
    /// Renews leases.
    Renew { fences: Vec<Fence>, lease: Duration },
    /// Takes lost leases away.
    Sweep(SweepRequest),
    /// Begins the execution of a key.
    BeginKey(Box<BeginKey>),
    /// Renews permits.
    RenewKeys {
        fences: Vec<KeyFence>,
        lease: Duration,
    },
    /// Work on the file itself.
    Chore(Chore),
}

impl Job {
    /// Whether it takes lost leases away, of which one may fail alone.
    pub(crate) fn recovers(&self) -> bool {
        matches!(self, Job::Claim(_) | Job::Sweep(_))
    }

    /// Whether it may use the room that is kept for a full disk: what frees space,
    /// and what lets recovery and heartbeats go on.
    pub(crate) fn may_use_reserve(&self) -> bool {
        match self {
            Job::Commit(commit) => commit.frees_space(),
            Job::Renew { .. } | Job::RenewKeys { .. } | Job::Sweep(_) => true,
            Job::Claim(_) | Job::BeginKey(_) => false,
            Job::Chore(chore) => chore.frees_space(),
        }
    }

    /// How much of a group it is.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Job::Commit(commit) => commit.parts().len(),
            Job::Claim(request) => request.items as usize,
            Job::Renew { fences, .. } => fences.len(),
            Job::Sweep(request) => request.rows as usize,
            Job::RenewKeys { fences, .. } => fences.len(),
            Job::BeginKey(_) | Job::Chore(_) => 1,
        }
    }

    /// Whether it goes before what waits: a renewal behind bulk work comes too late.
    pub(crate) fn is_urgent(&self) -> bool {
        matches!(self, Job::Renew { .. } | Job::RenewKeys { .. })
    }
}

/// What was done.
pub(crate) enum Done {
    Committed(Receipt),
    Claimed(Claimed),
    Renewed(Vec<Result<Renewed, StaleLease>>),
    Swept(Swept),
    Begun(Begun),
    RenewedKeys(Vec<Result<RenewedPermit, StalePermit>>),
    Chore(Reclaimed),
}

impl Done {
    /// Whether work may be claimable now that was not before.
    pub(crate) fn brings_work(&self) -> bool {
        match self {
            Done::Committed(receipt) => receipt.outcomes.iter().any(|outcome| {
                matches!(
                    outcome,
                    PartOutcome::WorkEnqueued { existed: false, .. }
                        | PartOutcome::WorkReleased
                        | PartOutcome::WorkRequeued
                        | PartOutcome::WorkFailed(Next::Requeue { .. })
                )
            }),
            Done::Claimed(claimed) => !claimed.recovered.is_empty(),
            Done::Swept(swept) => !swept.recovered.is_empty(),
            Done::Renewed(_) | Done::Begun(_) | Done::RenewedKeys(_) | Done::Chore(_) => false,
        }
    }

    /// Leases that it took from their holders.
    pub(crate) fn lost(&self) -> Vec<Fence> {
        match self {
            Done::Claimed(claimed) => claimed.recovered.clone(),
            Done::Swept(swept) => swept.recovered.iter().map(|item| item.fence).collect(),
            Done::Committed(receipt) => receipt
                .outcomes
                .iter()
                .filter_map(|outcome| match outcome {
                    PartOutcome::WorkCancelled { lost } => *lost,
                    _ => None,
                })
                .collect(),
            Done::Renewed(_) | Done::Begun(_) | Done::RenewedKeys(_) | Done::Chore(_) => Vec::new(),
        }
    }

    /// How many lost leases it took away.
    pub(crate) fn recovered(&self) -> usize {
        match self {
            Done::Claimed(claimed) => claimed.recovered.len(),
            Done::Swept(swept) => swept.recovered.len(),
            Done::Committed(_)
            | Done::Renewed(_)
            | Done::Begun(_)
            | Done::RenewedKeys(_)
            | Done::Chore(_) => 0,
        }
    }
}

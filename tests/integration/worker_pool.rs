//! Work on a real store: the queue, leases by hand, heartbeats, and the pool.

mod doubt;
mod heartbeat;
mod leases;
mod running;
mod shutdown;

use std::time::Duration;

use agentos_core::{Attempt, AttemptOutcome, WorkItemId};
use agentos_tests::Work;

/// A lease that is not lost because the machine is slow for a moment.
const LONG: Duration = Duration::from_secs(60);

/// How the attempts at an item ended, each with its error.
fn ends(work: &Work, id: WorkItemId) -> Vec<(AttemptOutcome, Option<String>)> {
    let end = |attempt: Attempt| {
        let end = attempt.end.expect("an attempt that ended");
        (end.outcome, end.error)
    };
    let attempts = work.queue.attempts(id).unwrap();
    attempts.into_iter().map(end).collect()
}

//! The threads that run handlers.
//!
//! A thread takes a lease from its inbox, runs the handler, records the end, and
//! says that it is free. A handler that panics is a failed attempt, and the thread
//! goes on. The thread ends when its inbox is closed and empty; what it still finds
//! there it gives back.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentos_core::{Lease, Retry, Storage};
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::cancellation::{CancelCause, Cancellation};
use crate::handler::{Finish, Handler, HandlerError, Job, Parts, Settled};
use crate::heartbeat::Held;
use crate::report::{End, Recorded, Report};
use crate::stats::PoolStats;

/// A lease that was claimed and is renewed.
pub(crate) struct Order {
    pub(crate) lease: Lease,
    pub(crate) held: Arc<Held>,
}

/// What the threads of a pool share.
pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) handlers: HashMap<String, Handler>,
    /// What follows a failure that does not say it.
    pub(crate) retry: Retry,
    /// Nothing is begun any more.
    pub(crate) stopping: AtomicBool,
    pub(crate) stats: Mutex<PoolStats>,
    pub(crate) slots: Mutex<Slots>,
}

/// The jobs that run.
#[derive(Default)]
pub(crate) struct Slots {
    pub(crate) running: HashMap<u64, Slot>,
    last: u64,
}

/// A job that runs.
pub(crate) struct Slot {
    pub(crate) held: Arc<Held>,
    /// Its handler has returned.
    pub(crate) reporting: bool,
}

impl Shared {
    pub(crate) fn count(&self, recorded: Recorded) {
        let mut stats = self.stats.lock();
        match recorded {
            Recorded::Succeeded => stats.succeeded += 1,
            Recorded::Failed => stats.failed += 1,
            Recorded::Released => stats.released += 1,
            Recorded::Lost => stats.lost += 1,
            Recorded::Nothing => stats.unreported += 1,
        }
    }

    fn begin(&self, held: &Arc<Held>) -> u64 {
        let mut slots = self.slots.lock();
        slots.last += 1;
        let id = slots.last;
        let slot = Slot {
            held: Arc::clone(held),
            reporting: false,
        };
        slots.running.insert(id, slot);
        id
    }

    /// The handler has returned. False when a shutdown has given the job up.
    fn begin_report(&self, id: u64) -> bool {
        match self.slots.lock().running.get_mut(&id) {
            Some(slot) => {
                slot.reporting = true;
                true
            }
            None => false,
        }
    }

    fn end(&self, id: u64) {
        self.slots.lock().running.remove(&id);
    }
}

/// A thread that runs handlers until its inbox is closed.
pub(crate) fn run(shared: &Shared, inbox: &Receiver<Order>, free: &Sender<()>) {
    // There is room for one word of each thread, and it fails only when nobody
    // claims any more.
    while free.try_send(()).is_ok()
        && let Ok(order) = inbox.recv()
    {
        take(shared, order);
    }
    for order in inbox {
        take(shared, order);
    }
}

fn take(shared: &Shared, order: Order) {
    if shared.stopping.load(Ordering::Acquire) || order.held.is_lost() {
        give_back(shared, &order, "it was claimed and not begun");
    } else {
        work(shared, order);
    }
}

/// Releases what was not begun. Tries once: what stays is lost at its deadline.
fn give_back(shared: &Shared, order: &Order, reason: &str) {
    let report = Report {
        shared,
        fence: order.lease.fence,
        held: &order.held,
        in_doubt: false,
        once: true,
    };
    shared.count(report.record(End::Release(Some(reason.into())), shared.retry));
}

fn work(shared: &Shared, order: Order) {
    let Some(handler) = shared.handlers.get(&order.lease.work_type) else {
        // The claim asks for the types that have handlers.
        tracing::error!(work_type = %order.lease.work_type, "claimed work without a handler");
        give_back(shared, &order, "no handler is registered for its type");
        return;
    };
    let id = shared.begin(&order.held);
    let job = Job::new(Arc::clone(&shared.storage), order.lease, order.held);
    let answer = catch_unwind(AssertUnwindSafe(|| handler(&job))).map_err(message_of);
    if let Err(message) = &answer {
        tracing::error!(item = %job.id(), message, "a handler panicked");
        shared.stats.lock().panicked += 1;
    }
    if shared.begin_report(id) {
        shared.count(record(shared, &job, answer));
        shared.end(id);
    }
}

/// Why a handler failed that says it ended the item, and did not.
const NOT_COMMITTED: &str = "the handler said that it had ended the item, and it is still held";

/// Records what came of a job.
fn record(
    shared: &Shared,
    job: &Job,
    answer: Result<Result<Finish, HandlerError>, String>,
) -> Recorded {
    let settled = job.settled();
    match settled {
        Some(Settled::Succeeded) => return Recorded::Succeeded,
        Some(Settled::Failed) => return Recorded::Failed,
        Some(Settled::Released) => return Recorded::Released,
        Some(Settled::Unknown) | None => {}
    }
    let report = Report {
        shared,
        fence: job.lease().fence,
        held: job.held(),
        in_doubt: settled == Some(Settled::Unknown),
        once: false,
    };
    let end = match answer {
        // It may have ended the item past this job.
        Ok(Ok(Finish::Committed)) if settled.is_none() => match report.ended() {
            Some(recorded) => return recorded,
            None => End::Fail(NOT_COMMITTED.into(), shared.retry),
        },
        // It meant to end the item itself, and does not know whether it did.
        Ok(Ok(Finish::Committed)) => End::Release(None),
        Ok(answer) => end_of(answer, job.cancellation(), shared.retry),
        Err(message) => End::Fail(format!("panicked: {message}"), shared.retry),
    };
    report.record(end, shared.retry)
}

/// The end that a handler's answer asks for.
fn end_of(answer: Result<Finish, HandlerError>, cancelled: &Cancellation, default: Retry) -> End {
    match answer {
        Ok(Finish::Done(result)) => End::Complete(Parts::new(), result),
        Ok(Finish::DoneWith(parts, result)) => End::Complete(parts, result),
        Ok(Finish::Release | Finish::Committed) => End::Release(None),
        // It was asked to stop, and that is no fault of the item.
        Err(error) if cancelled.cause() == Some(CancelCause::ShuttingDown) => {
            End::Release(Some(format!("the pool shut down: {}", error.reason)))
        }
        Err(HandlerError { reason, retry }) => {
            let retry = retry.unwrap_or(default);
            // A failure must always be reportable.
            let retry = if retry.check().is_ok() {
                retry
            } else {
                default
            };
            End::Fail(reason, retry)
        }
    }
}

/// What a panic says.
fn message_of(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(other) => {
                // Dropping what is unknown could panic again, outside of the guard.
                std::mem::forget(other);
                "without a message".to_owned()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn a_panic_of_any_kind_has_a_message() {
        let caught = |run: fn()| message_of(catch_unwind(run).unwrap_err());
        assert_eq!(caught(|| panic!("plain")), "plain");
        assert_eq!(caught(|| panic!("page {}", 7)), "page 7");
        let odd = caught(|| std::panic::panic_any(Bomb));
        assert_eq!(odd, "without a message");
    }
}

//! The thread that claims: as many items at once as threads are free, and nothing
//! while none is.
//!
//! It sleeps until a thread becomes free, a commit of this process brings work, or
//! the store's outlook says that something is due; and never longer than it may take
//! to see what another process enqueued. Looking is a read. A claim, which needs the
//! write lock, is made only when a look says that there is something, or the claim
//! before took all that it asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentos_core::{StorageError, WorkFilter, WorkListener};
use crossbeam_channel::{Receiver, Sender, after, never, select};

use crate::heartbeat::Heartbeat;
use crate::leases::LeaseManager;
use crate::limits::{EMPTY_PAUSE_FIRST, ERROR_PAUSE_FIRST, ERROR_PAUSE_MOST, LOOK_INTERVAL};
use crate::pause::Pause;
use crate::worker::{Order, Shared};

/// Hears of commits of this process that bring work.
pub(crate) struct Arrivals(pub(crate) Sender<()>);

impl WorkListener for Arrivals {
    fn work_arrived(&self) {
        // One word that is not heard yet serves all.
        let _ = self.0.try_send(());
    }
}

/// What the claiming thread owns.
pub(crate) struct Dispatcher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) leases: LeaseManager,
    pub(crate) heartbeat: Arc<Heartbeat>,
    pub(crate) filter: WorkFilter,
    /// The inbox of the threads that run handlers; closed when this one ends.
    pub(crate) orders: Sender<Order>,
    /// A word of each thread that is free.
    pub(crate) free: Receiver<()>,
    pub(crate) arrived: Receiver<()>,
    /// Closed when the pool stops.
    pub(crate) stop: Receiver<()>,
    /// The store tells it as long as it lives.
    pub(crate) _listener: Arc<dyn WorkListener>,
}

impl Dispatcher {
    /// Claims until the pool stops.
    pub(crate) fn run(self) {
        let mut free = 0;
        let mut known_due = false;
        let mut empty = Pause::new(EMPTY_PAUSE_FIRST, LOOK_INTERVAL);
        let mut failed = Pause::new(ERROR_PAUSE_FIRST, ERROR_PAUSE_MOST);
        while !self.shared.stopping.load(Ordering::Acquire) {
            free += self.free.try_iter().count();
            if free == 0 {
                // What arrives meanwhile is found by the look that follows.
                let Some(more) = self.sleep(None, &never()) else {
                    return;
                };
                free += more;
                continue;
            }
            let pause = match self.step(known_due, free) {
                Ok(Step::Claimed(count)) => {
                    known_due = count == free;
                    free -= count;
                    empty.reset();
                    failed.reset();
                    continue;
                }
                Ok(Step::Nothing) => {
                    // Others were faster, or what has expired cannot be recovered.
                    let known = std::mem::take(&mut known_due);
                    if known { Duration::ZERO } else { empty.take() }
                }
                Ok(Step::Later(wait)) => {
                    empty.reset();
                    failed.reset();
                    wait.min(LOOK_INTERVAL)
                }
                Err(error) => {
                    tracing::warn!(%error, "work could not be claimed");
                    self.shared.stats.lock().claim_errors += 1;
                    known_due = false;
                    failed.take()
                }
            };
            let Some(more) = self.sleep(Some(pause), &self.arrived) else {
                return;
            };
            free += more;
        }
    }

    /// Waits until a thread is free, something happens, or the time is over. Says
    /// how many threads have become free; `None` when the pool stops, or has no thread
    /// left.
    fn sleep(&self, most: Option<Duration>, arrived: &Receiver<()>) -> Option<usize> {
        let over = most.map_or_else(never, after);
        select! {
            recv(self.free) -> word => word.ok().map(|()| 1),
            recv(arrived) -> _ => Some(0),
            recv(self.stop) -> _ => None,
            recv(over) -> _ => Some(0),
        }
    }

    /// Looks for work unless it is known to be there, and claims what is.
    fn step(&self, known_due: bool, free: usize) -> Result<Step, StorageError> {
        if !known_due {
            self.shared.stats.lock().looks += 1;
            let outlook = self.shared.storage.outlook(&self.filter)?;
            let soonest = outlook.claimable.into_iter().chain(outlook.expires).min();
            match soonest {
                Some(wait) if wait.is_zero() => {}
                Some(wait) => return Ok(Step::Later(wait)),
                None => return Ok(Step::Later(Duration::MAX)),
            }
        }
        // No more threads than one claim can serve: see `limits`.
        let items = u32::try_from(free).unwrap_or(u32::MAX);
        let leases = self.leases.claim_up_to(&self.filter, items)?;
        let count = leases.len();
        {
            let mut stats = self.shared.stats.lock();
            stats.claimed += count as u64;
            stats.empty_claims += u64::from(count == 0);
        }
        for lease in leases {
            let held = Arc::new(self.heartbeat.hold(&lease));
            // There is room for one order of each thread, and those are free. While
            // this thread lives, so do they.
            if self.orders.try_send(Order { lease, held }).is_err() {
                tracing::error!("no room for work that was claimed");
            }
        }
        Ok(if count == 0 {
            Step::Nothing
        } else {
            Step::Claimed(count)
        })
    }
}

/// What a look and a claim gave.
enum Step {
    Claimed(usize),
    /// Something was due and could not be claimed.
    Nothing,
    /// Nothing is due for so long.
    Later(Duration),
}

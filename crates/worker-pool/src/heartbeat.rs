//! Renews leases while they are held, and tells their holders at once when one is
//! lost.
//!
//! Two threads, since a renewal may hang in the store for longer than a lease lasts:
//!
//! - `agentos-heartbeat` renews everything that is held in one commit, at a third of
//!   the lease. It alone calls the store, and only to renew: no write of a worker
//!   ever goes through it.
//! - `agentos-lease-watch` sleeps until the earliest deadline and calls those back
//!   whose lease is lost. It never touches the store, so nothing holds it up. (A
//!   flag that is *asked* needs no thread at all: see `cancellation`.)
//!
//! What this process itself takes away (it cancels the item, or sweeps the lease) is
//! told without waiting for the next beat; what others do, at the next beat.
//!
//! A deadline is counted from before the request that gave it. Where no renewal has
//! come back by then, the lease counts as lost, whatever comes later.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agentos_core::limits::{HEARTBEATS_PER_LEASE, RENEW_LEASES_MAX};
use agentos_core::storage::check_lease;
use agentos_core::{
    BootTime, Clock, Deadline, Fence, Lease, Storage, StorageError, Timestamp, WorkListener,
};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cancellation::{Cancellation, Flag, Loss, OnLoss};
use crate::leases::renew_counted;
use crate::limits::{CLOCK_LOOK_INTERVAL, RENEWAL_RETRIES_PER_HEARTBEAT};

/// Why something was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration can never be right.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The system has no thread left: try again.
    #[error("no thread left")]
    Thread(#[source] io::Error),
}

/// What a heartbeat did since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeartbeatStats {
    /// Leases that are held now.
    pub held: usize,
    /// Renewals: commits, each of all leases that were held then.
    pub renewals: u64,
    /// Leases that were renewed, each time counted.
    pub renewed: u64,
    /// Renewals that failed as a whole; each was tried again.
    pub errors: u64,
    /// Leases that were lost while they were held here.
    pub lost: u64,
}

/// Renews the leases of a process until it is dropped.
///
/// Dropping it waits for the renewal under way, which the store's busy timeout
/// bounds. What is still held then is renewed no more, and is lost at its deadline.
#[derive(Debug)]
pub struct Heartbeat {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Heartbeat {
    /// Renews for `lease` from now on, each time a third of it has passed.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing was started.
    pub fn start(storage: Arc<dyn Storage>, lease: Duration) -> Result<Heartbeat, StartError> {
        check_lease(lease)?;
        let shared = Arc::new(Shared {
            storage,
            lease,
            registry: Mutex::new(Registry::default()),
            beat: Condvar::new(),
            watch: Condvar::new(),
        });
        let listener: Arc<dyn WorkListener> = Arc::clone(&shared) as Arc<dyn WorkListener>;
        shared.storage.listen(Arc::downgrade(&listener));
        let mut heartbeat = Heartbeat {
            shared,
            threads: Vec::new(),
        };
        // Where the second cannot be started, dropping ends the first.
        heartbeat.spawn("agentos-heartbeat", renew_until_closed)?;
        heartbeat.spawn("agentos-lease-watch", watch_until_closed)?;
        Ok(heartbeat)
    }

    fn spawn(&mut self, name: &str, run: fn(&Shared)) -> Result<(), StartError> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&shared))
            .map_err(StartError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Renews this lease until the guard is dropped.
    pub fn hold(&self, lease: &Lease) -> Held {
        self.register(lease, None)
    }

    /// Renews this lease until the guard is dropped, and calls `on_loss` once if it
    /// is lost before.
    ///
    /// It is called in a thread that serves all leases: it must not block. It must
    /// not drop this heartbeat.
    pub fn hold_with(&self, lease: &Lease, on_loss: impl FnOnce(&Loss) + Send + 'static) -> Held {
        self.register(lease, Some(Box::new(on_loss)))
    }

    fn register(&self, lease: &Lease, on_loss: Option<OnLoss>) -> Held {
        let shared = Arc::clone(&self.shared);
        let clock = Arc::new(StoreClock(Arc::clone(&shared.storage)));
        let flag = Flag::new(lease.fence, lease.deadline.clone(), clock, on_loss);
        let flag = Arc::new(flag);
        let mut registry = shared.registry.lock();
        registry.last += 1;
        let id = registry.last;
        registry.held.insert(id, Arc::clone(&flag));
        // The threads sleep until what they knew of. They are woken for what comes
        // earlier, which among leases of one length only the first does.
        if is_sooner(&lease.deadline, registry.watch_sleeps_until.as_ref()) {
            shared.watch.notify_one();
        }
        if is_sooner(&lease.deadline, registry.beat_sleeps_for.as_ref()) {
            shared.beat.notify_one();
        }
        drop(registry);
        Held { id, shared, flag }
    }

    /// What was done since the start.
    pub fn stats(&self) -> HeartbeatStats {
        let registry = self.shared.registry.lock();
        HeartbeatStats {
            held: registry.held.len(),
            ..registry.stats
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.shared.registry.lock().closed = true;
        self.shared.beat.notify_one();
        self.shared.watch.notify_one();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the heartbeat panicked");
            }
        }
    }
}

/// A lease that is renewed. Dropping it ends that, and nothing else: the lease runs
/// out, unless it was completed, failed or released.
pub struct Held {
    id: u64,
    shared: Arc<Shared>,
    flag: Arc<Flag>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("fence", &self.flag.fence)
            .field("loss", &self.loss())
            .finish_non_exhaustive()
    }
}

impl Held {
    /// Whether the lease is lost: nothing should be done under it any more.
    pub fn is_lost(&self) -> bool {
        self.loss().is_some()
    }

    /// How the lease was lost; `None` while it is held.
    pub fn loss(&self) -> Option<Loss> {
        self.flag.loss()
    }

    /// A flag for those who do the work.
    pub fn cancellation(&self) -> Cancellation {
        Cancellation::of(&self.flag)
    }

    /// The holder is about to complete, fail or release the item. It is renewed
    /// until the guard is dropped, but a renewal that comes after the end is no loss
    /// to tell of: the holder sees from its own commit whether the lease held.
    pub fn settling(&self) {
        self.flag.set_settling(true);
    }

    /// The lease could not be ended: it is as before [`Held::settling`].
    pub fn not_settled(&self) {
        self.flag.set_settling(false);
    }

    pub(crate) fn flag(&self) -> &Arc<Flag> {
        &self.flag
    }

    /// Ends the renewing. Dropping it does so too.
    pub(crate) fn end(&self) {
        let mut registry = self.shared.registry.lock();
        if let Some(flag) = registry.held.remove(&self.id) {
            registry.stats.lost += u64::from(flag.loss().is_some());
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end();
    }
}

struct Shared {
    storage: Arc<dyn Storage>,
    lease: Duration,
    registry: Mutex<Registry>,
    /// Wakes the thread that renews.
    beat: Condvar,
    /// Wakes the thread that watches deadlines.
    watch: Condvar,
}

/// What this process takes away from itself, its holders hear of at once: a renewal
/// is made, and its answer says what became of the item.
impl WorkListener for Shared {
    fn leases_lost(&self, lost: &[Fence]) {
        let mut registry = self.registry.lock();
        let ours = |fence: &Fence| registry.held.values().any(|flag| flag.fence == *fence);
        if lost.iter().any(ours) {
            registry.beat_now = true;
            self.beat.notify_one();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Registry {
    held: HashMap<u64, Arc<Flag>>,
    last: u64,
    closed: bool,
    /// The deadline for which the watching thread sleeps; `None` while it sleeps
    /// without an end.
    watch_sleeps_until: Option<BootTime>,
    /// The deadline of the lease whose renewal the other thread sleeps for; `None`
    /// while it sleeps without an end.
    beat_sleeps_for: Option<BootTime>,
    /// A lease that is held here was taken away: renew without waiting.
    beat_now: bool,
    stats: HeartbeatStats,
}

/// The clocks of a store.
struct StoreClock(Arc<dyn Storage>);

impl Clock for StoreClock {
    fn wall(&self) -> Timestamp {
        self.0.now()
    }

    fn boot(&self) -> BootTime {
        self.0.boot_now()
    }
}

/// Whether a moment comes before the one that is known, if any is.
fn is_sooner(moment: &BootTime, known: Option<&BootTime>) -> bool {
    known.is_none_or(|known| known.boot != moment.boot || moment.micros < known.micros)
}

/// The thread that renews.
fn renew_until_closed(shared: &Shared) {
    let interval = shared.lease / HEARTBEATS_PER_LEASE;
    let mut retry = Deadline::after(Duration::ZERO);
    let mut registry = shared.registry.lock();
    while !registry.closed {
        let now = shared.storage.boot_now();
        let renewable = registry.held.values();
        let shortest = renewable.filter_map(|flag| flag.renewable(&now)).min();
        registry.beat_sleeps_for = shortest.map(|left| now.plus(left));
        let Some(left) = shortest else {
            registry.beat_now = false;
            shared.beat.wait(&mut registry);
            continue;
        };
        let due = left.saturating_sub(shared.lease - interval);
        let due = if registry.beat_now {
            Duration::ZERO
        } else {
            due
        };
        let pause = due.max(retry.remaining()).min(CLOCK_LOOK_INTERVAL);
        if !pause.is_zero() {
            shared.beat.wait_for(&mut registry, pause);
            continue;
        }
        registry.beat_now = false;
        let held: Vec<Arc<Flag>> = registry
            .held
            .values()
            .filter(|flag| flag.renewable(&now).is_some())
            .cloned()
            .collect();
        let renewed = MutexGuard::unlocked(&mut registry, || renew(shared, &held));
        registry.stats.renewals += renewed.commits;
        registry.stats.renewed += renewed.leases;
        if let Err(error) = renewed.end {
            registry.stats.errors += 1;
            tracing::warn!(%error, "leases could not be renewed");
            retry = Deadline::after(interval / RENEWAL_RETRIES_PER_HEARTBEAT);
        }
        // Those who are lost are called back by the other thread.
        shared.watch.notify_one();
    }
}

struct RenewedAll {
    commits: u64,
    leases: u64,
    end: Result<(), StorageError>,
}

/// Renews them, in as few commits as there can be. Ends at the first error.
fn renew(shared: &Shared, held: &[Arc<Flag>]) -> RenewedAll {
    let mut renewed = RenewedAll {
        commits: 0,
        leases: 0,
        end: Ok(()),
    };
    for some in held.chunks(RENEW_LEASES_MAX) {
        let fences: Vec<Fence> = some.iter().map(|flag| flag.fence).collect();
        match renew_counted(shared.storage.as_ref(), &fences, shared.lease) {
            Ok(answers) => {
                renewed.commits += 1;
                for (flag, answer) in some.iter().zip(answers) {
                    renewed.leases += u64::from(answer.is_ok());
                    flag.answered(answer);
                }
            }
            Err(error) => {
                renewed.end = Err(error);
                break;
            }
        }
    }
    renewed
}

/// The thread that watches deadlines.
fn watch_until_closed(shared: &Shared) {
    let mut registry = shared.registry.lock();
    while !registry.closed {
        let now = shared.storage.boot_now();
        let lost = take_lost(&mut registry, &now);
        if !lost.is_empty() {
            MutexGuard::unlocked(&mut registry, || lost.iter().for_each(call_back));
            continue;
        }
        let held = registry.held.values();
        let shortest = held.filter_map(|flag| flag.look(&now)).min();
        registry.watch_sleeps_until = shortest.map(|left| now.plus(left));
        match shortest {
            Some(left) => {
                let pause = left.min(CLOCK_LOOK_INTERVAL);
                shared.watch.wait_for(&mut registry, pause);
            }
            None => shared.watch.wait(&mut registry),
        }
    }
}

/// Takes those out of the registry whose lease is lost: there is nothing left to
/// renew.
fn take_lost(registry: &mut Registry, now: &BootTime) -> Vec<Arc<Flag>> {
    let lost: Vec<Arc<Flag>> = registry
        .held
        .extract_if(|_, flag| flag.look(now).is_none())
        .map(|(_, flag)| flag)
        .collect();
    registry.stats.lost += lost.len() as u64;
    lost
}

fn call_back(flag: &Arc<Flag>) {
    let Some(loss) = flag.loss() else { return };
    tracing::warn!(item = %flag.fence.item, token = %flag.fence.token, %loss, "a lease is lost");
    if let Some((on_loss, loss)) = flag.take_callback()
        && let Err(panic) = catch_unwind(AssertUnwindSafe(|| on_loss(&loss)))
    {
        tracing::error!("the callback of a lost lease panicked");
        // Dropping what is unknown could panic again, and end this thread.
        std::mem::forget(panic);
    }
}

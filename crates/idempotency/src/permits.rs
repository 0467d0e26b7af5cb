//! Renews permits while they are held.
//!
//! One thread, `agentos-permits`, started with the first permit that needs it, renews
//! all of them in one commit, each time a third of their lease has passed. It ends with
//! the gate. In between it writes the uses of outcomes that were noted.
//!
//! A deadline is counted from before the request that gave it. Where no renewal has
//! come back by then the permit counts as lost, whatever comes later, also while a
//! renewal hangs in the store: a permit that is asked compares its deadline with the
//! clock, and needs no thread for that.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agentos_core::limits::{HEARTBEATS_PER_LEASE, KEYS_PER_PART_MAX};
use agentos_core::{
    BootTime, Commit, Deadline, KeyFence, KeyId, KeyStatus, RenewedPermit, StalePermit, Storage,
    StorageError, TouchKeys,
};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::IdempotencyError;
use crate::limits::{CLOCK_LOOK_INTERVAL, RENEWAL_RETRIES_PER_HEARTBEAT};
use crate::stats::Counters;
use crate::uses::Uses;

/// How a permit was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PermitLoss {
    /// The store says that it is not held any more.
    Taken(Box<StalePermit>),
    /// It was not renewed in time. The key may still be pending under it, but somebody
    /// else can have it at any moment.
    Overdue,
}

impl fmt::Display for PermitLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PermitLoss::Taken(stale) => stale.fmt(f),
            PermitLoss::Overdue => f.write_str("the permit was not renewed in time"),
        }
    }
}

/// Whichever comes first.
pub(crate) fn earlier(one: &BootTime, other: &BootTime) -> BootTime {
    if one.boot == other.boot && other.micros < one.micros {
        other.clone()
    } else {
        one.clone()
    }
}

/// What the holder of a permit and the thread that renews it share.
#[derive(Debug)]
pub(crate) struct Flag {
    fence: KeyFence,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Counted from before the request that gave it.
    deadline: BootTime,
    loss: Option<PermitLoss>,
    /// Its end is being recorded by its holder, who will see whether it was held.
    ending: bool,
    /// The store has recorded its end: there is nothing to renew.
    ended: bool,
}

impl Flag {
    fn new(fence: KeyFence, deadline: BootTime) -> Flag {
        Flag {
            fence,
            state: Mutex::new(State {
                deadline,
                loss: None,
                ending: false,
                ended: false,
            }),
        }
    }

    /// How the permit was lost; `None` while it is held.
    pub(crate) fn loss(&self, now: &BootTime) -> Option<PermitLoss> {
        self.look(now);
        self.state.lock().loss.clone()
    }

    /// Looks whether the deadline has passed, and says how long it is until then;
    /// `None` once the permit is lost.
    fn look(&self, now: &BootTime) -> Option<Duration> {
        let mut state = self.state.lock();
        if state.loss.is_some() {
            return None;
        }
        let left = now.until(&state.deadline);
        if left.is_zero() {
            state.loss = Some(PermitLoss::Overdue);
            return None;
        }
        Some(left)
    }

    fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// Takes the answer to a renewal that was asked for when `counted` was a lease
    /// away. One that comes after the deadline is too late, whatever it says.
    fn answered(
        &self,
        answer: Result<RenewedPermit, StalePermit>,
        counted: &BootTime,
        now: &BootTime,
    ) {
        if self.look(now).is_none() {
            return;
        }
        let mut state = self.state.lock();
        match answer {
            Ok(renewed) => state.deadline = earlier(counted, &renewed.deadline),
            Err(stale) if state.ending || is_end_of(self.fence, &stale) => state.ended = true,
            Err(stale) => state.loss = Some(PermitLoss::Taken(Box::new(stale))),
        }
    }
}

/// Whether a permit is over since its own outcome was recorded.
fn is_end_of(fence: KeyFence, stale: &StalePermit) -> bool {
    let is_recorded = matches!(stale.status, Some(KeyStatus::Succeeded | KeyStatus::Failed));
    is_recorded && stale.newest == Some(fence.token)
}

/// The permits of a gate, and the thread that renews them.
#[derive(Debug)]
pub(crate) struct Permits {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    storage: Arc<dyn Storage>,
    lease: Duration,
    counters: Arc<Counters>,
    registry: Mutex<Registry>,
    wake: Condvar,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    /// The deadline of the permit whose renewal the thread sleeps for; `None` while it
    /// sleeps without an end.
    sleeps_for: Option<BootTime>,
    uses: Uses,
}

impl Permits {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        lease: Duration,
        counters: Arc<Counters>,
    ) -> Permits {
        Permits {
            shared: Arc::new(Shared {
                storage,
                lease,
                counters,
                registry: Mutex::default(),
                wake: Condvar::new(),
            }),
            thread: Mutex::new(None),
        }
    }

    /// Starts the thread, unless it runs; anew if it panicked.
    pub(crate) fn start(&self) -> Result<(), IdempotencyError> {
        let mut thread = self.thread.lock();
        if thread.as_ref().is_none_or(JoinHandle::is_finished) {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new()
                .name("agentos-permits".into())
                .spawn(move || run(&shared));
            *thread = Some(started.map_err(IdempotencyError::Thread)?);
        }
        Ok(())
    }

    /// Renews a permit until the guard is dropped.
    pub(crate) fn hold(&self, fence: KeyFence, deadline: BootTime) -> Renewing {
        let shared = Arc::clone(&self.shared);
        let flag = Arc::new(Flag::new(fence, deadline.clone()));
        let mut registry = shared.registry.lock();
        registry.last += 1;
        let id = registry.last;
        registry.held.insert(id, Arc::clone(&flag));
        // The thread sleeps until what it knew of. It is woken for what comes earlier,
        // which among permits of one length only the first does.
        let is_sooner = registry
            .sleeps_for
            .as_ref()
            .is_none_or(|known| known.boot != deadline.boot || deadline.micros < known.micros);
        if is_sooner {
            shared.wake.notify_one();
        }
        drop(registry);
        Renewing { id, shared, flag }
    }

    /// Notes that an outcome was used. It is written later, by the thread.
    pub(crate) fn note_use(&self, key: KeyId) {
        let mut registry = self.shared.registry.lock();
        let is_first = registry.uses.is_empty();
        registry.uses.note(key);
        let wakes = is_first || registry.uses.is_batch();
        drop(registry);
        if wakes {
            // Without a thread they are written with the next end.
            if let Err(error) = self.start() {
                tracing::debug!(%error, "nobody writes the uses of outcomes");
            }
            self.shared.wake.notify_one();
        }
    }

    /// The uses that were noted: whoever takes them writes them.
    pub(crate) fn take_uses(&self) -> Vec<KeyId> {
        self.shared.registry.lock().uses.take()
    }

    /// Permits that are renewed now.
    pub(crate) fn held(&self) -> usize {
        self.shared.registry.lock().held.len()
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.shared.registry.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.get_mut().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that renews permits panicked");
        }
    }
}

/// A permit that is renewed. Dropping it ends that, and nothing else.
#[derive(Debug)]
pub(crate) struct Renewing {
    id: u64,
    shared: Arc<Shared>,
    flag: Arc<Flag>,
}

impl Renewing {
    pub(crate) fn flag(&self) -> &Flag {
        &self.flag
    }

    /// The holder is about to record the end. Renewals that come after it are no loss.
    pub(crate) fn ending(&self) {
        self.flag.state.lock().ending = true;
    }

    /// The end could not be recorded: it is as before, and renewed again.
    pub(crate) fn not_ended(&self) {
        let mut state = self.flag.state.lock();
        state.ending = false;
        state.ended = false;
        drop(state);
        self.shared.wake.notify_one();
    }
}

impl Drop for Renewing {
    fn drop(&mut self) {
        self.shared.registry.lock().held.remove(&self.id);
    }
}

/// The thread.
fn run(shared: &Shared) {
    let interval = shared.lease / HEARTBEATS_PER_LEASE;
    let mut retry = Deadline::after(Duration::ZERO);
    let mut registry = shared.registry.lock();
    while !registry.closed {
        let now = shared.storage.boot_now();
        take_lost(shared, &mut registry, &now);
        let shortest = shortest(&registry, &now);
        registry.sleeps_for = shortest.map(|left| now.plus(left));
        let renewal = shortest
            .map(|left| left.saturating_sub(shared.lease - interval))
            .map(|due| due.max(retry.remaining()));
        let writing = registry.uses.due();
        if renewal == Some(Duration::ZERO) {
            let held: Vec<Arc<Flag>> = registry
                .held
                .values()
                .filter(|flag| !flag.has_ended())
                .cloned()
                .collect();
            let end = MutexGuard::unlocked(&mut registry, || renew(shared, &held));
            if let Err(error) = end {
                shared.counters.renewal_errors.add(1);
                tracing::warn!(%error, "permits could not be renewed");
                retry = Deadline::after(interval / RENEWAL_RETRIES_PER_HEARTBEAT);
            }
        } else if writing == Some(Duration::ZERO) {
            let keys = registry.uses.take();
            MutexGuard::unlocked(&mut registry, || write_uses(shared, keys));
        } else {
            match [renewal, writing].into_iter().flatten().min() {
                Some(pause) => {
                    let pause = pause.min(CLOCK_LOOK_INTERVAL);
                    shared.wake.wait_for(&mut registry, pause);
                }
                None => shared.wake.wait(&mut registry),
            }
        }
    }
    let keys = registry.uses.take();
    drop(registry);
    write_uses(shared, keys);
}

/// Takes those out of the registry that are lost: there is nothing left to renew.
fn take_lost(shared: &Shared, registry: &mut Registry, now: &BootTime) {
    for (_, flag) in registry.held.extract_if(|_, flag| flag.look(now).is_none()) {
        if flag.has_ended() {
            continue;
        }
        shared.counters.lost.add(1);
        if let Some(loss) = flag.loss(now) {
            let KeyFence { key, token } = flag.fence;
            tracing::warn!(%key, %token, %loss, "a permit is lost");
        }
    }
}

/// How long it is until the first deadline.
fn shortest(registry: &Registry, now: &BootTime) -> Option<Duration> {
    let renewable = registry.held.values().filter(|flag| !flag.has_ended());
    renewable.filter_map(|flag| flag.look(now)).min()
}

/// Renews them, in as few commits as there can be. Ends at the first error.
fn renew(shared: &Shared, held: &[Arc<Flag>]) -> Result<(), StorageError> {
    for some in held.chunks(KEYS_PER_PART_MAX) {
        let fences: Vec<KeyFence> = some.iter().map(|flag| flag.fence).collect();
        let counted = shared.storage.boot_now().plus(shared.lease);
        let answers = shared.storage.renew_keys(&fences, shared.lease)?;
        let now = shared.storage.boot_now();
        for (flag, answer) in some.iter().zip(answers) {
            shared.counters.renewed.add(u64::from(answer.is_ok()));
            flag.answered(answer, &counted, &now);
        }
        shared.counters.renewals.add(1);
    }
    Ok(())
}

/// Writes uses. Those that cannot be written are forgotten: they only say what was
/// used of late.
fn write_uses(shared: &Shared, keys: Vec<KeyId>) {
    if keys.is_empty() {
        return;
    }
    let commit = Commit::from(TouchKeys { keys });
    if let Err(error) = shared.storage.commit(commit) {
        tracing::debug!(%error, "the uses of outcomes could not be written");
    }
}

#[cfg(test)]
mod tests {
    use agentos_core::{Clock, FencingToken, ManualClock, Timestamp};

    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn fence() -> KeyFence {
        KeyFence {
            key: KeyId::new(7).unwrap(),
            token: FencingToken::new(2).unwrap(),
        }
    }

    fn fixture() -> (ManualClock, Flag) {
        let clock = ManualClock::at(Timestamp::from_unix_micros(0));
        let flag = Flag::new(fence(), clock.boot().plus(LEASE));
        (clock, flag)
    }

    fn stale(status: Option<KeyStatus>, newest: i64) -> StalePermit {
        StalePermit {
            fence: fence(),
            status,
            newest: Some(FencingToken::new(newest).unwrap()),
            owner: None,
        }
    }

    #[test]
    fn a_permit_is_lost_at_its_deadline_and_stays_lost() {
        let (clock, flag) = fixture();
        clock.advance(LEASE - Duration::from_micros(1));
        assert_eq!(flag.loss(&clock.boot()), None);
        clock.advance(Duration::from_micros(1));
        // A renewal that hung all the time comes back, and says that all is well.
        let counted = clock.boot().plus(LEASE);
        let renewed = RenewedPermit {
            fence: fence(),
            deadline: counted.clone(),
        };
        flag.answered(Ok(renewed), &counted, &clock.boot());
        assert_eq!(flag.loss(&clock.boot()), Some(PermitLoss::Overdue));
    }

    #[test]
    fn a_renewal_counts_from_before_it_was_asked_for() {
        let (clock, flag) = fixture();
        let counted = clock.boot().plus(LEASE);
        clock.advance(Duration::from_secs(20));
        let renewed = RenewedPermit {
            fence: fence(),
            deadline: clock.boot().plus(LEASE),
        };
        flag.answered(Ok(renewed), &counted, &clock.boot());
        assert_eq!(flag.look(&clock.boot()), Some(Duration::from_secs(10)));
    }

    #[test]
    fn what_the_store_says_is_lost_is_lost_at_once() {
        let (clock, flag) = fixture();
        let taken = stale(Some(KeyStatus::Pending), 3);
        let now = clock.boot();
        flag.answered(Err(taken.clone()), &now.plus(LEASE), &now);
        let loss = PermitLoss::Taken(Box::new(taken));
        assert_eq!(flag.loss(&now), Some(loss));
    }

    #[test]
    fn a_recorded_outcome_is_the_end_of_its_permit_and_no_loss() {
        for (status, newest, is_end) in [
            (KeyStatus::Succeeded, 2, true),
            (KeyStatus::Failed, 2, true),
            (KeyStatus::Pending, 2, false),
            (KeyStatus::Succeeded, 3, false),
        ] {
            let (clock, flag) = fixture();
            let now = clock.boot();
            flag.answered(Err(stale(Some(status), newest)), &now.plus(LEASE), &now);
            assert_eq!(flag.loss(&now).is_none(), is_end, "{status} {newest}");
            assert_eq!(flag.has_ended(), is_end, "{status} {newest}");
        }
    }
}

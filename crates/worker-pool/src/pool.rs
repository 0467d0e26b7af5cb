//! A pool of threads that claims work and runs handlers.
//!
//! Threads: one that claims, `n` that run handlers, two of the heartbeat. Each has a
//! name, a bounded inbox and an end. A lease is claimed only for a thread that is
//! free, so none waits in a queue and grows old.
//!
//! A shutdown is bounded: handlers get a grace period, then they are told to stop,
//! and what they hold is released. A handler that never returns keeps its thread,
//! which is left to itself; its fence is gone, so it can write nothing any more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agentos_core::limits::{LEASE_DEFAULT, check_name, check_size};
use agentos_core::{
    Commit, InvalidInput, LimitExceeded, ReleaseWork, Retry, RetryRule, Storage, StorageError,
    TaskId, WorkFilter, WorkListener, Worker,
};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::dispatcher::{Arrivals, Dispatcher};
use crate::handler::{Finish, Handler, HandlerError, Job};
use crate::heartbeat::{Heartbeat, StartError};
use crate::leases::{LeaseConfig, LeaseManager};
use crate::limits::{GRACE_DEFAULT, GRACE_MAX, PARTING_DEFAULT, THREADS_DEFAULT, THREADS_MAX};
use crate::report::Recorded;
use crate::stats::PoolStats;
use crate::worker::{self, Order, Shared, Slot, Slots};

/// Sets a pool up.
pub struct PoolBuilder {
    storage: Arc<dyn Storage>,
    worker: Worker,
    threads: usize,
    leases: LeaseConfig,
    retry: Retry,
    handlers: Vec<(String, Handler)>,
    task: Option<TaskId>,
    grace: Duration,
    parting: Duration,
}

impl std::fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let types: Vec<&String> = self.handlers.iter().map(|(name, _)| name).collect();
        f.debug_struct("PoolBuilder")
            .field("worker", &self.worker)
            .field("threads", &self.threads)
            .field("types", &types)
            .finish_non_exhaustive()
    }
}

impl PoolBuilder {
    /// How many threads run handlers: 1 to 256, 4 unless changed.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> PoolBuilder {
        self.threads = threads;
        self
    }

    /// How long a lease lasts unless it is renewed: 100 ms to 24 h, 30 s unless
    /// changed. A process that dies is replaced after this time.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> PoolBuilder {
        self.leases.lease = lease;
        self
    }

    /// What follows for items whose expired leases this pool's claims take away.
    #[must_use]
    pub fn after_loss(mut self, rule: RetryRule) -> PoolBuilder {
        self.leases.after_loss = rule;
        self
    }

    /// What follows a panic, and a failure that does not say it. Growing pauses
    /// unless changed.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> PoolBuilder {
        self.retry = retry;
        self
    }

    /// Does the work of one type. Only work that has a handler is claimed.
    #[must_use]
    pub fn handler<F>(mut self, work_type: impl Into<String>, handler: F) -> PoolBuilder
    where
        F: Fn(&Job) -> Result<Finish, HandlerError> + Send + Sync + 'static,
    {
        self.handlers.push((work_type.into(), Box::new(handler)));
        self
    }

    /// Only work of this task.
    #[must_use]
    pub fn of_task(mut self, task: TaskId) -> PoolBuilder {
        self.task = Some(task);
        self
    }

    /// How long a shutdown waits for handlers: at most an hour, 30 s unless changed.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> PoolBuilder {
        self.grace = grace;
        self
    }

    /// How long it waits for them after they were told to stop: at most an hour, 1 s
    /// unless changed.
    #[must_use]
    pub fn parting(mut self, parting: Duration) -> PoolBuilder {
        self.parting = parting;
        self
    }

    /// Starts the pool.
    ///
    /// # Errors
    ///
    /// [`StartError::Storage`] when it has no handlers, more than 64 types or two
    /// handlers of one, or another setting that can never be right;
    /// [`StartError::Thread`]. Nothing was claimed.
    pub fn start(self) -> Result<WorkerPool, StartError> {
        let checked = self.check()?;
        WorkerPool::start(checked)
    }

    fn check(self) -> Result<Checked, StorageError> {
        if self.threads == 0 {
            return Err(InvalidInput::new("pool", "has no thread").into());
        }
        check_size("threads of a pool", self.threads, THREADS_MAX)?;
        for (name, wait) in [
            ("grace period in ms", self.grace),
            ("parting period in ms", self.parting),
        ] {
            if GRACE_MAX < wait {
                let ms = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                return Err(LimitExceeded {
                    name,
                    limit: ms(GRACE_MAX),
                    value: ms(wait),
                }
                .into());
            }
        }
        self.retry.check()?;
        if self.handlers.is_empty() {
            return Err(InvalidInput::new("pool", "has no handler").into());
        }
        let mut handlers = HashMap::new();
        for (name, handler) in self.handlers {
            check_name("work type", &name)?;
            match handlers.entry(name) {
                Entry::Vacant(place) => place.insert(handler),
                Entry::Occupied(taken) => {
                    let reason = format!("has two handlers for {:?}", taken.key());
                    return Err(InvalidInput::new("pool", reason).into());
                }
            };
        }
        let filter = WorkFilter {
            types: handlers.keys().cloned().collect(),
            task: self.task,
        };
        filter.check()?;
        let leases = LeaseManager::new(Arc::clone(&self.storage), self.worker, self.leases)?;
        Ok(Checked {
            storage: self.storage,
            threads: self.threads,
            leases,
            retry: self.retry,
            handlers,
            filter,
            grace: self.grace,
            parting: self.parting,
        })
    }
}

struct Checked {
    storage: Arc<dyn Storage>,
    threads: usize,
    leases: LeaseManager,
    retry: Retry,
    handlers: HashMap<String, Handler>,
    filter: WorkFilter,
    grace: Duration,
    parting: Duration,
}

/// Threads that claim work and run handlers until the pool is shut down or dropped.
///
/// Dropping it is [`WorkerPool::shutdown`].
pub struct WorkerPool {
    shared: Arc<Shared>,
    worker: Worker,
    heartbeat: Option<Arc<Heartbeat>>,
    /// Closed by dropping it: nothing is claimed any more.
    stop: Option<Sender<()>>,
    /// Closed when the last thread has ended.
    ended: Receiver<()>,
    threads: Vec<JoinHandle<()>>,
    grace: Duration,
    parting: Duration,
}

impl std::fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerPool")
            .field("worker", &self.worker)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// What a shutdown came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Attempts whose end was recorded during the shutdown.
    pub finished: u64,
    /// Items that were given back during the shutdown; those attempts do not count.
    pub released: u64,
    /// Jobs that had not ended when it was over. What they held was released where
    /// the store let that through, and else runs out. Their threads end when their
    /// handlers return; until then they keep a reference to the store.
    pub abandoned: usize,
    /// What the pool did from its start to its end.
    pub stats: PoolStats,
}

impl WorkerPool {
    /// A pool for this store. `worker` should be a start of its own
    /// ([`Worker::start`]).
    pub fn builder(storage: Arc<dyn Storage>, worker: Worker) -> PoolBuilder {
        PoolBuilder {
            storage,
            worker,
            threads: THREADS_DEFAULT,
            leases: LeaseConfig {
                lease: LEASE_DEFAULT,
                after_loss: RetryRule::default(),
            },
            retry: Retry::default(),
            handlers: Vec::new(),
            task: None,
            grace: GRACE_DEFAULT,
            parting: PARTING_DEFAULT,
        }
    }

    fn start(checked: Checked) -> Result<WorkerPool, StartError> {
        let storage = checked.storage;
        let lease = checked.leases.config().lease;
        let heartbeat = Arc::new(Heartbeat::start(Arc::clone(&storage), lease)?);
        let shared = Arc::new(Shared {
            storage,
            handlers: checked.handlers,
            retry: checked.retry,
            stopping: AtomicBool::new(false),
            stats: Mutex::default(),
            slots: Mutex::new(Slots::default()),
        });
        let (stop, stopped) = bounded(0);
        let (end, ended) = bounded(0);
        let (orders, inbox) = bounded(checked.threads);
        let (free, is_free) = bounded(checked.threads);
        let (arrive, arrived) = bounded(1);
        let listener: Arc<dyn WorkListener> = Arc::new(Arrivals(arrive));
        shared.storage.listen(Arc::downgrade(&listener));
        let dispatcher = Dispatcher {
            shared: Arc::clone(&shared),
            leases: checked.leases.clone(),
            heartbeat: Arc::clone(&heartbeat),
            filter: checked.filter,
            orders,
            free: is_free,
            arrived,
            stop: stopped,
            _listener: listener,
        };
        let mut pool = WorkerPool {
            shared,
            worker: checked.leases.worker().clone(),
            heartbeat: Some(heartbeat),
            stop: Some(stop),
            ended,
            threads: Vec::new(),
            grace: checked.grace,
            parting: checked.parting,
        };
        pool.spawn_all(checked.threads, end, &inbox, &free, dispatcher)?;
        Ok(pool)
    }

    /// Starts the threads. Where one cannot be started, what the others wait on is
    /// closed when this returns, and dropping the pool ends them.
    fn spawn_all(
        &mut self,
        threads: usize,
        end: Sender<()>,
        inbox: &Receiver<Order>,
        free: &Sender<()>,
        dispatcher: Dispatcher,
    ) -> Result<(), StartError> {
        for number in 1..=threads {
            let shared = Arc::clone(&self.shared);
            let (inbox, free) = (inbox.clone(), free.clone());
            self.spawn(format!("agentos-worker-{number}"), &end, move || {
                worker::run(&shared, &inbox, &free);
            })?;
        }
        self.spawn("agentos-dispatcher".into(), &end, move || dispatcher.run())
    }

    fn spawn(
        &mut self,
        name: String,
        end: &Sender<()>,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), StartError> {
        let end = end.clone();
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || {
                run();
                drop(end);
            })
            .map_err(StartError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Who works.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// What was done since the start.
    pub fn stats(&self) -> PoolStats {
        let heartbeat = self.heartbeat.as_ref().map(|heartbeat| heartbeat.stats());
        let running = self.shared.slots.lock().running.len();
        PoolStats {
            running,
            heartbeat: heartbeat.unwrap_or_default(),
            ..*self.shared.stats.lock()
        }
    }

    /// Stops claiming, waits for handlers as long as the grace period says, tells
    /// the rest to stop, waits for them as long as the parting period says, and
    /// releases what is still held. What was claimed and not begun is released.
    ///
    /// A handler that returns an error after it was told to stop is released too: it
    /// is no failed attempt.
    ///
    /// Takes at most both periods, and then as long as the store takes to release
    /// what is held (the first of these that fails is the last that is tried) and to
    /// end a renewal that is under way: each at most the store's busy timeout.
    pub fn shutdown(mut self) -> ShutdownReport {
        self.finish()
    }

    fn finish(&mut self) -> ShutdownReport {
        let before = self.stats();
        self.shared.stopping.store(true, Ordering::Release);
        drop(self.stop.take());
        let mut all_ended = self.have_ended_within(self.grace);
        if !all_ended {
            for slot in self.shared.slots.lock().running.values() {
                slot.held.flag().shut_down();
            }
            all_ended = self.have_ended_within(self.parting);
        }
        let abandoned = if all_ended { 0 } else { self.abandon() };
        for thread in self.threads.drain(..) {
            if (all_ended || thread.is_finished()) && thread.join().is_err() {
                tracing::error!("a thread of the pool panicked");
            }
        }
        let stats = self.stats();
        // Renewing ends last.
        drop(self.heartbeat.take());
        ShutdownReport {
            finished: stats.finished() - before.finished(),
            released: stats.released - before.released,
            abandoned,
            stats,
        }
    }

    fn have_ended_within(&self, wait: Duration) -> bool {
        match self.ended.recv_timeout(wait) {
            Err(RecvTimeoutError::Disconnected) => true,
            Ok(()) | Err(RecvTimeoutError::Timeout) => false,
        }
    }

    /// Gives up what runs. Says how many jobs that were.
    fn abandon(&self) -> usize {
        let given_up: Vec<Slot> = {
            let mut slots = self.shared.slots.lock();
            // Those whose handler has returned record their end themselves.
            let taken = slots.running.extract_if(|_, slot| !slot.reporting);
            taken.map(|(_, slot)| slot).collect()
        };
        let mut store_answers = true;
        for slot in &given_up {
            slot.held.end();
            let fence = slot.held.flag().fence;
            tracing::warn!(item = %fence.item, "a handler did not return and is given up");
            let recorded = if store_answers {
                let reason = Some("the pool shut down before its handler returned".into());
                let part = ReleaseWork { fence, reason };
                match self.shared.storage.commit(Commit::under(fence).part(part)) {
                    Ok(_) => Recorded::Released,
                    Err(StorageError::StaleLease(_)) => Recorded::Lost,
                    Err(error) => {
                        tracing::warn!(%error, "leases are left to run out");
                        store_answers = false;
                        Recorded::Nothing
                    }
                }
            } else {
                Recorded::Nothing
            };
            self.shared.count(recorded);
        }
        given_up.len() + self.shared.slots.lock().running.len()
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        if self.heartbeat.is_some() {
            self.finish();
        }
    }
}

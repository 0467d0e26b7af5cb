//! The recovery sweep: takes lost leases away, one bounded transaction after
//! another.
//!
//! What happens to an item happens inside the port's transaction: its lease is
//! tested again there, and its attempt, its next state, an audit line and an
//! error boundary are one commit. This file only asks for the next batch, and
//! ends whatever the store answers.

use std::collections::HashSet;
use std::sync::Arc;

use agentos_core::{
    Lost, Next, Stopwatch, Storage, StorageError, SweepRequest, Swept, WorkItemId, Worker,
    crash_point,
};

use crate::config::SweepConfig;
use crate::limits::{SWEEP_BATCHES_MAX, SWEEP_FAILURES_MAX};

/// What a sweep did.
#[derive(Debug, Clone, Default)]
pub struct SweepStatistics {
    /// Lost leases that it found.
    pub expired_found: u64,
    /// Items that it took out of them. Of several sweeps at once one counts an
    /// item.
    pub recovered: u64,
    /// Of these, those that can be claimed again, at once or after a pause.
    pub requeued: u64,
    /// Of these, those that had no attempt left.
    pub dead_lettered: u64,
    /// Items that could not be taken out. They are as they were, and the next
    /// scan tries them again.
    pub failed: u64,
    /// Batches that failed as a whole: nothing of them was written.
    pub errors: u64,
    /// How long it took, in milliseconds, the waits for the write lock included.
    pub scan_duration_ms: f64,
    /// Transactions that it took.
    pub batches: u64,
    /// Whether something may be left that another scan would find: a batch
    /// failed, the scan was stopped, or it reached its most batches (65,536).
    pub unfinished: bool,
    /// What failed and why: at most [`SweepStatistics::FAILURES_MAX`], the newest.
    pub failures: Vec<SweepFailure>,
}

/// An item or a batch that failed.
#[derive(Debug, Clone)]
pub struct SweepFailure {
    /// The item; `None` when it was a whole batch.
    pub item: Option<WorkItemId>,
    /// Why.
    pub error: Arc<StorageError>,
}

impl SweepStatistics {
    /// Most failures that are kept with their reasons.
    pub const FAILURES_MAX: usize = SWEEP_FAILURES_MAX;

    /// Whether every lost lease that there was is taken away.
    pub fn is_complete(&self) -> bool {
        !self.unfinished && self.failed == 0 && self.errors == 0
    }

    /// Adds those of a later scan.
    pub(crate) fn add(&mut self, scan: &SweepStatistics) {
        self.expired_found += scan.expired_found;
        self.recovered += scan.recovered;
        self.requeued += scan.requeued;
        self.dead_lettered += scan.dead_lettered;
        self.failed += scan.failed;
        self.errors += scan.errors;
        self.scan_duration_ms += scan.scan_duration_ms;
        self.batches += scan.batches;
        self.unfinished = scan.unfinished;
        self.failures.extend(scan.failures.iter().cloned());
        self.forget_old_failures();
    }

    pub(crate) fn fail(&mut self, item: Option<WorkItemId>, error: StorageError) {
        match item {
            Some(_) => self.failed += 1,
            None => self.errors += 1,
        }
        let error = Arc::new(error);
        self.failures.push(SweepFailure { item, error });
        self.forget_old_failures();
    }

    fn forget_old_failures(&mut self) {
        let surplus = self.failures.len().saturating_sub(Self::FAILURES_MAX);
        self.failures.drain(..surplus);
    }
}

/// Takes the leases away that have run out, when it is asked to.
///
/// Any number of them, in any number of processes, may work on one store: each
/// lost lease is taken away once, and one that was renewed never.
/// [`Sweeper`](crate::Sweeper) asks again and again.
#[derive(Clone)]
pub struct RecoverySweep {
    storage: Arc<dyn Storage>,
    config: SweepConfig,
}

impl std::fmt::Debug for RecoverySweep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecoverySweep")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl RecoverySweep {
    /// A sweep over `storage`. The configuration is checked when it scans.
    pub fn new(storage: Arc<dyn Storage>, config: SweepConfig) -> RecoverySweep {
        RecoverySweep { storage, config }
    }

    /// Takes all leases away that have run out, one bounded transaction after
    /// another, and says what it did. Each item gets its next state: the first
    /// loss requeues it at once, further ones with a pause, and without an
    /// attempt left it goes to the dead letter.
    ///
    /// An item that cannot be taken out is counted as failed, kept with its
    /// error, and passed over. A batch that fails as a whole ends the scan; what
    /// earlier batches did stays done, and the statistics say so.
    ///
    /// # Errors
    ///
    /// Those of [`sweep`](agentos_core::LeaseStorage::sweep), when the first
    /// batch fails: nothing was recovered. When a later one does, the answer is
    /// `Ok`, with that error counted in `errors` and kept in `failures`.
    pub fn scan_and_recover(&self) -> Result<SweepStatistics, StorageError> {
        self.scan(Lost::Expired)
    }

    /// Gives up what earlier starts of this worker held, whether their leases
    /// have run out or not; see [`give_up_earlier_starts`].
    ///
    /// # Errors
    ///
    /// As [`RecoverySweep::scan_and_recover`].
    pub fn give_up_earlier_starts(&self, worker: &Worker) -> Result<SweepStatistics, StorageError> {
        self.scan(Lost::EarlierStarts(worker.clone()))
    }

    fn scan(&self, lost: Lost) -> Result<SweepStatistics, StorageError> {
        let storage = self.storage.as_ref();
        scan(
            &self.config,
            lost,
            &mut |batch| storage.sweep(batch),
            &mut || true,
        )
    }
}

/// Gives up at once what earlier starts of this worker held, instead of waiting
/// until their leases run out. To be called by a worker that was started anew and
/// knows that its earlier start is dead. It may be called where that one still
/// lives: then that one has lost its leases, and can write nothing under them.
///
/// It looks at every lease that is held.
///
/// # Errors
///
/// As [`RecoverySweep::scan_and_recover`].
pub fn give_up_earlier_starts(
    storage: &dyn Storage,
    worker: &Worker,
) -> Result<SweepStatistics, StorageError> {
    let (config, lost) = (SweepConfig::default(), Lost::EarlierStarts(worker.clone()));
    scan(
        &config,
        lost,
        &mut |batch| storage.sweep(batch),
        &mut || true,
    )
}

/// One scan: batches until nothing is left, an error, [`SWEEP_BATCHES_MAX`], or
/// until `go_on`, which is asked between batches, with nothing held, says no.
///
/// A batch that brings nothing new ends the scan, so it ends whatever `sweep`
/// answers.
pub(crate) fn scan(
    config: &SweepConfig,
    lost: Lost,
    sweep: &mut dyn FnMut(&SweepRequest) -> Result<Swept, StorageError>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<SweepStatistics, StorageError> {
    config.check()?;
    let watch = Stopwatch::start();
    let mut statistics = SweepStatistics::default();
    let mut passed_over = HashSet::new();
    let mut batch = config.first_batch(lost);
    loop {
        match sweep(&batch) {
            Ok(swept) => {
                statistics.batches += 1;
                let more = swept.more;
                let new = count(&mut statistics, swept, &mut passed_over);
                if !more {
                    break;
                }
                statistics.unfinished = !new || statistics.batches == SWEEP_BATCHES_MAX;
            }
            Err(error) if statistics.batches == 0 => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a batch of the sweep failed");
                statistics.fail(None, error);
                statistics.unfinished = true;
            }
        }
        crash_point!("sweep.between_batches");
        statistics.unfinished = statistics.unfinished || !go_on();
        if statistics.unfinished {
            break;
        }
        batch.skip = u32::try_from(passed_over.len()).unwrap_or(u32::MAX);
    }
    statistics.scan_duration_ms = watch.elapsed().as_secs_f64() * 1e3;
    if 0 < statistics.recovered {
        tracing::info!(
            recovered = statistics.recovered,
            dead_lettered = statistics.dead_lettered,
            "took lost leases away"
        );
    }
    Ok(statistics)
}

/// Adds what a batch did; whether it brought anything new.
fn count(
    statistics: &mut SweepStatistics,
    swept: Swept,
    passed_over: &mut HashSet<WorkItemId>,
) -> bool {
    statistics.expired_found += u64::from(swept.found);
    let mut new = !swept.recovered.is_empty();
    for item in swept.recovered {
        statistics.recovered += 1;
        match item.next {
            Next::Requeue { pause } => {
                statistics.requeued += 1;
                tracing::debug!(item = %item.fence.item, holder = ?item.holder, ?pause,
                    "a lost lease was taken away");
            }
            Next::DeadLetter => {
                statistics.dead_lettered += 1;
                tracing::warn!(item = %item.fence.item, holder = ?item.holder,
                    "a work item has lost its last attempt");
            }
        }
    }
    for (item, error) in swept.failed {
        if passed_over.insert(item) {
            new = true;
            statistics.fail(Some(item), error);
        }
    }
    new
}

#[cfg(test)]
mod tests;

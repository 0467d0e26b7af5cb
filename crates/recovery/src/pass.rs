//! One pass of upkeep: every table to its bound, then the space.
//!
//! Each batch is a transaction of its own, bounded by the engine; between two of
//! them nothing is held, and the caller may pause or stop. A step that fails
//! ends there and is reported; the next step is taken all the same, since on a
//! full disk it may be the one that frees space. What is left is left to the
//! next pass: killed anywhere, a pass leaves a sound file and nothing half-done
//! that matters.

use std::collections::BTreeMap;
use std::time::Duration;

use agentos_checkpoints::{Pruning, plan_pruning, prune};

use agentos_core::{
    BoundedTable, CheckpointRule, LogShortened, PartOutcome, PruneRows, Retention, RowMark,
    RowRule, Stopwatch, Storage, StorageError, TaskId, crash_point,
};

use crate::config::UpkeepConfig;

/// Tasks that are listed at a time.
const TASKS_PER_PAGE: u32 = 256;

/// Batches after which the log is moved into the file, which is done outside of
/// the write lock. Left to the engine it would be moved when it is long, inside
/// somebody's commit.
const BATCHES_PER_LOG: u64 = 12;

/// Whether a pass changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It only counts what would be removed, by reading. Nothing waits for it.
    DryRun,
    /// It removes.
    Apply,
}

/// A step of a pass, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Old checkpoints of every task.
    Checkpoints,
    /// Old rows of a table.
    Rows(BoundedTable),
    /// Unused space inside the file.
    Space,
    /// The write-ahead log.
    Log,
    /// What the engine's planner knows.
    Statistics,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Rows.
    pub rows: u64,
    /// Bytes of what users had stored in them.
    pub bytes: u64,
}

impl Removed {
    fn add(&mut self, rows: u64, bytes: u64) {
        self.rows += rows;
        self.bytes += bytes;
    }
}

/// A step that ended early, or passed over what cannot be read.
#[derive(Debug)]
pub struct Failure {
    /// Which step.
    pub step: Step,
    /// Of which task, where it was about one; the others were gone on with.
    pub task: Option<TaskId>,
    /// Why.
    pub error: StorageError,
}

/// What a pass did, or would do.
#[derive(Debug, Default)]
pub struct UpkeepReport {
    /// Checkpoints; those that go with their whole task are not counted.
    pub checkpoints: Removed,
    /// Rows of each table.
    pub rows: BTreeMap<BoundedTable, Removed>,
    /// Bytes given back to the file system.
    pub reclaimed_bytes: u64,
    /// How far the log was cut; `None` when that was not come to.
    pub log: Option<LogShortened>,
    /// Transactions that it took.
    pub batches: u64,
    /// The longest of them, the wait for the write lock included.
    pub longest_batch: Duration,
    /// Steps that ended early, tasks that could not be pruned, and tables with
    /// rows that cannot be read: at most [`UpkeepReport::FAILURES_MAX`] of them.
    pub failures: Vec<Failure>,
    /// How many failures there were.
    pub failed: u64,
    /// It was told to stop before it was done.
    pub stopped: bool,
    /// Others changed so much of a task meanwhile that something was left.
    pub unfinished: bool,
}

impl UpkeepReport {
    /// Most failures that are kept with their reasons.
    pub const FAILURES_MAX: usize = 32;

    /// Whether everything was done that was to be done.
    pub fn is_complete(&self) -> bool {
        !self.stopped && !self.unfinished && self.failed == 0
    }

    fn fail(&mut self, step: Step, task: Option<TaskId>, error: StorageError) {
        tracing::warn!(?step, ?task, %error, "a step of upkeep failed");
        self.failed += 1;
        if self.failures.len() < UpkeepReport::FAILURES_MAX {
            self.failures.push(Failure { step, task, error });
        }
    }
}

/// Takes every table to its bound, gives unused space back to the file system,
/// shortens the log and refreshes the planner's statistics, or says what would
/// be removed. With the same content a dry run counts exactly what the real run
/// removes.
///
/// # Errors
///
/// [`StorageError::Invalid`] or [`StorageError::LimitExceeded`] for a retention
/// that can never be right. What goes wrong on the way is in the report.
pub fn run_upkeep(
    storage: &dyn Storage,
    retention: &Retention,
    mode: Mode,
) -> Result<UpkeepReport, StorageError> {
    let config = UpkeepConfig {
        retention: *retention,
        ..UpkeepConfig::default()
    };
    run_upkeep_with(storage, &config, mode)
}

/// As [`run_upkeep`], with its own size of batches and bytes left free. It does
/// not pause.
///
/// # Errors
///
/// As there.
pub fn run_upkeep_with(
    storage: &dyn Storage,
    config: &UpkeepConfig,
    mode: Mode,
) -> Result<UpkeepReport, StorageError> {
    config.check()?;
    let mut go_on = || true;
    Ok(Pass::new(storage, mode, config, &mut go_on).run())
}

/// Removes the checkpoints of every task that `rule` does not keep; see
/// [`agentos_checkpoints::prune`]. A damaged task is passed over and reported.
///
/// # Errors
///
/// As [`run_upkeep`].
pub fn prune_checkpoints(
    storage: &dyn Storage,
    rule: &CheckpointRule,
    mode: Mode,
) -> Result<UpkeepReport, StorageError> {
    rule.check()?;
    let (config, mut go_on) = (UpkeepConfig::default(), || true);
    let mut pass = Pass::new(storage, mode, &config, &mut go_on);
    pass.step(Step::Checkpoints, |pass| pass.checkpoints(rule));
    Ok(pass.report)
}

/// Removes the rows of `table` that `rule` does not keep.
///
/// # Errors
///
/// As [`run_upkeep`].
pub fn prune_rows(
    storage: &dyn Storage,
    table: BoundedTable,
    rule: &RowRule,
    mode: Mode,
) -> Result<UpkeepReport, StorageError> {
    rule.check()?;
    let (config, mut go_on) = (UpkeepConfig::default(), || true);
    let mut pass = Pass::new(storage, mode, &config, &mut go_on);
    pass.step(Step::Rows(table), |pass| pass.rows(table, rule));
    Ok(pass.report)
}

/// Gives unused space back to the file system, all but `keep_bytes` of it, in
/// steps that hold nobody up; gives the bytes.
///
/// # Errors
///
/// As [`reclaim_space`](agentos_core::UpkeepStorage::reclaim_space); what
/// earlier steps gave back stays given back.
pub fn reclaim_space(storage: &dyn Storage, keep_bytes: u64) -> Result<u64, StorageError> {
    let mut bytes = 0;
    loop {
        let reclaimed = storage.reclaim_space(keep_bytes)?;
        bytes += reclaimed.bytes;
        if !reclaimed.more {
            return Ok(bytes);
        }
    }
}

/// A pass under way.
pub(crate) struct Pass<'p> {
    storage: &'p dyn Storage,
    mode: Mode,
    config: &'p UpkeepConfig,
    report: UpkeepReport,
    since_log: u64,
    /// Called between batches, with nothing held: pauses, and says whether to
    /// go on.
    go_on: &'p mut dyn FnMut() -> bool,
}

impl<'p> Pass<'p> {
    pub(crate) fn new(
        storage: &'p dyn Storage,
        mode: Mode,
        config: &'p UpkeepConfig,
        go_on: &'p mut dyn FnMut() -> bool,
    ) -> Pass<'p> {
        Pass {
            storage,
            mode,
            config,
            report: UpkeepReport::default(),
            since_log: 0,
            go_on,
        }
    }

    /// All steps. Checkpoints come before tasks, and tasks before work items, so
    /// that what one step removes changes nothing about what a later one finds:
    /// a dry run counts the same.
    pub(crate) fn run(mut self) -> UpkeepReport {
        let retention = &self.config.retention;
        self.step(Step::Checkpoints, |pass| {
            pass.checkpoints(&retention.checkpoints)
        });
        for table in BoundedTable::ALL {
            self.step(Step::Rows(*table), |pass| {
                pass.rows(*table, retention.rows(*table))
            });
        }
        if self.mode == Mode::Apply {
            self.step(Step::Space, |pass| pass.space(pass.config.free_bytes_kept));
            self.step(Step::Statistics, |pass| {
                let storage = pass.storage;
                pass.timed(|| storage.refresh_statistics())
            });
            // Last, since it has what the others wrote.
            self.step(Step::Log, |pass| {
                let storage = pass.storage;
                let log = pass.timed(|| storage.shorten_log())?;
                pass.report.log = Some(log);
                Ok(())
            });
        }
        self.report
    }

    fn step(&mut self, step: Step, work: impl FnOnce(&mut Self) -> Result<(), StorageError>) {
        if self.report.stopped {
            return;
        }
        if let Err(error) = work(self) {
            self.report.stopped |= matches!(error, StorageError::Closed);
            self.report.fail(step, None, error);
        }
    }

    fn timed<T>(
        &mut self,
        batch: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let watch = Stopwatch::start();
        let answer = batch();
        self.report.batches += 1;
        self.report.longest_batch = self.report.longest_batch.max(watch.elapsed());
        answer
    }

    /// Between two batches; `false` to stop.
    fn between(&mut self) -> bool {
        crash_point!("upkeep.between_batches");
        self.since_log += 1;
        if self.since_log == BATCHES_PER_LOG {
            self.since_log = 0;
            // A courtesy: the pass goes on without it, and tries again at its end.
            if let Err(error) = self.storage.shorten_log() {
                tracing::debug!(%error, "the log was not shortened between batches");
            }
        }
        let goes_on = (self.go_on)();
        self.report.stopped |= !goes_on;
        goes_on
    }

    fn checkpoints(&mut self, rule: &CheckpointRule) -> Result<(), StorageError> {
        if *rule == CheckpointRule::keep_all() {
            return Ok(());
        }
        let mut after = None;
        loop {
            let page = self.storage.task_ids(after, TASKS_PER_PAGE)?;
            for task in page.items {
                let (task, pruned) = match task {
                    Ok(task) => {
                        let pruned = self.checkpoints_of(&task, rule);
                        (Some(task), pruned)
                    }
                    Err(error) => (None, Err(error)),
                };
                match pruned {
                    Ok(()) => {}
                    // It is about this task alone.
                    Err(error @ StorageError::Corrupt { .. }) => {
                        self.report.fail(Step::Checkpoints, task, error);
                    }
                    Err(error) => return Err(error),
                }
                if self.report.stopped {
                    return Ok(());
                }
            }
            match page.next {
                // Also a walk over tasks of which nothing goes can be stopped.
                Some(next) if self.mode == Mode::DryRun || self.between() => after = Some(next),
                _ => return Ok(()),
            }
        }
    }

    fn checkpoints_of(&mut self, task: &TaskId, rule: &CheckpointRule) -> Result<(), StorageError> {
        if self.mode == Mode::DryRun {
            let plan = plan_pruning(self.storage, task, rule)?;
            self.report.checkpoints.add(plan.removed, plan.bytes);
            return Ok(());
        }
        let mut so_far = Pruning::default();
        let storage = self.storage;
        let answer = prune(
            storage,
            task,
            rule,
            self.config.rows_per_batch,
            &mut |pruning| {
                so_far = *pruning;
                self.between()
            },
        );
        // What earlier batches removed is gone, also when a later one failed.
        self.report.checkpoints.add(so_far.removed, so_far.bytes);
        self.report.batches += so_far.batches;
        self.report.longest_batch = self.report.longest_batch.max(so_far.longest_batch);
        self.report.unfinished |= answer?.unfinished;
        Ok(())
    }

    fn rows(&mut self, table: BoundedTable, rule: &RowRule) -> Result<(), StorageError> {
        let up_to = self.storage.rows_beyond(table, rule)?;
        let expires = matches!(
            table,
            BoundedTable::CacheEntries | BoundedTable::LedgerEntries
        );
        if rule.max_age.is_none() && up_to.is_none() && !expires {
            return Ok(());
        }
        let mut plan = PruneRows {
            table,
            max_age: rule.max_age,
            up_to,
            after: RowMark::START,
            rows: self.config.rows_per_batch,
        };
        if self.mode == Mode::DryRun {
            let found = self.storage.prunable_rows(&plan)?;
            let removed = self.report.rows.entry(table).or_default();
            removed.add(found.rows, found.bytes);
            return Ok(());
        }
        let mut unreadable = 0;
        loop {
            let storage = self.storage;
            let receipt = self.timed(|| storage.commit(plan.into()))?;
            let Some(PartOutcome::RowsPruned(pruned)) = receipt.outcomes.first() else {
                return Err(StorageError::Internal {
                    context: "pruning rows".into(),
                    cause: format!("the engine answered {:?}", receipt.outcomes).into(),
                });
            };
            let removed = self.report.rows.entry(table).or_default();
            removed.add(pruned.removed, pruned.bytes);
            unreadable += pruned.unreadable;
            let goes_on = self.between();
            match pruned.next {
                Some(next) if goes_on => plan.after = next,
                _ => break,
            }
        }
        if 0 < unreadable {
            let what = format!("{unreadable} rows of {table:?}");
            let why = "their moment or name cannot be read: they were passed over";
            let error = StorageError::corrupt(what, why);
            self.report.fail(Step::Rows(table), None, error);
        }
        Ok(())
    }

    fn space(&mut self, keep_bytes: u64) -> Result<(), StorageError> {
        loop {
            let storage = self.storage;
            let reclaimed = self.timed(|| storage.reclaim_space(keep_bytes))?;
            self.report.reclaimed_bytes += reclaimed.bytes;
            if !reclaimed.more || !self.between() {
                return Ok(());
            }
        }
    }
}

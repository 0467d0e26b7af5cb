//! Retention: old checkpoints go, and what can be resumed from stays.
//!
//! A plan is made outside of any transaction: states are read and their seals
//! checked there, and a batch only removes what the plan names. A predecessor
//! kept the newest N, whatever they were, and deleted the only one that could
//! be resumed from; so besides the newest there stay: the newest that can be
//! resumed from by what was recorded, what is newer than that and not recorded
//! as failed, the newest that is whole at all, and those that holders of open
//! leases work from. Each batch looks again, in its transaction, at what it
//! relies on, and refuses a plan that is out of date.

use std::time::Duration;

use agentos_core::limits::{PAGE_ROWS_MAX, PRUNE_ROWS_MAX};
use agentos_core::records::retention::{CheckpointAge, CheckpointThreshold};
use agentos_core::{
    Checkpoint, CheckpointRule, CheckpointSpan, FoundCheckpoint, KeptFor, PartOutcome, Prunable,
    PruneCheckpoints, SequenceNumber, Stopwatch, Storage, StorageError, TaskId, Timestamp,
    Verification, crash_point,
};

use crate::error::CheckpointError;
use crate::manager::CheckpointManager;

/// How often a plan is made anew because others were faster. What is left then
/// is left to the next run.
const PLANS_MAX: u32 = 8;

/// What pruning a task's checkpoints would remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruningPlan {
    /// Checkpoints that it removes.
    pub removed: u64,
    /// Bytes of state in them.
    pub bytes: u64,
    /// Checkpoints that stay: those that the rule keeps, and `kept_for`.
    pub kept: u64,
    /// Checkpoints that stay although the rule does not keep them, and why, the
    /// oldest first.
    pub kept_for: Vec<(SequenceNumber, KeptFor)>,
}

/// What pruning a task's checkpoints removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruning {
    /// Checkpoints that were removed.
    pub removed: u64,
    /// Bytes of state in them.
    pub bytes: u64,
    /// Transactions that it took.
    pub batches: u64,
    /// The longest of them, the wait for the write lock included.
    pub longest_batch: Duration,
    /// Something is left to remove: it was told to stop, or others changed so
    /// much meanwhile that plans went out of date. Call again.
    pub unfinished: bool,
}

impl CheckpointManager {
    /// What [`CheckpointManager::prune`] would do now. Removes nothing.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] for a rule that keeps nothing;
    /// [`StorageError::Corrupt`] when a row cannot be read.
    pub fn plan_pruning(
        &self,
        task: &TaskId,
        rule: &CheckpointRule,
    ) -> Result<PruningPlan, CheckpointError> {
        Ok(plan_pruning(self.storage(), task, rule)?)
    }

    /// Removes the checkpoints of `task` that `rule` does not keep, the oldest
    /// first, in batches of a few milliseconds each. Numbers of removed
    /// checkpoints are not given again.
    ///
    /// What stays whatever the rule says: the newest checkpoint; the newest that
    /// can be resumed from by what was recorded, and whose seal holds; what is
    /// newer than that, carries state and is not recorded as failed; the newest
    /// that carries state and whose seal holds; those that holders of
    /// open leases work from. Evidence is not checked again.
    ///
    /// # Errors
    ///
    /// As [`CheckpointManager::plan_pruning`] and
    /// [`Storage::commit`]. What earlier batches
    /// removed is gone.
    pub fn prune(&self, task: &TaskId, rule: &CheckpointRule) -> Result<Pruning, CheckpointError> {
        Ok(prune(
            self.storage(),
            task,
            rule,
            PRUNE_ROWS_MAX,
            &mut |_| true,
        )?)
    }
}

/// As [`CheckpointManager::plan_pruning`], for who has no manager: evidence is
/// not looked at.
///
/// # Errors
///
/// As there.
pub fn plan_pruning(
    storage: &dyn Storage,
    task: &TaskId,
    rule: &CheckpointRule,
) -> Result<PruningPlan, StorageError> {
    let (first, threshold) = plan(storage, task, rule)?;
    let found = match &first {
        None => Prunable::default(),
        Some(first) => storage.prunable_checkpoints(first)?,
    };
    Ok(PruningPlan {
        removed: found.rows,
        bytes: found.bytes,
        kept: threshold.kept + found.kept.len() as u64,
        kept_for: found.kept,
    })
}

/// As [`CheckpointManager::prune`], for who has no manager. A batch looks at
/// `rows` checkpoints at most. After each batch, with nothing locked, `go_on` is told what was removed so far, and says
/// whether to go on; it may pause.
///
/// # Errors
///
/// As there.
pub fn prune(
    storage: &dyn Storage,
    task: &TaskId,
    rule: &CheckpointRule,
    rows: u32,
    go_on: &mut dyn FnMut(&Pruning) -> bool,
) -> Result<Pruning, StorageError> {
    rule.check()?;
    let mut pruning = Pruning::default();
    let span = storage.checkpoint_span(task)?;
    if span.is_none_or(|span| keeps_all(rule, &span, storage.now())) {
        return Ok(pruning);
    }
    for _ in 0..PLANS_MAX {
        let (Some(mut batch), _) = plan(storage, task, rule)? else {
            return Ok(pruning);
        };
        batch.rows = rows;
        loop {
            let watch = Stopwatch::start();
            let receipt = storage.commit(batch.clone().into())?;
            pruning.longest_batch = pruning.longest_batch.max(watch.elapsed());
            let next = match receipt.outcomes.first() {
                Some(PartOutcome::CheckpointsPruned(pruned)) => {
                    pruning.batches += 1;
                    pruning.removed += pruned.removed;
                    pruning.bytes += pruned.bytes;
                    pruned.next
                }
                Some(PartOutcome::PruneStale) => {
                    tracing::debug!(task = task.as_str(), "a plan of pruning is out of date");
                    break;
                }
                other => {
                    return Err(StorageError::Internal {
                        context: "pruning checkpoints".into(),
                        cause: format!("the engine answered {other:?}").into(),
                    });
                }
            };
            crash_point!("prune.between_batches");
            let goes_on = go_on(&pruning);
            match next {
                None => return Ok(pruning),
                Some(_) if !goes_on => {
                    pruning.unfinished = true;
                    return Ok(pruning);
                }
                Some(next) => batch.from = next,
            }
        }
    }
    pruning.unfinished = true;
    Ok(pruning)
}

/// The first batch of a plan; `None` when the rule keeps everything.
fn plan(
    storage: &dyn Storage,
    task: &TaskId,
    rule: &CheckpointRule,
) -> Result<(Option<PruneCheckpoints>, CheckpointThreshold), StorageError> {
    rule.check()?;
    let now = storage.now();
    let Some(span) = storage.checkpoint_span(task)? else {
        return Ok((None, CheckpointThreshold::default()));
    };
    let threshold = rule.threshold(now, History::new(storage, task, rule))?;
    let Some(up_to) = threshold.up_to else {
        return Ok((None, threshold));
    };
    let (protect, spare) = worth_keeping(storage, task)?;
    let first = PruneCheckpoints {
        task: task.clone(),
        from: span.oldest,
        up_to,
        protect,
        spare,
        rows: PRUNE_ROWS_MAX,
    };
    Ok((Some(first), threshold))
}

/// Whether the two ends alone show that nothing goes: most tasks have few
/// checkpoints, and none of them needs to be read. (A gap makes it say no.)
fn keeps_all(rule: &CheckpointRule, span: &CheckpointSpan, now: Timestamp) -> bool {
    let most = span.newest.get() - span.oldest.get() + 1;
    let few = rule.keep_last.is_none_or(|keep| most <= keep.into());
    let young = match (rule.max_age, span.oldest_created_at) {
        (None, _) => true,
        (Some(age), Some(oldest)) => now.minus(age) <= oldest,
        (Some(_), None) => false,
    };
    few && young && rule.max_bytes.is_none()
}

/// The newest that can be resumed from by what was recorded, and the newest
/// that is whole and carries state at all. Usually both are the newest of all;
/// nothing older than the answer is read.
fn worth_keeping(
    storage: &dyn Storage,
    task: &TaskId,
) -> Result<(Option<SequenceNumber>, Option<SequenceNumber>), StorageError> {
    let mut spare = None;
    let mut below = None;
    while let Some(found) = storage.newest_checkpoint(task, below)? {
        let sequence = next_older(&found, below)?;
        below = Some(sequence);
        let FoundCheckpoint::Sound(checkpoint) = found else {
            continue;
        };
        if checkpoint.snapshot.is_none() {
            continue;
        }
        spare = spare.or(Some(sequence));
        if is_resumable(&checkpoint) {
            return Ok((Some(sequence), spare));
        }
    }
    Ok((None, spare))
}

/// By what was recorded; its seal has been checked.
fn is_resumable(checkpoint: &Checkpoint) -> bool {
    checkpoint.snapshot.is_some() && checkpoint.summary.verification != Verification::Failed
}

/// The number of what was found; an engine that answers the same again would
/// keep a walk going for ever.
fn next_older(
    found: &FoundCheckpoint,
    below: Option<SequenceNumber>,
) -> Result<SequenceNumber, StorageError> {
    let sequence = match found {
        FoundCheckpoint::Sound(checkpoint) => checkpoint.summary.sequence,
        FoundCheckpoint::Damaged { sequence, .. } => *sequence,
    };
    if below.is_some_and(|below| below <= sequence) {
        return Err(StorageError::Internal {
            context: "looking for the next older checkpoint".into(),
            cause: format!("the engine answered number {sequence} again").into(),
        });
    }
    Ok(sequence)
}

/// Walks a task's checkpoints from the newest down, a page at a time, without
/// their states. Where a row cannot be read it goes on row by row.
struct History<'s> {
    storage: &'s dyn Storage,
    task: &'s TaskId,
    below: Option<SequenceNumber>,
    page: std::vec::IntoIter<CheckpointAge>,
    rows: u32,
    done: bool,
}

impl<'s> History<'s> {
    fn new(storage: &'s dyn Storage, task: &'s TaskId, rule: &CheckpointRule) -> History<'s> {
        // What is kept, and one more.
        let rows = rule.keep_last.unwrap_or(PAGE_ROWS_MAX).saturating_add(1);
        History {
            storage,
            task,
            below: None,
            page: Vec::new().into_iter(),
            rows: rows.min(PAGE_ROWS_MAX),
            done: false,
        }
    }

    fn read(&mut self) -> Result<(), StorageError> {
        let page = match self.storage.checkpoints(self.task, self.below, self.rows) {
            Err(StorageError::Corrupt { .. }) if 1 < self.rows => {
                self.rows = 1;
                return self.read();
            }
            Err(StorageError::Corrupt { .. }) => self.read_damaged()?,
            page => page?
                .into_iter()
                .map(|summary| CheckpointAge {
                    sequence: summary.sequence,
                    created_at: Some(summary.created_at),
                    bytes: summary.snapshot.map_or(0, |snapshot| snapshot.bytes),
                })
                .collect(),
        };
        match page.last() {
            None => self.done = true,
            Some(last) => self.below = Some(last.sequence),
        }
        self.page = page.into_iter();
        Ok(())
    }

    /// A row that no list can show: its number alone is known.
    fn read_damaged(&self) -> Result<Vec<CheckpointAge>, StorageError> {
        let found = self.storage.newest_checkpoint(self.task, self.below)?;
        let Some(found) = found else {
            return Ok(Vec::new());
        };
        Ok(vec![CheckpointAge {
            sequence: next_older(&found, self.below)?,
            created_at: None,
            bytes: 0,
        }])
    }
}

impl Iterator for History<'_> {
    type Item = Result<CheckpointAge, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(next) = self.page.next() {
            return Some(Ok(next));
        }
        if self.done {
            return None;
        }
        if let Err(error) = self.read() {
            self.done = true;
            return Some(Err(error));
        }
        self.page.next().map(Ok)
    }
}

//! A commit and its parts: writes as plain data.
//!
//! Managers prepare parts and do no I/O; only the port commits. Since a commit
//! is data it can be queued, shared in one transaction with others, run again,
//! sent to another engine, or replayed by a model in a test.

mod key;
mod prune;
mod work;

use std::collections::HashSet;

use serde_json::Value;

use crate::error::{InvalidInput, StorageError};
use crate::ids::{SequenceNumber, TaskId, WorkItemId};
use crate::limits::{
    EVIDENCE_BYTES_MAX, EVIDENCE_ITEMS_MAX, Limits, PARTS_PER_COMMIT_MAX, REASON_BYTES_MAX,
    check_name, check_size, check_text,
};
use crate::records::checkpoint::{
    Appended, CheckpointType, EvidenceResult, Snapshot, Verification,
};
use crate::records::retention::RowMark;
use crate::records::task::{NewTask, Task, TaskStatus, check_metadata};
use crate::records::work_item::{Fence, NewWorkItem};
use crate::retry::Next;

pub use self::key::{
    AbandonKey, DoubtKey, FinishKey, RemoveKeys, Resolution, ResolveKey, TouchKeys,
};
pub use self::prune::{KeptFor, PruneCandidate, PruneCheckpoints, PruneRows, Pruned};
pub use self::work::{CancelWork, CompleteWork, FailWork, ReleaseWork, RequeueWork};

/// Changes that become visible together, or not at all.
///
/// Parts are applied in order; a later part sees what an earlier one did.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    fence: Option<Fence>,
    parts: Vec<Part>,
}

impl Commit {
    /// A commit without parts, which the port refuses.
    pub fn new() -> Commit {
        Commit::default()
    }

    /// A commit under a lease: if it is not held any more when the commit is
    /// applied, nothing of it happens and the answer is
    /// [`StorageError::StaleLease`]. That is checked first, in the same
    /// transaction.
    ///
    /// A holder whose lease has expired, but was not taken away, may still write:
    /// nobody else has the item.
    pub fn under(lease: impl Into<Fence>) -> Commit {
        Commit {
            fence: Some(lease.into()),
            parts: Vec::new(),
        }
    }

    /// The lease under which it is made.
    pub fn fence(&self) -> Option<Fence> {
        self.fence
    }

    /// Adds a part.
    #[must_use]
    pub fn part(mut self, part: impl Into<Part>) -> Commit {
        self.parts.push(part.into());
        self
    }

    /// The parts, in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether all of it frees space: then it is let through when the disk is full.
    pub fn frees_space(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(Part::frees_space)
    }

    /// Checks everything that has a bound, before anything is written.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] or [`StorageError::Invalid`].
    pub fn check(&self, limits: &Limits) -> Result<(), StorageError> {
        if self.parts.is_empty() {
            return Err(InvalidInput::new("commit", "has no parts").into());
        }
        check_size("parts per commit", self.parts.len(), PARTS_PER_COMMIT_MAX)?;
        // Each may take its whole budget of time under the write lock.
        if 1 < self.parts.iter().filter(|part| part.frees_space()).count() {
            return Err(InvalidInput::new("commit", "prunes more than once").into());
        }
        self.parts.iter().try_for_each(|part| part.check(limits))
    }
}

impl<P: Into<Part>> From<P> for Commit {
    fn from(part: P) -> Commit {
        Commit::new().part(part)
    }
}

/// One change.
#[derive(Debug, Clone)]
pub enum Part {
    /// Creates a task, or finds that it is there with the same content.
    CreateTask(NewTask),
    /// Moves a task to another state; an audit line is written with it.
    SetTaskStatus(SetTaskStatus),
    /// Appends a checkpoint with the next number of its task.
    AppendCheckpoint(Box<AppendCheckpoint>),
    /// Records what a later check of a checkpoint's evidence said.
    RecordVerification(RecordVerification),
    /// Writes an audit line of the user's own.
    Audit(AuditLine),
    /// Removes old checkpoints of a task.
    PruneCheckpoints(PruneCheckpoints),
    /// Removes old rows of a table.
    PruneRows(PruneRows),
    /// Enqueues a work item, or finds the one of the same unique key.
    EnqueueWork(Box<NewWorkItem>),
    /// Completes a work item.
    CompleteWork(CompleteWork),
    /// Reports that an attempt at a work item failed.
    FailWork(FailWork),
    /// Gives a work item back.
    ReleaseWork(ReleaseWork),
    /// Cancels a work item.
    CancelWork(CancelWork),
    /// Takes a work item out of the dead letter.
    RequeueWork(RequeueWork),
    /// Records the outcome of a key's execution.
    FinishKey(Box<FinishKey>),
    /// Ends the execution of a key that did nothing.
    AbandonKey(AbandonKey),
    /// Leaves a key in doubt.
    DoubtKey(DoubtKey),
    /// Ends the doubt about a key.
    ResolveKey(Box<ResolveKey>),
    /// Removes keys with a recorded outcome.
    RemoveKeys(RemoveKeys),
    /// Notes that recorded outcomes were used.
    TouchKeys(TouchKeys),
}

impl Part {
    /// Whether it frees space.
    pub fn frees_space(&self) -> bool {
        match self {
            Part::PruneCheckpoints(_) | Part::PruneRows(_) | Part::RemoveKeys(_) => true,
            Part::CreateTask(_)
            | Part::SetTaskStatus(_)
            | Part::AppendCheckpoint(_)
            | Part::RecordVerification(_)
            | Part::Audit(_)
            | Part::EnqueueWork(_)
            | Part::CompleteWork(_)
            | Part::FailWork(_)
            | Part::ReleaseWork(_)
            | Part::CancelWork(_)
            | Part::RequeueWork(_)
            | Part::FinishKey(_)
            | Part::AbandonKey(_)
            | Part::DoubtKey(_)
            | Part::ResolveKey(_)
            | Part::TouchKeys(_) => false,
        }
    }

    fn check(&self, limits: &Limits) -> Result<(), StorageError> {
        match self {
            Part::CreateTask(task) => task.check(limits),
            Part::SetTaskStatus(change) => check_reason(change.reason.as_deref()),
            Part::AppendCheckpoint(checkpoint) => checkpoint.check(limits),
            Part::RecordVerification(record) => check_results(&record.results),
            Part::Audit(line) => {
                check_name("audit event", &line.event)?;
                check_reason(line.reason.as_deref())?;
                check_metadata(&line.detail, limits)
            }
            Part::PruneCheckpoints(plan) => plan.check(),
            Part::PruneRows(plan) => plan.check(),
            Part::EnqueueWork(item) => item.check(limits),
            Part::CompleteWork(work) => work.check(limits),
            Part::FailWork(work) => work.check(),
            Part::ReleaseWork(work) => check_reason(work.reason.as_deref()),
            Part::CancelWork(work) => check_reason(work.reason.as_deref()),
            Part::RequeueWork(work) => check_reason(work.reason.as_deref()),
            Part::FinishKey(key) => key.check(limits),
            Part::AbandonKey(_) | Part::DoubtKey(_) => Ok(()),
            Part::ResolveKey(key) => key.check(limits),
            Part::RemoveKeys(remove) => key::check_count(remove.keys.len()),
            Part::TouchKeys(touch) => key::check_count(touch.keys.len()),
        }
    }
}

/// Moves a task to another state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetTaskStatus {
    /// Which task.
    pub task: TaskId,
    /// The state it shall have.
    pub to: TaskStatus,
    /// Why, for the audit line.
    pub reason: Option<String>,
}

impl SetTaskStatus {
    /// Moves `task` to the state `to`.
    pub fn new(task: TaskId, to: TaskStatus) -> SetTaskStatus {
        SetTaskStatus {
            task,
            to,
            reason: None,
        }
    }

    /// Says why.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> SetTaskStatus {
        self.reason = Some(reason.into());
        self
    }
}

/// Appends a checkpoint. Prepared by `agentos-checkpoints`, which has checked
/// the evidence and made its files durable.
#[derive(Debug, Clone, PartialEq)]
pub struct AppendCheckpoint {
    /// The task it belongs to, which must exist.
    pub task: TaskId,
    /// Why it is made.
    pub checkpoint_type: CheckpointType,
    /// The state, if it carries any.
    pub snapshot: Option<Snapshot>,
    /// The evidence, as JSON of the crate that checks it.
    pub evidence: Option<String>,
    /// What the evidence said before the commit.
    pub verification: Verification,
    /// What each item said before the commit.
    pub results: Vec<EvidenceResult>,
    /// Anything the user wants to keep with it.
    pub metadata: Value,
}

impl AppendCheckpoint {
    /// A checkpoint without state, evidence and metadata.
    pub fn new(task: TaskId, checkpoint_type: CheckpointType) -> AppendCheckpoint {
        AppendCheckpoint {
            task,
            checkpoint_type,
            snapshot: None,
            evidence: None,
            verification: Verification::Unverified,
            results: Vec::new(),
            metadata: Value::Null,
        }
    }

    /// Checks everything that has a bound.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] or [`StorageError::Invalid`].
    pub fn check(&self, limits: &Limits) -> Result<(), StorageError> {
        if let Some(snapshot) = &self.snapshot {
            check_size(
                "snapshot bytes",
                snapshot.bytes().len(),
                limits.snapshot_bytes,
            )?;
            if self.checkpoint_type == CheckpointType::ErrorBoundary {
                let reason = "carries state, which an error boundary never does";
                return Err(InvalidInput::new("checkpoint", reason).into());
            }
        }
        let evidence = self.evidence.as_deref().unwrap_or_default();
        check_text("evidence", "evidence bytes", evidence, EVIDENCE_BYTES_MAX)?;
        check_results(&self.results)?;
        check_metadata(&self.metadata, limits)
    }
}

/// Records what a check of a checkpoint's evidence said, in place of what an
/// earlier one said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordVerification {
    /// The task it belongs to.
    pub task: TaskId,
    /// Its number in that task.
    pub sequence: SequenceNumber,
    /// What the evidence said as a whole.
    pub verification: Verification,
    /// What each item said.
    pub results: Vec<EvidenceResult>,
}

/// An audit line of the user's own.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditLine {
    /// The task it is about, which must exist.
    pub task: TaskId,
    /// What happened.
    pub event: String,
    /// Why, in words.
    pub reason: Option<String>,
    /// Anything else.
    pub detail: Value,
}

impl AuditLine {
    /// A line saying that `event` happened to `task`.
    pub fn new(task: TaskId, event: impl Into<String>) -> AuditLine {
        AuditLine {
            task,
            event: event.into(),
            reason: None,
            detail: Value::Null,
        }
    }

    /// Says why.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> AuditLine {
        self.reason = Some(reason.into());
        self
    }

    /// Adds anything else.
    #[must_use]
    pub fn detail(mut self, detail: Value) -> AuditLine {
        self.detail = detail;
        self
    }
}

fn check_reason(reason: Option<&str>) -> Result<(), StorageError> {
    check_text(
        "reason",
        "reason bytes",
        reason.unwrap_or_default(),
        REASON_BYTES_MAX,
    )
}

fn check_results(results: &[EvidenceResult]) -> Result<(), StorageError> {
    check_size("evidence items", results.len(), EVIDENCE_ITEMS_MAX)?;
    let mut items = HashSet::new();
    for result in results {
        if !items.insert(result.item) {
            let reason = format!("answers item {} twice", result.item);
            return Err(InvalidInput::new("evidence", reason).into());
        }
        check_name("evidence kind", &result.kind)?;
        check_reason(result.reason.as_deref())?;
    }
    Ok(())
}

macro_rules! part_from {
    ($($record:ident => $variant:expr;)+) => {
        $(
            impl From<$record> for Part {
                fn from(record: $record) -> Part {
                    $variant(record)
                }
            }
        )+
    };
}

part_from! {
    NewTask => Part::CreateTask;
    SetTaskStatus => Part::SetTaskStatus;
    AppendCheckpoint => |record| Part::AppendCheckpoint(Box::new(record));
    RecordVerification => Part::RecordVerification;
    AuditLine => Part::Audit;
    PruneCheckpoints => Part::PruneCheckpoints;
    PruneRows => Part::PruneRows;
    CompleteWork => Part::CompleteWork;
    FailWork => Part::FailWork;
    ReleaseWork => Part::ReleaseWork;
    CancelWork => Part::CancelWork;
    RequeueWork => Part::RequeueWork;
    FinishKey => |record| Part::FinishKey(Box::new(record));
    AbandonKey => Part::AbandonKey;
    DoubtKey => Part::DoubtKey;
    ResolveKey => |record| Part::ResolveKey(Box::new(record));
    RemoveKeys => Part::RemoveKeys;
    TouchKeys => Part::TouchKeys;
}

/// What a commit did, part by part.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// In the order of the commit's parts.
    pub outcomes: Vec<PartOutcome>,
}

impl Receipt {
    /// The work items that were enqueued, in order, and whether each was there
    /// before.
    pub fn enqueued(&self) -> impl Iterator<Item = (WorkItemId, bool)> {
        self.outcomes.iter().filter_map(|outcome| match outcome {
            PartOutcome::WorkEnqueued { item, existed } => Some((*item, *existed)),
            _ => None,
        })
    }

    /// The checkpoints that were appended, in order.
    pub fn appended(&self) -> impl Iterator<Item = &Appended> {
        self.outcomes.iter().filter_map(|outcome| match outcome {
            PartOutcome::CheckpointAppended(appended) => Some(appended),
            _ => None,
        })
    }
}

/// What one part did.
#[derive(Debug, Clone, PartialEq)]
pub enum PartOutcome {
    /// The task is there.
    TaskCreated {
        /// As it is stored.
        task: Task,
        /// Whether it was there before, with the same content.
        existed: bool,
    },
    /// The task's state was changed.
    TaskStatusSet {
        /// State before.
        from: TaskStatus,
        /// State now.
        to: TaskStatus,
    },
    /// The checkpoint was appended.
    CheckpointAppended(Appended),
    /// The verification was recorded.
    VerificationRecorded,
    /// The audit line was written.
    Audited,
    /// The batch of checkpoints was removed.
    CheckpointsPruned(Pruned<SequenceNumber>),
    /// The batch of rows was removed.
    RowsPruned(Pruned<RowMark>),
    /// The work item is there.
    WorkEnqueued {
        /// Its name.
        item: WorkItemId,
        /// Whether it was there before, under the same unique key.
        existed: bool,
    },
    /// The work item is done.
    WorkCompleted,
    /// The failure is recorded, and this follows.
    WorkFailed(Next),
    /// The work item can be claimed again.
    WorkReleased,
    /// The work item is cancelled.
    WorkCancelled {
        /// The lease that was lost with it, if it was held.
        lost: Option<Fence>,
    },
    /// The work item is out of the dead letter.
    WorkRequeued,
    /// The outcome of the key is recorded.
    KeyFinished,
    /// The key is as if it had never been begun.
    KeyAbandoned,
    /// The key is in doubt.
    KeyInDoubt,
    /// The key is no longer in doubt.
    KeyResolved,
    /// So many keys were removed.
    KeysRemoved(u32),
    /// The uses are noted.
    KeysTouched,
    /// What the plan relied on is no longer so. Nothing was removed: plan again.
    PruneStale,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::codec::Codec;
    use crate::error::LimitExceeded;
    use crate::limits::METADATA_DEPTH_MAX;

    fn checkpoint(checkpoint_type: CheckpointType) -> AppendCheckpoint {
        AppendCheckpoint::new(TaskId::new("task").unwrap(), checkpoint_type)
    }

    fn with_state(bytes: &[u8]) -> AppendCheckpoint {
        AppendCheckpoint {
            snapshot: Some(Snapshot::new(Codec::Raw, 1, bytes.to_vec())),
            ..checkpoint(CheckpointType::IterationEnd)
        }
    }

    fn with_metadata(metadata: Value) -> AppendCheckpoint {
        AppendCheckpoint {
            metadata,
            ..checkpoint(CheckpointType::IterationEnd)
        }
    }

    #[test]
    fn each_bound_of_a_checkpoint_is_named_with_limit_and_value() {
        let limits = Limits {
            snapshot_bytes: 3,
            metadata_bytes: 4,
            ..Limits::default()
        };
        let exceeded = |name, limit, value| LimitExceeded { name, limit, value };
        for (at_most, beyond, error) in [
            (
                with_state(b"abc"),
                with_state(b"abcd"),
                exceeded("snapshot bytes", 3, 4),
            ),
            (
                with_metadata(json!("ab")),
                with_metadata(json!("abc")),
                exceeded("metadata bytes", 4, 5),
            ),
        ] {
            assert!(at_most.check(&limits).is_ok());
            match beyond.check(&limits).unwrap_err() {
                StorageError::LimitExceeded(found) => assert_eq!(found, error),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn metadata_that_nobody_could_read_again_is_refused() {
        let nested = |levels| (0..levels).fold(json!(0.1), |inner, _| json!([inner]));
        let check = |levels| with_metadata(nested(levels)).check(&Limits::default());
        assert!(check(METADATA_DEPTH_MAX).is_ok());
        assert!(matches!(
            check(METADATA_DEPTH_MAX + 1).unwrap_err(),
            StorageError::LimitExceeded(LimitExceeded {
                name: "metadata depth",
                ..
            })
        ));
    }

    #[test]
    fn an_error_boundary_carries_no_state() {
        let limits = Limits::default();
        assert!(
            checkpoint(CheckpointType::ErrorBoundary)
                .check(&limits)
                .is_ok()
        );
        let boundary = AppendCheckpoint {
            checkpoint_type: CheckpointType::ErrorBoundary,
            ..with_state(b"state")
        };
        assert!(matches!(
            boundary.check(&limits).unwrap_err(),
            StorageError::Invalid(_)
        ));
    }

    #[test]
    fn a_commit_needs_a_part_and_has_a_most() {
        let limits = Limits::default();
        assert!(matches!(
            Commit::new().check(&limits).unwrap_err(),
            StorageError::Invalid(_)
        ));
        let line = || AuditLine::new(TaskId::new("task").unwrap(), "event");
        let commit = |parts| (0..parts).fold(Commit::new(), |commit, _| commit.part(line()));
        assert!(commit(PARTS_PER_COMMIT_MAX).check(&limits).is_ok());
        assert!(matches!(
            commit(PARTS_PER_COMMIT_MAX + 1).check(&limits).unwrap_err(),
            StorageError::LimitExceeded(LimitExceeded {
                name: "parts per commit",
                ..
            })
        ));
    }

    #[test]
    fn evidence_answers_an_item_once() {
        let result = |item| EvidenceResult {
            item,
            kind: "kind".into(),
            outcome: crate::EvidenceOutcome::Passed,
            reason: None,
            checked_at: crate::Timestamp::from_unix_micros(0),
        };
        assert!(check_results(&[result(1), result(0)]).is_ok());
        let twice = check_results(&[result(1), result(1)]);
        assert!(matches!(twice.unwrap_err(), StorageError::Invalid(_)));
    }
}

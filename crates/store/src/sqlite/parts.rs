//! Applies the parts of a commit, inside the transaction of its group.

use agentos_core::records::audit::{TASK_CREATED, TASK_STATUS};
use agentos_core::records::checkpoint::Sealed;
use agentos_core::records::task::metadata_text;
use agentos_core::{
    AppendCheckpoint, Appended, AuditLine, Commit, EvidenceResult, NewTask, Part, PartOutcome,
    Receipt, RecordVerification, SetTaskStatus, StorageError, TaskId, TaskStatus, Timestamp,
    crash_point,
};
use rusqlite::{CachedStatement, Connection, OptionalExtension, named_params, params};
use serde_json::Value;

use super::claims::Moment;
use super::error::of;
use super::{checkpoints, prune, statements, tasks, work};

/// Applies a commit: first its fence is checked, then its parts are applied in
/// order. On an error some may have been applied: the caller rolls back.
pub(crate) fn apply(
    connection: &Connection,
    commit: &Commit,
    now: &Moment,
) -> Result<Receipt, StorageError> {
    if let Some(fence) = commit.fence() {
        work::require(connection, fence)?;
    }
    let apply = Apply::new(connection, now.wall);
    let outcomes = commit
        .parts()
        .iter()
        .map(|part| apply.part(part, now))
        .collect::<Result<_, _>>()?;
    Ok(Receipt { outcomes })
}

/// One commit under way: all of its rows carry one moment.
pub(crate) struct Apply<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) now: Timestamp,
    pub(crate) now_text: String,
}

/// An audit line, of whatever kind.
pub(crate) struct Line<'l> {
    pub(crate) task: Option<&'l TaskId>,
    pub(crate) event: &'l str,
    pub(crate) from: Option<&'l str>,
    pub(crate) to: Option<&'l str>,
    pub(crate) reason: Option<&'l str>,
    pub(crate) detail: &'l Value,
}

/// The point at which a part is applied, and its transaction is not committed.
fn pass(outcome: &PartOutcome) {
    match outcome {
        PartOutcome::TaskCreated { .. } => {
            crash_point!("task.created");
        }
        PartOutcome::TaskStatusSet { .. } => {
            crash_point!("task.moved");
        }
        PartOutcome::CheckpointAppended(_) => {
            crash_point!("checkpoint.appended");
        }
        PartOutcome::VerificationRecorded => {
            crash_point!("checkpoint.verified");
        }
        PartOutcome::Audited => {
            crash_point!("audit.written");
        }
        PartOutcome::WorkEnqueued { .. } => {
            crash_point!("work.enqueued");
        }
        PartOutcome::WorkCompleted => {
            crash_point!("work.completed");
        }
        PartOutcome::WorkFailed(_) => {
            crash_point!("work.failed");
        }
        PartOutcome::WorkReleased => {
            crash_point!("work.released");
        }
        PartOutcome::WorkCancelled { .. } => {
            crash_point!("work.cancelled");
        }
        PartOutcome::WorkRequeued => {
            crash_point!("work.requeued");
        }
        PartOutcome::KeyFinished => {
            crash_point!("key.finished");
        }
        PartOutcome::KeyAbandoned => {
            crash_point!("key.abandoned");
        }
        PartOutcome::KeyInDoubt => {
            crash_point!("key.left_in_doubt");
        }
        PartOutcome::KeyResolved => {
            crash_point!("key.resolved");
        }
        PartOutcome::KeysRemoved(_) => {
            crash_point!("key.removed");
        }
        PartOutcome::KeysTouched => {
            crash_point!("key.touched");
        }
        // Theirs are in the midst of pruning.
        PartOutcome::CheckpointsPruned(_)
        | PartOutcome::RowsPruned(_)
        | PartOutcome::PruneStale => {}
    }
}

impl<'c> Apply<'c> {
    pub(crate) fn new(connection: &'c Connection, now: Timestamp) -> Apply<'c> {
        Apply {
            connection,
            now,
            now_text: now.to_text(),
        }
    }

    fn part(&self, part: &Part, moment: &Moment) -> Result<PartOutcome, StorageError> {
        let outcome = match part {
            Part::CreateTask(task) => self.create_task(task),
            Part::SetTaskStatus(change) => self.set_task_status(change),
            Part::AppendCheckpoint(checkpoint) => self.append_checkpoint(checkpoint),
            Part::RecordVerification(record) => self.record_verification(record),
            Part::Audit(line) => self.audit(line),
            Part::PruneCheckpoints(plan) => prune::prune_checkpoints(self.connection, plan),
            Part::PruneRows(plan) => prune::prune_rows(self.connection, plan, self.now),
            Part::EnqueueWork(item) => self.enqueue(item),
            Part::CompleteWork(work) => self.complete(work),
            Part::FailWork(work) => self.fail(work),
            Part::ReleaseWork(work) => self.release(work),
            Part::CancelWork(work) => self.cancel(work),
            Part::RequeueWork(work) => self.requeue(work),
            Part::FinishKey(key) => self.finish_key(key, moment),
            Part::AbandonKey(key) => self.abandon_key(key, moment),
            Part::DoubtKey(key) => self.doubt_key(key, moment),
            Part::ResolveKey(key) => self.resolve_key(key, moment),
            Part::RemoveKeys(remove) => self.remove_keys(remove),
            Part::TouchKeys(touch) => self.touch_keys(touch),
        };
        outcome.inspect(pass)
    }

    fn create_task(&self, new: &NewTask) -> Result<PartOutcome, StorageError> {
        let context = "creating a task";
        let inserted = self
            .prepare(statements::TASKS_INSERT)?
            .execute(named_params! {
                ":task": new.id.as_str(),
                ":type": new.task_type,
                ":metadata": metadata_text(&new.metadata),
                ":now": self.now_text,
            })
            .map_err(|error| of(&error, context))?;
        if inserted == 0 {
            let task = tasks::get(self.connection, &new.id)?
                .ok_or_else(|| StorageError::not_found("task", &new.id))?;
            if !new.is_same_as(&task) {
                return Err(StorageError::Conflict {
                    what: "task",
                    id: new.id.to_string(),
                });
            }
            return Ok(PartOutcome::TaskCreated {
                task,
                existed: true,
            });
        }
        self.prepare(statements::CHECKPOINTS_START_NUMBERS)?
            .execute(named_params! { ":task": new.id.as_str() })
            .map_err(|error| of(&error, context))?;
        self.write_audit(
            &AuditLine::new(new.id.clone(), TASK_CREATED),
            None,
            Some(TaskStatus::INITIAL),
        )?;
        let task = agentos_core::Task {
            id: new.id.clone(),
            task_type: new.task_type.clone(),
            status: TaskStatus::INITIAL,
            metadata: new.metadata.clone(),
            created_at: self.now,
            updated_at: self.now,
        };
        Ok(PartOutcome::TaskCreated {
            task,
            existed: false,
        })
    }

    fn set_task_status(&self, change: &SetTaskStatus) -> Result<PartOutcome, StorageError> {
        let task = tasks::get(self.connection, &change.task)?
            .ok_or_else(|| StorageError::not_found("task", &change.task))?;
        let (from, to) = (task.status, change.to);
        if !from.can_become(to) {
            return Err(StorageError::IllegalTransition {
                what: "task",
                id: change.task.to_string(),
                from: from.as_str(),
                to: to.as_str(),
            });
        }
        self.prepare(statements::TASKS_SET_STATUS)?
            .execute(named_params! {
                ":task": change.task.as_str(),
                ":from": from.as_str(),
                ":to": to.as_str(),
                ":now": self.now_text,
            })
            .map_err(|error| of(&error, "setting a task's state"))?;
        let mut line = AuditLine::new(change.task.clone(), TASK_STATUS);
        line.reason.clone_from(&change.reason);
        self.write_audit(&line, Some(from), Some(to))?;
        Ok(PartOutcome::TaskStatusSet { from, to })
    }

    pub(crate) fn append_checkpoint(
        &self,
        new: &AppendCheckpoint,
    ) -> Result<PartOutcome, StorageError> {
        let context = "appending a checkpoint";
        let number: Option<i64> = self
            .prepare(statements::CHECKPOINTS_NEXT_NUMBER)?
            .query_row(named_params! { ":task": new.task.as_str() }, |row| {
                row.get(0)
            })
            .optional()
            .map_err(|error| of(&error, context))?;
        let number = number.ok_or_else(|| StorageError::not_found("task", &new.task))?;
        let sequence = checkpoints::sequence(number)?;
        let snapshot = new.snapshot.as_ref().map(|snapshot| snapshot.summary());
        let metadata = metadata_text(&new.metadata);
        let seal = Sealed {
            task: &new.task,
            sequence,
            checkpoint_type: new.checkpoint_type,
            snapshot,
            evidence: new.evidence.as_deref(),
            metadata: metadata.as_deref(),
            created_at: self.now,
        }
        .seal();
        // By position, in the order of the statement: the one hot statement with
        // so many parameters that looking up their names costs.
        self.prepare(statements::CHECKPOINTS_INSERT)?
            .execute(params![
                new.task.as_str(),
                number,
                new.checkpoint_type.as_str(),
                new.verification.as_str(),
                self.now_text,
                snapshot.map(|snapshot| snapshot.codec.id()),
                snapshot.map(|snapshot| snapshot.version),
                snapshot.map(|snapshot| snapshot.bytes.cast_signed()),
                snapshot.as_ref().map(|snapshot| snapshot.digest.as_bytes()),
                seal.as_bytes(),
                metadata,
                new.evidence,
                new.snapshot.as_ref().map(|snapshot| snapshot.bytes()),
            ])
            .map_err(|error| of(&error, context))?;
        if !new.results.is_empty() {
            self.write_results(self.connection.last_insert_rowid(), &new.results)?;
        }
        Ok(PartOutcome::CheckpointAppended(Appended {
            sequence,
            seal,
            created_at: self.now,
        }))
    }

    fn record_verification(
        &self,
        record: &RecordVerification,
    ) -> Result<PartOutcome, StorageError> {
        let context = "recording a verification";
        let checkpoint: Option<i64> = self
            .prepare(statements::CHECKPOINTS_SET_VERIFICATION)?
            .query_row(
                named_params! {
                    ":task": record.task.as_str(),
                    ":sequence": record.sequence.get().cast_signed(),
                    ":verification": record.verification.as_str(),
                },
                |row| row.get(0),
            )
            .optional()
            .map_err(|error| of(&error, context))?;
        let Some(checkpoint) = checkpoint else {
            let id = format!("{} of task {}", record.sequence, record.task);
            return Err(StorageError::not_found("checkpoint", id));
        };
        self.prepare(statements::EVIDENCE_CLEAR)?
            .execute(named_params! { ":checkpoint": checkpoint })
            .map_err(|error| of(&error, context))?;
        self.write_results(checkpoint, &record.results)?;
        Ok(PartOutcome::VerificationRecorded)
    }

    fn write_results(&self, row: i64, results: &[EvidenceResult]) -> Result<(), StorageError> {
        let mut insert = self.prepare(statements::EVIDENCE_INSERT)?;
        for result in results {
            insert
                .execute(named_params! {
                    ":checkpoint": row,
                    ":item": result.item,
                    ":kind": result.kind,
                    ":outcome": result.outcome.as_str(),
                    ":reason": result.reason,
                    ":checked_at": result.checked_at.to_text(),
                })
                .map_err(|error| of(&error, "recording evidence"))?;
        }
        Ok(())
    }

    fn audit(&self, line: &AuditLine) -> Result<PartOutcome, StorageError> {
        if tasks::get(self.connection, &line.task)?.is_none() {
            return Err(StorageError::not_found("task", &line.task));
        }
        self.write_audit(line, None, None)?;
        Ok(PartOutcome::Audited)
    }

    fn write_audit(
        &self,
        line: &AuditLine,
        from: Option<TaskStatus>,
        to: Option<TaskStatus>,
    ) -> Result<(), StorageError> {
        self.write_line(&Line {
            task: Some(&line.task),
            event: &line.event,
            from: from.map(TaskStatus::as_str),
            to: to.map(TaskStatus::as_str),
            reason: line.reason.as_deref(),
            detail: &line.detail,
        })
    }

    pub(crate) fn write_line(&self, line: &Line<'_>) -> Result<(), StorageError> {
        self.prepare(statements::AUDITS_INSERT)?
            .execute(named_params! {
                ":task": line.task.map(TaskId::as_str),
                ":event": line.event,
                ":from": line.from,
                ":to": line.to,
                ":reason": line.reason,
                ":detail": metadata_text(line.detail),
                ":now": self.now_text,
            })
            .map_err(|error| of(&error, "writing an audit line"))?;
        Ok(())
    }

    pub(crate) fn prepare(&self, sql: &str) -> Result<CachedStatement<'_>, StorageError> {
        self.connection
            .prepare_cached(sql)
            .map_err(|error| of(&error, "preparing a statement"))
    }
}

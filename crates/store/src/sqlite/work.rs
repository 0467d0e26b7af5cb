//! Work items inside a transaction: enqueued, ended, and the fence.

use std::time::Duration;

use agentos_core::records::audit::{WORK_CANCELLED, WORK_DEAD, WORK_REQUEUED};
use agentos_core::retry::{Tried, after_failure, chance};
use agentos_core::{
    AttemptOutcome, BootId, BootTime, CancelWork, CompleteWork, Due, FailWork, Fence, FencingToken,
    Holder, Incarnation, NewWorkItem, Next, PartOutcome, ReleaseWork, RequeueWork, StaleLease,
    StorageError, TaskId, Timestamp, WorkItemId, WorkItemStatus, Worker, WorkerId,
};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, named_params};
use serde_json::json;

use super::error::of;
use super::parts::{Apply, Line};
use super::statements;

/// What a row says of its lease.
pub(crate) struct Held {
    pub(crate) status: WorkItemStatus,
    pub(crate) newest: Option<FencingToken>,
    pub(crate) task: Option<TaskId>,
    pub(crate) tried: Tried,
    pub(crate) holder: Option<Holder>,
}

/// Columns of the four parts of a holder.
type RawHolder = [Option<String>; 4];

/// The item's row, as the transaction sees it.
pub(crate) fn held(
    connection: &Connection,
    item: WorkItemId,
) -> Result<Option<Held>, StorageError> {
    let context = "reading a lease";
    let damaged = |what: &str| StorageError::corrupt(format!("work item {item}"), what);
    let found = connection
        .prepare_cached(statements::LEASES_HELD)
        .and_then(|mut statement| {
            statement
                .query_row(named_params! { ":item": item.get() }, |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, i64>(1)?,
                        row.get::<_, Option<String>>(2)?,
                        (count(row, 3)?, count(row, 4)?, count(row, 5)?),
                        read_holder(row, 6)?,
                    ))
                })
                .optional()
        })
        .map_err(|error| of(&error, context))?;
    let Some((status, token, task, (attempts, max_attempts, losses), holder)) = found else {
        return Ok(None);
    };
    Ok(Some(Held {
        status: WorkItemStatus::parse(&status).ok_or_else(|| damaged("its status"))?,
        newest: FencingToken::new(token).ok(),
        task: task
            .map(|task| TaskId::new(&task).map_err(|_| damaged("its task")))
            .transpose()?,
        tried: Tried {
            attempts,
            max_attempts,
            losses,
        },
        // For people: what cannot be read of it keeps nobody from the item.
        holder: decode_holder(holder).unwrap_or_default(),
    }))
}

/// When a held item's lease runs out, by the boot-time clock.
pub(crate) fn deadline(
    connection: &Connection,
    item: WorkItemId,
) -> Result<Option<BootTime>, StorageError> {
    connection
        .prepare_cached(statements::LEASES_DEADLINE)
        .and_then(|mut statement| {
            statement.query_row(named_params! { ":item": item.get() }, |row| {
                let boot: Option<String> = row.get(0)?;
                let micros: Option<i64> = row.get(1)?;
                Ok(boot.map(BootId::new).zip(micros))
            })
        })
        .optional()
        .map(|found| {
            found
                .flatten()
                .map(|(boot, micros)| BootTime { boot, micros })
        })
        .map_err(|error| of(&error, "reading a lease"))
}

/// A count, as large as it can be told.
pub(crate) fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u32> {
    let count: i64 = row.get(column)?;
    Ok(u32::try_from(count.max(0)).unwrap_or(u32::MAX))
}

pub(crate) fn read_holder(row: &Row<'_>, first: usize) -> rusqlite::Result<RawHolder> {
    Ok([
        row.get(first)?,
        row.get(first + 1)?,
        row.get(first + 2)?,
        row.get(first + 3)?,
    ])
}

/// The holder, if there is one; else what of it cannot be read.
pub(crate) fn decode_holder(raw: RawHolder) -> Result<Option<Holder>, &'static str> {
    let [Some(id), Some(incarnation), Some(since), Some(until)] = raw else {
        return Ok(None);
    };
    Ok(Some(Holder {
        worker: Worker {
            id: WorkerId::new(&id).map_err(|_| "its lease_holder")?,
            incarnation: Incarnation::new(&incarnation).map_err(|_| "its lease_incarnation")?,
        },
        since: Timestamp::parse(&since).ok_or("its lease_acquired_at")?,
        until: Timestamp::parse(&until).ok_or("its lease_expires_at")?,
    }))
}

/// The row of an item that is held under exactly this claim.
///
/// # Errors
///
/// [`StorageError::StaleLease`] for any other.
pub(crate) fn require(connection: &Connection, fence: Fence) -> Result<Held, StorageError> {
    match held(connection, fence.item)? {
        Some(held)
            if held.status == WorkItemStatus::InProgress && held.newest == Some(fence.token) =>
        {
            Ok(held)
        }
        held => Err(stale(fence, held).into()),
    }
}

pub(crate) fn stale(fence: Fence, held: Option<Held>) -> StaleLease {
    match held {
        Some(held) => StaleLease {
            fence,
            status: Some(held.status),
            newest: held.newest,
            holder: held.holder,
        },
        None => StaleLease {
            fence,
            status: None,
            newest: None,
            holder: None,
        },
    }
}

/// How a held item goes on.
struct End<'e> {
    to: WorkItemStatus,
    attempts: u32,
    available_at: Option<String>,
    outcome: AttemptOutcome,
    error: Option<&'e str>,
    result: Option<&'e [u8]>,
}

impl Apply<'_> {
    pub(crate) fn enqueue(&self, new: &NewWorkItem) -> Result<PartOutcome, StorageError> {
        let context = "enqueuing work";
        if let Some(key) = &new.unique_key {
            let found: Option<i64> = self
                .prepare(statements::WORK_BY_KEY)?
                .query_row(named_params! { ":key": key }, |row| row.get(0))
                .optional()
                .map_err(|error| of(&error, context))?;
            if let Some(found) = found {
                return Ok(PartOutcome::WorkEnqueued {
                    item: item_id(found)?,
                    existed: true,
                });
            }
        }
        let available_at = match new.due {
            Due::Now => self.now,
            Due::After(delay) => self.now.plus(delay),
            Due::At(moment) => moment,
        };
        let inserted = self
            .prepare(statements::WORK_ENQUEUE)?
            .execute(named_params! {
                ":task": new.task.as_ref().map(TaskId::as_str),
                ":type": new.work_type,
                ":priority": new.priority,
                ":key": new.unique_key,
                ":max_attempts": new.max_attempts,
                ":available_at": available_at.to_text(),
                ":now": self.now_text,
                ":payload": new.payload,
            });
        match (inserted, &new.task) {
            (Ok(_), _) => Ok(PartOutcome::WorkEnqueued {
                item: item_id(self.connection.last_insert_rowid())?,
                existed: false,
            }),
            // The one constraint of its kind here: there is no such task.
            (Err(error), Some(task)) if is_foreign_key(&error) => {
                Err(StorageError::not_found("task", task))
            }
            (Err(error), _) => Err(of(&error, context)),
        }
    }

    pub(crate) fn complete(&self, work: &CompleteWork) -> Result<PartOutcome, StorageError> {
        let held = require(self.connection, work.fence)?;
        self.end(
            work.fence,
            &End {
                to: WorkItemStatus::Succeeded,
                attempts: held.tried.attempts,
                available_at: None,
                outcome: AttemptOutcome::Succeeded,
                error: None,
                result: work.result.as_deref(),
            },
        )?;
        Ok(PartOutcome::WorkCompleted)
    }

    pub(crate) fn fail(&self, work: &FailWork) -> Result<PartOutcome, StorageError> {
        let held = require(self.connection, work.fence)?;
        let Fence { item, token } = work.fence;
        let next = after_failure(held.tried, &work.retry, chance(item, token));
        let (to, available_at) = self.after(next);
        self.end(
            work.fence,
            &End {
                to,
                attempts: held.tried.attempts,
                available_at,
                outcome: AttemptOutcome::Failed,
                error: Some(&work.reason),
                result: None,
            },
        )?;
        if next == Next::DeadLetter {
            self.write_work_audit(WORK_DEAD, held.task.as_ref(), item, (held.status, to), {
                Some(&work.reason)
            })?;
        }
        Ok(PartOutcome::WorkFailed(next))
    }

    pub(crate) fn release(&self, work: &ReleaseWork) -> Result<PartOutcome, StorageError> {
        let held = require(self.connection, work.fence)?;
        self.end(
            work.fence,
            &End {
                to: WorkItemStatus::Pending,
                // It does not count.
                attempts: held.tried.attempts.saturating_sub(1),
                available_at: None,
                outcome: AttemptOutcome::Released,
                error: work.reason.as_deref(),
                result: None,
            },
        )?;
        Ok(PartOutcome::WorkReleased)
    }

    pub(crate) fn cancel(&self, work: &CancelWork) -> Result<PartOutcome, StorageError> {
        let held = self.item(work.item)?;
        let (from, to) = (held.status, WorkItemStatus::Cancelled);
        let lost = match (from, held.newest) {
            (WorkItemStatus::InProgress, Some(token)) => {
                let fence = Fence {
                    item: work.item,
                    token,
                };
                let end = End {
                    to,
                    attempts: held.tried.attempts,
                    available_at: None,
                    outcome: AttemptOutcome::Cancelled,
                    error: work.reason.as_deref(),
                    result: None,
                };
                self.end(fence, &end)?;
                Some(fence)
            }
            (WorkItemStatus::Pending, _) => {
                self.one(
                    statements::WORK_CANCEL_PENDING,
                    named_params! { ":item": work.item.get(), ":now": self.now_text },
                )?;
                None
            }
            (WorkItemStatus::InProgress, None) => {
                let item = format!("work item {}", work.item);
                return Err(StorageError::corrupt(item, "it is held without a token"));
            }
            _ => return Err(illegal(work.item, from, to)),
        };
        let reason = work.reason.as_deref();
        self.write_work_audit(
            WORK_CANCELLED,
            held.task.as_ref(),
            work.item,
            (from, to),
            reason,
        )?;
        Ok(PartOutcome::WorkCancelled { lost })
    }

    pub(crate) fn requeue(&self, work: &RequeueWork) -> Result<PartOutcome, StorageError> {
        let held = self.item(work.item)?;
        let (from, to) = (held.status, WorkItemStatus::Pending);
        if from != WorkItemStatus::Failed {
            return Err(illegal(work.item, from, to));
        }
        self.one(
            statements::WORK_REQUEUE,
            named_params! { ":item": work.item.get(), ":now": self.now_text },
        )?;
        let reason = work.reason.as_deref();
        self.write_work_audit(
            WORK_REQUEUED,
            held.task.as_ref(),
            work.item,
            (from, to),
            reason,
        )?;
        Ok(PartOutcome::WorkRequeued)
    }

    /// The state that follows, and from when on it can be claimed, when that
    /// changes.
    pub(crate) fn after(&self, next: Next) -> (WorkItemStatus, Option<String>) {
        match next {
            Next::DeadLetter => (WorkItemStatus::Failed, None),
            // It was due when it was claimed, and keeps its age. Another process'
            // wall clock may be hours behind this one.
            Next::Requeue { pause } if pause == Duration::ZERO => (WorkItemStatus::Pending, None),
            Next::Requeue { pause } => {
                let moment = self.now.plus(pause).to_text();
                (WorkItemStatus::Pending, Some(moment))
            }
        }
    }

    fn item(&self, item: WorkItemId) -> Result<Held, StorageError> {
        held(self.connection, item)?.ok_or_else(|| StorageError::not_found("work item", item))
    }

    fn end(&self, fence: Fence, end: &End<'_>) -> Result<(), StorageError> {
        self.one(
            statements::LEASES_END,
            named_params! {
                ":item": fence.item.get(),
                ":token": fence.token.get(),
                ":to": end.to.as_str(),
                ":attempts": end.attempts,
                ":available_at": end.available_at,
                ":error": end.error,
                ":result": end.result,
                ":now": self.now_text,
            },
        )?;
        self.end_attempt(fence, end.outcome, end.error)
    }

    /// Closes the attempt's row. One that is not there (pruned by its bound, or
    /// never written) is no reason to keep the item.
    pub(crate) fn end_attempt(
        &self,
        fence: Fence,
        outcome: AttemptOutcome,
        error: Option<&str>,
    ) -> Result<(), StorageError> {
        self.prepare(statements::LEASES_END_ATTEMPT)?
            .execute(named_params! {
                ":item": fence.item.get(),
                ":number": fence.token.get(),
                ":outcome": outcome.as_str(),
                ":error": error,
                ":now": self.now_text,
            })
            .map(drop)
            .map_err(|error| of(&error, "ending an attempt"))
    }

    /// Runs a statement that must change the one row that was just read.
    fn one(&self, sql: &str, params: &[(&str, &dyn rusqlite::ToSql)]) -> Result<(), StorageError> {
        let changed = self
            .prepare(sql)?
            .execute(params)
            .map_err(|error| of(&error, "changing a work item"))?;
        if changed == 1 {
            return Ok(());
        }
        Err(StorageError::corrupt(
            "the work items",
            format!("a row that was just read was changed {changed} times"),
        ))
    }

    fn write_work_audit(
        &self,
        event: &str,
        task: Option<&TaskId>,
        item: WorkItemId,
        (from, to): (WorkItemStatus, WorkItemStatus),
        reason: Option<&str>,
    ) -> Result<(), StorageError> {
        self.write_line(&Line {
            task,
            event,
            from: Some(from.as_str()),
            to: Some(to.as_str()),
            reason,
            detail: &json!({ "work_item": item.get() }),
        })
    }
}

pub(crate) fn item_id(number: i64) -> Result<WorkItemId, StorageError> {
    WorkItemId::new(number)
        .map_err(|_| StorageError::corrupt("the work items", format!("there is a row {number}")))
}

fn illegal(item: WorkItemId, from: WorkItemStatus, to: WorkItemStatus) -> StorageError {
    StorageError::IllegalTransition {
        what: "work item",
        id: item.to_string(),
        from: from.as_str(),
        to: to.as_str(),
    }
}

fn is_foreign_key(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::SqliteFailure(failure, _)
            if failure.code == ErrorCode::ConstraintViolation
                && failure.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY
    )
}

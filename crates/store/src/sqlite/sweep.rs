//! Takes lost leases away, inside a transaction.
//!
//! The statement that changes an item tests that its lease is lost. What follows
//! for the item is core's decision. Its attempt is closed, an audit line says what
//! happened, and a task's history gets an error boundary, in the same commit. An
//! item for which that fails is left as it was, and harms no other; only a history
//! that is damaged and takes no checkpoint does not keep its item.
//!
//! That seldom happens, and savepoints cost: SQLite keeps a copy of each page that is
//! changed in one, and goes through all of them at the end of each statement. So a
//! batch is run without. If one of its writes fails, the whole group is undone and run
//! again, with a savepoint for each item.

use agentos_core::records::audit::WORK_RECOVERED;
use agentos_core::retry::{after_loss, chance};
use agentos_core::{
    AppendCheckpoint, AttemptOutcome, CheckpointType, Fence, Holder, Lost, RecoveredItem,
    StorageError, SweepRequest, Swept, WorkItemId, WorkItemStatus, crash_point,
};
use rusqlite::{Connection, named_params};
use serde_json::json;

use super::claims::Moment;
use super::error::{is_fatal, of};
use super::group_commit::Apart;
use super::parts::{Apply, Line};
use super::statements;
use super::work::{Held, held, item_id};

/// One batch. On an error that is not one of the whole transaction the caller undoes
/// it, and runs it again with its members apart.
pub(crate) fn batch(
    connection: &Connection,
    request: &SweepRequest,
    now: &Moment,
    apart: Apart,
) -> Result<Swept, StorageError> {
    let items = lost(connection, request, now)?;
    let mut swept = Swept {
        found: u32::try_from(items.len()).unwrap_or(u32::MAX),
        more: items.len() >= request.rows as usize,
        ..Swept::default()
    };
    if items.is_empty() {
        return Ok(swept);
    }
    let sweep = Sweep {
        apply: Apply::new(connection, now.wall),
        request,
        now,
    };
    for item in items {
        let held = match held(connection, item) {
            Ok(Some(held)) => held,
            Ok(None) => continue,
            Err(error) if is_fatal(connection, &error) => return Err(error),
            // Its row cannot be read; nothing was changed yet.
            Err(error) => {
                swept.failed.push((item, error));
                continue;
            }
        };
        let recover = || sweep.recover(item, held, apart);
        let recovered = match apart {
            Apart::Together => recover(),
            Apart::Savepoints => in_savepoint(connection, "sweep", recover),
        };
        match recovered {
            Ok(recovered) => swept.recovered.extend(recovered),
            Err(error) if apart == Apart::Together || is_fatal(connection, &error) => {
                return Err(error);
            }
            Err(error) => swept.failed.push((item, error)),
        }
    }
    crash_point!("sweep.recovered");
    Ok(swept)
}

/// The items whose leases are lost, as an index tells.
fn lost(
    connection: &Connection,
    request: &SweepRequest,
    now: &Moment,
) -> Result<Vec<WorkItemId>, StorageError> {
    let context = "looking for lost leases";
    let read = || -> rusqlite::Result<Vec<i64>> {
        match &request.lost {
            Lost::Expired => connection
                .prepare_cached(statements::LEASES_EXPIRED)?
                .query_map(
                    named_params! {
                        ":boot": now.boot.boot.as_str(),
                        ":now_us": now.boot.micros,
                        ":rows": request.rows,
                        ":skip": request.skip,
                    },
                    |row| row.get(0),
                )?
                .collect(),
            Lost::EarlierStarts(worker) => connection
                .prepare_cached(statements::LEASES_EARLIER_STARTS)?
                .query_map(
                    named_params! {
                        ":worker": worker.id.as_str(),
                        ":incarnation": worker.incarnation.as_str(),
                        ":rows": request.rows,
                        ":skip": request.skip,
                    },
                    |row| row.get(0),
                )?
                .collect(),
        }
    };
    let items = read().map_err(|error| of(&error, context))?;
    items.into_iter().map(item_id).collect()
}

/// Everything or nothing of `work`, inside the transaction that stands.
pub(crate) fn in_savepoint<T>(
    connection: &Connection,
    name: &str,
    work: impl FnOnce() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    let run = |sql: &str| {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map_err(|error| of(&error, "using a savepoint"))
    };
    run(&format!("SAVEPOINT {name}"))?;
    let done = work();
    // A full disk takes the whole transaction away, and the savepoint with it.
    if !connection.is_autocommit() {
        if done.is_err() {
            run(&format!("ROLLBACK TO {name}"))?;
        }
        run(&format!("RELEASE {name}"))?;
    }
    done
}

struct Sweep<'s> {
    apply: Apply<'s>,
    request: &'s SweepRequest,
    now: &'s Moment,
}

impl Sweep<'_> {
    /// Takes one lease away; `None` when it is not lost after all.
    fn recover(
        &self,
        item: WorkItemId,
        found: Held,
        apart: Apart,
    ) -> Result<Option<RecoveredItem>, StorageError> {
        if found.status != WorkItemStatus::InProgress {
            return Ok(None);
        }
        let holder = found.holder;
        let Some(token) = found.newest else {
            let item = format!("work item {item}");
            return Err(StorageError::corrupt(item, "it is held without a token"));
        };
        let fence = Fence { item, token };
        let next = after_loss(found.tried, &self.request.after_loss, chance(item, token));
        let (to, available_at) = self.apply.after(next);
        let reason = self.reason(holder.as_ref());
        let changed = match &self.request.lost {
            Lost::Expired => {
                self.apply
                    .prepare(statements::LEASES_END_EXPIRED)?
                    .execute(named_params! {
                        ":item": item.get(),
                        ":token": token.get(),
                        ":to": to.as_str(),
                        ":available_at": available_at,
                        ":error": reason,
                        ":now": self.apply.now_text,
                        ":boot": self.now.boot.boot.as_str(),
                        ":now_us": self.now.boot.micros,
                    })
            }
            Lost::EarlierStarts(worker) => self
                .apply
                .prepare(statements::LEASES_END_EARLIER_START)?
                .execute(named_params! {
                    ":item": item.get(),
                    ":token": token.get(),
                    ":to": to.as_str(),
                    ":available_at": available_at,
                    ":error": reason,
                    ":now": self.apply.now_text,
                    ":worker": worker.id.as_str(),
                    ":incarnation": worker.incarnation.as_str(),
                }),
        };
        if changed.map_err(|error| of(&error, "taking a lease away"))? == 0 {
            return Ok(None);
        }
        self.apply
            .end_attempt(fence, AttemptOutcome::Expired, Some(&reason))?;
        let detail = json!({
            "work_item": item.get(),
            "token": token.get(),
            "worker": holder.as_ref().map(|holder| holder.worker.id.as_str()),
            "incarnation": holder.as_ref().map(|holder| holder.worker.incarnation.as_str()),
            "held_since": holder.as_ref().map(|holder| holder.since.to_text()),
            "held_until": holder.as_ref().map(|holder| holder.until.to_text()),
        });
        self.apply.write_line(&Line {
            task: found.task.as_ref(),
            event: WORK_RECOVERED,
            from: Some(found.status.as_str()),
            to: Some(to.as_str()),
            reason: Some(&reason),
            detail: &detail,
        })?;
        if let Some(task) = &found.task {
            let mut boundary = AppendCheckpoint::new(task.clone(), CheckpointType::ErrorBoundary);
            boundary.metadata = detail;
            let append = || self.apply.append_checkpoint(&boundary).map(drop);
            let connection = self.apply.connection;
            match apart {
                Apart::Together => append()?,
                Apart::Savepoints => match in_savepoint(connection, "boundary", append) {
                    Err(error) if is_fatal(connection, &error) => return Err(error),
                    Err(error) => {
                        tracing::error!(%item, %task, %error, "no error boundary could be written");
                    }
                    Ok(()) => {}
                },
            }
        }
        Ok(Some(RecoveredItem {
            fence,
            holder,
            task: found.task,
            next,
        }))
    }

    fn reason(&self, holder: Option<&Holder>) -> String {
        let Some(Holder { worker, until, .. }) = holder else {
            return "its lease is lost, and who held it cannot be read".into();
        };
        match self.request.lost {
            Lost::Expired => format!("{worker} held it until {until}, and the lease ran out"),
            Lost::EarlierStarts(_) => {
                format!("{worker} held it until {until}, and a later start gave it up")
            }
        }
    }
}

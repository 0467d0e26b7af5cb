//! Takes lost leases away, inside a transaction.
//!
//! The statement that changes an item tests that its lease is lost. What follows
//! for the item is core's decision. Its attempt is closed, an audit line says what
//! happened, and a task's history gets an error boundary, in the same commit. An
//! item for which that fails is left as it was, and harms no other; only a history
//! that is damaged and takes no checkpoint does not keep its item.

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
use super::parts::{Apply, Line};
use super::statements;
use super::work::{held, item_id};

/// One batch: first all of it together; when one fails, each in a savepoint.
pub(crate) fn batch(
    connection: &Connection,
    request: &SweepRequest,
    now: &Moment,
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
    let together = in_savepoint(connection, "sweep", || {
        items
            .iter()
            .filter_map(|&item| sweep.recover(item, Boundary::Demanded).transpose())
            .collect::<Result<Vec<_>, _>>()
    });
    match together {
        Ok(recovered) => swept.recovered = recovered,
        Err(error) if is_fatal(connection, &error) => return Err(error),
        Err(_) => {
            for item in items {
                match in_savepoint(connection, "sweep", || {
                    sweep.recover(item, Boundary::IfPossible)
                }) {
                    Ok(recovered) => swept.recovered.extend(recovered),
                    Err(error) if is_fatal(connection, &error) => return Err(error),
                    Err(error) => swept.failed.push((item, error)),
                }
            }
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

/// What of a task's history that takes no more checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Boundary {
    /// The item cannot be recovered without.
    Demanded,
    /// It is recovered without: a damaged history keeps no work from going on.
    IfPossible,
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
        wish: Boundary,
    ) -> Result<Option<RecoveredItem>, StorageError> {
        let connection = self.apply.connection;
        let Some(found) = held(connection, item)? else {
            return Ok(None);
        };
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
            match wish {
                Boundary::Demanded => append()?,
                Boundary::IfPossible => match in_savepoint(connection, "boundary", append) {
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

//! A sweep as a predecessor had it: it chooses the rows first, says so in a
//! transaction of its own, and changes them later by their key, without a test that
//! they have run out. Whoever renewed in between loses a lease that it holds.

use std::path::Path;

use agentos_core::records::audit::WORK_RECOVERED;
use agentos_core::{
    AppendCheckpoint, AuditLine, BootTime, CheckpointType, Commit, Fence, FencingToken, Holder,
    Incarnation, Next, RecoveredItem, Storage, StorageError, SweepRequest, Swept, TaskId,
    Timestamp, WorkItemId, Worker, WorkerId,
};
use agentos_store::sqlite::SqliteStore;
use rusqlite::{Connection, params};
use serde_json::json;

use super::BUSY_TIMEOUT;

const CHOOSE: &str = "
    SELECT work_item_id, task_id, lease_token, lease_holder, lease_incarnation,
        lease_acquired_at, lease_expires_at, attempts >= max_attempts
    FROM work_items
    WHERE status = 'in_progress' AND lease_boot_id = ?1 AND lease_deadline_us <= ?2
    LIMIT ?3";

const CHANGE: &str = "
    UPDATE work_items
    SET status = iif(attempts < max_attempts, 'pending', 'failed'), losses = losses + 1, available_at = ?2, updated_at = ?2,
        lease_holder = NULL, lease_incarnation = NULL, lease_acquired_at = NULL,
        lease_expires_at = NULL, lease_boot_id = NULL, lease_deadline_us = NULL,
        checkpoint_sequence = NULL, last_error = ?4
    WHERE work_item_id = ?1 AND lease_token = ?3 AND status = 'in_progress'";

const CLOSE: &str = "
    UPDATE work_attempts SET ended_at = ?3, outcome = 'expired', error = ?4
    WHERE work_item_id = ?1 AND number = ?2 AND outcome IS NULL";

/// One batch.
pub(super) fn sweep(
    store: &SqliteStore,
    db: &Path,
    request: &SweepRequest,
) -> Result<Swept, StorageError> {
    let failed = |error: rusqlite::Error| StorageError::Internal {
        context: "sweeping by key".into(),
        cause: error.into(),
    };
    let connection = Connection::open(db).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    let chosen = choose(&connection, &store.boot_now(), request.rows).map_err(failed)?;
    if let Some(first) = chosen.first() {
        store.commit(AuditLine::new(first.task.clone(), "sweep_begun").into())?;
    }
    let mut swept = Swept {
        found: u32::try_from(chosen.len()).unwrap_or(u32::MAX),
        more: u32::try_from(chosen.len()) == Ok(request.rows),
        ..Swept::default()
    };
    for row in chosen {
        let now = store.now().to_text();
        if change(&connection, &row, &now).map_err(failed)? {
            let worker = &row.holder.worker;
            let detail = json!({
                "work_item": row.item,
                "token": row.token,
                "worker": worker.id.as_str(),
                "incarnation": worker.incarnation.as_str(),
            });
            let line = AuditLine::new(row.task.clone(), WORK_RECOVERED).detail(detail.clone());
            let boundary = AppendCheckpoint {
                metadata: detail,
                ..AppendCheckpoint::new(row.task.clone(), CheckpointType::ErrorBoundary)
            };
            store.commit(Commit::new().part(line).part(boundary))?;
            swept.recovered.push(RecoveredItem {
                fence: Fence {
                    item: WorkItemId::new(row.item)?,
                    token: FencingToken::new(row.token)?,
                },
                holder: Some(row.holder),
                task: Some(row.task),
                next: if row.last {
                    Next::DeadLetter
                } else {
                    let pause = std::time::Duration::ZERO;
                    Next::Requeue { pause }
                },
            });
        }
    }
    Ok(swept)
}

struct Chosen {
    item: i64,
    task: TaskId,
    token: i64,
    holder: Holder,
    last: bool,
}

fn choose(connection: &Connection, now: &BootTime, rows: u32) -> rusqlite::Result<Vec<Chosen>> {
    let mut statement = connection.prepare(CHOOSE)?;
    let found = statement.query_map(params![now.boot.as_str(), now.micros, rows], |row| {
        let text = |column: usize| row.get::<_, String>(column);
        let odd = |column| rusqlite::Error::InvalidColumnName(format!("column {column}"));
        Ok(Chosen {
            item: row.get(0)?,
            task: TaskId::new(text(1)?).map_err(|_| odd(1))?,
            token: row.get(2)?,
            holder: Holder {
                worker: Worker {
                    id: WorkerId::new(text(3)?).map_err(|_| odd(3))?,
                    incarnation: Incarnation::new(text(4)?).map_err(|_| odd(4))?,
                },
                since: Timestamp::parse(&text(5)?).ok_or_else(|| odd(5))?,
                until: Timestamp::parse(&text(6)?).ok_or_else(|| odd(6))?,
            },
            last: row.get(7)?,
        })
    })?;
    found.collect()
}

fn change(connection: &Connection, row: &Chosen, now: &str) -> rusqlite::Result<bool> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let error = format!("{} held it until {}", row.holder.worker, row.holder.until);
    let changed = connection.execute(CHANGE, params![row.item, now, row.token, error])?;
    if 0 < changed {
        connection.execute(CLOSE, params![row.item, row.token, now, error])?;
    }
    connection.execute_batch("COMMIT")?;
    Ok(0 < changed)
}

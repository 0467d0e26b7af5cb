//! The store that a janitor tidies up: how it is prepared, and what of it must
//! stay whatever is tidied up. Read row by row, beside the store's own API.

use std::path::Path;

use agentos_chaos::Failure;
use agentos_core::{
    AppendCheckpoint, AuditLine, Checkpoint, CheckpointType, Commit, EvidenceResult, NewTask,
    Storage, TaskId,
};
use agentos_store::sqlite::{Config, Durability, SqliteStore};
use rusqlite::{Connection, OpenFlags};

use crate::model::{Numbered, kept_lines};
use crate::victims::{AUDITS_KEPT, numbered, results, state};

/// The task that the janitor's thread appends to.
pub(super) const BUSY: &str = "busy";
/// A task that can be resumed from its first checkpoint alone.
pub(super) const STUCK: &str = "stuck";
/// A task with a lease that works from an old checkpoint.
pub(super) const HELD: &str = "held";
/// That checkpoint.
pub(super) const LEASED: u64 = 3;
/// Checkpoints of the tasks that are prepared.
pub(super) const PREPARED: u64 = 60;
/// Audit lines that are written, more than are kept.
const AUDITS: u64 = 2 * AUDITS_KEPT + 5;

type Fallible<T> = Result<T, Failure>;

/// Rows that were prepared and must stay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rows {
    tasks: Vec<Numbered>,
    work_items: Vec<Numbered>,
    audits: Vec<Numbered>,
}

impl Rows {
    /// Reads them from a store that others may have open.
    pub(super) fn read(db: &Path) -> Fallible<Rows> {
        let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let read = |sql| -> Fallible<Vec<Numbered>> {
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map([], |row| {
                Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        Ok(Rows {
            tasks: read(
                "SELECT task_key, json_array(task_id, task_type, status, metadata, created_at)
                 FROM tasks ORDER BY task_key",
            )?,
            work_items: read(
                "SELECT work_item_id, json_array(task_id, work_type, status, lease_holder,
                     lease_incarnation, lease_token, checkpoint_sequence)
                 FROM work_items ORDER BY work_item_id",
            )?,
            audits: read(
                "SELECT audit_id, json_array(task_id, event, from_status, to_status, reason,
                     detail, created_at)
                 FROM task_audits ORDER BY audit_id",
            )?,
        })
    }

    /// What is wrong with the rows that are found later.
    pub(super) fn judge(&self, found: &Rows) -> Vec<String> {
        let mut broken = kept_lines(&self.audits, &found.audits, AUDITS_KEPT);
        for (table, before, after) in [
            ("tasks", &self.tasks, &found.tasks),
            ("work_items", &self.work_items, &found.work_items),
        ] {
            if before != after {
                broken.push(format!("{table} had {before:?} and has {after:?}"));
            }
        }
        broken
    }
}

/// What is wrong with the content of a checkpoint of a task, and with what its
/// evidence said.
pub(crate) fn judge_content(
    task: &str,
    checkpoint: &Checkpoint,
    found: &[EvidenceResult],
) -> Vec<String> {
    let mut broken = Vec::new();
    let number = checkpoint.summary.sequence.get();
    let expected = has_state(task, number).then(|| state(number));
    let bytes = checkpoint.snapshot.as_ref().map(|state| state.bytes());
    if bytes != expected.as_deref() {
        broken.push(format!("checkpoint {number} has another state"));
    }
    if found != results(number) {
        broken.push(format!(
            "checkpoint {number} has the evidence results {found:?}"
        ));
    }
    broken
}

fn has_state(task: &str, number: u64) -> bool {
    task != STUCK || number == 1
}

/// Makes the store.
pub(super) fn prepare(db: &Path) -> Fallible<Rows> {
    // It is closed before anybody dies.
    let config = Config::at(db).durability(Durability::Relaxed);
    let store = SqliteStore::open(config)?;
    for task in [BUSY, STUCK, HELD] {
        store.create_task(NewTask::new(TaskId::new(task)?, "tidied up"))?;
    }
    for number in 1..=PREPARED {
        let mut stuck = numbered(TaskId::new(STUCK)?, number);
        if !has_state(STUCK, number) {
            stuck = AppendCheckpoint {
                checkpoint_type: CheckpointType::ErrorBoundary,
                snapshot: None,
                ..stuck
            };
        }
        let mut commit = Commit::new()
            .part(stuck)
            .part(numbered(TaskId::new(HELD)?, number));
        if number <= AUDITS {
            let line = AuditLine::new(TaskId::new(HELD)?, "prepared");
            commit = commit.part(line.reason("to be kept").detail(number.into()));
        }
        store.commit(commit)?;
    }
    store.close();
    // No API makes leases yet.
    let connection = Connection::open(db)?;
    connection.execute_batch(&format!(
        "INSERT INTO work_items (task_id, work_type, status, max_attempts, available_at,
             created_at, updated_at, checkpoint_sequence)
         SELECT task_id, 'work', 'pending', 3, created_at, created_at, created_at, {LEASED}
         FROM tasks WHERE task_id = '{HELD}';
         UPDATE work_items SET status = 'in_progress', lease_holder = 'w',
             lease_incarnation = 'i', lease_token = 1, lease_boot_id = 'b', lease_deadline_us = 1,
             lease_acquired_at = '2026-01-01 00:00:00.000000',
             lease_expires_at = '2026-01-01 00:01:00.000000';"
    ))?;
    drop(connection);
    Rows::read(db)
}

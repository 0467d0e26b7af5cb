//! A file with something of everything that upkeep removes and of everything
//! that it must leave alone, what is found in such a file, and what may have
//! changed in it.
//!
//! The oracle, [`violations`], is a pure function of what was found: it knows
//! no upkeep, and canaries show that it would notice a broken one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use agentos_core::{
    AppendCheckpoint, AuditLine, CheckpointRule, CheckpointStorage, CheckpointType, Commit,
    RecordVerification, Retention, RowRule, SequenceNumber, SetTaskStatus, Storage, TaskStatus,
    Verification,
};
use agentos_recovery::UpkeepConfig;
use rusqlite::Connection;

use crate::{append, at, new_task, numbers, task_id};

/// What the rules of these tests keep of each task's checkpoints.
pub const KEPT: u32 = 5;

/// Small bounds and small batches, so that a pass has many.
pub fn upkeep_config() -> UpkeepConfig {
    let rows = |max_rows| RowRule {
        max_rows: Some(max_rows),
        ..RowRule::keep_all()
    };
    UpkeepConfig {
        rows_per_batch: 8,
        free_bytes_kept: 0,
        retention: Retention {
            checkpoints: CheckpointRule::keep_last(KEPT),
            audits: rows(10),
            work_items: rows(3),
            dead_letters: rows(4),
            cache: RowRule::keep_all(),
            ledger: RowRule::keep_all(),
            tasks: rows(1),
        },
        ..UpkeepConfig::default()
    }
}

/// Makes the file, closed, with its log in it.
///
/// - `long`: of 40 checkpoints only number 7 can be resumed from: the newer ones
///   are boundaries, recorded as failed, or damaged (number 20, to be salvaged).
/// - `leased`: the holder of an open lease works from number 4 of 30.
/// - `old` and `new`: finished; only one finished task is kept.
/// - work items of every state, with attempts, and keys of which two are in doubt.
///
/// # Panics
///
/// When it cannot be made.
pub fn worn_file(path: &Path) {
    let store = at(path);
    let commit = |commit: Commit| drop(store.commit(commit).expect("a commit"));
    let state = |number: u64| vec![number as u8; 6000];
    for (task, count) in [("long", 40), ("leased", 30), ("old", 12), ("new", 3)] {
        commit(new_task(task).into());
        for number in 1..=count {
            let boundary = task == "long" && 7 < number && number % 3 == 0;
            let checkpoint = if boundary {
                AppendCheckpoint::new(task_id(task), CheckpointType::ErrorBoundary)
            } else {
                append(task, state(number))
            };
            commit(checkpoint.into());
            if task == "long" && 7 < number && number != 20 {
                let record = RecordVerification {
                    task: task_id(task),
                    sequence: SequenceNumber::new(number).expect("a number"),
                    verification: Verification::Failed,
                    results: Vec::new(),
                };
                commit(record.into());
            }
        }
    }
    for event in 0..20 {
        commit(AuditLine::new(task_id("long"), format!("event {event}")).into());
    }
    for (task, to) in [
        ("old", TaskStatus::Running),
        ("old", TaskStatus::Succeeded),
        ("new", TaskStatus::Cancelled),
    ] {
        commit(SetTaskStatus::new(task_id(task), to).into());
    }
    drop(store);
    let connection = Connection::open(path).expect("a database");
    connection
        .execute_batch(WORK)
        .expect("rows that no interface makes");
    connection.close().expect("a closed database");
}

/// What takes many steps through the interface, with foreign keys off.
const WORK: &str = "
    PRAGMA foreign_keys = OFF;
    UPDATE checkpoints SET snapshot = zeroblob(length(snapshot))
    WHERE task_id = 'long' AND sequence_number = 20;
    CREATE TEMP TABLE moment AS SELECT
        strftime('%Y-%m-%d %H:%M:%S.000000', 'now') AS now,
        strftime('%Y-%m-%d %H:%M:%S.000000', 'now', '-1 hour') AS past,
        strftime('%Y-%m-%d %H:%M:%S.000000', 'now', '+1 hour') AS later;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30)
    INSERT INTO work_items (work_item_id, work_type, status, max_attempts, available_at,
        created_at, updated_at, payload)
    SELECT i, 'test', 'pending', 3, now, now,
        strftime('%Y-%m-%d %H:%M:%S.', now) || printf('%06d', i), zeroblob(100)
    FROM n, moment;
    INSERT INTO work_attempts (work_item_id, number, worker, incarnation, started_at, ended_at,
        outcome)
    SELECT work_item_id, 1, 'w', 'i', now, now, 'released' FROM work_items, moment
    UNION ALL SELECT work_item_id, 2, 'w', 'i', now, NULL, NULL FROM work_items, moment;
    UPDATE work_items SET task_id = 'leased', checkpoint_sequence = 4 WHERE work_item_id = 1;
    UPDATE work_items SET status = 'in_progress', lease_holder = 'w', lease_incarnation = 'i',
        lease_token = 2, lease_boot_id = 'b', lease_deadline_us = 1, lease_acquired_at = created_at,
        lease_expires_at = created_at WHERE work_item_id <= 24;
    UPDATE work_items SET status = CASE WHEN work_item_id <= 14 THEN 'succeeded' ELSE 'failed' END,
        lease_holder = NULL, lease_incarnation = NULL, lease_boot_id = NULL,
        lease_deadline_us = NULL, lease_acquired_at = NULL, lease_expires_at = NULL
        WHERE work_item_id BETWEEN 2 AND 24;
    INSERT INTO idempotency_keys (idempotency_key, status, request_digest, created_at, updated_at,
        token, owner, owner_incarnation, lease_expires_at, lease_boot_id, lease_deadline_us,
        used_at)
    SELECT iif(i % 2, 'tool-ledger:', 'llm-cache:') || i, 'pending', zeroblob(32), past, past,
        1, 'w', 'i', past, 'b', 0, past
    FROM moment, (SELECT work_item_id AS i FROM work_items WHERE work_item_id <= 16);
    UPDATE idempotency_keys SET status = 'succeeded', owner = NULL, owner_incarnation = NULL,
        lease_expires_at = NULL, lease_boot_id = NULL, lease_deadline_us = NULL,
        outcome = x'01', outcome_bytes = 1, seal = zeroblob(32),
        expires_at = (SELECT iif(key_id <= 12, past, later) FROM moment)
        WHERE key_id NOT IN (3, 4);";

/// What is found in a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// What the integrity check said.
    pub problems: Vec<String>,
    /// The numbers of each task's checkpoints.
    pub numbers: BTreeMap<String, Vec<u64>>,
    /// The newest of each task that can be resumed from by what was recorded,
    /// and whose seal holds.
    pub resumable: BTreeMap<String, u64>,
    /// The last number that each task was given.
    pub last: BTreeMap<String, u64>,
    /// Task and number of each checkpoint that is worked from.
    pub leased: BTreeSet<(String, u64)>,
    /// Tasks that are finished.
    pub finished: BTreeSet<String>,
    /// Keys, items and lines that must never go: pending, in progress, unexpired.
    pub open: BTreeSet<String>,
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// Pages in the file that hold nothing.
    pub free_pages: u64,
}

/// Looks into a file that nobody writes to.
///
/// # Panics
///
/// When it cannot be read.
pub fn look(path: &Path) -> Found {
    let store = at(path);
    let mut found = Found {
        problems: store.check_integrity().expect("an answer").problems,
        ..Found::default()
    };
    let connection = Connection::open(path).expect("a database");
    let texts = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).expect("a statement");
        let rows = statement.query_map([], |row| row.get(0)).expect("rows");
        rows.collect::<Result<_, _>>().expect("texts")
    };
    for task in texts("SELECT task_id FROM tasks UNION SELECT task_id FROM checkpoints") {
        let mut numbers = numbers(&store, &task);
        found.numbers.insert(task.clone(), numbers.clone());
        while let Some(number) = numbers.pop() {
            let sequence = SequenceNumber::new(number).expect("a number");
            let Ok(Some(checkpoint)) = store.checkpoint(&task_id(&task), sequence) else {
                continue;
            };
            let failed = checkpoint.summary.verification == Verification::Failed;
            if checkpoint.snapshot.is_some() && !failed {
                found.resumable.insert(task.clone(), number);
                break;
            }
        }
    }
    let numbered = |sql: &str| -> BTreeMap<String, u64> {
        let mut statement = connection.prepare(sql).expect("a statement");
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        let rows = rows.expect("rows");
        rows.map(|row| row.expect("a row"))
            .map(|(name, number): (String, i64)| (name, number.unsigned_abs()))
            .collect()
    };
    found.last = numbered("SELECT task_id, last_sequence FROM checkpoint_counters");
    found.leased = numbered(
        "SELECT task_id, checkpoint_sequence FROM work_items
         WHERE status = 'in_progress' AND checkpoint_sequence IS NOT NULL",
    )
    .into_iter()
    .collect();
    found.finished = texts("SELECT task_id FROM tasks WHERE status IN ('succeeded', 'cancelled')")
        .into_iter()
        .collect();
    found.open = texts(
        "SELECT 'item ' || work_item_id FROM work_items WHERE status IN ('pending', 'in_progress')
         UNION ALL SELECT 'attempt ' || attempt_id FROM work_attempts WHERE work_item_id IN (
             SELECT work_item_id FROM work_items WHERE status IN ('pending', 'in_progress'))
         UNION ALL SELECT 'key ' || key_id FROM idempotency_keys
             WHERE status = 'pending' OR expires_at > strftime('%Y-%m-%d %H:%M:%f', 'now')",
    )
    .into_iter()
    .collect();
    for table in [
        "tasks",
        "task_audits",
        "checkpoints",
        "checkpoint_counters",
        "evidence_results",
        "work_items",
        "work_attempts",
        "idempotency_keys",
    ] {
        let sql = format!("SELECT '{table}', count(*) FROM {table}");
        found.rows.extend(numbered(&sql));
    }
    let free: i64 = connection
        .query_row("PRAGMA freelist_count", [], |row| row.get(0))
        .expect("a count");
    found.free_pages = free.unsigned_abs();
    found
}

/// What upkeep, ended at any moment, must not have done: in words, none when
/// all is well.
pub fn violations(before: &Found, after: &Found, kept: usize) -> Vec<String> {
    let mut violations: Vec<String> = after
        .problems
        .iter()
        .map(|problem| format!("integrity: {problem}"))
        .collect();
    let mut check = |holds: bool, what: String| {
        if !holds {
            violations.push(what);
        }
    };
    for (task, numbers) in &before.numbers {
        let none = Vec::new();
        let left = after.numbers.get(task).unwrap_or(&none);
        let came: Vec<_> = left
            .iter()
            .filter(|number| !numbers.contains(number))
            .collect();
        check(
            came.is_empty(),
            format!("{task}: {came:?} came from nowhere"),
        );
        if before.finished.contains(task) {
            // It may go as a whole, the oldest checkpoint first.
            let newest_first = numbers.iter().rev().zip(left.iter().rev());
            let in_order = newest_first.clone().all(|(was, is)| was == is);
            check(
                in_order,
                format!("{task}: {left:?} of {numbers:?} are left"),
            );
            continue;
        }
        let newest = numbers.iter().rev().take(kept);
        let lost: Vec<_> = newest.filter(|number| !left.contains(number)).collect();
        check(
            lost.is_empty(),
            format!("{task}: {lost:?} of the newest are gone"),
        );
        check(
            after.resumable.get(task) == before.resumable.get(task),
            format!(
                "{task}: resumable is {:?}, was {:?}",
                after.resumable.get(task),
                before.resumable.get(task)
            ),
        );
        check(
            after.last.get(task) == before.last.get(task),
            format!("{task}: its numbers begin anew"),
        );
    }
    for (task, number) in &before.leased {
        let there = after
            .numbers
            .get(task)
            .is_some_and(|left| left.contains(number));
        check(
            there,
            format!("{task}: {number}, which is worked from, is gone"),
        );
    }
    for open in before.open.difference(&after.open) {
        check(false, format!("{open} is gone"));
    }
    violations
}

//! The operators' statements: each runs unchanged, through this build's SQLite
//! and through a `sqlite3` shell, with foreign keys off, on a file with known
//! content, and gives the true answer.

use std::fs;
use std::path::Path;

use agentos_core::{
    AppendCheckpoint, EvidenceOutcome, EvidenceResult, Storage, TaskStatus, Verification,
};
use agentos_process::{CommandSpec, run};
use agentos_tests::{append, at, fresh, new_task, numbers, task_id};
use rusqlite::Connection;
use rusqlite::types::Value;

const STATEMENTS: &str = include_str!("../fixtures/monitoring.sql");

/// Checkpoints of the two tasks of the known file.
const MANY: u64 = 130;
const FEW: u64 = 40;

/// A backup with known content: checkpoints with evidence through the store;
/// work items and keys, in SQL, where no clock has to move.
fn known(directory: &Path) -> std::path::PathBuf {
    let store = fresh();
    for (task, count) in [("many", MANY), ("few", FEW)] {
        store.create_task(new_task(task)).unwrap();
        for _ in 0..count {
            let result = EvidenceResult {
                item: 0,
                kind: "artifact_exists".into(),
                outcome: EvidenceOutcome::Passed,
                reason: None,
                checked_at: store.now(),
            };
            let checkpoint = AppendCheckpoint {
                evidence: Some("{}".into()),
                verification: Verification::Verified,
                results: vec![result],
                ..append(task, "state")
            };
            store.commit(checkpoint.into()).unwrap();
        }
    }
    let target = directory.join("agent.db");
    store.backup(&target).unwrap();
    let connection = Connection::open(&target).unwrap();
    connection
        .execute_batch(
            "PRAGMA foreign_keys = OFF;
             CREATE TEMP TABLE moments AS SELECT
                 strftime('%Y-%m-%d %H:%M:%S.000000', 'now') AS now,
                 strftime('%Y-%m-%d %H:%M:%S.000000', 'now', '-30 minutes') AS before,
                 strftime('%Y-%m-%d %H:%M:%S.000000', 'now', '+30 minutes') AS later,
                 strftime('%Y-%m-%d %H:%M:%S.000000', 'now', '-3 days') AS days,
                 strftime('%Y-%m-%d %H:%M:%S.000000', 'now', '-90 days') AS months;
             INSERT INTO work_items (task_id, work_type, status, max_attempts, available_at,
                 created_at, updated_at)
             SELECT 'many', 'test', 'pending', 3, now, now, now FROM moments,
                 (VALUES (1), (2), (3), (4));
             UPDATE work_items SET status = 'in_progress', lease_holder = 'w1',
                 lease_incarnation = 'i', lease_token = 1, lease_boot_id = 'b', lease_deadline_us = 1,
                 lease_acquired_at = (SELECT before FROM moments),
                 lease_expires_at = (SELECT later FROM moments) WHERE work_item_id <= 2;
             UPDATE work_items SET status = 'in_progress', lease_holder = 'w2',
                 lease_incarnation = 'i', lease_token = 1, lease_boot_id = 'b', lease_deadline_us = 1,
                 lease_acquired_at = (SELECT days FROM moments),
                 lease_expires_at = (SELECT before FROM moments) WHERE work_item_id = 3;
             INSERT INTO idempotency_keys (idempotency_key, status, request_digest, created_at,
                 updated_at, used_at, token, owner, owner_incarnation, lease_expires_at,
                 lease_boot_id, lease_deadline_us)
             SELECT key, 'pending', zeroblob(32), at, at, at, 1, 'w', 'i', at, 'b', 0
             FROM moments, (
                 SELECT 'llm-cache:1' AS key, (SELECT now FROM moments) AS at
                 UNION ALL SELECT 'llm-cache:2', (SELECT days FROM moments)
                 UNION ALL SELECT 'llm-cache:3', (SELECT days FROM moments)
                 UNION ALL SELECT 'tool-ledger:1', (SELECT months FROM moments));
             UPDATE idempotency_keys SET status = 'succeeded', owner = NULL, owner_incarnation = NULL,
                 lease_expires_at = NULL, lease_boot_id = NULL, lease_deadline_us = NULL,
                 outcome = x'', outcome_bytes = 0, seal = zeroblob(32)
             WHERE idempotency_key IN ('llm-cache:1', 'llm-cache:2');
             UPDATE idempotency_keys SET status = 'failed', owner = NULL, owner_incarnation = NULL,
                 lease_expires_at = NULL, lease_boot_id = NULL, lease_deadline_us = NULL,
                 outcome = x'', outcome_bytes = 0, seal = zeroblob(32)
             WHERE idempotency_key = 'llm-cache:3';",
        )
        .unwrap();
    connection.close().unwrap();
    target
}

/// The file's statements, by the number in the comment above them.
pub(crate) fn statement(number: usize) -> String {
    let heading = format!("-- {number}. ");
    let (_, rest) = STATEMENTS.split_once(&heading).expect("a statement");
    let (_, rest) = rest.split_once('\n').expect("its text");
    let end = rest.find("\n-- ").unwrap_or(rest.len());
    rest[..end].trim().to_string()
}

pub(crate) fn rows(connection: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|index| row.get(index)).collect());
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

#[test]
fn the_operators_statements_give_true_answers() {
    use Value::{Integer, Real};
    let directory = tempfile::tempdir().unwrap();
    let path = known(directory.path());
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA foreign_keys = OFF")
        .unwrap();
    let ask = |number| rows(&connection, &statement(number));
    // Midnight may have passed while the file was made.
    let per_day: i64 = ask(1)
        .iter()
        .map(|row| {
            if let Integer(count) = row[1] {
                count
            } else {
                0
            }
        })
        .sum();
    assert_eq!(per_day, (MANY + FEW) as i64);
    let average = ((1..=MANY).sum::<u64>() + (1..=FEW).sum::<u64>()) as f64 / 170.0;
    assert_eq!(
        ask(2),
        [[text("iteration_end"), Integer(170), Real(average)]]
    );
    assert_eq!(ask(3), [[Integer(1)]]);
    let held = ask(4);
    assert_eq!(held.len(), 2);
    for (row, (holder, count, minutes)) in held.iter().zip([("w1", 2, 60.0), ("w2", 1, 4290.0)]) {
        assert_eq!(row[..2], [text(holder), Integer(count)]);
        let Real(found) = row[2] else {
            panic!("{row:?}")
        };
        assert!((found - minutes).abs() < 0.1, "{row:?}");
    }
    assert_eq!(ask(5), [[Integer(3), Integer(2), Integer(1)]]);
    let mut ages = ask(6);
    ages.sort_by_key(|row| format!("{row:?}"));
    assert_eq!(
        ages,
        [
            [text("1-7 days"), Integer(2)],
            [text("< 1 day"), Integer(1)],
            [text("> 30 days"), Integer(1)],
        ]
    );
    assert_eq!(ask(7), [[text("many"), Integer(MANY as i64)]]);
    let plan = format!("{:?}", ask(8));
    assert!(
        plan.contains("SEARCH work_items USING") && !plan.contains("SCAN"),
        "{plan}"
    );
    connection.execute_batch(&statement(9)).unwrap();
}

/// Goal: the manual clean-up deletes what it says and leaves a sound file.
/// Method: run it with foreign keys off; ask SQLite's checks, look for orphans,
/// then append through the store: the numbers go on and the seals hold.
#[test]
fn the_manual_clean_up_leaves_a_sound_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = known(directory.path());
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA foreign_keys = OFF")
        .unwrap();
    assert_eq!(connection.execute(&statement(10), []).unwrap(), 30);
    connection.close().unwrap();
    left_sound(&path);
}

fn left_sound(path: &Path) {
    let connection = Connection::open(path).unwrap();
    assert_eq!(rows(&connection, "PRAGMA integrity_check"), [[text("ok")]]);
    assert!(rows(&connection, "PRAGMA foreign_key_check").is_empty());
    let orphans = "SELECT COUNT(*) FROM evidence_results
                   WHERE checkpoint_id NOT IN (SELECT checkpoint_id FROM checkpoints)";
    assert_eq!(rows(&connection, orphans), [[Value::Integer(0)]]);
    let results = "SELECT COUNT(*) FROM evidence_results";
    assert_eq!(rows(&connection, results), [[Value::Integer(140)]]);
    connection.close().unwrap();
    let store = at(path);
    assert_eq!(numbers(&store, "many"), (31..=130).collect::<Vec<u64>>());
    assert_eq!(numbers(&store, "few"), (1..=40).collect::<Vec<u64>>());
    let receipt = store.commit(append("many", "on").into()).unwrap();
    assert_eq!(receipt.appended().next().unwrap().sequence.get(), MANY + 1);
    for task in ["many", "few"] {
        use agentos_core::{CheckpointStorage, FoundCheckpoint};
        let found = store.newest_checkpoint(&task_id(task), None).unwrap();
        assert!(matches!(found, Some(FoundCheckpoint::Sound(_))), "{task}");
    }
}

/// A clean-up that takes everything: the numbers still go on.
#[test]
fn numbers_are_never_used_again_after_a_clean_up() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    for _ in 0..5 {
        store.commit(append("a", "state").into()).unwrap();
    }
    let (_directory, path) = store.shut();
    let connection = Connection::open(&path).unwrap();
    assert_eq!(
        connection.execute("DELETE FROM checkpoints", []).unwrap(),
        5
    );
    connection.close().unwrap();
    let store = at(&path);
    store.commit(append("a", "state").into()).unwrap();
    assert_eq!(numbers(&store, "a"), [6]);
    let page = agentos_core::TaskStorage::tasks(&store, TaskStatus::Created, None, 10).unwrap();
    assert_eq!(page.items.len(), 1);
}

/// The whole file through the shell that operators have, where there is one.
#[test]
fn a_sqlite3_shell_runs_the_whole_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = known(directory.path());
    let script = format!("PRAGMA foreign_keys = OFF;\n{STATEMENTS}");
    let shell = CommandSpec::new("sqlite3")
        .arg("-bail")
        .arg("-batch")
        .arg(&path)
        .stdin_bytes(script);
    let finished = match run(&shell) {
        Ok(finished) => finished,
        Err(error) => {
            // CI installs one, and says that it must be there.
            let needed = std::env::var_os("AGENTOS_NEEDS_SQLITE3").is_some();
            assert!(!needed, "no sqlite3 shell: {error}");
            println!("no sqlite3 shell here: {error}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&finished.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&finished.stderr).into_owned();
    assert!(finished.success() && complaints.is_empty(), "{complaints}");
    let lines: Vec<&str> = said.lines().collect();
    for line in [
        "iteration_end|170|",
        "3|2|1",
        "many|130",
        "1-7 days|2",
        "w1|2|",
    ] {
        assert!(
            lines.iter().any(|said| said.starts_with(line)),
            "{line}: {said}"
        );
    }
    assert!(said.contains("SEARCH work_items USING"), "{said}");
    left_sound(&path);
    assert!(fs::metadata(&path).unwrap().len() > 0);
}

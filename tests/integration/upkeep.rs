//! Upkeep on a file with something of everything: what goes, what stays, a
//! death at every point of a pass, and the thread that does it again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use agentos_checkpoints::{CheckpointConfig, CheckpointManager, Resume, prune};
use agentos_core::limits::PRUNE_BYTES_PER_BATCH;
use agentos_core::{
    AppendCheckpoint, BoundedTable, CheckpointRule, CheckpointStorage, CheckpointType, Commit,
    KeptFor, RecordVerification, Retention, RowRule, SequenceNumber, SetTaskStatus, Storage,
    StorageError, TaskStatus, TaskStorage, Verification,
};
use agentos_recovery::{
    Mode, Removed, Step, Upkeep, UpkeepConfig, UpkeepReport, prune_rows, run_upkeep,
    run_upkeep_with,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{
    KEPT, Victim, append, at, config, copy_database, fresh, look, manual_clock, new_task, task_id,
    upkeep_config, violations, wait_until, worn_file,
};
use rusqlite::Connection;

use crate::VICTIM;

fn worn() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    worn_file(&path);
    (directory, path)
}

fn pass(path: &Path, mode: Mode) -> UpkeepReport {
    let report = run_upkeep_with(&at(path), &upkeep_config(), mode).unwrap();
    assert!(report.is_complete(), "{report:?}");
    report
}

/// The figures by which a dry run and a real one are compared.
fn figures(report: &UpkeepReport) -> (Removed, BTreeMap<BoundedTable, Removed>) {
    let mut rows = report.rows.clone();
    rows.retain(|_, removed| removed.rows > 0);
    (report.checkpoints, rows)
}

#[test]
fn a_pass_takes_every_table_to_its_bound_and_leaves_what_must_stay() {
    let (_directory, path) = worn();
    let before = look(&path);
    let would = pass(&path, Mode::DryRun);
    assert_eq!(look(&path), before, "a dry run changes nothing");
    let did = pass(&path, Mode::Apply);
    assert_eq!(figures(&would), figures(&did));
    let after = look(&path);
    assert_eq!(violations(&before, &after, KEPT as usize), [""; 0]);
    assert_eq!(after.numbers["long"], [7, 20, 36, 37, 38, 39, 40]);
    assert_eq!(after.numbers["leased"], [4, 26, 27, 28, 29, 30]);
    assert_eq!(after.numbers.get("old"), None, "its time is over");
    assert_eq!(after.numbers["new"], [1, 2, 3]);
    for (table, rows) in [
        ("tasks", 3),
        ("task_audits", 10),
        ("checkpoint_counters", 3),
        ("work_items", 1 + 3 + 4 + 6),
        ("work_attempts", 2 * (1 + 3 + 4 + 6)),
        ("idempotency_keys", 2 + 4),
    ] {
        assert_eq!(after.rows[table], rows, "{table}");
    }
    assert!(0 < did.reclaimed_bytes);
    assert_eq!(after.free_pages, 0);
    // Nothing is left to do.
    let again = pass(&path, Mode::Apply);
    assert_eq!(figures(&again), Default::default());
    assert_eq!(look(&path), after);
}

/// The points of a pass, each as often as it is passed.
fn points(path: &Path) -> BTreeMap<String, usize> {
    let lines = Victim::start(VICTIM, "points", ["upkeep", path.to_str().unwrap()]).finish();
    let mut points = BTreeMap::new();
    for line in lines {
        if let Some(point) = line.strip_prefix("point ") {
            *points.entry(point.to_string()).or_default() += 1;
        }
    }
    points
}

/// Goal: a death at any point of a pass loses nothing that must stay, and the
/// next pass brings the file to where an undisturbed one would have brought it.
/// Method: a dry run counts every hit of every point; a process dies at each in
/// turn, by SIGKILL, on a copy of the file.
#[test]
fn a_pass_that_is_killed_anywhere_is_finished_by_the_next() {
    let (_directory, path) = worn();
    let before = look(&path);
    let elsewhere = tempfile::tempdir().unwrap();
    let undisturbed = copy_database(&path, elsewhere.path());
    let points = points(&undisturbed);
    let expected = look(&undisturbed);
    for point in [
        "log.before_cut",
        "log.cut",
        "prune.between_batches",
        "prune.checkpoints_deleted",
        "prune.rows_deleted",
        "store.after_commit",
        "store.before_commit",
        "upkeep.before_log_moved",
        "upkeep.before_optimized",
        "upkeep.before_reclaimed",
        "upkeep.between_batches",
        "upkeep.log_cut",
        "upkeep.log_moved",
        "upkeep.optimized",
        "upkeep.reclaimed",
    ] {
        assert!(
            points.contains_key(point),
            "{point} is not passed: {points:?}"
        );
    }
    let (mut deaths, mut survived) = (0, 0);
    for (point, hits) in &points {
        for hit in 1..=*hits {
            let elsewhere = tempfile::tempdir().unwrap();
            let copy = copy_database(&path, elsewhere.path());
            let (hit_text, database) = (hit.to_string(), copy.to_str().unwrap());
            let arguments = [point.as_str(), &hit_text, "upkeep", database];
            let (_, died) = Victim::start(VICTIM, "kill-at", arguments).dies_or_finishes();
            // A batch ends by time as well, so two passes may differ by a few.
            if died {
                deaths += 1
            } else {
                survived += 1
            }
            let left = look(&copy);
            let found = violations(&before, &left, KEPT as usize);
            assert_eq!(found, [""; 0], "after a death at {point}, hit {hit}");
            pass(&copy, Mode::Apply);
            let end = look(&copy);
            assert_eq!(end, expected, "after a death at {point}, hit {hit}");
        }
    }
    println!("{deaths} deaths, {survived} points were not reached: {points:?}");
    assert!(40 <= deaths, "{deaths}");
    assert!(survived * 10 <= deaths, "{survived} of {deaths}");
}

/// Products that are broken on purpose, each in one way: the unchanged oracle
/// must notice.
#[test]
fn broken_upkeep_is_caught() {
    type Product = fn(&Connection);
    let keeps_the_newest: Product = |connection| {
        run(
            connection,
            "DELETE FROM checkpoints WHERE task_id IN ('long', 'leased')
             AND sequence_number <= CASE task_id WHEN 'long' THEN 35 ELSE 25 END
             AND sequence_number <> CASE task_id WHEN 'long' THEN 0 ELSE 4 END",
        );
    };
    let ignores_leases: Product = |connection| {
        run(
            connection,
            "DELETE FROM checkpoints WHERE task_id = 'leased' AND sequence_number <= 25",
        );
    };
    let forgets_doubt: Product = |connection| {
        run(
            connection,
            "DELETE FROM idempotency_keys WHERE updated_at < strftime('%Y-%m-%d', 'now', '+1 day')",
        );
    };
    let newest_first: Product = |connection| {
        run(
            connection,
            "DELETE FROM checkpoints WHERE task_id = 'old' AND sequence_number > 3",
        );
    };
    let begins_anew: Product = |connection| {
        run(
            connection,
            "DELETE FROM checkpoint_counters WHERE task_id = 'leased'",
        );
    };
    let removes_the_newest: Product = |connection| {
        run(
            connection,
            "DELETE FROM checkpoints WHERE task_id = 'leased' AND sequence_number = 30",
        );
    };
    for (product, complaint) in [
        (keeps_the_newest, "long: resumable is None, was Some(7)"),
        (ignores_leases, "leased: 4, which is worked from, is gone"),
        (forgets_doubt, "key 3 is gone"),
        (newest_first, "old: [1, 2, 3] of"),
        (begins_anew, "leased: its numbers begin anew"),
        (removes_the_newest, "leased: [30] of the newest are gone"),
    ] {
        let (_directory, path) = worn();
        let before = look(&path);
        let connection = Connection::open(&path).unwrap();
        product(&connection);
        connection.close().unwrap();
        let after = look(&path);
        let found = violations(&before, &after, KEPT as usize);
        assert!(
            found.iter().any(|violation| violation.contains(complaint)),
            "{complaint:?} was not noticed: {found:?}"
        );
    }
}

fn run(connection: &Connection, sql: &str) {
    connection
        .execute_batch("PRAGMA foreign_keys = OFF")
        .and_then(|()| connection.execute_batch(sql))
        .unwrap();
}

/// The canary of the comparison of a dry run with a real one.
#[test]
fn a_dry_run_that_counts_otherwise_is_caught() {
    let (_directory, path) = worn();
    let would = pass(&path, Mode::DryRun);
    let other = UpkeepConfig {
        retention: Retention {
            checkpoints: CheckpointRule::keep_last(KEPT + 1),
            ..upkeep_config().retention
        },
        ..upkeep_config()
    };
    let did = run_upkeep_with(&at(&path), &other, Mode::Apply).unwrap();
    assert_ne!(figures(&would), figures(&did));
}

#[test]
fn a_plan_says_what_stays_and_why() {
    let (directory, path) = worn();
    let store: Arc<dyn Storage> = Arc::new(at(&path));
    let manager =
        CheckpointManager::new(Arc::clone(&store), CheckpointConfig::new(directory.path()))
            .unwrap();
    let plan = |task: &str, keep| {
        let rule = CheckpointRule::keep_last(keep);
        manager.plan_pruning(&task_id(task), &rule).unwrap()
    };
    let number = |number| SequenceNumber::new(number).unwrap();
    let long = plan("long", 1);
    assert_eq!(
        long.kept_for,
        [(number(7), KeptFor::Resume), (number(20), KeptFor::Salvage)]
    );
    assert_eq!((long.removed, long.kept), (37, 3));
    // Above what can be resumed from: a whole one that failed, and a boundary.
    let boundary = AppendCheckpoint::new(task_id("long"), CheckpointType::ErrorBoundary);
    store.commit(boundary.into()).unwrap();
    let long = plan("long", 1);
    assert_eq!(
        long.kept_for,
        [
            (number(7), KeptFor::Resume),
            (number(20), KeptFor::Salvage),
            (number(40), KeptFor::LastWhole)
        ]
    );
    let leased = plan("leased", 5);
    assert_eq!(leased.kept_for, [(number(4), KeptFor::Lease)]);
    assert_eq!((leased.removed, leased.bytes), (24, 24 * 6000));
    let did = manager
        .prune(&task_id("leased"), &CheckpointRule::keep_last(5))
        .unwrap();
    assert_eq!((did.removed, did.bytes), (leased.removed, leased.bytes));
    assert_eq!(plan("leased", 5).removed, 0);
    assert_eq!(plan("new", 5).kept, 3);
    assert!(
        manager
            .prune(&task_id("long"), &CheckpointRule::keep_last(0))
            .is_err()
    );
    let Resume::From(resumed) = manager.resume(&task_id("long")).unwrap() else {
        panic!("nothing holds")
    };
    assert_eq!(resumed.checkpoint.summary.sequence.get(), 40);
}

/// Goal: age counts from the store's clock. Method: the clock is moved.
#[test]
fn what_is_old_goes_and_what_is_young_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    let clock = manual_clock();
    let store = SqliteStore::open(config(&path).clock(clock.clone())).unwrap();
    store.create_task(new_task("a")).unwrap();
    for _ in 0..10 {
        store.commit(append("a", "state").into()).unwrap();
        clock.advance(Duration::from_secs(3600));
    }
    let age = Some(Duration::from_secs(5 * 3600));
    let retention = Retention {
        checkpoints: CheckpointRule {
            max_age: age,
            ..CheckpointRule::keep_all()
        },
        audits: RowRule {
            max_age: age,
            max_rows: None,
            ..RowRule::keep_all()
        },
        ..Retention::keep_all()
    };
    let would = run_upkeep(&store, &retention, Mode::DryRun).unwrap();
    let did = run_upkeep(&store, &retention, Mode::Apply).unwrap();
    assert_eq!(figures(&would), figures(&did));
    assert_eq!(agentos_tests::numbers(&store, "a"), [6, 7, 8, 9, 10]);
    assert_eq!(did.rows[&BoundedTable::AuditLines].rows, 1);
    assert!(
        store
            .audits(&task_id("a"), None, 9)
            .unwrap()
            .items
            .is_empty()
    );
    // The newest stays, however old it is.
    clock.advance(Duration::from_secs(86_400));
    run_upkeep(&store, &retention, Mode::Apply).unwrap();
    assert_eq!(agentos_tests::numbers(&store, "a"), [10]);
}

/// Goal: a row that no list can show keeps no other from going. Method: two
/// such rows, one that the rule would keep and one that it would not.
#[test]
fn a_damaged_row_does_not_stop_pruning() {
    let (_directory, path) = worn();
    let connection = Connection::open(&path).unwrap();
    run(
        &connection,
        "PRAGMA ignore_check_constraints = ON;
         UPDATE checkpoints SET verification = 'verifiee' WHERE task_id = 'long'
         AND sequence_number IN (12, 38)",
    );
    connection.close().unwrap();
    assert_eq!(
        figures(&pass(&path, Mode::DryRun)),
        figures(&pass(&path, Mode::Apply))
    );
    let left: String = Connection::open(&path)
        .unwrap()
        .query_row(
            "SELECT group_concat(sequence_number) FROM (SELECT sequence_number FROM checkpoints
             WHERE task_id = 'long' ORDER BY sequence_number)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(left, "7,20,36,37,38,39,40");
}

/// Goal: a pass ends, whatever a batch may hold. Method: one row a batch; and a
/// finished task whose metadata alone are as many bytes as a batch may have.
#[test]
fn a_pass_of_the_smallest_batches_ends() {
    for (rows_per_batch, metadata) in [(1, 2), (8, PRUNE_BYTES_PER_BATCH.cast_signed())] {
        let (_directory, path) = worn();
        let connection = Connection::open(&path).unwrap();
        let sql = "UPDATE tasks SET metadata = '\"' || replace(hex(zeroblob(?1 / 2 - 1)), '0', 'x') || '\"'
                   WHERE task_id = 'old' RETURNING length(metadata)";
        let bytes: i64 = connection
            .query_row(sql, [metadata], |row| row.get(0))
            .unwrap();
        assert_eq!(bytes, metadata);
        connection.close().unwrap();
        let before = look(&path);
        let config = UpkeepConfig {
            rows_per_batch,
            pause: Duration::ZERO,
            ..upkeep_config()
        };
        let upkeep = Upkeep::start(Arc::new(at(&path)), config).unwrap();
        wait_until("the pass has ended", || upkeep.stats().passes == 1);
        let stats = upkeep.stop();
        assert_eq!((stats.complete, stats.failed), (1, 0), "{stats:?}");
        let after = look(&path);
        assert_eq!(violations(&before, &after, KEPT as usize), [""; 0]);
        assert_eq!(after.numbers.get("old"), None);
        assert_eq!(after.rows["tasks"], 3);
    }
}

/// Goal: what another process found to hold again between two batches is the
/// newest to resume from, and stays. Method: a plan that knew it as failed.
#[test]
fn what_holds_again_between_two_batches_stays() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    for _ in 0..40 {
        store.commit(append("a", "state").into()).unwrap();
    }
    let record = |sequence, verification| {
        let record = RecordVerification {
            task: task_id("a"),
            sequence: SequenceNumber::new(sequence).unwrap(),
            verification,
            results: Vec::new(),
        };
        store.commit(record.into()).unwrap();
    };
    for sequence in 8..=40 {
        record(sequence, Verification::Failed);
    }
    let rule = CheckpointRule::keep_last(5);
    let mut between = 0;
    prune(&*store, &task_id("a"), &rule, 4, &mut |_| {
        between += 1;
        if between == 1 {
            record(20, Verification::Verified);
        }
        true
    })
    .unwrap();
    assert!(1 < between);
    assert_eq!(store.numbers("a"), [7, 20, 36, 37, 38, 39, 40]);
    // From now on it is the one that is protected.
    prune(&*store, &task_id("a"), &rule, 4, &mut |_| true).unwrap();
    assert_eq!(store.numbers("a"), [20, 36, 37, 38, 39, 40]);
}

/// Goal: a row whose moment cannot be read stays, is reported once a pass, and
/// keeps no other from going. Method: the oldest and one in the middle, in a
/// table by its moments and in one by its numbers; and one that stands exactly
/// where the rule of numbers ends. Batches of one row, too.
#[test]
fn a_moment_that_cannot_be_read_does_not_stop_pruning() {
    for rows_per_batch in [1, 8] {
        let (_directory, path) = worn();
        let connection = Connection::open(&path).unwrap();
        let month = "strftime('%Y', 'now') || '-00-01 00:00:00.000000'";
        run(
            &connection,
            &format!(
                "UPDATE work_items SET updated_at = {month} WHERE work_item_id = 2;
                 UPDATE work_items SET updated_at = substr(updated_at, 1, 25) || 'x'
                 WHERE work_item_id IN (9, 11);
                 UPDATE tasks SET updated_at = {month} WHERE task_id = 'old';
                 UPDATE task_audits SET created_at = {month} WHERE audit_id IN (1, 5)"
            ),
        );
        connection.close().unwrap();
        let before = look(&path);
        let store = at(&path);
        let mut config = UpkeepConfig {
            rows_per_batch,
            ..upkeep_config()
        };
        config.retention.audits.max_age = Some(Duration::from_secs(86_400));
        for pass in 1..=2 {
            let report = run_upkeep_with(&store, &config, Mode::Apply).unwrap();
            let steps: Vec<_> = report.failures.iter().map(|failure| failure.step).collect();
            assert_eq!(
                steps,
                [
                    Step::Rows(BoundedTable::FinishedTasks),
                    Step::Rows(BoundedTable::FinishedWorkItems)
                ],
                "{report:?}"
            );
            let said = report.failures[1].error.to_string();
            assert!(said.contains("2 rows"), "pass {pass}: {said}");
        }
        drop(store);
        let after = look(&path);
        assert_eq!(violations(&before, &after, KEPT as usize), [""; 0]);
        let left = texts(
            &path,
            "SELECT group_concat(work_item_id) FROM
             (SELECT work_item_id FROM work_items WHERE status = 'succeeded' ORDER BY 1)",
        );
        assert_eq!(left, ["2,9,11,13,14"]);
        assert_eq!(after.rows["task_audits"], 10);
        assert!(after.numbers.contains_key("old"));
    }
}

/// Goal: a task of which nothing but its id can be read, and one of which not
/// even that can be, keep no checkpoint of the others from going.
#[test]
fn a_task_that_cannot_be_read_does_not_stop_pruning() {
    let (_directory, path) = worn();
    let connection = Connection::open(&path).unwrap();
    run(
        &connection,
        "PRAGMA ignore_check_constraints = ON;
         UPDATE tasks SET metadata = '{', created_at = 'never' WHERE task_id = 'long';
         INSERT INTO tasks (task_key, task_id, task_type, status, created_at, updated_at)
         VALUES (0x100, '', 'test', 'created', '', '')",
    );
    connection.close().unwrap();
    let store = at(&path);
    store.create_task(new_task("last")).unwrap();
    for _ in 0..9 {
        store.commit(append("last", "state").into()).unwrap();
    }
    let report = run_upkeep_with(&store, &upkeep_config(), Mode::Apply).unwrap();
    let [failure] = &report.failures[..] else {
        panic!("{report:?}")
    };
    assert_eq!((failure.step, &failure.task), (Step::Checkpoints, &None));
    for (task, left) in [
        ("long", &[7, 20, 36, 37, 38, 39, 40][..]),
        ("last", &[5, 6, 7, 8, 9]),
    ] {
        assert_eq!(agentos_tests::numbers(&store, task), left, "{task}");
    }
}

/// Goal: what is pending is never removed, whatever a damaged index says of it.
/// Method: two indexes keep what their tables have no more, which a quick check
/// does not see.
#[test]
fn a_damaged_index_leads_to_no_loss() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    drop(at(&path));
    let connection = Connection::open(&path).unwrap();
    run(
        &connection,
        "INSERT INTO idempotency_keys (idempotency_key, status, request_digest, created_at,
             updated_at, used_at, token, owner, owner_incarnation, lease_expires_at,
             lease_boot_id, lease_deadline_us)
         SELECT 'tool-ledger:x', 'pending', zeroblob(32), at, at, at, 1, 'w', 'i', at, 'b', 0
         FROM (SELECT '2026-01-01 00:00:00.000000' AS at);
         UPDATE idempotency_keys SET status = 'succeeded', owner = NULL,
             owner_incarnation = NULL, lease_expires_at = NULL, lease_boot_id = NULL,
             lease_deadline_us = NULL, outcome = x'', outcome_bytes = 0, seal = zeroblob(32),
             expires_at = '2026-01-02 00:00:00.000000';
         INSERT INTO work_items (work_type, status, max_attempts, available_at, created_at,
             updated_at)
         SELECT 't', 'pending', 3, created_at, created_at, created_at FROM idempotency_keys;
         UPDATE work_items SET status = 'in_progress', lease_holder = 'w',
             lease_incarnation = 'i', lease_token = 1, lease_boot_id = 'b',
             lease_deadline_us = 1,
             lease_acquired_at = created_at, lease_expires_at = created_at;
         UPDATE work_items SET status = 'failed', lease_holder = NULL, lease_incarnation = NULL,
             lease_boot_id = NULL, lease_deadline_us = NULL, lease_acquired_at = NULL,
             lease_expires_at = NULL;",
    );
    for (index, table, to_pending) in [
        (
            "idx_idempotency_keys_expires",
            "idempotency_keys",
            "UPDATE idempotency_keys SET status = 'pending', token = 2, owner = 'w',
                owner_incarnation = 'i', lease_expires_at = created_at, lease_boot_id = 'b',
                lease_deadline_us = 1, outcome = NULL, outcome_bytes = NULL, seal = NULL,
                expires_at = NULL",
        ),
        (
            "idx_work_items_dead",
            "work_items",
            "UPDATE work_items SET status = 'pending'",
        ),
    ] {
        let (sql, root): (String, i64) = connection
            .query_row(
                "SELECT sql, rootpage FROM sqlite_schema WHERE name = ?1",
                [index],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .unwrap();
        run(
            &connection,
            &format!(
                "PRAGMA writable_schema = ON;
                 DELETE FROM sqlite_schema WHERE name = '{index}';
                 PRAGMA writable_schema = RESET;
                 {to_pending};
                 PRAGMA writable_schema = ON;
                 INSERT INTO sqlite_schema VALUES ('index', '{index}', '{table}', {root}, '{sql}');
                 PRAGMA writable_schema = RESET",
                sql = sql.replace('\'', "''")
            ),
        );
    }
    connection.close().unwrap();
    let before = texts(&path, "SELECT status FROM work_items NOT INDEXED");
    assert_eq!(before, ["pending"]);
    let store = at(&path);
    let retention = Retention {
        dead_letters: RowRule {
            max_rows: Some(0),
            ..RowRule::keep_all()
        },
        ..Retention::keep_all()
    };
    let report = run_upkeep(&store, &retention, Mode::Apply).unwrap();
    let steps: Vec<_> = report.failures.iter().map(|failure| failure.step).collect();
    assert_eq!(
        steps,
        [
            Step::Rows(BoundedTable::DeadLetters),
            Step::Rows(BoundedTable::LedgerEntries)
        ]
    );
    for failure in &report.failures {
        assert!(matches!(failure.error, StorageError::Corrupt { .. }));
    }
    // The store goes on.
    store.create_task(new_task("a")).unwrap();
    drop(store);
    for table in ["idempotency_keys", "work_items"] {
        let sql = format!("SELECT status FROM {table} NOT INDEXED");
        assert_eq!(texts(&path, &sql), ["pending"], "{table}");
    }
}

fn texts(path: &Path, sql: &str) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// The thread: a pass at once, another when asked, and an end after the batch
/// under way, while others write.
#[test]
fn upkeep_goes_on_until_it_is_stopped() {
    let (_directory, path) = worn();
    let store = Arc::new(at(&path));
    let config = UpkeepConfig {
        pause: Duration::ZERO,
        ..upkeep_config()
    };
    let upkeep = Upkeep::start(Arc::clone(&store) as Arc<dyn Storage>, config).unwrap();
    wait_until("the first pass has ended", || upkeep.stats().passes == 1);
    for _ in 0..20 {
        store.commit(append("leased", "state").into()).unwrap();
    }
    upkeep.run_now();
    wait_until("a second pass has ended", || upkeep.stats().passes >= 2);
    let stats = upkeep.stop();
    assert_eq!((stats.failed, stats.last_error), (0, None));
    assert_eq!(stats.complete, stats.passes);
    assert_eq!(
        agentos_tests::numbers(store.as_ref(), "leased"),
        [4, 46, 47, 48, 49, 50]
    );
    assert!(Duration::ZERO < stats.longest_batch);
    assert!(0 < stats.rows[&BoundedTable::DeadLetters].rows);
}

/// Goal: an owner that closes the store, or drops upkeep in the middle of a
/// pass, waits for one batch and no longer.
#[test]
fn upkeep_ends_in_the_middle_of_a_pass() {
    let (_directory, path) = worn();
    let before = look(&path);
    let store = Arc::new(at(&path));
    let slow = UpkeepConfig {
        pause: Duration::from_secs(1),
        rows_per_batch: 1,
        ..upkeep_config()
    };
    let upkeep = Upkeep::start(Arc::clone(&store) as Arc<dyn Storage>, slow.clone()).unwrap();
    wait_until("a batch was committed", || store.counters().commits > 0);
    let stats = upkeep.stop();
    assert_eq!((stats.passes, stats.complete), (1, 0));
    let upkeep = Upkeep::start(Arc::clone(&store) as Arc<dyn Storage>, slow).unwrap();
    store.close();
    wait_until("it noticed", || upkeep.stats().passes == 1);
    drop(upkeep);
    drop(store);
    assert_eq!(violations(&before, &look(&path), KEPT as usize), [""; 0]);
}

/// An error ends no thread: the next pass tries again.
#[test]
fn a_busy_store_is_tried_again() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    for _ in 0..20 {
        store.commit(append("a", "state").into()).unwrap();
    }
    let impatient = agentos_store::sqlite::Config::at(store.path());
    let other = SqliteStore::open(impatient.busy_timeout(Duration::from_millis(20))).unwrap();
    let lock = crate::group_commit::hold_write_lock(store.directory());
    let config = UpkeepConfig {
        interval: Duration::from_millis(20),
        ..upkeep_config()
    };
    let upkeep = Upkeep::start(Arc::new(other), config).unwrap();
    wait_until("it was refused", || upkeep.stats().failed > 0);
    assert!(upkeep.stats().last_error.is_some());
    drop(lock);
    wait_until("it was done", || upkeep.stats().complete > 0);
    upkeep.stop();
    assert_eq!(store.numbers("a"), [16, 17, 18, 19, 20]);
}

/// Goal: a plan that was right when it was made never removes the last that can
/// be resumed from. Method: two good ones and a boundary are appended, so that
/// plans protect the second and remove the first; then, in one commit, the
/// second is said to have failed if the first is still there. Two threads prune
/// as hard as they can meanwhile, a third looks.
#[test]
fn there_is_always_something_to_resume_from_while_others_prune() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    store.commit(append("a", "state").into()).unwrap();
    let done = AtomicBool::new(false);
    let looked = AtomicU64::new(0);
    let (mut taken_back, mut too_late) = (0, 0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let rule = CheckpointRule::keep_last(1);
                while !done.load(Ordering::SeqCst) {
                    prune(&*store, &task_id("a"), &rule, 3, &mut |_| true).unwrap();
                }
            });
        }
        scope.spawn(|| {
            let _end = EndOf(&done);
            while !done.load(Ordering::SeqCst) {
                let resumable = resumable(&store);
                assert!(resumable.is_some(), "nothing is left to resume from");
                looked.fetch_add(1, Ordering::SeqCst);
            }
        });
        let end = EndOf(&done);
        for _ in 0..300 {
            let boundary = AppendCheckpoint::new(task_id("a"), CheckpointType::ErrorBoundary);
            let three = Commit::new()
                .part(append("a", "first"))
                .part(append("a", "second"))
                .part(boundary);
            let receipt = store.commit(three).unwrap();
            let mut numbers = receipt.appended().map(|appended| appended.sequence);
            let mut record = |verification| RecordVerification {
                task: task_id("a"),
                sequence: numbers.next().unwrap(),
                verification,
                results: Vec::new(),
            };
            let back = Commit::new()
                .part(record(Verification::Verified))
                .part(record(Verification::Failed));
            match store.commit(back) {
                Ok(_) => taken_back += 1,
                Err(StorageError::NotFound { .. }) => too_late += 1,
                Err(error) => panic!("{error:?}"),
            }
            assert!(
                resumable(&store).is_some(),
                "nothing is left to resume from"
            );
        }
        wait_until("somebody looked", || looked.load(Ordering::SeqCst) > 10);
        drop(end);
    });
    println!("{taken_back} were taken back, {too_late} too late");
    assert!(0 < taken_back);
}

/// Ends the others when a thread ends, also by a panic.
struct EndOf<'d>(&'d AtomicBool);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The newest that can be resumed from by what was recorded.
fn resumable(store: &SqliteStore) -> Option<SequenceNumber> {
    let newest_first = store.checkpoints(&task_id("a"), None, 1000).unwrap();
    newest_first
        .iter()
        .find(|summary| summary.snapshot.is_some() && summary.verification != Verification::Failed)
        .map(|summary| summary.sequence)
}

/// A task that is finished, and of which an open work item still speaks, stays
/// whatever its age.
#[test]
fn a_task_with_open_work_stays() {
    let store = fresh();
    for task in ["open", "done"] {
        store.create_task(new_task(task)).unwrap();
        let cancelled = SetTaskStatus::new(task_id(task), TaskStatus::Cancelled);
        store.commit(cancelled.into()).unwrap();
    }
    let connection = Connection::open(store.path()).unwrap();
    let item = "INSERT INTO work_items (task_id, work_type, status, max_attempts, available_at,
                    created_at, updated_at)
                SELECT task_id, 't', 'pending', 1, created_at, created_at, created_at
                FROM tasks WHERE task_id = 'open'";
    connection.execute(item, []).unwrap();
    let rule = RowRule {
        max_age: None,
        max_rows: Some(0),
        ..RowRule::keep_all()
    };
    let report = prune_rows(&*store, BoundedTable::FinishedTasks, &rule, Mode::Apply).unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(report.rows[&BoundedTable::FinishedTasks].rows, 1);
    assert!(store.task(&task_id("open")).unwrap().is_some());
    assert!(store.task(&task_id("done")).unwrap().is_none());
    assert_eq!(store.inspect().unwrap().rows["work_items"], 1);
}

//! Looking at a database: `inspect` says who holds what, and `dump` leaves
//! evidence of any file, sound or damaged, without payload bytes and without
//! touching what it looks at.

use std::fs;
use std::path::Path;

use agentos_core::{Commit, Storage, StorageError, TaskStatus};
use agentos_store::sqlite::{DumpOptions, DumpReport, SCHEMA_VERSION, dump, inspect};
use agentos_tests::{
    Victim, append, contents, fresh, names, new_task, numbers, settle, task_id, wait_for_waiter,
};
use rusqlite::Connection;
use serde_json::Value;

use crate::VICTIM;
use crate::group_commit::hold_write_lock;

const SECRET: &[u8] = b"a payload that nobody may find in evidence";

/// Goal: the holder of the write lock is named, not one who waits for it.
/// Method: the test holds the lock while a store of this process and another
/// process wait for it; both are asked about.
#[test]
fn inspect_names_the_holder_of_the_write_lock_and_not_the_waiters() {
    let store = fresh();
    assert_eq!(store.inspect().unwrap().locks.writer_pid, None);
    let own = i32::try_from(std::process::id()).unwrap();
    let lock = hold_write_lock(store.directory());
    assert_eq!(store.inspect().unwrap().locks.writer_pid, Some(own));
    let path = store.path().to_str().unwrap();
    let waiting = Victim::start(VICTIM, "create", [path, "a"]);
    wait_for_waiter(waiting.pid());
    assert_eq!(store.inspect().unwrap().locks.writer_pid, Some(own));
    assert_eq!(inspect(store.path()).unwrap().locks.writer_pid, Some(own));
    drop(lock);
    assert_eq!(waiting.finish(), ["created"]);
    assert_eq!(store.inspect().unwrap().locks.writer_pid, None);
}

#[test]
fn inspect_names_readers_counts_rows_and_sizes() {
    let store = fresh();
    for task in ["a", "b", "c"] {
        store
            .commit(
                Commit::new()
                    .part(new_task(task))
                    .part(append(task, "state")),
            )
            .unwrap();
    }
    let path = store.path().to_str().unwrap();
    let mut reader = Victim::start(VICTIM, "read", [path]);
    reader.expect("reading 3");
    let facts = inspect(store.path()).unwrap();
    let readers: Vec<i32> = facts
        .locks
        .readers
        .iter()
        .map(|reader| reader.pid)
        .collect();
    assert_eq!(readers, [reader.pid()]);
    for (table, rows) in [
        ("tasks", 3),
        ("checkpoints", 3),
        ("task_audits", 3),
        ("checkpoint_counters", 3),
        ("schema_migrations", SCHEMA_VERSION.into()),
        ("work_items", 0),
        ("idempotency_keys", 0),
        ("evidence_results", 0),
    ] {
        assert_eq!(facts.rows.get(table), Some(&rows), "{table}");
    }
    for file in &facts.files {
        assert_eq!(file.bytes, fs::metadata(&file.path).unwrap().len());
        assert_eq!(file.mode, "0600");
    }
    let log = format!("{path}-wal");
    assert_eq!(facts.wal_bytes, fs::metadata(log).unwrap().len());
    assert!(0 < facts.wal_bytes);
    reader.kill();
    let facts = inspect(store.path()).unwrap();
    assert!(facts.locks.readers.is_empty(), "{facts:?}");
}

/// Goal: who keeps the write-ahead log from beginning anew is the reader with
/// the oldest view, whichever began to read first or holds the lowest lock.
#[test]
fn inspect_names_the_reader_with_the_oldest_view() {
    let store = fresh();
    let path = store.path().to_str().unwrap();
    let mut readers = Vec::new();
    for (count, task) in (1..).zip(["a", "b", "c"]) {
        store.create_task(new_task(task)).unwrap();
        let mut reader = Victim::start(VICTIM, "read", [path]);
        reader.expect(&format!("reading {count}"));
        readers.push(reader);
    }
    while !readers.is_empty() {
        let mut facts = store.inspect().unwrap().locks;
        // This process reads now and then as well: its pool opens a connection.
        let own = i32::try_from(std::process::id()).unwrap();
        facts.readers.retain(|reader| reader.pid != own);
        let pids: Vec<i32> = facts.readers.iter().map(|reader| reader.pid).collect();
        let expected: Vec<i32> = readers.iter().map(Victim::pid).collect();
        assert_eq!(pids, expected, "{facts:?}");
        assert!(
            facts
                .readers
                .is_sorted_by(|one, next| one.frame < next.frame)
        );
        assert_eq!(
            facts.oldest_reader().map(|oldest| oldest.pid),
            Some(expected[0])
        );
        readers.remove(0).kill();
    }
}

/// A store with secrets in every payload column, of rows that were deleted too.
fn with_secrets() -> (tempfile::TempDir, std::path::PathBuf) {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    for number in 0..20_usize {
        let state = SECRET.repeat(1 + number * 10);
        store.commit(append("a", state).into()).unwrap();
    }
    let (directory, path) = store.shut();
    let connection = Connection::open(&path).unwrap();
    connection
        .execute(
            "INSERT INTO work_items (work_type, status, max_attempts, available_at, created_at,
                updated_at, payload)
             SELECT 'test', 'pending', 1, created_at, created_at, created_at, ?1 FROM tasks",
            [SECRET],
        )
        .unwrap();
    connection
        .execute(
            "INSERT INTO idempotency_keys (idempotency_key, status, request_digest, created_at,
                updated_at, used_at, token, owner, owner_incarnation, lease_expires_at,
                lease_boot_id, lease_deadline_us, request)
             SELECT 'tool-ledger:a', 'pending', zeroblob(32), created_at, created_at, created_at,
                1, 'w', 'i', created_at, 'b', 0, ?1 FROM tasks",
            [SECRET],
        )
        .unwrap();
    connection
        .execute(
            "UPDATE idempotency_keys SET status = 'succeeded', owner = NULL,
                owner_incarnation = NULL, lease_expires_at = NULL, lease_boot_id = NULL,
                lease_deadline_us = NULL, outcome = ?1, outcome_bytes = length(?1),
                seal = zeroblob(32)",
            [SECRET],
        )
        .unwrap();
    connection
        .execute("DELETE FROM checkpoints WHERE sequence_number < 10", [])
        .unwrap();
    connection.close().unwrap();
    settle(&path);
    (directory, path)
}

fn holds_secret(bytes: &[u8]) -> bool {
    let needle = &SECRET[..16];
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn files_with_secret(directory: &Path) -> Vec<String> {
    let mut found = names(directory);
    found.retain(|name| holds_secret(&fs::read(directory.join(name)).unwrap()));
    found
}

fn summary(report: &DumpReport) -> Value {
    serde_json::from_slice(&fs::read(&report.json).unwrap()).unwrap()
}

/// Goal: evidence can be shown to anybody. Method: secrets stand in every
/// payload column and on free pages; no file of the dump may hold one, unless
/// that was asked for.
#[test]
fn a_dump_holds_no_payload_unless_asked_for() {
    let (directory, path) = with_secrets();
    assert_eq!(files_with_secret(directory.path()), ["agent.db"]);
    let before = fs::read(&path).unwrap();
    for payloads in [false, true] {
        let target = tempfile::tempdir().unwrap();
        let report = dump(&path, target.path(), DumpOptions { payloads }).unwrap();
        assert!(report.problems.is_empty(), "{report:?}");
        assert_eq!(
            names(target.path()),
            ["database.db", "summary.json", "summary.txt"]
        );
        let expected: &[&str] = if payloads { &["database.db"] } else { &[] };
        assert_eq!(files_with_secret(target.path()), expected);
        let summary = summary(&report);
        assert_eq!(summary["rows"]["checkpoints"], 11);
        assert_eq!(summary["rows"]["work_items"], 1);
        assert_eq!(
            summary["lists"]["last_checkpoints"]
                .as_array()
                .unwrap()
                .len(),
            11
        );
        assert_eq!(
            summary["lists"]["last_checkpoints"][0]["sequence_number"],
            20
        );
        assert_eq!(
            summary["lists"]["active_work_items"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        assert_eq!(summary["lists"]["keys"][0]["prefix"], "tool-ledger:");
        assert_eq!(summary["pragmas"]["application_id"], 0x4147_4f53);
        assert_eq!(summary["journal_mode"], Value::Null, "nobody has it open");
        assert!(summary["files"][0]["modified_at"].is_string());
        let text = fs::read_to_string(&report.summary).unwrap();
        assert!(text.contains("checkpoints 11"), "{text}");
        let copy = Connection::open(report.copy.unwrap()).unwrap();
        let lengths: i64 = copy
            .query_row("SELECT SUM(length(snapshot)) FROM checkpoints", [], |row| {
                row.get(0)
            })
            .unwrap();
        let kept: usize = (9..20).map(|number| SECRET.len() * (1 + number * 10)).sum();
        assert_eq!(lengths, kept as i64, "sizes stay");
    }
    assert_eq!(fs::read(&path).unwrap(), before, "looking changes nothing");
}

#[test]
fn a_dump_of_a_store_in_use_disturbs_nobody() {
    let store = fresh();
    let mut writer = Victim::start(VICTIM, "write", [store.path().to_str().unwrap(), "a"]);
    for _ in 0..20 {
        writer.line();
    }
    let target = tempfile::tempdir().unwrap();
    let report = dump(store.path(), target.path(), DumpOptions::default()).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    let summary = summary(&report);
    assert_eq!(summary["journal_mode"], "wal");
    let found = summary["rows"]["checkpoints"].as_u64().unwrap();
    assert!(20 <= found, "{found}");
    for _ in 0..20 {
        writer.line();
    }
    writer.kill();
    store.create_task(new_task("b")).unwrap();
}

/// Goal: a damaged file still gives evidence. Method: pages of a table are
/// overwritten, then the schema, then the head of the file; each dump must
/// give its files, and name what it could not read.
#[test]
fn a_dump_of_a_damaged_file_says_what_it_could_not_read() {
    let (_directory, path) = with_secrets();
    let sound = fs::read(&path).unwrap();
    for (what, range) in [
        ("tables", 4096 * 8..sound.len()),
        ("schema", 100..4096),
        ("head", 0..100),
        ("half", sound.len() / 2..sound.len()),
    ] {
        let place = tempfile::tempdir().unwrap();
        let copy = place.path().join("agent.db");
        let mut bytes = sound.clone();
        bytes[range].fill(0xa5);
        fs::write(&copy, &bytes).unwrap();
        let target = tempfile::tempdir().unwrap();
        let report = dump(&copy, target.path(), DumpOptions::default()).unwrap();
        let summary = summary(&report);
        let complaints =
            report.problems.len() + summary["integrity"].as_array().map_or(0, Vec::len);
        assert!(0 < complaints, "{what}: {report:?}");
        assert!(report.summary.exists());
        assert_eq!(files_with_secret(target.path()), [""; 0], "{what}");
        assert_eq!(fs::read(&copy).unwrap(), bytes, "{what}");
    }
    let absent = tempfile::tempdir().unwrap();
    let report = dump(
        &absent.path().join("absent.db"),
        &absent.path().join("evidence"),
        DumpOptions::default(),
    )
    .unwrap();
    assert_eq!(report.copy, None);
    assert!(!report.problems.is_empty());
    assert_eq!(names(absent.path()), ["evidence"]);
}

/// Goal: a dump into the database's own directory never harms it, whatever the
/// database is called, also through links. Refusing is as good.
#[test]
fn a_dump_beside_the_database_does_not_replace_it() {
    for name in ["database.db", "summary.json", "summary.txt"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        let store = agentos_tests::at(&path);
        store.create_task(new_task("a")).unwrap();
        store.commit(append("a", "state").into()).unwrap();
        drop(store);
        let before = contents(directory.path());
        let answer = dump(&path, directory.path(), DumpOptions::default());
        assert!(
            matches!(answer, Err(StorageError::Invalid(_))),
            "{answer:?}"
        );
        assert_eq!(contents(directory.path())[name], before[name], "{name}");
        assert_eq!(numbers(&agentos_tests::at(&path), "a"), [1]);
    }
    let (directory, path) = with_secrets();
    let elsewhere = tempfile::tempdir_in(directory.path()).unwrap();
    let link = elsewhere.path().join("database.db");
    fs::hard_link(&path, &link).unwrap();
    let answer = dump(&path, elsewhere.path(), DumpOptions::default());
    assert!(
        matches!(answer, Err(StorageError::Invalid(_))),
        "{answer:?}"
    );
    fs::remove_file(link).unwrap(); // a store with two names is not opened
    assert_eq!(numbers(&agentos_tests::at(&path), "a").len(), 11);
}

/// Only `status` of a task is a word from a closed list: the dump counts them.
#[test]
fn a_dump_counts_tasks_by_state() {
    let store = fresh();
    for task in ["a", "b"] {
        store.create_task(new_task(task)).unwrap();
    }
    store
        .commit(agentos_core::SetTaskStatus::new(task_id("a"), TaskStatus::Running).into())
        .unwrap();
    let target = tempfile::tempdir().unwrap();
    let report = dump(store.path(), target.path(), DumpOptions::default()).unwrap();
    let mut tasks = summary(&report)["lists"]["tasks"]
        .as_array()
        .unwrap()
        .clone();
    tasks.sort_by_key(ToString::to_string);
    assert_eq!(
        serde_json::to_string(&tasks).unwrap(),
        r#"[{"count":1,"status":"created"},{"count":1,"status":"running"}]"#
    );
}

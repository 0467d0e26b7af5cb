//! Opening: a new file made by many at once, its modes and settings, a creation
//! that is killed at each dangerous point, closing, and two names of one file.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::thread;

use agentos_core::limits::COMMITS_PER_GROUP_MAX;
use agentos_core::{Commit, Storage, StorageError, TaskStorage};
use agentos_store::sqlite::{Durability, SCHEMA_VERSION, SqliteStore, inspect};
use agentos_tests::{
    Gate, Victim, append, at, config, contents, fresh, names, new_task, numbers, task_id,
    wait_until,
};
use rusqlite::Connection;

use crate::VICTIM;

const PROCESSES: usize = 20;
const ROUNDS: usize = 50;

/// Opening and closing writes nothing: a full disk must not keep anybody out, and
/// a death right after it must not look like work that was cut off.
#[test]
fn opening_and_closing_changes_no_byte() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    let (directory, path) = store.shut();
    let before = contents(directory.path());
    let store = at(&path);
    assert_eq!(store.inspect().unwrap().wal_bytes, 0);
    drop(store);
    assert_eq!(contents(directory.path()), before);
}

/// Goal: any number of processes may open a new file at the same instant.
/// Method: all of them wait at a closed gate; it opens; each must succeed. The
/// file must then be sound and of this build's version.
#[test]
fn twenty_processes_open_a_new_file_at_the_same_instant() {
    for round in 0..ROUNDS {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("agent.db");
        let gate = Gate::closed(&directory.path().join("gate"));
        let mut victims: Vec<Victim> = (0..PROCESSES)
            .map(|_| {
                let database = database.to_str().unwrap();
                Victim::start(VICTIM, "open", [database, gate.path()])
            })
            .collect();
        for victim in &mut victims {
            victim.expect("ready");
        }
        gate.open();
        for victim in victims {
            assert_eq!(victim.finish(), ["opened"], "in round {round}");
        }
        let store = at(&database);
        assert!(store.check_integrity().unwrap().is_sound());
        store.close();
        assert_eq!(
            names(directory.path()),
            [
                "agent.db",
                "agent.db.agentos-ballast",
                "agent.db.wlock",
                "agent.db.wturn",
                "gate"
            ],
            "nothing is left over in round {round}"
        );
    }
}

#[test]
fn every_file_of_a_store_is_private() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    assert_eq!(
        names(store.directory()),
        [
            "agent.db",
            "agent.db-shm",
            "agent.db-wal",
            "agent.db.agentos-ballast",
            "agent.db.wlock",
            "agent.db.wturn"
        ]
    );
    for name in names(store.directory()) {
        let mode = fs::metadata(store.directory().join(&name)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name}");
    }
}

#[test]
fn every_setting_is_as_promised() {
    for (durability, synchronous) in [(Durability::Full, 2), (Durability::Relaxed, 1)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.db");
        let store = SqliteStore::open(config(&path).durability(durability)).unwrap();
        let task = store.create_task(new_task("a")).unwrap();
        let facts = store.inspect().unwrap();
        assert_eq!(facts.journal_mode.as_deref(), Some("wal"));
        assert_eq!(facts.synchronous, Some(synchronous));
        for (pragma, value) in [
            ("application_id", 0x4147_4f53),
            ("user_version", SCHEMA_VERSION.into()),
            ("auto_vacuum", 2),
            ("mmap_size", 0),
        ] {
            assert_eq!(facts.pragmas.get(pragma), Some(&value), "{pragma}");
        }
        assert_eq!(facts.rows["tasks"], 1);
        assert!(0 < facts.wal_bytes);
        drop(store);
        assert_eq!(at(&path).task(&task.id).unwrap(), Some(task));
    }
}

#[test]
fn a_file_is_reopened_with_what_it_held() {
    let mut store = fresh();
    for round in 1..=3 {
        store
            .commit(
                Commit::new()
                    .part(new_task("a"))
                    .part(append("a", vec![round])),
            )
            .unwrap();
        store.reopen();
        assert_eq!(store.numbers("a"), (1..=round.into()).collect::<Vec<u64>>());
    }
}

/// Goal: a creation killed anywhere leaves nothing that stands in the way.
/// Method: kill it at each point that it passes; then another process opens the
/// file and uses it, and no half-made file remains.
#[test]
fn a_killed_creation_is_taken_up_by_the_next() {
    let scratch = tempfile::tempdir().unwrap();
    let points = points_of_opening(&scratch.path().join("dry.db"));
    let migration = ["migrate.before", "migrate.before_commit", "migrate.after"];
    let mut expected = vec!["open.before_side_files", "open.side_files_made"];
    expected.extend(["create.before_empty", "create.empty"]);
    (0..SCHEMA_VERSION).for_each(|_| expected.extend(migration));
    expected.extend(["create.built", "create.before_rename"]);
    expected.extend(["create.after_rename", "create.directory_synced"]);
    expected.extend(["create.before_clearing", "create.cleared"]);
    expected.extend(["open.before_log", "open.log_made"]);
    expected.extend(["ballast.before_making", "ballast.empty"]);
    expected.extend(["ballast.filled", "ballast.made"]);
    expected.extend(["close.before_log_moved", "close.log_moved"]);
    assert_eq!(points, expected);
    for (at_point, point) in points.iter().enumerate() {
        let before = points[..=at_point].iter();
        let hit = before.filter(|other| *other == point).count().to_string();
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("agent.db");
        let killed = Victim::start(
            VICTIM,
            "kill-at",
            [point, &hit, "open", database.to_str().unwrap(), "-"],
        );
        assert_eq!(killed.dies(), ["ready"], "at {point}");
        let created = Victim::start(VICTIM, "create", [database.to_str().unwrap(), "a"]);
        assert_eq!(created.finish(), ["created"], "after a death at {point}");
        let store = at(&database);
        assert_eq!(numbers(&store, "a"), [1], "after a death at {point}");
        assert!(store.check_integrity().unwrap().is_sound());
        drop(store);
        assert_eq!(
            names(directory.path()),
            [
                "agent.db",
                "agent.db.agentos-ballast",
                "agent.db.wlock",
                "agent.db.wturn"
            ],
            "after a death at {point}"
        );
    }
}

fn points_of_opening(database: &Path) -> Vec<String> {
    let mut lines =
        Victim::start(VICTIM, "points", ["open", database.to_str().unwrap(), "-"]).finish();
    lines.retain(|line| line.starts_with("point "));
    lines
        .iter()
        .map(|line| line.replace("point ", ""))
        .collect()
}

/// Goal: closing finishes what was accepted and refuses what comes later.
/// Method: commits pile up behind the write lock, which the test holds, more of
/// them than share a group; the store is closed meanwhile; then the lock is
/// given back. Once `close` has returned, nothing has the database open.
#[test]
fn closing_finishes_what_was_accepted_and_refuses_the_rest() {
    const CALLERS: u64 = COMMITS_PER_GROUP_MAX as u64 + 50;
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    let lock = crate::group_commit::hold_write_lock(store.directory());
    let mut accepted = CALLERS;
    thread::scope(|scope| {
        let mut callers: Vec<_> = (0..CALLERS)
            .map(|_| scope.spawn(|| store.commit(append("a", "state").into())))
            .collect();
        // The first leads, and waits for the lock; the others are queued.
        wait_until("all commits are queued", || {
            store.counters().waiting == CALLERS - 1
        });
        let closing = scope.spawn(|| store.close());
        // A commit that comes before the store is closed is queued as well.
        loop {
            let late = scope.spawn(|| store.commit(append("a", "late").into()));
            wait_until("the commit is refused or queued", || {
                late.is_finished() || store.counters().waiting == accepted
            });
            if late.is_finished() {
                assert!(matches!(late.join().unwrap(), Err(StorageError::Closed)));
                break;
            }
            accepted += 1;
            callers.push(late);
        }
        drop(lock);
        closing.join().unwrap();
        assert_eq!(store.counters().commits, 1 + accepted, "all are done");
        assert_eq!(
            names(store.directory()),
            [
                "agent.db",
                "agent.db.agentos-ballast",
                "agent.db.wlock",
                "agent.db.wturn"
            ]
        );
        for caller in callers {
            assert!(caller.join().unwrap().is_ok(), "an accepted commit");
        }
    });
    assert!(matches!(
        store.task(&task_id("a")),
        Err(StorageError::Closed)
    ));
    assert!(matches!(store.inspect(), Err(StorageError::Closed)));
    let (_directory, path) = store.shut();
    assert_eq!(
        numbers(&at(&path), "a"),
        (1..=accepted).collect::<Vec<u64>>()
    );
}

#[test]
fn two_stores_on_one_file_in_one_process_see_each_other() {
    let one = fresh();
    let other = at(one.path());
    one.create_task(new_task("a")).unwrap();
    thread::scope(|scope| {
        for store in [&*one, &other] {
            scope.spawn(|| {
                for _ in 0..50 {
                    store.commit(append("a", "state").into()).unwrap();
                }
            });
        }
    });
    drop(other);
    assert_eq!(one.numbers("a"), (1..=100).collect::<Vec<u64>>());
    // The one that goes on has not lost its locks with the one that closed.
    one.commit(append("a", "state").into()).unwrap();
    assert!(one.check_integrity().unwrap().is_sound());
}

/// Goal: a link to a file shares the file's write lock, or two processes could
/// starve each other. Method: the test holds the lock of the file; a store
/// opened through the link must wait for it.
#[test]
fn a_link_to_a_file_shares_its_write_lock() {
    let store = fresh();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link.db");
    symlink(store.path(), &link).unwrap();
    let linked = at(&link);
    assert_eq!(linked.path(), store.path());
    let lock = crate::group_commit::hold_write_lock(store.directory());
    thread::scope(|scope| {
        let caller = scope.spawn(|| linked.create_task(new_task("a")));
        let other = scope.spawn(|| linked.create_task(new_task("b")));
        wait_until("one leads and one is queued", || {
            linked.counters().waiting == 1
        });
        assert_eq!(linked.counters().commits, 0);
        drop(lock);
        caller.join().unwrap().unwrap();
        other.join().unwrap().unwrap();
    });
    assert!(store.task(&task_id("b")).unwrap().is_some());
    assert_eq!(names(elsewhere.path()), ["link.db"]);
}

#[test]
fn a_link_to_nowhere_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link.db");
    symlink(directory.path().join("absent.db"), &link).unwrap();
    assert!(matches!(
        SqliteStore::open(config(&link)),
        Err(StorageError::Invalid(_))
    ));
    assert_eq!(names(directory.path()), ["link.db"]);
}

#[test]
fn the_index_that_runbooks_make_is_there_before_any_row() {
    let (_directory, path) = fresh().shut();
    assert_eq!(inspect(&path).unwrap().rows["checkpoints"], 0);
    let indexes: i64 = Connection::open(&path)
        .unwrap()
        .query_row(
            "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'index' AND name IN
             ('idx_work_items_lease', 'idx_checkpoints_task_seq', 'idx_work_items_status_priority')",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(indexes, 3);
}

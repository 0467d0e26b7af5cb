//! Traps that cost others their data: a file under two names, another store's
//! files, a copy over a live database, a damaged index, a foreign writer.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use agentos_checkpoints::{
    CheckpointConfig, CheckpointError, CheckpointManager, Evidence, NewCheckpoint, Pack,
    PathRefusal, ReadState, Resume,
};
use agentos_core::{
    AppendCheckpoint, CheckpointStorage, CheckpointType, Codec, SequenceNumber, Snapshot, Storage,
    StorageError, TaskStorage,
};
use agentos_store::sqlite::{DumpOptions, SqliteStore, dump};
use agentos_tests::{Victim, append, at, config, fresh, new_task, task_id};
use rusqlite::Connection;

use crate::VICTIM;

#[test]
fn a_file_under_two_names_is_refused() {
    let (directory, path) = fresh().shut();
    let second = directory.path().join("second.db");
    fs::hard_link(&path, &second).unwrap();
    for name in [&path, &second] {
        let error = SqliteStore::open(config(name)).unwrap_err();
        assert!(matches!(error, StorageError::Invalid(_)), "{error:?}");
    }
    fs::remove_file(&second).unwrap();
    drop(at(&path));
}

/// Goal: no evidence drops the locks of a store that this process has open,
/// whichever it is. Method: two stores; evidence of the one about each file of
/// the other, also under a second name.
#[test]
fn files_of_every_open_store_are_refused_as_evidence() {
    let directory = tempfile::tempdir().unwrap();
    let one: Arc<dyn Storage> = Arc::new(at(directory.path().join("one.db")));
    let other = at(directory.path().join("other.db"));
    one.create_task(new_task("a")).unwrap();
    other.create_task(new_task("b")).unwrap();
    fs::hard_link(
        directory.path().join("other.db-shm"),
        directory.path().join("link"),
    )
    .unwrap();
    let config = CheckpointConfig::new(directory.path());
    let checkpoints = CheckpointManager::new(one, config).unwrap();
    for file in [
        "other.db",
        "other.db-wal",
        "other.db-shm",
        "other.db.wlock",
        "link",
    ] {
        let new = NewCheckpoint::new(task_id("a"), CheckpointType::IterationEnd)
            .evidence(Pack::all([Evidence::file(file)]));
        let error = checkpoints.append(new).unwrap_err();
        let CheckpointError::PathRefused { refusal, .. } = error else {
            panic!("{file}: {error:?}")
        };
        assert_eq!(refusal, PathRefusal::OwnFile, "{file}");
    }
    drop(other);
    // Closed, they are files like others.
    let new = NewCheckpoint::new(task_id("a"), CheckpointType::IterationEnd)
        .evidence(Pack::all([Evidence::file("other.db")]));
    checkpoints.append(new).unwrap();
}

/// Goal: a backup never replaces a database that somebody has open, not even
/// one that stands idle with an empty log.
#[test]
fn a_backup_over_a_live_database_is_refused() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let destination = directory.path().join("other.db");
    let idle = at(&destination);
    assert!(matches!(
        store.backup(&destination),
        Err(StorageError::Invalid(_))
    ));
    idle.create_task(new_task("theirs")).unwrap();
    drop(idle);
    // Open in another process, which only reads.
    let mut reader = Victim::start(VICTIM, "read", [destination.to_str().unwrap()]);
    reader.expect("reading 1");
    assert!(matches!(
        store.backup(&destination),
        Err(StorageError::Invalid(_))
    ));
    reader.kill();
    let theirs = at(&destination);
    assert!(theirs.task(&task_id("theirs")).unwrap().is_some());
    drop(theirs);
    store.backup(&destination).unwrap();
    assert!(at(&destination).task(&task_id("a")).unwrap().is_some());
}

#[test]
fn a_dump_replaces_nothing_that_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    drop(at(&path));
    for name in ["database.db", "summary.txt", "summary.json"] {
        let target = tempfile::tempdir().unwrap();
        fs::write(target.path().join(name), "somebody's").unwrap();
        let answer = dump(&path, target.path(), DumpOptions::default());
        assert!(
            matches!(answer, Err(StorageError::Invalid(_))),
            "{name}: {answer:?}"
        );
        assert_eq!(fs::read(target.path().join(name)).unwrap(), b"somebody's");
    }
}

/// Goal: as long as a checkpoint itself is whole, work can go on from it.
/// Method: the root page of the index is overwritten; the rows are not.
#[test]
fn a_damaged_index_does_not_hide_the_newest_checkpoint() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    for step in 0..50_u32 {
        store
            .commit(append("a", step.to_le_bytes()).into())
            .unwrap();
    }
    let (directory, path) = store.shut();
    let raw = Connection::open(&path).unwrap();
    let root: u64 = raw
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'idx_checkpoints_task_seq'",
            [],
            |row| row.get::<_, i64>(0).map(i64::unsigned_abs),
        )
        .unwrap();
    raw.close().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at_page = usize::try_from((root - 1) * 4096).unwrap();
    bytes[at_page..at_page + 512].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let store: Arc<dyn Storage> = Arc::new(at(&path));
    let config = CheckpointConfig::new(directory.path());
    let checkpoints = CheckpointManager::new(Arc::clone(&store), config).unwrap();
    let Resume::From(resumed) = checkpoints.resume(&task_id("a")).unwrap() else {
        panic!("nothing to resume from")
    };
    assert_eq!(resumed.checkpoint.summary.sequence.get(), 50);
    assert_eq!(
        resumed.checkpoint.raw_state().unwrap(),
        49_u32.to_le_bytes()
    );
    let refused = store.commit(append("a", "more").into());
    assert!(
        matches!(refused, Err(StorageError::Corrupt { .. })),
        "{refused:?}"
    );
}

/// A stored state whose seal holds and whose first length says 60 GiB.
#[test]
fn a_stored_length_of_sixty_gibibytes_is_an_error_and_no_abort() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    let mut bytes = vec![1, 253];
    bytes.extend_from_slice(&(60_u64 << 30).to_le_bytes());
    bytes.extend_from_slice(b"few");
    let part = AppendCheckpoint {
        snapshot: Some(Snapshot::new(Codec::Bincode, 1, bytes)),
        ..AppendCheckpoint::new(task_id("a"), CheckpointType::IterationEnd)
    };
    store.commit(part.into()).unwrap();
    let loaded = store
        .checkpoint(&task_id("a"), SequenceNumber::FIRST)
        .unwrap()
        .unwrap();
    let error = loaded.state::<Vec<u8>>().unwrap_err();
    assert!(matches!(error, CheckpointError::OtherType(_)), "{error:?}");
}

/// Goal: the busy timeout is the whole wait, for the lock and for a program that
/// does not use it. Method: a raw connection holds a transaction open.
#[test]
fn a_foreign_writer_is_waited_for_no_longer_than_the_busy_timeout() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    const TRIES: u64 = 4;
    let (_directory, path) = fresh().shut();
    let store = SqliteStore::open(config(&path).busy_timeout(TIMEOUT)).unwrap();
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The machine can only add to a wait: the shortest of some counts.
    let mut shortest = Duration::MAX;
    for _ in 0..TRIES {
        let watch = agentos_core::Stopwatch::start();
        let answer = store.create_task(new_task("a"));
        let took = watch.elapsed();
        let Err(StorageError::Busy { waited }) = answer else {
            panic!("{answer:?}")
        };
        assert!(
            TIMEOUT <= waited && waited <= took,
            "{waited:?} of {took:?}"
        );
        shortest = shortest.min(took);
    }
    assert!(shortest < TIMEOUT * 3 / 2, "{shortest:?}");
    raw.execute_batch("ROLLBACK").unwrap();
    store.create_task(new_task("a")).unwrap();
    assert_eq!(store.counters().failed, TRIES);
}

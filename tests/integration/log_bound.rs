//! The write-ahead log has a bound, whoever reads and however long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use agentos_core::{Storage, StorageError, UpkeepStorage};
use agentos_store::sqlite::{Condition, Finding, SqliteStore};
use agentos_tests::{Victim, append, config, new_task, numbers};
use rusqlite::Connection;

use crate::VICTIM;

const BOUND: u64 = 4 << 20;
const STATE: usize = 60 << 10;
/// What one commit of such a state adds, with all that goes with it.
const GROUP: u64 = 128 << 10;

fn open(directory: &tempfile::TempDir) -> SqliteStore {
    let config = config(directory.path().join("agent.db")).log_bytes(BOUND);
    let store = SqliteStore::open(config.busy_timeout(Duration::from_secs(2))).unwrap();
    store.create_task(new_task("a")).unwrap();
    store
}

/// Ends the other threads of a test, also when it fails.
struct End<'t>(&'t AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Goal: a reader that never ends cannot fill the disk. Method: a process reads
/// and does not end, the store commits until it is refused; then the reader is
/// killed.
#[test]
fn a_reader_that_does_not_end_stops_commits_at_the_bound() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut reader = Victim::start(VICTIM, "read", [store.path().to_str().unwrap()]);
    reader.expect("reading 1");
    let mut acked = 0;
    let error = loop {
        assert!(acked < 1000, "it grows for ever");
        let bytes = store.inspect().unwrap().wal_bytes;
        assert!(bytes < BOUND + GROUP, "{bytes}");
        match store.commit(append("a", vec![7; STATE]).into()) {
            Ok(_) => acked += 1,
            Err(error) => break error,
        }
    };
    let StorageError::LogFull { bytes, bound } = error else {
        panic!("{error:?}")
    };
    assert!(
        bound == BOUND && (BOUND..BOUND + GROUP).contains(&bytes),
        "{bytes}"
    );
    let facts = store.inspect().unwrap();
    assert_eq!(
        (facts.wal_bytes, facts.wal_bytes_bound),
        (bytes, Some(BOUND))
    );
    assert_eq!(facts.locks.oldest_reader().unwrap().pid, reader.pid());
    let report = store.doctor().unwrap();
    let check = report.check(Condition::Log).unwrap();
    assert!(matches!(check.finding, Finding::Warning), "{report}");
    // As often as anybody tries.
    let again = store.commit(append("a", "again").into());
    assert!(
        matches!(again, Err(StorageError::LogFull { .. })),
        "{again:?}"
    );
    // Reading goes on, and asking for a shorter log does no harm.
    assert_eq!(numbers(&store, "a").len(), acked);
    assert_eq!(store.shorten_log().unwrap().bytes_after, bytes);
    reader.kill();
    store.commit(append("a", "after").into()).unwrap();
    assert!(store.inspect().unwrap().wal_bytes < BOUND / 4);
    assert_eq!(numbers(&store, "a").len(), acked + 1);
    assert!(store.doctor().unwrap().is_healthy());
}

/// Reads over and over; ends each read only after another reader has begun one.
fn read_for_ever(
    path: &std::path::Path,
    begun: &Sender<()>,
    others: &Receiver<()>,
    end: &AtomicBool,
) {
    let connection = Connection::open(path).unwrap();
    while !end.load(Ordering::SeqCst) {
        connection.execute_batch("BEGIN").unwrap();
        let _: i64 = connection
            .query_row("SELECT COUNT(*) FROM tasks", [], |row| row.get(0))
            .unwrap();
        if begun.send(()).is_err() || others.recv().is_err() {
            return;
        }
        connection.execute_batch("COMMIT").unwrap();
    }
}

/// Goal: readers that overlap without a gap, so that the log is never unused, do
/// not make it grow. Method: two readers, each of which ends only after the other
/// has begun; the store commits many times the bound.
#[test]
fn readers_that_overlap_without_a_gap_do_not_make_it_grow() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let end = AtomicBool::new(false);
    let mut most = 0;
    thread::scope(|scope| {
        let ends = End(&end);
        let ((one, ones), (two, twos)) = (channel(), channel());
        let (path, end) = (store.path(), &end);
        scope.spawn(move || read_for_ever(path, &one, &twos, end));
        scope.spawn(move || read_for_ever(path, &two, &ones, end));
        let commits = 8 * BOUND / STATE as u64;
        for _ in 0..commits {
            store.commit(append("a", vec![7; STATE]).into()).unwrap();
            most = most.max(store.inspect().unwrap().wal_bytes);
        }
        drop(ends);
        assert_eq!(numbers(&store, "a").len() as u64, commits);
    });
    println!("at most {most} bytes of {BOUND}");
    assert!(most < BOUND, "{most}");
}

/// Goal: a reader that ends in time costs a wait and no refusal. Method: readers
/// that hold their view for a while, each beginning the next at once, while the
/// store commits many times the bound.
#[test]
fn a_reader_that_ends_in_time_is_waited_for_at_the_bound() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let end = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        let ends = End(&end);
        let (path, end) = (store.path(), &end);
        scope.spawn(move || {
            let connection = Connection::open(path).unwrap();
            while !end.load(Ordering::SeqCst) {
                connection.execute_batch("BEGIN").unwrap();
                let count = || -> i64 {
                    let sql = "SELECT COUNT(*) FROM tasks";
                    connection.query_row(sql, [], |row| row.get(0)).unwrap()
                };
                // Longer than the writer waits below the bound.
                let hold = agentos_core::Deadline::after(Duration::from_millis(150));
                while !hold.passed() {
                    assert_eq!(count(), 1);
                }
                connection.execute_batch("COMMIT").unwrap();
            }
        });
        let mut most = 0;
        for _ in 0..6 * BOUND / STATE as u64 {
            store.commit(append("a", vec![7; STATE]).into()).unwrap();
            most = most.max(store.inspect().unwrap().wal_bytes);
        }
        drop(ends);
        most
    });
    println!("at most {most} bytes of {BOUND}");
    assert!(most < BOUND + GROUP, "{most}");
}

/// Goal: a reader that begins its next view at once, in the very place of the one
/// before, does not keep the log for ever. Method: it holds its first view until
/// the log is at its bound, and then one after the other; the commit that waits at
/// the bound must be taken.
#[test]
fn a_reader_that_begins_anew_at_once_is_got_past() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let (end, at_bound) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let ends = End(&end);
        let (path, end, at_bound) = (store.path(), &end, &at_bound);
        scope.spawn(move || {
            let connection = Connection::open(path).unwrap();
            let read = || {
                connection.execute_batch("BEGIN").unwrap();
                connection
                    .query_row("SELECT COUNT(*) FROM tasks", [], |_| Ok(()))
                    .unwrap();
            };
            read();
            while !at_bound.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            while !end.load(Ordering::SeqCst) {
                // The writer asks meanwhile, and waits for this view to end.
                let hold = agentos_core::Deadline::after(Duration::from_millis(300));
                while !hold.passed() {
                    thread::yield_now();
                }
                connection.execute_batch("COMMIT").unwrap();
                read();
            }
        });
        let commit = || store.commit(append("a", vec![7; STATE]).into());
        while commit().is_ok() {}
        at_bound.store(true, Ordering::SeqCst);
        let taken = commit();
        drop(ends);
        assert!(taken.is_ok(), "{taken:?}");
    });
}

/// Goal: who moves the log does not make commits fail at the bound. Method: one
/// thread commits many times the bound, another shortens the log without a pause.
#[test]
fn shortening_the_log_never_makes_a_commit_fail() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let ends = End(&end);
        scope.spawn(|| {
            while !end.load(Ordering::SeqCst) {
                match store.shorten_log() {
                    Ok(_) | Err(StorageError::Busy { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        let commits: Vec<_> = (0..400)
            .map(|_| store.commit(append("a", vec![7; STATE]).into()))
            .collect();
        drop(ends);
        for commit in commits {
            commit.unwrap();
        }
    });
    assert_eq!(numbers(&store, "a").len(), 400);
    store.close();
    assert!(matches!(store.shorten_log(), Err(StorageError::Closed)));
    assert!(!agentos_tests::names(directory.path()).contains(&"agent.db-wal".to_owned()));
}

#[test]
fn a_log_that_nobody_reads_is_cut_to_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.commit(append("a", vec![7; STATE]).into()).unwrap();
    let shortened = store.shorten_log().unwrap();
    assert!(shortened.bytes_before > STATE as u64, "{shortened:?}");
    assert_eq!(shortened.bytes_after, 0);
    assert_eq!(numbers(&store, "a"), [1]);
}

//! The doctor: each condition is brought about for real, and found.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentos_core::{Clock, Storage, StorageError, UpkeepStorage};
use agentos_store::sqlite::{Condition, Finding, Report, SqliteStore};
use agentos_tests::{
    Victim, append, at, config, fresh, manual_clock, new_task, numbers, on_small_disk,
};
use rusqlite::Connection;
use tracing::field::{Field, Visit};

use crate::VICTIM;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The one condition that is not fine.
fn found(report: &Report) -> (Condition, &'static str) {
    let bad: Vec<_> = report
        .checks
        .iter()
        .filter(|check| !matches!(check.finding, Finding::Fine))
        .collect();
    assert_eq!(bad.len(), 1, "{report}");
    (bad[0].condition, bad[0].finding.as_str())
}

#[test]
fn a_fresh_store_is_healthy_and_every_condition_was_looked_at_once() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    let report = store.doctor().unwrap();
    assert!(report.is_healthy(), "{report}");
    let names: Vec<&str> = report
        .checks
        .iter()
        .map(|check| check.condition.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "engine",
            "settings",
            "identity",
            "directory",
            "file_system",
            "soundness",
            "clock",
            "log",
            "space",
            "ballast",
            "integrity_age"
        ]
    );
    assert_eq!(report.to_string().lines().count(), names.len());
    store.close();
    assert!(matches!(store.doctor(), Err(StorageError::Closed)));
}

#[test]
fn a_clock_that_went_back_is_told_and_refuses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    let clock = manual_clock();
    let open = || SqliteStore::open(config(&path).clock(Arc::clone(&clock))).unwrap();
    let store = open();
    store.create_task(new_task("a")).unwrap();
    let then = clock.wall();
    clock.set(agentos_core::Timestamp::from_unix_micros(
        then.unix_micros() - 90_000_000,
    ));
    let report = store.doctor().unwrap();
    assert_eq!(found(&report), (Condition::Clock, "warning"));
    assert!(report.to_string().contains("90.0 s before"), "{report}");
    drop(store);
    let store = open();
    store.commit(append("a", "state").into()).unwrap();
}

#[test]
fn a_file_that_was_not_checked_for_long_is_told_until_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let clock = manual_clock();
    let path = directory.path().join("agent.db");
    let config = config(&path)
        .clock(Arc::clone(&clock))
        .integrity_age(DAY * 30);
    let store = SqliteStore::open(config).unwrap();
    clock.advance(DAY * 30);
    assert!(store.doctor().unwrap().is_healthy());
    for copy in [false, true] {
        clock.advance(DAY * 31);
        let report = store.doctor().unwrap();
        assert_eq!(found(&report), (Condition::IntegrityAge, "warning"));
        if copy {
            store.backup(&directory.path().join("copy")).unwrap();
        } else {
            assert!(store.check_integrity().unwrap().is_sound());
        }
        assert!(store.doctor().unwrap().is_healthy());
    }
}

#[test]
fn a_missing_ballast_is_told_and_made_again_by_the_next_commit() {
    let store = fresh();
    fs::remove_file(store.directory().join("agent.db.agentos-ballast")).unwrap();
    let report = store.doctor().unwrap();
    assert_eq!(found(&report), (Condition::Ballast, "warning"));
    store.create_task(new_task("a")).unwrap();
    assert!(store.doctor().unwrap().is_healthy());
}

#[test]
fn a_disk_with_less_room_than_the_ballast_is_told_and_refuses_nothing() {
    let Some(disk) = on_small_disk(3 << 20) else {
        return;
    };
    let path = disk.root().join("agent.db");
    let store = SqliteStore::open(config(&path).ballast_bytes(8 << 20)).unwrap();
    store.create_task(new_task("a")).unwrap();
    let report = store.doctor().unwrap();
    let warned: Vec<Condition> = report.warnings().map(|check| check.condition).collect();
    assert_eq!(warned, [Condition::Space, Condition::Ballast], "{report}");
    assert_eq!(report.refusals().count(), 0);
}

#[test]
fn a_file_that_was_replaced_is_not_ours_any_more() {
    let (store, other) = (fresh(), fresh());
    let (_directory, other) = other.shut();
    fs::rename(&other, store.path()).unwrap();
    let report = store.doctor().unwrap();
    assert_eq!(found(&report), (Condition::Identity, "refused"));
    fs::remove_file(store.path()).unwrap();
    let report = store.doctor().unwrap();
    let check = report.check(Condition::Identity).unwrap();
    assert!(matches!(check.finding, Finding::Refused(_)), "{report}");
}

/// Overwrites a page of the table of checkpoints in the middle of the file.
fn damage(path: &Path) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    let mut page = [0; 4096];
    for number in pages / 2..pages {
        file.read_exact_at(&mut page, number * 4096).unwrap();
        // A leaf of a table: its first cell gets a place outside of the page.
        if page[0] == 0x0d {
            file.write_all_at(&[0xff, 0xff], number * 4096 + 8).unwrap();
            return;
        }
    }
    panic!("no page to damage");
}

/// Goal: after a crash damage is found before anybody relies on the file; after
/// a clean end nobody pays for looking. Method: fill a file, end by a close or by
/// a kill, damage a page that no log mends, open.
#[test]
fn after_a_crash_a_damaged_file_is_refused() {
    for killed in [false, true] {
        let (directory, path) = {
            let store = fresh();
            store.create_task(new_task("a")).unwrap();
            for _ in 0..200 {
                store.commit(append("a", vec![7; 3000]).into()).unwrap();
            }
            store.shut()
        };
        if killed {
            let mut writer = Victim::start(VICTIM, "write", [path.to_str().unwrap(), "b"]);
            writer.line();
            writer.kill();
        }
        damage(&path);
        let opened = SqliteStore::open(config(&path));
        if killed {
            assert!(
                matches!(opened, Err(StorageError::Corrupt { .. })),
                "{opened:?}"
            );
            // Whoever wants to look at what is left says so.
            let store = SqliteStore::open(config(&path).skip_check_after_crash(true)).unwrap();
            let report = store.doctor().unwrap();
            assert_eq!(found(&report), (Condition::Soundness, "refused"));
        } else {
            let report = opened.unwrap().doctor().unwrap();
            assert_eq!(found(&report), (Condition::Soundness, "refused"));
        }
        drop(directory);
    }
}

/// Goal: who opens a file that others work on is not held up by a look through
/// it. Method: the file is damaged while a process works on it; only a look
/// through it would notice.
#[test]
fn a_file_that_others_work_on_is_not_looked_through() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    for _ in 0..200 {
        store.commit(append("a", vec![7; 3000]).into()).unwrap();
    }
    let (_directory, path) = store.shut();
    let mut writer = Victim::start(VICTIM, "write", [path.to_str().unwrap(), "b"]);
    writer.line();
    damage(&path);
    drop(SqliteStore::open(config(&path)).unwrap());
    writer.kill();
    let opened = SqliteStore::open(config(&path));
    assert!(matches!(opened, Err(StorageError::Corrupt { .. })));
}

/// Goal: a crash is seen also when the log is empty. Method: kill a process right
/// after it cut the log; damage the file; open.
#[test]
fn after_a_crash_with_an_empty_log_a_damaged_file_is_refused() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    for _ in 0..200 {
        store.commit(append("a", vec![7; 3000]).into()).unwrap();
    }
    let (_directory, path) = store.shut();
    let arguments = ["upkeep.log_cut", "1", "shorten", path.to_str().unwrap()];
    Victim::start(VICTIM, "kill-at", arguments).dies();
    damage(&path);
    let opened = SqliteStore::open(config(&path));
    assert!(matches!(opened, Err(StorageError::Corrupt { .. })));
}

/// A check that found damage is not forgotten for one that did not, before.
#[test]
fn damage_that_a_check_found_is_told() {
    let store = fresh();
    store.check_integrity().unwrap();
    let connection = Connection::open(store.path()).unwrap();
    let note = "INSERT INTO integrity_checks (problems, checked_at)
                SELECT 3, applied_at FROM schema_migrations WHERE version = 1";
    connection.execute(note, []).unwrap();
    let report = store.doctor().unwrap();
    assert_eq!(found(&report), (Condition::IntegrityAge, "warning"));
    assert!(report.to_string().contains("found damage"), "{report}");
    store.check_integrity().unwrap();
    assert!(store.doctor().unwrap().is_healthy());
}

/// Goal: the upkeep does not write the log of one file into another. Method: a
/// file takes the place of the open one; then shorten the log.
#[test]
fn the_log_is_not_moved_into_a_file_that_took_the_place() {
    let (store, other) = (fresh(), fresh());
    store.create_task(new_task("mine")).unwrap();
    other.create_task(new_task("theirs")).unwrap();
    let (_directory, path) = other.shut();
    let before = fs::read(&path).unwrap();
    fs::rename(&path, store.path()).unwrap();
    let answer = store.shorten_log();
    assert!(
        matches!(answer, Err(StorageError::NotOurs { .. })),
        "{answer:?}"
    );
    assert_eq!(fs::read(store.path()).unwrap(), before);
}

/// A sound file opens after any crash, with all that was acknowledged.
#[test]
fn after_a_crash_a_sound_file_opens() {
    let store = fresh();
    let (_directory, path) = store.shut();
    let mut writer = Victim::start(VICTIM, "write", [path.to_str().unwrap(), "a"]);
    let last = (0..20).map(|_| writer.line()).last().unwrap();
    writer.kill();
    let store = at(&path);
    assert!(store.doctor().unwrap().is_healthy());
    let last: usize = last.split(' ').next().unwrap().parse().unwrap();
    assert!(numbers(&store, "a").len() >= last);
}

/// Keeps the conditions that were warned about.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<String>>>);

struct ConditionOf<'l>(&'l Listener);

impl Visit for ConditionOf<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "condition" {
            self.0.0.lock().unwrap().push(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl tracing::Subscriber for Listener {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut ConditionOf(self));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn opening_warns_whoever_listens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    let clock = manual_clock();
    let open = || SqliteStore::open(config(&path).clock(Arc::clone(&clock))).unwrap();
    open().create_task(new_task("a")).unwrap();
    let listener = Listener::default();
    tracing::subscriber::with_default(listener.clone(), || drop(open()));
    assert!(listener.0.lock().unwrap().is_empty());
    clock.advance(DAY * 365);
    tracing::subscriber::with_default(listener.clone(), || drop(open()));
    assert_eq!(*listener.0.lock().unwrap(), ["integrity_age"]);
}

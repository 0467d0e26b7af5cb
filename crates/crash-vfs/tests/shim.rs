//! What the shim records, refuses, counts and makes fail.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use agentos_core::Stopwatch;
use agentos_crash_vfs::{
    Answer, Fault, FileKind, ImageDir, Log, LogError, Mark, Operation, Record, Recorder, Shim,
    ShimError, Synced, VFS_NAME,
};
use rusqlite::{Connection, OpenFlags, ffi};
use support::{DB, WAL_FULL, Wrong, check, check_image, open, place, record, step};

const SEED: u64 = 8141;

fn fresh() -> (tempfile::TempDir, std::path::PathBuf) {
    let place = place();
    let dir = place.path().join("data");
    fs::create_dir(&dir).unwrap();
    (place, dir)
}

fn code(result: rusqlite::Result<usize>) -> Option<i32> {
    match result {
        Err(rusqlite::Error::SqliteFailure(error, _)) => Some(error.extended_code),
        _ => None,
    }
}

#[test]
fn what_is_kept_whole_is_what_the_program_left() {
    let (place, dir) = fresh();
    let log = record(
        &place.path().join("log"),
        Shim::over(&dir),
        &dir,
        &WAL_FULL,
        10,
    );
    let last = log.images_at(log.records().len(), SEED, 0).unwrap();
    let all = last[0].file(DB).unwrap().bytes();
    assert!(all == fs::read(dir.join(DB)).unwrap());
    // The WAL and its shared memory are gone after the last close.
    let names: Vec<&str> = last[0].files().map(|file| file.path).collect();
    assert_eq!(names, [DB]);
}

#[test]
fn files_that_were_there_before_are_part_of_every_image() {
    let (place, dir) = fresh();
    let mut db = open(&dir, &WAL_FULL);
    for id in 1..=5 {
        step(&mut db, id, &WAL_FULL, |_| Ok(()));
    }
    drop(db);
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/other"), b"other").unwrap();
    fs::write(dir.join("empty"), b"").unwrap();
    fs::write(dir.join("x-shm"), b"never part of an image").unwrap();
    let log = place.path().join("log");
    let recorder = Recorder::start(&log, Shim::over(&dir)).unwrap();
    let mut db = open(&dir, &WAL_FULL);
    for id in 6..=9 {
        step(&mut db, id, &WAL_FULL, |mark| recorder.mark(mark));
    }
    drop(db);
    recorder.stop().unwrap();
    let log = Log::read(&log).unwrap();
    let images = ImageDir::at(&place.path().join("image")).unwrap();
    for image in log.crash_images(SEED) {
        assert_eq!(image.file("sub/other").unwrap().bytes(), b"other");
        assert!(image.file("empty").unwrap().is_empty());
        assert!(image.file("x-shm").is_none());
        images.write(&image).unwrap();
        assert_eq!(fs::read(images.path().join("sub/other")).unwrap(), b"other");
        let acknowledged = image
            .acknowledged()
            .last()
            .map_or(5, |id| id.parse().unwrap());
        assert_eq!(
            check(images.path(), acknowledged, 9),
            Ok(()),
            "{}",
            image.id()
        );
    }
}

/// Goal: the recovery from a power cut may itself be cut.
/// Method: some images are opened, which replays their WAL, and written on,
/// under a recorder of their own; the images of that must still hold what the
/// first program was told.
#[test]
fn the_recovery_of_an_image_is_recorded_and_cut_in_its_turn() {
    let (place, dir) = fresh();
    let log = record(
        &place.path().join("log"),
        Shim::over(&dir),
        &dir,
        &WAL_FULL,
        12,
    );
    let mut nested = 0;
    for (number, image) in log.crash_images(SEED).enumerate().step_by(17) {
        let dir = place.path().join(format!("image-{number}"));
        image.write_to(&dir).unwrap();
        let acknowledged: i64 = image
            .acknowledged()
            .last()
            .map_or(0, |id| id.parse().unwrap());
        let begun: i64 = image.begun().last().map_or(0, |id| id.parse().unwrap());
        let inner = place.path().join(format!("log-{number}"));
        let recorder = Recorder::start(&inner, Shim::over(&dir)).unwrap();
        assert_eq!(check(&dir, acknowledged, begun), Ok(()));
        recorder.mark(Mark::note("recovered")).unwrap();
        let db = open(&dir, &WAL_FULL);
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        drop(db);
        recorder.stop().unwrap();
        let inner = Log::read(&inner).unwrap();
        let images = ImageDir::at(&place.path().join(format!("inner-{number}"))).unwrap();
        for inner in inner.crash_images(SEED) {
            images.write(&inner).unwrap();
            let found = check(images.path(), acknowledged, begun);
            assert_eq!(found, Ok(()), "{} then {}", image.id(), inner.id());
            nested += 1;
        }
    }
    assert!(nested > 50, "{nested}");
}

/// Goal: files that SQLite does not write are under the same model.
/// Method: each step speaks of an artifact that is written before it. What is
/// synced (file, name, directory) is there whenever the step is; canaries that
/// leave one sync out are caught by the same check.
#[test]
fn an_artifact_is_as_durable_as_its_syncs() {
    for (sync_file, sync_directory, holds) in [
        (true, true, true),
        (false, true, false),
        (true, false, false),
    ] {
        let (place, dir) = fresh();
        let log = place.path().join("log");
        let recorder = Recorder::start(&log, Shim::over(&dir)).unwrap();
        let mut db = open(&dir, &WAL_FULL);
        for id in 1..=5 {
            let path = |name: &str| -> std::sync::Arc<str> { format!("{name}-{id}").into() };
            let then = |record: Record| recorder.record(&record).unwrap();
            let sync = |path, what| {
                let sync = recorder.new_sync();
                then(Record::SyncBegin { sync, path, what });
                then(Record::SyncEnd {
                    sync,
                    durable: true,
                });
            };
            fs::write(dir.join(&*path("part")), b"artifact").unwrap();
            then(Record::Open {
                path: path("part"),
                found_bytes: 0,
            });
            then(Record::Write {
                path: path("part"),
                offset: 0,
                bytes: (*b"artifact").into(),
            });
            if sync_file {
                sync(path("part"), Synced::File);
            }
            fs::rename(dir.join(&*path("part")), dir.join(&*path("whole"))).unwrap();
            then(Record::Rename {
                from: path("part"),
                to: path("whole"),
            });
            if sync_directory {
                sync("".into(), Synced::Directory);
            }
            step(&mut db, id, &WAL_FULL, |mark| recorder.mark(mark));
        }
        drop(db);
        recorder.stop().unwrap();
        let log = Log::read(&log).unwrap();
        let images = ImageDir::at(&place.path().join("image")).unwrap();
        let mut missing = 0;
        for image in log.crash_images(SEED) {
            images.write(&image).unwrap();
            assert_eq!(check_image(images.path(), &image), Ok(()), "{}", image.id());
            for id in image.acknowledged() {
                let whole = fs::read(images.path().join(format!("whole-{id}")));
                missing += usize::from(whole.ok().as_deref() != Some(b"artifact"));
            }
        }
        assert_eq!(
            missing == 0,
            holds,
            "{sync_file} {sync_directory}: {missing}"
        );
    }
}

#[test]
fn a_log_that_ends_anywhere_is_read_up_to_there() {
    let (place, dir) = fresh();
    let path = place.path().join("log");
    let log = record(&path, Shim::over(&dir), &dir, &WAL_FULL, 2);
    let bytes = fs::read(&path).unwrap();
    let mut ends = vec![0];
    while let Some(at) = ends.last().copied().filter(|at| *at < bytes.len()) {
        let rest = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        ends.push(at + 12 + rest as usize);
    }
    assert_eq!(ends.len(), log.records().len() + 1);
    let cut = place.path().join("cut");
    for len in (12..bytes.len()).step_by(97) {
        fs::write(&cut, &bytes[..len]).unwrap();
        let whole = ends.partition_point(|end| *end <= len) - 1;
        match Log::read(&cut) {
            Ok(read) => {
                assert_eq!(read.records(), &log.records()[..whole], "{len}");
                assert_eq!(read.unused_bytes(), len - ends[whole], "{len}");
            }
            Err(LogError::NotALog) => assert_eq!(whole, 0),
            Err(error) => panic!("{len}: {error}"),
        }
    }
    // A changed byte is found, and ends the log.
    let mark = log
        .records()
        .iter()
        .position(|record| matches!(record, Record::Mark(_)))
        .unwrap();
    for byte in [0, 5, 9, 13, 20] {
        let mut changed = bytes.clone();
        changed[ends[mark] + byte] ^= 1;
        fs::write(&cut, changed).unwrap();
        let read = Log::read(&cut).unwrap();
        assert_eq!(read.records(), &log.records()[..mark]);
        assert_eq!(read.unused_bytes(), bytes.len() - ends[mark]);
    }
}

#[test]
fn what_is_no_log_is_refused_and_left_alone() {
    let (place, dir) = fresh();
    let path = place.path().join("log");
    fs::write(&path, b"somebody's text").unwrap();
    assert!(matches!(Log::read(&path), Err(LogError::NotALog)));
    let refused = Recorder::start(&path, Shim::over(&dir));
    assert!(matches!(refused, Err(ShimError::NotALog { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"somebody's text");
    let inside = Recorder::start(&dir.join("log"), Shim::over(&dir));
    assert!(matches!(inside, Err(ShimError::LogInside { .. })));
    let mut leaves = Log::builder();
    leaves.push(Record::Open {
        path: "../out".into(),
        found_bytes: 0,
    });
    // Where nobody knows what a file holds, a log ends.
    let mut ends = Log::builder().base("a", b"x");
    ends.push(Record::Mark(Mark::note("known")));
    ends.push(Record::Broken {
        why: "a test".into(),
    });
    ends.push(Record::Mark(Mark::note("unknown")));
    assert_eq!(ends.build().unwrap().records().len(), 2);
    assert!(matches!(
        leaves.build(),
        Err(LogError::Inconsistent { record: 0, .. })
    ));
}

#[test]
fn an_image_is_not_written_over_somebodys_files() {
    let (place, dir) = fresh();
    let log = record(
        &place.path().join("log"),
        Shim::over(&dir),
        &dir,
        &WAL_FULL,
        1,
    );
    let image = log.crash_images(SEED).next().unwrap();
    assert!(matches!(
        image.write_to(&dir),
        Err(LogError::NotEmpty { .. })
    ));
    assert_eq!(check(&dir, 1, 1), Ok(()));
    let beyond = log.image(format!("{}:all", log.records().len() + 1).parse().unwrap());
    assert!(matches!(beyond, Err(LogError::NoSuchCut { .. })));
}

#[test]
fn two_directories_are_recorded_apart_and_others_not_at_all() {
    let (place, dir) = fresh();
    let (second, third) = (place.path().join("second"), place.path().join("third"));
    fs::create_dir(&second).unwrap();
    fs::create_dir(&third).unwrap();
    let logs = [place.path().join("log-1"), place.path().join("log-2")];
    let first = Recorder::start(&logs[0], Shim::over(&dir)).unwrap();
    let other = Recorder::start(&logs[1], Shim::over(&second)).unwrap();
    assert!(matches!(
        Shim::over(&dir).install(),
        Err(ShimError::Taken { .. })
    ));
    for (dir, steps) in [(&dir, 1..=3), (&second, 1..=2), (&third, 1..=1)] {
        let mut db = open(dir, &WAL_FULL);
        for id in steps {
            step(&mut db, id, &WAL_FULL, |_| Ok(()));
        }
    }
    first.stop().unwrap();
    other.stop().unwrap();
    let whole = |log: &Path, dir: &Path| {
        let log = Log::read(log).unwrap();
        let images = log.images_at(log.records().len(), SEED, 0).unwrap();
        images[0].file(DB).unwrap().bytes() == fs::read(dir.join(DB)).unwrap()
    };
    assert!(whole(&logs[0], &dir));
    assert!(whole(&logs[1], &second));
}

#[test]
fn a_shim_by_name_leaves_other_connections_alone() {
    let (_place, dir) = fresh();
    let shim = Shim::over(&dir).by_name().install().unwrap();
    let default = Connection::open(dir.join("default.db")).unwrap();
    default.execute_batch("CREATE TABLE t (x)").unwrap();
    assert_eq!(shim.counts().of(Operation::Write), 0);
    let flags = OpenFlags::default();
    let named = Connection::open_with_flags_and_vfs(dir.join("named.db"), flags, VFS_NAME).unwrap();
    named.execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(shim.counts().of(Operation::Write) > 0);
}

#[test]
fn a_memory_map_is_refused() {
    let (_place, dir) = fresh();
    let _shim = Shim::over(&dir).install().unwrap();
    let db = open(&dir, &WAL_FULL);
    let size: i64 = db
        .query_row("PRAGMA mmap_size = 1000000", [], |row| row.get(0))
        .unwrap();
    assert_eq!(size, 0);
}

/// Every operation fails once, at every one of its calls, until a run gets by
/// without it; the program sees an error or not, and the file stays sound.
#[test]
fn a_fault_strikes_the_nth_call_and_no_other() {
    for operation in Operation::ALL {
        let mut struck = 0;
        for nth in (1..).step_by(3) {
            let (_place, dir) = fresh();
            drop(open(&dir, &WAL_FULL));
            let fault = Fault::of(operation).from_nth(nth).times(1);
            let shim = Shim::over(&dir).fault(fault).install().unwrap();
            let mut acknowledged = 0;
            if let Ok(db) = Connection::open(dir.join(DB)) {
                let _ = db.pragma_update(None, "synchronous", "FULL");
                for id in 1..=4 {
                    let both = format!(
                        "BEGIN IMMEDIATE; INSERT INTO steps VALUES ({id}, 0, zeroblob(700));
                         INSERT INTO steps VALUES ({id}, 1, zeroblob(700)); COMMIT"
                    );
                    if db.execute_batch(&both).is_err() {
                        break;
                    }
                    acknowledged = id;
                }
            }
            let counts = shim.counts();
            assert!(counts.failed() <= 1, "{operation:?} {nth}");
            drop(shim);
            assert_eq!(check(&dir, acknowledged, 4), Ok(()), "{operation:?} {nth}");
            if counts.failed() == 0 {
                assert!(counts.of(operation) < nth);
                break;
            }
            struck += 1;
        }
        assert!(struck > 0, "{operation:?} is never asked for");
    }
}

#[test]
fn a_full_disk_says_so_until_there_is_space_again() {
    let (_place, dir) = fresh();
    let shim = Shim::over(&dir).install().unwrap();
    let db = open(&dir, &WAL_FULL);
    let insert = || db.execute("INSERT INTO steps VALUES (1, 0, NULL)", []);
    shim.add_fault(
        Fault::of(Operation::Write)
            .on(FileKind::Wal)
            .answer(Answer::Full),
    );
    assert_eq!(code(insert()), Some(ffi::SQLITE_FULL));
    shim.clear_faults();
    assert_eq!(insert().unwrap(), 1);
    shim.add_fault(Fault::of(Operation::Sync).from_nth(2).times(1));
    assert_eq!(db.execute("DELETE FROM steps", []).unwrap(), 1);
    assert_eq!(code(insert()), Some(ffi::SQLITE_IOERR_FSYNC));
    assert_eq!(shim.counts().failed(), 2);
}

/// A failed sync makes nothing durable: what a program took for acknowledged
/// in spite of the error is lost in some image.
#[test]
fn an_acknowledgement_after_a_failed_sync_is_caught() {
    let (place, dir) = fresh();
    let log = place.path().join("log");
    let recorder = Recorder::start(&log, Shim::over(&dir)).unwrap();
    let db = open(&dir, &WAL_FULL);
    recorder.shim().add_fault(Fault::of(Operation::Sync));
    let insert = "INSERT INTO steps VALUES (1, 0, NULL), (1, 1, NULL)";
    assert_eq!(code(db.execute(insert, [])), Some(ffi::SQLITE_IOERR_FSYNC));
    recorder.mark(Mark::acknowledged("1")).unwrap();
    recorder.stop().unwrap();
    drop(db);
    let log = Log::read(&log).unwrap();
    let images = ImageDir::at(&place.path().join("image")).unwrap();
    let lost = log.crash_images(SEED).filter(|image| {
        images.write(image).unwrap();
        check_image(images.path(), image) == Err(Wrong::LostAcknowledged)
    });
    assert!(lost.count() > 0);
}

#[test]
fn a_delayed_sync_takes_its_time() {
    let (_place, dir) = fresh();
    let delay = Duration::from_millis(30);
    let shim = Shim::over(&dir).sync_delay(delay).install().unwrap();
    let db = open(&dir, &WAL_FULL);
    let before = shim.counts().of(Operation::Sync);
    let watch = Stopwatch::start();
    db.execute("INSERT INTO steps VALUES (1, 0, NULL)", [])
        .unwrap();
    let syncs = shim.counts().of(Operation::Sync) - before;
    assert!(syncs >= 1);
    assert!(watch.elapsed() >= delay * u32::try_from(syncs).unwrap());
}

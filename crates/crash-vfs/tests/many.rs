//! Several threads and several processes into one log, and killed recorders.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_core::Stopwatch;
use agentos_crash_vfs::{Image, ImageDir, Log, Mark, Record, Recorder, Shim, mark};
use agentos_process::{Child, CommandSpec, Exit, NextLine, Sink};
use agentos_tracer::{Plan, Target, Tracer};
use rusqlite::Connection;
use support::{DB, WAL_FULL, open, place, step};

const SEED: u64 = 8141;
const STEPS: i64 = 12;
const PATIENCE: Duration = Duration::from_secs(60);

/// Every acknowledged step of every writer is there, whole.
fn check(dir: &Path, image: &Image<'_>) {
    let acknowledged: BTreeSet<i64> = image.acknowledged().map(|id| id.parse().unwrap()).collect();
    let begun: BTreeSet<i64> = image.begun().map(|id| id.parse().unwrap()).collect();
    let path = dir.join(DB);
    let mut found = BTreeSet::new();
    if path.exists() {
        let db = Connection::open(path).unwrap();
        let sound: String = db
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(sound, "ok", "{}", image.describe());
        let sql = "SELECT id FROM steps GROUP BY id HAVING count(*) = 2";
        if let Ok(mut rows) = db.prepare(sql) {
            let ids = rows.query_map([], |row| row.get(0)).unwrap();
            found = ids.collect::<Result<_, _>>().unwrap();
            let sql = "SELECT count(*) FROM steps";
            let halves: i64 = db.query_row(sql, [], |row| row.get(0)).unwrap();
            assert_eq!(halves, 2 * found.len() as i64, "{}", image.describe());
        }
    }
    let lost: Vec<&i64> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "{lost:?} lost\n{}", image.describe());
    assert!(found.is_subset(&begun), "{}", image.describe());
}

fn check_all(log: &Log, place: &Path) -> usize {
    let dir = ImageDir::at(place).unwrap();
    let mut images = 0;
    for image in log.crash_images(SEED).per_cut(2) {
        dir.write(&image).unwrap();
        check(dir.path(), &image);
        images += 1;
    }
    images
}

/// The program of one process: steps of its own, which it prints as it goes.
#[test]
fn program() {
    let (Some(place), Ok(first)) = (
        std::env::var_os("CRASH_VFS_PLACE").map(PathBuf::from),
        std::env::var("CRASH_VFS_FIRST"),
    ) else {
        return; // not a child of the tests below
    };
    let first: i64 = first.parse().unwrap();
    let steps: i64 = std::env::var("CRASH_VFS_STEPS").unwrap().parse().unwrap();
    let dir = place.join("data");
    let recorder = Recorder::start(&place.join("log"), Shim::over(&dir)).unwrap();
    let mut db = open_patiently(&dir);
    for id in first..first + steps {
        step(&mut db, id, &WAL_FULL, |word| {
            mark(word).map(|recorded| assert!(recorded))
        });
        let mut out = std::io::stdout().lock();
        std::io::Write::write_all(&mut out, format!("step {id}\n").as_bytes()).unwrap();
    }
    drop(db);
    recorder.stop().unwrap();
}

/// Switching to WAL is refused while another process does the same.
fn open_patiently(dir: &Path) -> Connection {
    let db = Connection::open(dir.join(DB)).unwrap();
    db.busy_timeout(PATIENCE).unwrap();
    let watch = Stopwatch::start();
    while let Err(error) = db.pragma_update(None, "journal_mode", "WAL") {
        assert!(watch.elapsed() < PATIENCE, "{error}");
    }
    db.pragma_update(None, "synchronous", "FULL").unwrap();
    db.pragma_update(None, "wal_autocheckpoint", 20).unwrap();
    let table = "CREATE TABLE IF NOT EXISTS steps \
                 (id INTEGER, half INTEGER, filler BLOB, UNIQUE (id, half))";
    db.execute_batch(table).unwrap();
    db
}

fn program_spec(place: &Path, first: i64, steps: i64) -> CommandSpec {
    CommandSpec::new(std::env::current_exe().unwrap())
        .args(["--exact", "program", "--nocapture", "--test-threads=1"])
        .env("CRASH_VFS_PLACE", place)
        .env("CRASH_VFS_FIRST", first.to_string())
        .env("CRASH_VFS_STEPS", steps.to_string())
}

fn fresh() -> tempfile::TempDir {
    let place = place();
    std::fs::create_dir(place.path().join("data")).unwrap();
    place
}

#[test]
fn threads_with_connections_of_their_own_lose_nothing() {
    let place = fresh();
    let dir = place.path().join("data");
    let log = place.path().join("log");
    let recorder = Recorder::start(&log, Shim::over(&dir)).unwrap();
    drop(open(&dir, &WAL_FULL));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (marker, dir) = (recorder.marker(), &dir);
            scope.spawn(move || {
                let mut db = open_patiently(dir);
                for id in 1..=STEPS {
                    step(&mut db, thread * 1000 + id, &WAL_FULL, |mark| {
                        marker.mark(mark)
                    });
                }
            });
        }
    });
    recorder.stop().unwrap();
    let log = Log::read(&log).unwrap();
    let last = log.image(format!("{}:nothing", log.records().len()).parse().unwrap());
    assert_eq!(last.unwrap().acknowledged().count(), 48);
    assert!(check_all(&log, &place.path().join("image")) > 200);
}

#[test]
fn processes_share_one_log_in_the_order_of_what_happened() {
    let place = fresh();
    let mut children: Vec<Child> = (0..3)
        .map(|number| {
            let spec = program_spec(place.path(), number * 1000, STEPS);
            Child::spawn(&spec, Sink::Inherit).unwrap()
        })
        .collect();
    for child in &mut children {
        assert_eq!(
            child.wait(PATIENCE).unwrap(),
            Some(Exit::Exited { code: 0 })
        );
    }
    let log = Log::read(&place.path().join("log")).unwrap();
    let starts = |record: &&Record| matches!(record, Record::Start { .. });
    assert_eq!(log.records().iter().filter(starts).count(), 3);
    assert_eq!(log.unused_bytes(), 0);
    assert_eq!(log.marks().count(), 3 * 2 * STEPS as usize);
    assert!(check_all(&log, &place.path().join("image")) > 200);
}

/// Goal: a log that a killed process helped to write is sound. (Its last
/// operation may have been done and not recorded, and another process go on from
/// what it did: such records must not count.)
/// Method: one of two processes is killed after some of its steps; the other
/// one goes on to its end, and a third begins after that.
#[test]
fn a_recorder_that_was_killed_ends_the_log_for_all() {
    let place = fresh();
    let spawn = |first, steps| {
        let spec = program_spec(place.path(), first, steps);
        Child::spawn(&spec, Sink::Inherit).unwrap()
    };
    let mut doomed = spawn(1000, 100_000);
    let mut other = spawn(500_000, 40);
    let mut steps = 0;
    while steps < 10 {
        match doomed.next_line(PATIENCE).unwrap() {
            NextLine::Line(line) => steps += usize::from(line.starts_with(b"step")),
            end => panic!("{end:?}"),
        }
    }
    assert!(doomed.kill().unwrap().is_sigkill());
    let mut third = spawn(900_000, 2);
    for child in [&mut other, &mut third] {
        assert_eq!(
            child.wait(PATIENCE).unwrap(),
            Some(Exit::Exited { code: 0 })
        );
    }
    let log = Log::read(&place.path().join("log")).unwrap();
    assert!(log.unused_bytes() > 0);
    let last = log
        .image(format!("{}:all", log.records().len()).parse().unwrap())
        .unwrap();
    let ids: Vec<i64> = last.acknowledged().map(|id| id.parse().unwrap()).collect();
    assert!(
        ids.iter().filter(|id| **id < 500_000).count() >= 10,
        "{ids:?}"
    );
    assert!(ids.iter().all(|id| *id < 900_000), "{ids:?}");
    assert!(check_all(&log, &place.path().join("image")) > 50);
}

/// A database that is open beyond the recording goes on unseen.
#[test]
fn a_recording_that_stops_under_an_open_database_ends_the_log_for_all() {
    let place = fresh();
    let dir = place.path().join("data");
    let log = place.path().join("log");
    let recorder = Recorder::start(&log, Shim::over(&dir)).unwrap();
    let mut db = open_patiently(&dir);
    step(&mut db, 1, &WAL_FULL, |mark| recorder.mark(mark));
    recorder.stop().unwrap();
    step(&mut db, 2, &WAL_FULL, |_| Ok(()));
    let spec = program_spec(place.path(), 3, 1);
    assert!(agentos_process::run(&spec).unwrap().success());
    let read = Log::read(&log).unwrap();
    assert!(read.unused_bytes() > 0);
    let words: Vec<&str> = read.marks().map(|mark| mark.text.as_str()).collect();
    assert_eq!(words, ["1", "1"]);
    assert!(check_all(&read, &place.path().join("image")) > 10);
}

/// Goal: what could not be recorded is never told to the program as done, and
/// the log is sound up to there.
/// Method: the program runs with a limit on the size of files, which the log
/// reaches long before the database does.
#[test]
fn a_log_that_cannot_grow_ends_and_says_so() {
    let place = fresh();
    let spec = program_spec(place.path(), 1, 10_000);
    let mut limited = CommandSpec::shell("trap '' XFSZ; ulimit -f 400; exec \"$0\" \"$@\"");
    limited = limited.arg(spec.program()).args(spec.arguments());
    for (name, value) in [
        ("CRASH_VFS_PLACE", place.path().as_os_str().to_owned()),
        ("CRASH_VFS_FIRST", "1".into()),
        ("CRASH_VFS_STEPS", "10000".into()),
    ] {
        limited = limited.env(name, value);
    }
    let finished = agentos_process::run(&limited).unwrap();
    let said =
        String::from_utf8_lossy(&finished.stderr) + String::from_utf8_lossy(&finished.stdout);
    assert!(!finished.success(), "{said}");
    assert!(
        said.contains("disk I/O error") || said.contains("Broken"),
        "{said}"
    );
    let log = Log::read(&place.path().join("log")).unwrap();
    let steps = log.marks().count() / 2;
    assert!((10..1000).contains(&steps), "{steps}: {said}");
    assert!(check_all(&log, &place.path().join("image")) > 50);
}

/// Goal: a trace of system calls can be merged with a log exactly.
/// Method: the program runs under a tracer; its writes to the log are compared
/// with the records one by one.
#[test]
fn every_record_is_exactly_one_write() {
    let place = fresh();
    let real = place.path().canonicalize().unwrap();
    let mut tracer = Tracer::new(Plan::Count);
    let spec = program_spec(&real, 1, 3);
    let mut child = tracer.spawn(&spec, Sink::Inherit).unwrap();
    assert_eq!(
        child.wait(PATIENCE).unwrap(),
        Some(Exit::Exited { code: 0 })
    );
    let trace = tracer.finish(PATIENCE).unwrap();
    let path = real.join("log");
    let to_log = |target: &Target| *target == Target::Path(path.to_str().unwrap().to_owned());
    let mut changes = trace
        .calls
        .iter()
        .filter(|call| to_log(&call.target) && call.name() != "openat");
    let bytes = std::fs::read(&path).unwrap();
    let mut at = 0;
    let log = Log::read(&path).unwrap();
    for record in log.records() {
        let call = changes.next().unwrap();
        assert_eq!(call.name(), "write", "{call}");
        // The frame's header: magic, length of the rest, checksum.
        let rest = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        let len = i64::from(rest) + 12;
        assert_eq!(call.result, Some(len), "{record:?}");
        at += len as usize;
    }
    assert_eq!(at, bytes.len());
    assert_eq!(changes.next().map(ToString::to_string), None);
}

#[test]
fn a_word_without_a_recorder_is_not_recorded_and_no_error() {
    // In a process of its own: recorders of other tests would take it.
    if std::env::var_os("CRASH_VFS_ALONE").is_some() {
        assert!(!mark(Mark::note("nobody hears")).unwrap());
        return;
    }
    let spec = CommandSpec::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_word_without_a_recorder_is_not_recorded_and_no_error",
        ])
        .env("CRASH_VFS_ALONE", "1");
    assert!(agentos_process::run(&spec).unwrap().success());
}

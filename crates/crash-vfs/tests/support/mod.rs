//! A small program on plain SQLite, and the check that its users rely on.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::path::Path;

use agentos_crash_vfs::{Image, ImageDir, Log, Mark, Recorder, Shim, ShimError};
use rusqlite::Connection;

pub(crate) const DB: &str = "program.db";

/// How the program keeps its data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) journal: &'static str,
    pub(crate) synchronous: &'static str,
    /// Each step is two rows in one transaction; two transactions if not.
    pub(crate) one_transaction: bool,
    /// Acknowledge before the commit.
    pub(crate) hasty: bool,
}

pub(crate) const WAL_FULL: Settings = Settings {
    journal: "WAL",
    synchronous: "FULL",
    one_transaction: true,
    hasty: false,
};

pub(crate) fn open(dir: &Path, settings: &Settings) -> Connection {
    let db = Connection::open(dir.join(DB)).unwrap();
    let journal: String = db
        .query_row(
            &format!("PRAGMA journal_mode = {}", settings.journal),
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(journal, settings.journal.to_lowercase());
    db.pragma_update(None, "synchronous", settings.synchronous)
        .unwrap();
    // Checkpoints of the WAL within a short workload.
    db.pragma_update(None, "wal_autocheckpoint", 20).unwrap();
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS steps (id INTEGER, half INTEGER, filler BLOB, UNIQUE (id, half))",
    )
    .unwrap();
    db
}

/// One step: two rows that belong together.
pub(crate) fn step(
    db: &mut Connection,
    id: i64,
    settings: &Settings,
    mark: impl Fn(Mark) -> Result<(), ShimError>,
) {
    mark(Mark::begun(id.to_string())).unwrap();
    if settings.hasty {
        mark(Mark::acknowledged(id.to_string())).unwrap();
    }
    let insert = "INSERT INTO steps VALUES (?1, ?2, randomblob(700))";
    if settings.one_transaction {
        let transaction = db.transaction().unwrap();
        transaction.execute(insert, [id, 0]).unwrap();
        transaction.execute(insert, [id, 1]).unwrap();
        transaction.commit().unwrap();
    } else {
        db.execute(insert, [id, 0]).unwrap();
        db.execute(insert, [id, 1]).unwrap();
    }
    if !settings.hasty {
        mark(Mark::acknowledged(id.to_string())).unwrap();
    }
}

/// Records the program doing `steps` steps under a shim over `dir`.
pub(crate) fn record(log: &Path, shim: Shim, dir: &Path, settings: &Settings, steps: i64) -> Log {
    let recorder = Recorder::start(log, shim).unwrap();
    let mut db = open(dir, settings);
    for id in 1..=steps {
        step(&mut db, id, settings, |mark| recorder.mark(mark));
    }
    drop(db);
    recorder.stop().unwrap();
    Log::read(log).unwrap()
}

/// What is wrong with what a power cut left, in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    Corrupt,
    LostAcknowledged,
    HalfAStep,
    NotAPrefix,
    NeverBegun,
}

/// Opens what is there and checks it; knows nothing of how it was made.
pub(crate) fn check(dir: &Path, acknowledged: i64, begun: i64) -> Result<(), Wrong> {
    let path = dir.join(DB);
    if !path.exists() {
        return match acknowledged {
            0 => Ok(()),
            _ => Err(Wrong::LostAcknowledged),
        };
    }
    let look = || -> rusqlite::Result<(String, Vec<(i64, i64)>)> {
        let db = Connection::open(&path)?;
        let sound = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        let table: i64 = db.query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name = 'steps'",
            [],
            |row| row.get(0),
        )?;
        if table == 0 {
            return Ok((sound, Vec::new()));
        }
        let mut found = db.prepare("SELECT id, count(*) FROM steps GROUP BY id ORDER BY id")?;
        let rows = found.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok((sound, rows.collect::<Result<_, _>>()?))
    };
    let Ok((sound, steps)) = look() else {
        return Err(Wrong::Corrupt);
    };
    if sound != "ok" {
        return Err(Wrong::Corrupt);
    }
    let newest = steps.last().map_or(0, |(id, _)| *id);
    if newest < acknowledged {
        return Err(Wrong::LostAcknowledged);
    }
    if steps.iter().any(|(_, halves)| *halves != 2) {
        return Err(Wrong::HalfAStep);
    }
    if !steps.iter().map(|(id, _)| *id).eq(1..=newest) {
        return Err(Wrong::NotAPrefix);
    }
    if newest > begun {
        return Err(Wrong::NeverBegun);
    }
    Ok(())
}

pub(crate) fn check_image(dir: &Path, image: &Image<'_>) -> Result<(), Wrong> {
    let newest = |texts: &mut dyn Iterator<Item = &str>| {
        texts
            .map(|text| text.parse::<i64>().unwrap())
            .max()
            .unwrap_or(0)
    };
    check(
        dir,
        newest(&mut image.acknowledged()),
        newest(&mut image.begun()),
    )
}

/// What a check of all images found.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) images: usize,
    pub(crate) wrong: Vec<(String, Wrong)>,
}

impl Tally {
    pub(crate) fn kinds(&self) -> Vec<Wrong> {
        let mut kinds: Vec<Wrong> = self.wrong.iter().map(|(_, wrong)| *wrong).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }
}

pub(crate) fn check_all(log: &Log, place: &Path, seed: u64, per_cut: u32) -> Tally {
    let images = ImageDir::at(place).unwrap();
    let mut tally = Tally::default();
    for image in log.crash_images(seed).per_cut(per_cut) {
        images.write(&image).unwrap();
        tally.images += 1;
        if let Err(wrong) = check_image(images.path(), &image) {
            tally.wrong.push((image.id().to_string(), wrong));
        }
    }
    tally
}

/// A place in memory if there is one: nothing here is about a real disk.
pub(crate) fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

//! Read-only facts about a database: settings, sizes, counts, who holds what.
//!
//! No file of the database is opened by anything but SQLite: closing such a
//! descriptor would drop the locks of this process. Sizes come from `stat`,
//! locks from `/proc/locks`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agentos_core::limits::BUSY_TIMEOUT_DEFAULT;
use agentos_core::{StorageError, Timestamp};
use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use super::SqliteStore;
use super::admission::identify;
use super::connection::{open_immutable, open_reader, pragma, set_up_reader};
use super::error::of;
use super::file_system::free_bytes;
use super::locks::{LockFacts, lock_facts};
use super::paths::{BALLAST, LOCK, files, resolve, with_suffix};
use super::readers::ReadError;

/// Settings that are shown. Those of a connection are the reader's own.
const PRAGMAS: &[&str] = &[
    "application_id",
    "user_version",
    "schema_version",
    "page_size",
    "page_count",
    "freelist_count",
    "auto_vacuum",
    "journal_size_limit",
    "mmap_size",
    "foreign_keys",
];

/// Facts about a database.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The database file.
    pub path: PathBuf,
    /// Version of the SQLite in this build.
    pub sqlite_version: String,
    /// How changes are journalled: `wal` for our files. `None` for a database at
    /// rest, which is looked at as it lies on the disk: SQLite tells it only of
    /// one that it could write to.
    pub journal_mode: Option<String>,
    /// `synchronous` of the writing connection, where this is an open store:
    /// 1 `NORMAL`, 2 `FULL`.
    pub synchronous: Option<i64>,
    /// Pragmas and their values.
    pub pragmas: BTreeMap<String, i64>,
    /// The files of the database that are there, the write-ahead log among them.
    pub files: Vec<FileFacts>,
    /// Size of the write-ahead log in bytes; 0 when there is none.
    pub wal_bytes: u64,
    /// Bound of the write-ahead log in bytes, where this is an open store: beyond
    /// it no commit is taken.
    pub wal_bytes_bound: Option<u64>,
    /// Room that is kept for a full disk, in bytes; 0 when it is given up.
    pub ballast_bytes: u64,
    /// Free space beside the database, in bytes.
    pub free_bytes: Option<u64>,
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// Who holds locks now.
    pub locks: LockFacts,
}

/// A file of the database.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileFacts {
    /// Its path.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its permission bits, in octal.
    pub mode: String,
    /// When it was last changed, in UTC.
    pub modified_at: String,
}

/// What an integrity check said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Integrity {
    /// What SQLite's check found; empty when the file is sound.
    pub problems: Vec<String>,
}

impl Integrity {
    /// Whether nothing was found.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

impl SqliteStore {
    /// Read-only facts. Counting rows reads every table: not for a hot path.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`], [`StorageError::Io`], [`StorageError::Busy`].
    pub fn inspect(&self) -> Result<Inspection, StorageError> {
        let synchronous = Some(self.synchronous);
        let wal_bytes_bound = Some(self.config.log_bytes);
        self.readers.read("inspecting", |connection| {
            Ok(Inspection {
                synchronous,
                wal_bytes_bound,
                ..facts(connection, &self.path, false)?
            })
        })
    }

    /// Runs SQLite's integrity check and its check of foreign keys. Takes about
    /// 3 s a GiB; reading goes on meanwhile, and so does writing, but the
    /// write-ahead log grows. What it said is kept for the
    /// [`doctor`](SqliteStore::doctor).
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when the file cannot even be checked,
    /// [`StorageError::Io`], [`StorageError::Busy`].
    pub fn check_integrity(&self) -> Result<Integrity, StorageError> {
        let found = self.readers.read("checking integrity", |connection| {
            integrity(connection).map_err(ReadError::from)
        })?;
        self.note_integrity(&found);
        Ok(found)
    }
}

/// Read-only facts about a database that this process need not have open.
///
/// # Errors
///
/// As [`SqliteStore::open`] for a file that is not ours; as
/// [`SqliteStore::inspect`].
pub fn inspect(path: &Path) -> Result<Inspection, StorageError> {
    let path = resolve(path)?;
    identify(&path)?;
    let connection = open_read_only(&path)?;
    facts(&connection, &path, connection.at_rest).map_err(|error| match error {
        ReadError::Storage(error) => error,
        ReadError::Sqlite(error) => super::error::of_sqlite(error, "inspecting"),
    })
}

/// A read-only connection for looking.
pub(crate) struct Looking {
    connection: Connection,
    /// It is looked at as it lies on the disk.
    at_rest: bool,
    /// Keeps it at rest: whoever opens the store waits for this lock.
    _still: Option<File>,
}

impl Deref for Looking {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// Opens a database for looking. One at rest, without a log, is opened as it
/// lies on the disk, since a read-only connection would leave a log beside it;
/// until the end nobody can open it as a store.
pub(crate) fn open_read_only(path: &Path) -> Result<Looking, StorageError> {
    let is_at_rest = || fs::symlink_metadata(with_suffix(path, "-wal")).is_err();
    if is_at_rest()
        && let Some(still) = hold_still(path)
        && is_at_rest()
    {
        let connection = open_immutable(path).map_err(|error| of(&error, "opening read-only"))?;
        return Ok(Looking {
            connection,
            at_rest: true,
            _still: still,
        });
    }
    let connection = open_reader(path)?;
    set_up_reader(&connection, BUSY_TIMEOUT_DEFAULT)?;
    Ok(Looking {
        connection,
        at_rest: false,
        _still: None,
    })
}

/// Takes the write lock of a store, for looking, together with others who look;
/// `None` when somebody has it, and nothing to hold where there was never one.
fn hold_still(path: &Path) -> Option<Option<File>> {
    match File::open(with_suffix(path, LOCK)) {
        Ok(file) => {
            flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
            Some(Some(file))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(None),
        Err(_) => None,
    }
}

fn facts(connection: &Connection, path: &Path, at_rest: bool) -> Result<Inspection, ReadError> {
    let mut pragmas = BTreeMap::new();
    for name in PRAGMAS {
        if let Ok(value) = pragma(connection, name) {
            pragmas.insert((*name).to_string(), value);
        }
    }
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    let journal_mode = (!at_rest).then_some(mode);
    let files: Vec<FileFacts> = files(path)
        .iter()
        .filter_map(|file| file_facts(file))
        .collect();
    let bytes_of = |suffix| {
        let path = with_suffix(path, suffix);
        let found = files.iter().find(|file| file.path == path);
        found.map_or(0, |file| file.bytes)
    };
    let (wal_bytes, ballast_bytes) = (bytes_of("-wal"), bytes_of(BALLAST));
    let directory = path.parent().unwrap_or(Path::new("/"));
    Ok(Inspection {
        path: path.to_path_buf(),
        sqlite_version: rusqlite::version().to_string(),
        journal_mode,
        synchronous: None,
        pragmas,
        files,
        wal_bytes,
        wal_bytes_bound: None,
        ballast_bytes,
        free_bytes: free_bytes(directory).ok(),
        rows: row_counts(connection)?,
        locks: lock_facts(path),
    })
}

pub(crate) fn file_facts(path: &Path) -> Option<FileFacts> {
    let metadata = fs::metadata(path).ok()?;
    let micros = metadata.mtime() * 1_000_000 + metadata.mtime_nsec() / 1_000;
    Some(FileFacts {
        path: path.to_path_buf(),
        bytes: metadata.len(),
        mode: format!("{:04o}", metadata.mode() & 0o7777),
        modified_at: Timestamp::from_unix_micros(micros).to_text(),
    })
}

pub(crate) fn row_counts(connection: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )?;
    let names = statement
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut counts = BTreeMap::new();
    for name in names {
        let sql = format!("SELECT COUNT(*) FROM \"{}\"", name.replace('"', "\"\""));
        let count: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
        counts.insert(name, count.unsigned_abs());
    }
    Ok(counts)
}

/// SQLite's own checks, as problems in words.
pub(crate) fn integrity(connection: &Connection) -> rusqlite::Result<Integrity> {
    let mut statement = connection.prepare("PRAGMA integrity_check")?;
    let mut problems = statement
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    problems.retain(|line| line != "ok");
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let orphans = statement
        .query_map([], |row| {
            let (table, row_id): (String, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok(format!("row {row_id:?} of {table} has no parent"))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    problems.extend(orphans);
    Ok(Integrity { problems })
}

//! What a database must be before anybody works on it: the place, whose file it
//! is, and whether its last user died with it. Asked at open, by the doctor, and
//! by whoever looks. Nothing is changed, and beside a foreign file nothing is
//! left.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agentos_core::StorageError;
use rusqlite::{Connection, ffi};

use super::config::Config;
use super::connection::{APPLICATION_ID, open_immutable, pragma};
use super::error::{SqliteError, of, of_io, of_sqlite};
use super::file_system::{check_writable, unsafe_kind};
use super::locks::is_open_somewhere;
use super::migrate::SCHEMA_VERSION;
use super::paths::with_suffix;

/// Refuses what is not ours, or too new, without leaving a trace on it.
///
/// Read as it lies on the disk, without the write-ahead log: our files carry
/// their application id from the moment they have a name.
pub(crate) fn identify(path: &Path) -> Result<(), StorageError> {
    let not_ours = |reason: String| Err(StorageError::NotOurs { reason });
    let metadata = fs::metadata(path).map_err(|error| of_io(error, path))?;
    if !metadata.is_file() {
        return not_ours(format!("{} is not a file", path.display()));
    }
    if metadata.len() == 0 {
        return not_ours("the file is empty".into());
    }
    let connection = open_immutable(path)
        .map_err(|error| of_sqlite(SqliteError::from(&error), "looking at a file"))?;
    // Killed while it moved pages from the log, a sound file can be shorter than
    // its first page says; the log mends that. Here only the first page counts.
    let header = connection
        .execute_batch("PRAGMA writable_schema = ON")
        .map_err(|error| SqliteError::from(&error))
        .and_then(|()| {
            connection
                .query_row("PRAGMA application_id", [], |row| row.get::<_, i32>(0))
                .map_err(|error| SqliteError::from(&error))
        });
    match header {
        Ok(APPLICATION_ID) => {}
        Ok(found) => return not_ours(format!("its application id is {found}")),
        Err(error) if error.primary() == ffi::SQLITE_NOTADB => {
            return not_ours("it is no SQLite database".into());
        }
        Err(error) => return Err(of_sqlite(error, "looking at a file")),
    }
    let found = u32::try_from(pragma(&connection, "user_version")?).unwrap_or(u32::MAX);
    if found > SCHEMA_VERSION {
        return Err(StorageError::NewerSchema {
            found,
            known: SCHEMA_VERSION,
        });
    }
    Ok(())
}

/// Which file it is, whatever its name.
pub(crate) type Identity = (u64, u64);

pub(crate) fn identity_of(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Refuses a directory in which the promises cannot be kept, before anything is
/// made there.
pub(crate) fn check_place(path: &Path, config: &Config) -> Result<(), StorageError> {
    let directory = directory_of(path);
    check_file_system(directory, config)?;
    check_writable(directory).map_err(|error| of_io(error, directory))
}

pub(crate) fn check_file_system(directory: &Path, config: &Config) -> Result<(), StorageError> {
    match unsafe_kind(directory).map_err(|error| of_io(error, directory))? {
        Some(kind) if !config.allow_unsafe_file_system => {
            Err(StorageError::UnsafeFileSystem { kind })
        }
        _ => Ok(()),
    }
}

pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Whether the last process that had the database open died with it: its log is
/// still there, and nobody has it open. Asked under the write lock.
pub(crate) fn was_left_open(path: &Path) -> bool {
    // Also an empty one: whoever closes in order removes it.
    fs::symlink_metadata(with_suffix(path, "-wal")).is_ok() && !is_open_somewhere(path)
}

/// Looks through the file: everything but the order of its indexes.
pub(crate) fn look_through(connection: &Connection) -> Result<(), StorageError> {
    let problems =
        quick_check(connection).map_err(|error| of(&error, "looking through the file"))?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(StorageError::corrupt(
        "the database file",
        problems.join("; "),
    ))
}

fn quick_check(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("PRAGMA quick_check(100)")?;
    let mut problems = statement
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    problems.retain(|line| line != "ok");
    Ok(problems)
}

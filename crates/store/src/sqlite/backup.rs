//! A sound copy while others write.
//!
//! SQLite's backup API copies one moment of the database to a temporary name;
//! the copy is checked, synced, and renamed. A killed backup leaves no half
//! file under the final name, and what it leaves under the temporary one is
//! removed by the next.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_core::{InvalidInput, StorageError, crash_point};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, flock};

use super::SqliteStore;
use super::connection::open_immutable;
use super::create::{sync, sync_directory_of};
use super::error::{of, of_io};
use super::inspect::{Integrity, integrity};
use super::locks::is_open_somewhere;
use super::paths::{LOCK, refuse_own, resolve, with_suffix};
use super::readers::ReadError;

/// Suffix of a copy that is being made. Long, so that it is nobody else's file.
const PART: &str = ".agentos-part";

/// What a backup made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    /// The copy.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

impl SqliteStore {
    /// Copies the database to `destination`, in place of an earlier copy there.
    /// Others go on reading and writing; the copy shows one moment of it.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] when `destination` is a file of a store that is
    /// open in this process, a database that is open in another, or has a
    /// write-ahead log beside it that is not empty;
    /// [`StorageError::Busy`] when another backup into the same directory is
    /// under way; [`StorageError::Corrupt`] when the copy is not sound: then
    /// the original is not. Whatever was at `destination` is still there.
    pub fn backup(&self, destination: &Path) -> Result<BackupReport, StorageError> {
        let destination = resolve(destination)?;
        let part = with_suffix(&destination, PART);
        for target in [&destination, &part] {
            refuse_own(&self.path, target, "backup destination")?;
        }
        refuse_in_use(&destination)?;
        let directory = destination.parent().unwrap_or(Path::new("/"));
        let directory = File::open(directory).map_err(|error| of_io(error, directory))?;
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StorageError::Busy {
                waited: Duration::ZERO,
            });
        }
        crash_point!("backup.before_clearing");
        remove(&part)?;
        crash_point!("backup.cleared");
        let result = self.copy_to(&part).and_then(|()| {
            crash_point!("backup.before_rename");
            // Whoever opens a store at the destination waits for its lock.
            let _turn = lock_if_store(&destination)?;
            refuse_in_use(&destination)?;
            fs::rename(&part, &destination).map_err(|error| of_io(error, &destination))?;
            crash_point!("backup.after_rename");
            sync_directory_of(&destination)?;
            crash_point!("backup.directory_synced");
            Ok(())
        });
        if let Err(error) = result {
            let _ = remove(&part); // the first error counts
            return Err(error);
        }
        let bytes = fs::metadata(&destination)
            .map_err(|error| of_io(error, &destination))?
            .len();
        Ok(BackupReport {
            path: destination,
            bytes,
        })
    }

    fn copy_to(&self, part: &Path) -> Result<(), StorageError> {
        make_private(part)?;
        crash_point!("backup.empty");
        self.readers.read("backing up", |connection| {
            copy(connection, part).map_err(ReadError::from)
        })?;
        crash_point!("backup.copied");
        sync(part)?;
        crash_point!("backup.synced");
        let checked = check(part)?;
        if !checked.is_sound() {
            return Err(StorageError::corrupt(
                "the copy of the database",
                checked.problems.join("; "),
            ));
        }
        // What holds of the copy holds of what was copied.
        self.note_integrity(&checked);
        Ok(())
    }
}

/// Refuses a destination that is a live database: its log would be played into
/// the copy, and what is written to it would be lost.
fn refuse_in_use(destination: &Path) -> Result<(), StorageError> {
    let refuse = |reason: String| Err(InvalidInput::new("backup destination", reason).into());
    for beside in ["-wal", "-journal"] {
        let beside = with_suffix(destination, beside);
        if fs::symlink_metadata(&beside).is_ok_and(|found| found.len() > 0) {
            return refuse(format!(
                "{} would be played into the copy",
                beside.display()
            ));
        }
    }
    if is_open_somewhere(destination) {
        return refuse(format!("{} is open in some process", destination.display()));
    }
    Ok(())
}

/// The write lock of the store at `destination`, if there was ever one.
fn lock_if_store(destination: &Path) -> Result<Option<File>, StorageError> {
    let path = with_suffix(destination, LOCK);
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(of_io(error, &path)),
        Ok(file) => match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(_) => Err(StorageError::Busy {
                waited: Duration::ZERO,
            }),
        },
    }
}

/// Makes an empty file for a copy, which nobody else may read.
pub(crate) fn make_private(part: &Path) -> Result<(), StorageError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(part)
        .map(drop)
        .map_err(|error| of_io(error, part))
}

/// Copies the database of `connection` into an empty file.
pub(crate) fn copy(connection: &Connection, part: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(part, flags)?;
    // It is synced as a whole before it gets its name.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
    {
        let backup = Backup::new(connection, &mut copy)?;
        // All pages in one step: one moment of the source, however fast others
        // write. In a write-ahead log a reader keeps nobody waiting.
        match backup.step(-1)? {
            StepResult::Done => {}
            other => {
                let message = format!("the backup stopped: {other:?}");
                let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                return Err(rusqlite::Error::SqliteFailure(busy, Some(message)));
            }
        }
    }
    copy.close().map_err(|(_, error)| error)
}

/// Checks a copy without leaving files beside it.
pub(crate) fn check(part: &Path) -> Result<Integrity, StorageError> {
    open_immutable(part)
        .and_then(|connection| integrity(&connection))
        .map_err(|error| of(&error, "checking the copy"))
}

pub(crate) fn remove(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(of_io(error, path)),
        _ => Ok(()),
    }
}

//! Makes a new database, whole or not at all.
//!
//! It is built beside its place, as `<database>.agentos-new`, synced, and renamed:
//! under its own name there is never an empty or half-made file. So an empty
//! file found there is damage, not a beginning. Runs under the write lock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_core::{StorageError, Timestamp, crash_point};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::connection::{APPLICATION_ID, open_untouched, set};
use super::error::{of, of_io};
use super::migrate::{MIGRATIONS, migrate};
use super::paths::{NEW, with_suffix};

/// Makes the database at `path`, where there is no file.
pub(crate) fn create(path: &Path, now: Timestamp, busy: Duration) -> Result<(), StorageError> {
    for leftover in [with_suffix(path, "-wal"), with_suffix(path, "-journal")] {
        if fs::symlink_metadata(&leftover).is_ok() {
            // SQLite would play it into the new file.
            return Err(StorageError::corrupt(
                format!("{} without its database", leftover.display()),
                "the database file is missing",
            ));
        }
    }
    let new = with_suffix(path, NEW);
    clear(&new)?;
    crash_point!("create.before_empty");
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(|error| of_io(error, &new))?;
    crash_point!("create.empty");
    let result = build(&new, now, busy).and_then(|()| put_in_place(&new, path));
    if result.is_err() {
        // What could not be finished is not left behind; the first error counts.
        let _ = clear(&new);
    }
    result
}

/// Removes what a creation left that was killed after the file got its name.
pub(crate) fn clear_leftover(path: &Path) -> Result<(), StorageError> {
    crash_point!("create.before_clearing");
    clear(&with_suffix(path, NEW))?;
    crash_point!("create.cleared");
    Ok(())
}

/// Removes what an earlier, killed creation left. Nobody else can be at it: the
/// write lock is held.
fn clear(new: &Path) -> Result<(), StorageError> {
    let files: [PathBuf; 4] = [
        new.to_path_buf(),
        with_suffix(new, "-journal"),
        with_suffix(new, "-wal"),
        with_suffix(new, "-shm"),
    ];
    for file in files {
        match fs::remove_file(&file) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(of_io(error, &file)),
        }
    }
    Ok(())
}

fn build(new: &Path, now: Timestamp, busy: Duration) -> Result<(), StorageError> {
    let connection = open_untouched(new, busy)?;
    set(&connection, "auto_vacuum", 2)?; // can only be chosen now
    set(&connection, "application_id", APPLICATION_ID.into())?;
    set(&connection, "synchronous", 2)?;
    migrate(&connection, MIGRATIONS, now)?;
    connection
        .close()
        .map_err(|(_, error)| of(&error, "closing the new database"))
}

fn put_in_place(new: &Path, path: &Path) -> Result<(), StorageError> {
    crash_point!("create.built");
    sync(new)?;
    crash_point!("create.before_rename");
    // What somebody put there meanwhile (a restored copy) is not replaced.
    match rename_without_replacing(new, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return clear(new),
        renamed => renamed.map_err(|error| of_io(error, path))?,
    }
    crash_point!("create.after_rename");
    sync_directory_of(path)?;
    crash_point!("create.directory_synced");
    Ok(())
}

/// Gives a file another name, which nothing has yet.
pub(crate) fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that does not know it: a hard link replaces nothing either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

/// Makes a file's content durable. Only for files that SQLite has not open.
pub(crate) fn sync(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| of_io(error, path))
}

/// Makes a file's name durable.
pub(crate) fn sync_directory_of(path: &Path) -> Result<(), StorageError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    sync(directory)
}

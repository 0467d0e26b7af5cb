//! Opening: what is not ours is refused and left untouched; what is ours is
//! brought forward and set up. All of it happens under the write lock, so that
//! any number of processes may open a new file at the same instant.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentos_core::limits::COMMITS_PER_GROUP_MAX;
use agentos_core::{Deadline, InvalidInput, StorageError};
use rusqlite::Connection;

use super::SqliteStore;
use super::admission::{
    check_place, directory_of, identify, identity_of, look_through, was_left_open,
};
use super::ballast::{Ballast, is_full_now};
use super::config::Config;
use super::connection::{check_version, open_untouched, pragma, set_up_writer};
use super::create::{clear_leftover, create};
use super::error::{SqliteError, of_io, of_sqlite};
use super::group_commit::{Counters, Shared, SqliteWriter};
use super::listeners::Listeners;
use super::migrate::{self, MIGRATIONS};
use super::paths::{resolve, with_suffix};
use super::queue::Queue;
use super::readers::Readers;
use super::registry::Registered;
use super::write_lock::WriteLock;
use crate::sync::Mutex;

/// From so many waiting callers on, a leader commits more than one group.
const CROWD: usize = 8;

pub(crate) fn open(config: Config) -> Result<SqliteStore, StorageError> {
    config.check()?;
    check_version(rusqlite::version_number())?;
    let path = resolve(&config.path)?;
    check_place(&path, &config)?;
    let ballast = Ballast::new(&path, config.ballast_bytes);
    let store = match open_at(path.clone(), config.clone()) {
        // A full disk must not keep anybody from recovering.
        Err(error) if ballast.give_up_for(&error) => open_at(path.clone(), config),
        opened => opened,
    };
    let store = store.map_err(|error| match error {
        StorageError::Io(cause) if is_full_now(directory_of(&path)) => {
            StorageError::DiskFull(cause)
        }
        error => error,
    })?;
    store.warn();
    Ok(store)
}

fn open_at(path: PathBuf, config: Config) -> Result<SqliteStore, StorageError> {
    if fs::symlink_metadata(&path).is_ok() {
        // Before the side file is made: beside a foreign file nothing is left.
        identify(&path)?;
    }
    let registered = Registered::new(&path);
    let lock = WriteLock::open(&path)?;
    let turn = lock.acquire(&Deadline::after(config.busy_timeout))?;
    if fs::symlink_metadata(&path).is_err() {
        create(&path, config.clock.wall(), config.busy_timeout)?;
    }
    // It may have come there since the first look.
    identify(&path)?;
    clear_leftover(&path)?;
    refuse_second_name(&path)?;
    let crashed = was_left_open(&path);
    let connection = open_untouched(&path, config.busy_timeout)?;
    migrate::read_schema(&connection)?;
    refuse_read_only(&connection, &path)?;
    check_length(&connection, &path)?;
    if migrate::check(&connection, MIGRATIONS)? == 0 {
        // A database gets its name after its migrations.
        return Err(StorageError::corrupt("the schema", "its version is 0"));
    }
    if crashed && !config.skip_check_after_crash {
        tracing::info!(path = %path.display(), "opened after a crash: looking through the file");
        look_through(&connection)?;
    }
    set_up_writer(&connection, config.durability, config.log_bytes)?;
    migrate::migrate(&connection, MIGRATIONS, config.clock.wall())?;
    migrate::check_schema(&connection)?;
    let synchronous = pragma(&connection, "synchronous")?;
    let identity = identity_of(&path).map_err(|error| of_io(error, &path))?;
    Ballast::new(&path, config.ballast_bytes).keep();
    drop(turn);

    let counters = Arc::new(Counters::default());
    let readers = Arc::new(Readers::new(&path, config.readers, config.busy_timeout));
    let listeners = Arc::new(Listeners::default());
    let writer = SqliteWriter::new(
        config.clone(),
        path.clone(),
        lock,
        Shared {
            readers: Arc::clone(&readers),
            counters: Arc::clone(&counters),
            listeners: Arc::clone(&listeners),
        },
        connection,
    );
    let queue = Queue::new(
        writer,
        config.limits.queue_length,
        COMMITS_PER_GROUP_MAX,
        CROWD,
    );
    Ok(SqliteStore {
        path,
        config,
        queue,
        readers,
        counters,
        listeners,
        synchronous,
        identity,
        closed: Mutex::new(false),
        _registered: registered,
    })
}

/// A hard link has a log and a lock of its own: two processes that open one file
/// under two names do not see each other's commits, and lose them.
fn refuse_second_name(path: &Path) -> Result<(), StorageError> {
    let names = fs::metadata(path)
        .map_err(|error| of_io(error, path))?
        .nlink();
    if names > 1 {
        let reason = format!("{} has {names} names (hard links)", path.display());
        return Err(InvalidInput::new("database path", reason).into());
    }
    Ok(())
}

/// SQLite opens for reading what it cannot write, and says nothing. It knows
/// once it has read the first page.
fn refuse_read_only(connection: &Connection, path: &Path) -> Result<(), StorageError> {
    match connection.is_readonly(rusqlite::MAIN_DB) {
        Ok(false) => Ok(()),
        Ok(true) => {
            let cause = format!("{} cannot be written", path.display());
            Err(StorageError::ReadOnly(cause.into()))
        }
        Err(error) => Err(of_sqlite(SqliteError::from(&error), "opening the database")),
    }
}

/// Refuses a file that was cut inside its last page, which SQLite rounds away.
/// Only where no log can mend it.
fn check_length(connection: &Connection, path: &Path) -> Result<(), StorageError> {
    let length = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    if length(&with_suffix(path, "-wal")) > 0 {
        return Ok(());
    }
    let page = pragma(connection, "page_size")?.unsigned_abs();
    let needed = pragma(connection, "page_count")?.unsigned_abs() * page;
    let found = length(path);
    if found < needed || found % page.max(1) != 0 {
        let detail = format!("it has {found} bytes, and needs {needed} in pages of {page}");
        return Err(StorageError::corrupt("the database file", detail));
    }
    Ok(())
}

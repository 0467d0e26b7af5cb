//! Keeps the write-ahead log within its bound.
//!
//! SQLite begins the log anew when all of it is in the file and nobody reads
//! from it any more. Readers that come and go without a gap can prevent that for
//! ever, and so can a single one that does not end. So from a quarter of the
//! bound on the writer asks for it, and waits a moment for readers to go; new
//! ones do not stand in its way. At the bound it waits for them as long as its
//! callers do, and then takes no commit. The log is at most the bound and one
//! group longer.
//!
//! While the disk is full the log is kept far shorter, or the heartbeats that go on
//! would use up the room that was given up for them.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use agentos_core::{Deadline, StorageError, crash_point};
use rusqlite::Connection;

use super::error::{SqliteError, of_sqlite};
use super::file_system::length_alone;
use super::paths::with_suffix;

/// How long the writer waits for readers, each time it asks.
const PATIENCE: Duration = Duration::from_millis(20);
/// Pause before it asks again. SQLite does not wait at all while somebody else
/// moves the log.
const RETRY: Duration = Duration::from_millis(1);

/// The write-ahead log of one store.
pub(crate) struct LogBound {
    path: PathBuf,
    bound: u64,
    /// The size at which to try next.
    next: u64,
    /// The size that it had when cutting it on a full disk was last in vain.
    uncut: u64,
}

impl LogBound {
    pub(crate) fn new(database: &Path, bound: u64) -> LogBound {
        LogBound {
            path: with_suffix(database, "-wal"),
            bound,
            next: bound / 4,
            uncut: 0,
        }
    }

    /// Size of the log in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        length_alone(&self.path)
    }

    /// Begins the log anew where it has grown and that can be done; at the bound
    /// waits for it until the deadline.
    ///
    /// # Errors
    ///
    /// [`StorageError::LogFull`] when it is at its bound and stays there, since
    /// somebody reads; another error when it is at its bound and moving it into
    /// the file failed, as on a full disk.
    pub(crate) fn keep(
        &mut self,
        connection: &Connection,
        deadline: &Deadline,
    ) -> Result<(), StorageError> {
        if self.bytes() < self.next {
            return Ok(());
        }
        loop {
            // Asked again and again with little patience each time: SQLite waits
            // for the place in which a reader was when it was asked, and a reader
            // that has begun anew there meanwhile is in nobody's way any more.
            let done = cut(connection, PATIENCE);
            let bytes = self.bytes();
            if bytes < self.bound {
                match done {
                    Err(error) => {
                        tracing::warn!(%error, "the write-ahead log could not be cut");
                    }
                    Ok(_) if self.bound / 4 <= bytes => {
                        tracing::warn!(bytes, "the write-ahead log grows: a reader does not end");
                    }
                    Ok(_) => {}
                }
                self.next = (bytes + self.bound / 16).clamp(self.bound / 4, self.bound);
                return Ok(());
            }
            self.next = self.bound;
            match done {
                Err(StorageError::Busy { .. }) | Ok(_) if !deadline.passed() => {
                    thread::park_timeout(RETRY);
                }
                Err(StorageError::Busy { .. }) | Ok(_) => {
                    let bound = self.bound;
                    tracing::error!(bytes, bound, "the log is full: a reader does not end");
                    return Err(StorageError::LogFull { bytes, bound });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl LogBound {
    /// While only `room` bytes are left for log and file: begins the log anew once
    /// it has a quarter of them, and where that is in vain at each further
    /// sixteenth.
    pub(crate) fn spare(&mut self, connection: &Connection, room: u64) {
        let before = self.bytes();
        if before < (room / 4).max(self.uncut + room / 16) {
            return;
        }
        if let Err(error) = cut(connection, PATIENCE) {
            tracing::warn!(%error, "the write-ahead log could not be cut on a full disk");
        }
        let after = self.bytes();
        self.uncut = if after < before { 0 } else { after };
    }
}

/// Moves the log into the file and cuts it to nothing, if readers let go of it
/// within `patience`; `false` when they do not.
pub(crate) fn cut(connection: &Connection, patience: Duration) -> Result<bool, StorageError> {
    let cut = || -> rusqlite::Result<bool> {
        connection.busy_timeout(patience)?;
        crash_point!("log.before_cut");
        let mut statement = connection.prepare_cached("PRAGMA wal_checkpoint(TRUNCATE)")?;
        let busy: i64 = statement.query_row([], |row| row.get(0))?;
        crash_point!("log.cut");
        Ok(busy == 0)
    };
    cut().map_err(|error| of_sqlite(SqliteError::from(&error), "cutting the log"))
}

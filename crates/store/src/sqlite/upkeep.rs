//! Upkeep of the file itself: free pages, the planner's statistics, the log.
//!
//! Each step is a chore of its own for the writer, after the commits that wait
//! at the same time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use agentos_core::{LogShortened, Reclaimed, StorageError, UpkeepStorage, crash_point};

use super::SqliteStore;
use super::ballast::Ballast;
use super::chores::Chore;
use super::connection::open_untouched;
use super::error::of;
use super::file_system::length_alone;
use super::inspect::Integrity;
use super::jobs::{Done, Job};
use super::paths::with_suffix;

impl SqliteStore {
    pub(crate) fn chore(&self, chore: Chore) -> Result<Reclaimed, StorageError> {
        match self.submit(Job::Chore(chore))? {
            Done::Chore(reclaimed) => Ok(reclaimed),
            _ => Err(StorageError::Internal {
                context: "a chore".into(),
                cause: "it was answered as something else".into(),
            }),
        }
    }

    /// Moves the log into the file, as far as its readers allow: on a connection
    /// of its own and without the write lock, so that others go on writing.
    fn move_log(&self) -> Result<(), StorageError> {
        // Closing waits for it, so that it leaves no log behind.
        let closed = self.closed.lock();
        if *closed {
            return Err(StorageError::Closed);
        }
        // It is opened by its name: the log must not go into another file.
        self.check_identity()?;
        let connection = open_untouched(&self.path, Duration::ZERO)?;
        crash_point!("upkeep.before_log_moved");
        connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .map_err(|error| of(&error, "moving the log into the file"))?;
        crash_point!("upkeep.log_moved");
        Ok(())
    }

    /// Keeps what an integrity check said, for the doctor. That it could not be
    /// kept changes nothing about what it said.
    pub(crate) fn note_integrity(&self, found: &Integrity) {
        let problems = found.problems.len();
        if let Err(error) = self.chore(Chore::NoteIntegrity { problems }) {
            tracing::warn!(%error, "an integrity check could not be noted");
        }
    }
}

impl UpkeepStorage for SqliteStore {
    fn reclaim_space(&self, keep_bytes: u64) -> Result<Reclaimed, StorageError> {
        self.chore(Chore::Reclaim { keep_bytes })
    }

    fn refresh_statistics(&self) -> Result<(), StorageError> {
        self.chore(Chore::Optimize).map(drop)
    }

    fn shorten_log(&self) -> Result<LogShortened, StorageError> {
        if *self.closed.lock() {
            return Err(StorageError::Closed);
        }
        let wal = with_suffix(&self.path, "-wal");
        let bytes = || length_alone(&wal);
        let bytes_before = bytes();
        if bytes_before > 0 {
            let ballast = Ballast::new(&self.path, self.config.ballast_bytes);
            match self.move_log() {
                // The file may have to grow before the log can shrink.
                Err(error) if ballast.give_up_for(&error) => {
                    let given_up = &self.counters.ballast_given_up;
                    given_up.fetch_add(1, Ordering::Relaxed);
                    self.move_log()
                }
                moved => moved,
            }?;
            self.chore(Chore::CutLog)?;
        }
        Ok(LogShortened {
            bytes_before,
            bytes_after: bytes(),
        })
    }
}

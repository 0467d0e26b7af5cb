//! Upkeep of the file itself: free pages, the planner's statistics, the log.
//!
//! Each step is a chore of its own for the writer, after the commits that wait
//! at the same time. Killed anywhere it leaves a sound file: whatever a chore
//! changes, it changes in one transaction, or SQLite can do without it.

use std::time::Duration;

use agentos_core::{
    Deadline, LogShortened, Reclaimed, StorageError, Timestamp, UpkeepStorage, crash_point,
};
use rusqlite::{Connection, named_params};

use super::connection::{open_untouched, pragma};
use super::error::of;
use super::group_commit::{Done, Job};
use super::inspect::Integrity;
use super::log_bound::cut;
use super::paths::with_suffix;
use super::{SqliteStore, statements};

/// Pages that one step gives back: a fraction of a millisecond each with a slow
/// disk's cache cold, some ten microseconds with a warm one.
const PAGES_PER_STEP: i64 = 32;
/// How long the last step of shortening the log waits for readers.
const READERS_PATIENCE: Duration = Duration::from_millis(5);
/// Most rows that ANALYZE looks at for each index.
const ANALYSIS_ROWS: i64 = 400;

/// Work of the writer that is no commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Gives pages back, and leaves so many bytes of them.
    Reclaim { keep_bytes: u64 },
    /// Lets SQLite analyze what has changed much.
    Optimize,
    /// Cuts the log, which is in the file already but for its end.
    CutLog,
    /// Notes that the file's integrity was checked.
    NoteIntegrity { problems: usize },
}

/// Does a chore. On an error the caller rolls back what still stands.
pub(crate) fn run(
    connection: &Connection,
    chore: Chore,
    now: Timestamp,
) -> Result<Reclaimed, StorageError> {
    let nothing = Reclaimed {
        bytes: 0,
        more: false,
    };
    match chore {
        Chore::Reclaim { keep_bytes } => return reclaim(connection, keep_bytes),
        Chore::Optimize => {
            let sql = format!("PRAGMA analysis_limit = {ANALYSIS_ROWS}; PRAGMA optimize");
            connection
                .execute_batch(&sql)
                .map_err(|error| of(&error, "optimizing"))?;
            crash_point!("upkeep.optimized");
        }
        Chore::CutLog => {
            cut(connection, READERS_PATIENCE)?;
            crash_point!("upkeep.log_cut");
        }
        Chore::NoteIntegrity { problems } => {
            let problems = i64::try_from(problems).unwrap_or(i64::MAX);
            connection
                .prepare_cached(statements::INTEGRITY_NOTE)
                .and_then(|mut statement| {
                    statement
                        .execute(named_params! { ":problems": problems, ":now": now.to_text() })
                })
                .map_err(|error| of(&error, "noting an integrity check"))?;
        }
    }
    Ok(nothing)
}

fn reclaim(connection: &Connection, keep_bytes: u64) -> Result<Reclaimed, StorageError> {
    let page = pragma(connection, "page_size")?.max(1);
    let keep = i64::try_from(keep_bytes).unwrap_or(i64::MAX) / page;
    let before = pragma(connection, "freelist_count")?;
    let pages = (before - keep).min(PAGES_PER_STEP);
    if pages <= 0 {
        return Ok(Reclaimed {
            bytes: 0,
            more: false,
        });
    }
    // One row a page; none of them says anything.
    connection
        .prepare(&format!("PRAGMA incremental_vacuum({pages})"))
        .and_then(|mut statement| {
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        })
        .map_err(|error| of(&error, "giving pages back"))?;
    crash_point!("upkeep.reclaimed");
    let after = pragma(connection, "freelist_count")?;
    Ok(Reclaimed {
        bytes: ((before - after).max(0) * page).unsigned_abs(),
        more: after > keep && after < before,
    })
}

impl SqliteStore {
    pub(crate) fn chore(&self, chore: Chore) -> Result<Reclaimed, StorageError> {
        let deadline = Deadline::after(self.config.busy_timeout);
        match self.queue.submit(Job::Chore(chore), &deadline)? {
            Done::Chore(reclaimed) => Ok(reclaimed),
            Done::Committed(_) => Err(StorageError::Internal {
                context: "a chore".into(),
                cause: "it was answered as a commit".into(),
            }),
        }
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
        let wal = with_suffix(&self.path, "-wal");
        let bytes = || std::fs::metadata(&wal).map_or(0, |found| found.len());
        let bytes_before = bytes();
        if bytes_before > 0 {
            // Most of the work, on a connection of its own and without the write
            // lock: others go on writing.
            let connection = open_untouched(&self.path, Duration::ZERO)?;
            connection
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
                .map_err(|error| of(&error, "moving the log into the file"))?;
            crash_point!("upkeep.log_moved");
            drop(connection);
            self.chore(Chore::CutLog)?;
        }
        Ok(LogShortened {
            bytes_before,
            bytes_after: bytes(),
        })
    }
}

//! Fresh stores, each in a directory of its own that goes when the test ends.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentos_core::{
    AppendCheckpoint, CheckpointType, Codec, ManualClock, NewTask, SequenceNumber, Snapshot,
    Storage, TaskId, Timestamp,
};
use agentos_store::sqlite::{Config, SqliteStore};
use tempfile::TempDir;

/// A store in a directory of its own.
pub struct Open {
    store: Option<SqliteStore>,
    path: PathBuf,
    clock: Option<Arc<ManualClock>>,
    directory: TempDir,
}

impl Open {
    /// The directory, which holds nothing but the store's files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Closes the store; the files stay until the directory is dropped.
    pub fn shut(mut self) -> (TempDir, PathBuf) {
        drop(self.store.take());
        (self.directory, self.path)
    }

    /// Closes the store and opens it again.
    ///
    /// # Panics
    ///
    /// When it cannot be opened.
    pub fn reopen(&mut self) {
        drop(self.store.take());
        self.store = Some(opened(&self.path, self.clock.as_ref()));
    }
}

impl Deref for Open {
    type Target = SqliteStore;

    fn deref(&self) -> &SqliteStore {
        self.store.as_ref().expect("the store is open")
    }
}

impl AsRef<dyn Storage> for Open {
    fn as_ref(&self) -> &(dyn Storage + 'static) {
        &**self
    }
}

/// A store in a fresh directory, for a suite that knows no engine.
pub fn sqlite() -> Open {
    fresh()
}

/// A store in a fresh directory.
///
/// # Panics
///
/// When it cannot be made.
pub fn fresh() -> Open {
    made(None)
}

/// A store in a fresh directory, and the clock that it goes by, for a suite that
/// knows no engine.
///
/// # Panics
///
/// When it cannot be made.
pub fn sqlite_with_clock() -> (Open, Arc<ManualClock>) {
    let clock = manual_clock();
    (made(Some(Arc::clone(&clock))), clock)
}

fn made(clock: Option<Arc<ManualClock>>) -> Open {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("agent.db");
    Open {
        store: Some(opened(&path, clock.as_ref())),
        path,
        clock,
        directory,
    }
}

fn opened(path: &Path, clock: Option<&Arc<ManualClock>>) -> SqliteStore {
    let mut config = config(path);
    if let Some(clock) = clock {
        config = config.clock(Arc::clone(clock));
    }
    SqliteStore::open(config).unwrap_or_else(|error| {
        panic!("{} cannot be opened: {error:?}", path.display());
    })
}

/// The configuration of most tests: patient, since test machines are slow.
pub fn config(path: impl AsRef<Path>) -> Config {
    Config::at(path).busy_timeout(Duration::from_secs(30))
}

/// Opens the store at `path`.
///
/// # Panics
///
/// When it cannot be opened.
pub fn at(path: impl AsRef<Path>) -> SqliteStore {
    opened(path.as_ref(), None)
}

/// A clock that stands on 29 January 2026.
pub fn manual_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_unix_micros(
        1_769_644_801_000_042,
    )))
}

/// An id that is known to be good.
///
/// # Panics
///
/// When it is not.
pub fn task_id(id: &str) -> TaskId {
    TaskId::new(id).expect("a good id")
}

/// A task of this id.
pub fn new_task(id: &str) -> NewTask {
    NewTask::new(task_id(id), "test")
}

/// A checkpoint of `task` with these bytes as its state.
pub fn append(task: &str, state: impl Into<Vec<u8>>) -> AppendCheckpoint {
    AppendCheckpoint {
        snapshot: Some(Snapshot::new(Codec::Raw, 1, state.into())),
        ..AppendCheckpoint::new(task_id(task), CheckpointType::IterationEnd)
    }
}

impl Open {
    /// The numbers of a task's checkpoints, oldest first, in any quantity.
    ///
    /// # Panics
    ///
    /// When they cannot be read.
    pub fn numbers(&self, task: &str) -> Vec<u64> {
        numbers(&**self, task)
    }
}

/// The numbers of a task's checkpoints, oldest first, read page by page.
///
/// # Panics
///
/// When they cannot be read.
pub fn numbers(store: &dyn Storage, task: &str) -> Vec<u64> {
    let task = task_id(task);
    let mut numbers = Vec::new();
    let mut below: Option<SequenceNumber> = None;
    loop {
        let page = store
            .checkpoints(&task, below, 1000)
            .expect("a page of checkpoints");
        let Some(last) = page.last() else { break };
        assert!(
            below.is_none_or(|below| last.sequence < below),
            "the list does not go on"
        );
        below = Some(last.sequence);
        numbers.extend(page.iter().map(|summary| summary.sequence.get()));
    }
    numbers.reverse();
    numbers
}

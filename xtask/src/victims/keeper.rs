//! A process that takes a store through its whole life, in turns: it makes the file, writes,
//! copies it, finds the disk full and gives the ballast up, gets it back, tidies up, and
//! opens files of older versions. It acknowledges each step.

use std::error::Error;
use std::path::PathBuf;
use std::thread;

use agentos_core::{AuditLine, BoxError, CheckpointStorage, Commit, NewTask, Storage, TaskId};
use agentos_recovery::{Mode, UpkeepConfig, run_upkeep_with};
use agentos_store::sqlite::{Config, SqliteStore};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde::{Deserialize, Serialize};

use super::janitor::{numbered, retention};
use super::{BUSY_TIMEOUT, ack};
use crate::canary::Canary;

/// The task that it writes of.
pub(crate) const KEPT_TASK: &str = "kept";
/// The event of its audit lines; the detail is the number of the checkpoint beside it.
pub(crate) const KEPT_EVENT: &str = "kept";
/// The ballast of its store.
pub(crate) const KEEPER_BALLAST_BYTES: u64 = 256 << 10;
/// Commits in each turn before the copy, and after it.
const WRITES: u64 = 4;

/// The role of a keeper.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Keeper {
    /// The database, which it makes.
    pub(crate) db: PathBuf,
    /// Where the backup goes.
    pub(crate) copy: PathBuf,
    /// Files of older versions.
    pub(crate) old: Vec<PathBuf>,
    /// How many turns.
    pub(crate) turns: u64,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kept {
    /// The store is open, with its ballast.
    Opened,
    /// This checkpoint is written, with its audit line.
    Written(u64),
    /// The copy has this checkpoint.
    Copied(u64),
    /// A commit found no room.
    Refused,
    /// What is old is pruned, and the log is cut.
    Tidied,
    /// The store is closed.
    Closed,
    /// An old file was opened and closed.
    BroughtForward(PathBuf),
}

impl Keeper {
    /// How the store is opened.
    pub(crate) fn config(&self) -> Config {
        Config::at(&self.db)
            .busy_timeout(BUSY_TIMEOUT)
            .ballast_bytes(KEEPER_BALLAST_BYTES)
    }

    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        for _ in 0..self.turns {
            self.live()?;
        }
        for old in &self.old {
            SqliteStore::open(Config::at(old).ballast_bytes(0))?.close();
            ack(&Kept::BroughtForward(old.clone()))?;
        }
        Ok(())
    }

    fn live(&self) -> Result<(), Box<dyn Error>> {
        let store = SqliteStore::open(self.config())?;
        ack(&Kept::Opened)?;
        let task = TaskId::new(KEPT_TASK)?;
        store.commit(NewTask::new(task.clone(), "kept").into())?;
        let mut newest = 0;
        for _ in 0..WRITES {
            newest = self.write(&store, &task)?;
        }
        store.backup(&self.copy)?;
        ack(&Kept::Copied(newest))?;
        if self.is_refused(&store, &task)? {
            ack(&Kept::Refused)?;
        }
        for _ in 0..WRITES {
            self.write(&store, &task)?;
        }
        // All of the space that it frees is given back.
        let config = UpkeepConfig {
            retention: retention(),
            free_bytes_kept: 0,
            ..UpkeepConfig::default()
        };
        let report = run_upkeep_with(&store, &config, Mode::Apply)?;
        if let Some(failure) = report.failures.into_iter().next() {
            return Err(failure.error.into());
        }
        ack(&Kept::Tidied)?;
        store.close();
        Ok(ack(&Kept::Closed)?)
    }

    /// Writes the next checkpoint, and gives its number.
    fn write(&self, store: &SqliteStore, task: &TaskId) -> Result<u64, Box<dyn Error>> {
        let newest = store.checkpoints(task, None, 1)?;
        let number = newest.first().map_or(0, |found| found.sequence.get()) + 1;
        let line = AuditLine::new(task.clone(), KEPT_EVENT).detail(number.into());
        let commit = Commit::new().part(numbered(task.clone(), number));
        if self.canary == Some(Canary::AuditApart) {
            store.commit(commit)?;
            store.commit(line.into())?;
        } else {
            store.commit(commit.part(line))?;
        }
        ack(&Kept::Written(number))?;
        Ok(number)
    }

    /// Writes in a thread for which the disk is full; whether it was refused.
    fn is_refused(&self, store: &SqliteStore, task: &TaskId) -> Result<bool, Box<dyn Error>> {
        let rules = [(libc::SYS_pwrite64, Vec::new())].into();
        let full = SeccompAction::Errno(u32::try_from(libc::ENOSPC)?);
        let arch = std::env::consts::ARCH.try_into()?;
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, full, arch)?;
        let filter = BpfProgram::try_from(filter)?;
        let refused = thread::scope(|scope| {
            let writing = scope.spawn(|| -> Result<bool, BoxError> {
                // For this thread alone, and for as long as it lives.
                apply_filter(&filter)?;
                Ok(self.write(store, task).is_err())
            });
            match writing.join() {
                Ok(answer) => answer,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        refused.map_err(|error| error as Box<dyn Error>)
    }
}

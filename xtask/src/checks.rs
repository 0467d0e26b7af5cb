//! Reads the database that was left behind, through the store's public API.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentos_chaos::Failure;
use agentos_checkpoints::{CheckpointConfig, CheckpointManager};
use agentos_core::{Checkpoint, CheckpointStorage, SequenceNumber, Storage, TaskId};
use agentos_store::sqlite::{Config, SqliteStore};

/// Others may be at work on the same file.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rows asked for at a time.
const PAGE: u32 = 200;

/// A database that was left behind, opened as its next user would.
pub(crate) struct Wreck {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) checkpoints: CheckpointManager,
}

impl Wreck {
    /// Opens the database; artifacts are looked for in `work`.
    pub(crate) fn open(db: &Path, work: &Path) -> Result<Wreck, Failure> {
        let config = Config::at(db).busy_timeout(PATIENCE);
        let store = Arc::new(SqliteStore::open(config)?);
        let checkpoints = CheckpointManager::new(
            Arc::clone(&store) as Arc<dyn Storage>,
            CheckpointConfig::new(work),
        )?;
        Ok(Wreck { store, checkpoints })
    }

    /// Every checkpoint of a task, oldest first, each with its seal checked;
    /// a damaged one is an error.
    pub(crate) fn all(&self, task: &TaskId) -> Result<Vec<Checkpoint>, Failure> {
        let mut all = Vec::new();
        let mut below: Option<SequenceNumber> = None;
        loop {
            let page = self.store.checkpoints(task, below, PAGE)?;
            let Some(last) = page.last() else { break };
            below = Some(last.sequence);
            for summary in &page {
                let checkpoint = self.store.checkpoint(task, summary.sequence)?;
                all.push(
                    checkpoint
                        .ok_or_else(|| Failure::new("a listed checkpoint cannot be loaded"))?,
                );
            }
        }
        all.reverse();
        Ok(all)
    }

    /// What SQLite's own checks find wrong with the file.
    pub(crate) fn problems(&self) -> Result<Vec<String>, Failure> {
        Ok(self.store.check_integrity()?.problems)
    }
}

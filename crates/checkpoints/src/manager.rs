//! CheckpointManager: prepares, appends, loads, lists and verifies.
//!
//! All slow work (reading and syncing files, running rechecks) happens while a
//! checkpoint is prepared, before any transaction; its results are stored in
//! the checkpoint's own commit. The manager holds no state of its own: any
//! number of them, in any number of threads and processes, share a store.

use std::sync::Arc;

use agentos_core::{
    AppendCheckpoint, Appended, Checkpoint, CheckpointSummary, EvidenceResult, FoundCheckpoint,
    RecordVerification, SequenceNumber, Storage, StorageError, TaskId, Verification,
};

use crate::config::CheckpointConfig;
use crate::error::CheckpointError;
use crate::evidence::Pack;
use crate::new_checkpoint::NewCheckpoint;
use crate::verify::{Examination, Report};

/// Makes and reads the checkpoints of a store. Cheap to clone.
#[derive(Clone)]
pub struct CheckpointManager {
    storage: Arc<dyn Storage>,
    config: Arc<CheckpointConfig>,
}

impl std::fmt::Debug for CheckpointManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckpointManager")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl CheckpointManager {
    /// A manager of the checkpoints in `storage`.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::BaseDirectory`] when the base directory cannot be
    /// used, [`StorageError::Invalid`] for a kind of evidence whose name is
    /// empty, taken or given twice.
    pub fn new(
        storage: Arc<dyn Storage>,
        config: CheckpointConfig,
    ) -> Result<CheckpointManager, CheckpointError> {
        Ok(CheckpointManager {
            storage,
            config: Arc::new(config.settle()?),
        })
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// Prepares a checkpoint as a part of a commit: checks its bounds, verifies
    /// its evidence and makes the files durable that it speaks of, as
    /// configured. Nothing is stored until the part is committed.
    ///
    /// Files of `db_row` evidence are not synced: only their engine may open
    /// them.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] and [`StorageError::Invalid`] before
    /// anything is looked at, [`CheckpointError::PathRefused`] before anything
    /// is opened, [`CheckpointError::EvidenceFailed`] unless failures are to be
    /// stored, [`CheckpointError::NotDurable`], [`StorageError::Busy`] when
    /// evidence about a row could not be asked for.
    pub fn prepare(&self, new: NewCheckpoint) -> Result<AppendCheckpoint, CheckpointError> {
        let mut part = AppendCheckpoint::new(new.task, new.checkpoint_type);
        part.snapshot = new.snapshot;
        part.metadata = new.metadata;
        // The commit checks again; here it comes before any file is opened.
        part.check(self.storage.limits())?;
        if let Some(mut pack) = new.evidence {
            pack.validate()?;
            let report = self.examination().attest(&mut pack)?;
            if report.verification == Verification::Failed {
                tracing::warn!(
                    task = part.task.as_str(),
                    failed = report.failed().count(),
                    "evidence does not hold"
                );
                if self.config.refuses() {
                    let results = report.results;
                    return Err(CheckpointError::EvidenceFailed { results });
                }
            }
            part.evidence = Some(pack.to_json()?);
            part.verification = report.verification;
            part.results = report.results;
        }
        Ok(part)
    }

    /// Prepares a checkpoint and commits it alone. When it returns `Ok`, the
    /// checkpoint is as durable as the store was configured.
    ///
    /// # Errors
    ///
    /// As [`CheckpointManager::prepare`] and [`Storage::commit`];
    /// [`StorageError::NotFound`] when the task does not exist.
    pub fn append(&self, new: NewCheckpoint) -> Result<Appended, CheckpointError> {
        let part = self.prepare(new)?;
        let receipt = self.storage.commit(part.into())?;
        match receipt.appended().next() {
            Some(appended) => Ok(*appended),
            None => Err(StorageError::Internal {
                context: "appending a checkpoint".into(),
                cause: format!("the engine answered {:?}", receipt.outcomes).into(),
            }
            .into()),
        }
    }

    /// The checkpoint of this number, its seal checked; `None` when there is
    /// none.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when it is not what was stored.
    pub fn get(
        &self,
        task: &TaskId,
        sequence: SequenceNumber,
    ) -> Result<Option<Checkpoint>, CheckpointError> {
        Ok(self.storage.checkpoint(task, sequence)?)
    }

    /// The newest checkpoint, whatever it carries, its seal checked; `None`
    /// when there is none. To go on from one, see
    /// [`CheckpointManager::resume`].
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when it is not what was stored.
    pub fn latest(&self, task: &TaskId) -> Result<Option<Checkpoint>, CheckpointError> {
        match self.storage.newest_checkpoint(task, None)? {
            None => Ok(None),
            Some(FoundCheckpoint::Sound(checkpoint)) => Ok(Some(*checkpoint)),
            Some(FoundCheckpoint::Damaged { sequence, detail }) => {
                Err(StorageError::corrupt_checkpoint(task.as_str(), sequence, detail).into())
            }
        }
    }

    /// Summaries, newest first, at most `rows`, with numbers below `below`: the
    /// last number shown gives the next page. Seals are not checked.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] beyond
    /// [`PAGE_ROWS_MAX`](agentos_core::limits::PAGE_ROWS_MAX) rows.
    pub fn list(
        &self,
        task: &TaskId,
        below: Option<SequenceNumber>,
        rows: u32,
    ) -> Result<Vec<CheckpointSummary>, CheckpointError> {
        Ok(self.storage.checkpoints(task, below, rows)?)
    }

    /// What the last recorded check said about each item of a checkpoint's
    /// evidence; empty when none was recorded.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when a record cannot be read.
    pub fn results(
        &self,
        task: &TaskId,
        sequence: SequenceNumber,
    ) -> Result<Vec<EvidenceResult>, CheckpointError> {
        Ok(self.storage.evidence_results(task, sequence)?)
    }

    /// Checks the seal and the evidence of a checkpoint now, and records what
    /// the evidence said in place of what was recorded earlier.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`], [`StorageError::Corrupt`] when the seal does
    /// not hold, [`CheckpointError::UnreadableEvidence`]: nothing was recorded.
    pub fn verify(
        &self,
        task: &TaskId,
        sequence: SequenceNumber,
    ) -> Result<Report, CheckpointError> {
        let checkpoint = self.storage.checkpoint(task, sequence)?.ok_or_else(|| {
            StorageError::not_found("checkpoint", format!("{task} number {sequence}"))
        })?;
        let report = self.examine(&checkpoint)?;
        let record = RecordVerification {
            task: task.clone(),
            sequence,
            verification: report.verification,
            results: report.results.clone(),
        };
        self.storage.commit(record.into())?;
        Ok(report)
    }

    /// Checks the evidence of a checkpoint now, and records nothing.
    pub(crate) fn examine(&self, checkpoint: &Checkpoint) -> Result<Report, CheckpointError> {
        match &checkpoint.evidence {
            None => Ok(Report {
                verification: Verification::Unverified,
                results: Vec::new(),
            }),
            Some(text) => self.examination().check(&Pack::from_json(text)?),
        }
    }

    fn examination(&self) -> Examination<'_> {
        Examination::new(self.storage(), &self.config)
    }
}

//! Checkpoints on the real store: state and evidence through append, verify and
//! resume, with the file damaged by hand where damage is what is tested.

use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agentos_checkpoints::{
    ArtifactKind, Check, CheckContext, CheckpointConfig, CheckpointError, CheckpointManager,
    CommandExit, DbRow, DigestAlgorithm, Evidence, FileDigest, Label, NewCheckpoint, OldState,
    OnFailure, Pack, PassedOver, PassedOverReason, PathRefusal, ReadState, Recheck, Resume,
    Resumed, StateFormat,
};
use agentos_core::{
    AppendCheckpoint, BoxError, Checkpoint, CheckpointType, Codec, Commit, EvidenceOutcome,
    EvidenceResult, InvalidInput, LimitExceeded, Limits, ManualClock, NewTask, RowValue,
    SequenceNumber, SetTaskStatus, Snapshot, Storage, StorageError, TaskId, TaskStatus,
    TaskStorage, Timestamp, Verification,
};
use agentos_store::sqlite::{Config, SqliteStore};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A store whose file lies in the base directory of evidence, and a task.
struct Ground {
    dir: PathBuf,
    store: Arc<SqliteStore>,
    clock: Arc<ManualClock>,
    task: TaskId,
    _temporary: tempfile::TempDir,
}

fn ground() -> Ground {
    ground_with(Limits::default())
}

fn ground_with(limits: Limits) -> Ground {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().canonicalize().unwrap().join("base");
    fs::create_dir(&dir).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix_micros(1_000_000)));
    let config = Config::at(dir.join("agent.db"))
        .clock(clock.clone())
        .limits(limits);
    let store = Arc::new(SqliteStore::open(config).unwrap());
    let task = TaskId::new("task").unwrap();
    store
        .create_task(NewTask::new(task.clone(), "test"))
        .unwrap();
    Ground {
        dir,
        store,
        clock,
        task,
        _temporary: temporary,
    }
}

impl Ground {
    fn manager(&self) -> CheckpointManager {
        self.manager_with(|config| config)
    }

    fn manager_with(
        &self,
        change: impl FnOnce(CheckpointConfig) -> CheckpointConfig,
    ) -> CheckpointManager {
        let config = change(CheckpointConfig::new(&self.dir));
        CheckpointManager::new(self.store.clone(), config).unwrap()
    }

    fn blank(&self) -> NewCheckpoint {
        NewCheckpoint::new(self.task.clone(), CheckpointType::IterationEnd)
    }

    fn step(&self, step: u64) -> NewCheckpoint {
        self.blank().state(&step).unwrap()
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.dir.join(name), content).unwrap();
    }

    fn damage(&self, sql: &str) {
        let changed = Connection::open(self.dir.join("agent.db"))
            .unwrap()
            .execute(sql, [])
            .unwrap();
        assert_eq!(changed, 1, "{sql}");
    }

    fn resumed(&self, manager: &CheckpointManager) -> Resumed {
        match manager.resume(&self.task).unwrap() {
            Resume::From(resumed) => *resumed,
            Resume::Nowhere { passed_over } => panic!("nowhere: {passed_over:?}"),
        }
    }

    fn get(&self, manager: &CheckpointManager, number: u64) -> Checkpoint {
        manager.get(&self.task, seq(number)).unwrap().unwrap()
    }

    /// How many checkpoints there are.
    fn count(&self, manager: &CheckpointManager) -> usize {
        manager.list(&self.task, None, 100).unwrap().len()
    }

    /// The reasons of the items that fail when `pack` is appended; nothing must
    /// be stored.
    #[track_caller]
    fn refused(&self, manager: &CheckpointManager, pack: Pack) -> Vec<String> {
        let before = self.count(manager);
        let error = manager.append(self.step(1).evidence(pack)).unwrap_err();
        assert_eq!(self.count(manager), before, "something was stored");
        match error {
            CheckpointError::EvidenceFailed { results } => reasons(&results),
            other => panic!("{other:?}"),
        }
    }
}

fn seq(number: u64) -> SequenceNumber {
    SequenceNumber::new(number).unwrap()
}

fn at_least(least: u32, items: impl IntoIterator<Item = Evidence>) -> Pack {
    Pack::at_least(NonZeroU32::new(least).unwrap(), items)
}

fn reasons(results: &[EvidenceResult]) -> Vec<String> {
    results
        .iter()
        .filter_map(|result| result.reason.clone())
        .collect()
}

fn outcomes(results: &[EvidenceResult]) -> Vec<EvidenceOutcome> {
    results.iter().map(|result| result.outcome).collect()
}

#[track_caller]
fn only(passed_over: &[PassedOver]) -> (u64, &PassedOverReason) {
    let [passed] = passed_over else {
        panic!("{passed_over:?}");
    };
    (passed.sequence.get(), &passed.reason)
}

const PASSED: EvidenceOutcome = EvidenceOutcome::Passed;
const FAILED: EvidenceOutcome = EvidenceOutcome::Failed;

mod append;
mod evidence;
mod paths;
mod resume;
mod state;

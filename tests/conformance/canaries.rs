//! Canaries: stores that are broken on purpose, one promise each.
//!
//! A canary changes the product, never the check. Each is handed to a check
//! that the sound store passes, unchanged; if one passes as well, the check is
//! worth nothing.

mod keys;
mod leases;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use agentos_core::{
    Audit, BootTime, BoundedTable, Checkpoint, CheckpointSpan, CheckpointStorage,
    CheckpointSummary, Codec, Commit, Cursor, EvidenceResult, FoundCheckpoint, Limits,
    LogShortened, Page, Prunable, PruneCheckpoints, PruneRows, Receipt, Reclaimed,
    RetentionStorage, RowAnswer, RowMark, RowQuestion, RowRule, RowStorage, SequenceNumber,
    Snapshot, Storage, StorageError, Task, TaskId, TaskStatus, TaskStorage, Timestamp,
    UpkeepStorage,
};
use agentos_tests::{Open, append, fresh, new_task, task_id};
use rusqlite::Connection;

use self::keys::KeyFault;
use self::leases::{LeaseFault, Memory};

/// How a store is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is not.
    None,
    /// Acknowledges a commit of checkpoints without writing it.
    AckWithoutWrite,
    /// One transaction a part, instead of one a commit.
    PartByPart,
    /// Gives what is stored, whether its seal holds or not.
    NoSeal,
    /// Every error is a defect, whatever its cause.
    Untyped,
    /// Answers any number of rows.
    Unbounded,
    /// Loses the row behind the newest number, and gives the number again.
    NumberAgain,
    /// Something about work items and leases.
    Leases(LeaseFault),
    /// Something about idempotency keys.
    Keys(KeyFault),
}

struct Canary {
    store: Open,
    fault: Fault,
    memory: Memory,
}

impl Canary {
    fn new(fault: Fault) -> Canary {
        Canary {
            store: fresh(),
            fault,
            memory: Memory::default(),
        }
    }

    fn path(&self) -> &Path {
        self.store.path()
    }

    fn raw(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn answer<T>(&self, answer: Result<T, StorageError>) -> Result<T, StorageError> {
        match answer {
            Err(error) if self.fault == Fault::Untyped => Err(StorageError::Internal {
                context: "something".into(),
                cause: error.to_string().into(),
            }),
            answer => answer,
        }
    }

    fn rows(&self, rows: u32) -> u32 {
        if self.fault == Fault::Unbounded {
            rows.min(agentos_core::limits::PAGE_ROWS_MAX)
        } else {
            rows
        }
    }

    /// The checkpoint with the bytes that are in the file, unchecked.
    fn unchecked(&self, task: &TaskId, sequence: SequenceNumber) -> Option<Checkpoint> {
        let summary = self
            .store
            .checkpoints(task, None, 1000)
            .unwrap()
            .into_iter()
            .find(|summary| summary.sequence == sequence)?;
        let bytes: Vec<u8> = self
            .raw()
            .query_row(
                "SELECT snapshot FROM checkpoints WHERE task_id = ?1 AND sequence_number = ?2",
                (task.as_str(), sequence.get().cast_signed()),
                |row| row.get(0),
            )
            .unwrap();
        Some(Checkpoint {
            summary,
            snapshot: Some(Snapshot::new(Codec::Raw, 1, bytes)),
            evidence: None,
            metadata: serde_json::Value::Null,
        })
    }
}

impl Storage for Canary {
    fn commit(&self, commit: Commit) -> Result<Receipt, StorageError> {
        if self.fault == Fault::PartByPart {
            let mut outcomes = Vec::new();
            for part in commit.parts() {
                outcomes.extend(self.store.commit(part.clone().into())?.outcomes);
            }
            return Ok(Receipt { outcomes });
        }
        if let Fault::Leases(fault) = self.fault {
            return self.commit_leases(fault, commit);
        }
        if let Fault::Keys(fault) = self.fault {
            return self.commit_keys(fault, &commit);
        }
        let receipt = self.answer(self.store.commit(commit))?;
        let undo = |sql: &str| drop(self.raw().execute_batch(sql));
        match self.fault {
            Fault::AckWithoutWrite => undo("DELETE FROM checkpoints"),
            Fault::NumberAgain => undo(
                "DROP TRIGGER IF EXISTS checkpoint_counters_grow;
                 DELETE FROM checkpoints WHERE sequence_number > 1;
                 UPDATE checkpoint_counters SET last_sequence = min(last_sequence, 1);",
            ),
            _ => {}
        }
        Ok(receipt)
    }

    fn limits(&self) -> &Limits {
        self.store.limits()
    }

    fn now(&self) -> Timestamp {
        self.store.now()
    }

    fn boot_now(&self) -> BootTime {
        self.store.boot_now()
    }

    fn own_files(&self) -> Vec<PathBuf> {
        self.store.own_files()
    }
}

impl TaskStorage for Canary {
    fn task(&self, id: &TaskId) -> Result<Option<Task>, StorageError> {
        self.answer(self.store.task(id))
    }

    fn tasks(
        &self,
        status: TaskStatus,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<Task>, StorageError> {
        self.answer(self.store.tasks(status, after, self.rows(rows)))
    }

    fn audits(
        &self,
        task: &TaskId,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<Audit>, StorageError> {
        self.answer(self.store.audits(task, after, self.rows(rows)))
    }
}

impl CheckpointStorage for Canary {
    fn checkpoint(
        &self,
        task: &TaskId,
        sequence: SequenceNumber,
    ) -> Result<Option<Checkpoint>, StorageError> {
        match self.store.checkpoint(task, sequence) {
            Err(StorageError::Corrupt { .. }) if self.fault == Fault::NoSeal => {
                Ok(self.unchecked(task, sequence))
            }
            answer => self.answer(answer),
        }
    }

    fn newest_checkpoint(
        &self,
        task: &TaskId,
        below: Option<SequenceNumber>,
    ) -> Result<Option<FoundCheckpoint>, StorageError> {
        match self.store.newest_checkpoint(task, below)? {
            Some(FoundCheckpoint::Damaged { sequence, .. }) if self.fault == Fault::NoSeal => {
                Ok(self
                    .unchecked(task, sequence)
                    .map(|checkpoint| FoundCheckpoint::Sound(Box::new(checkpoint))))
            }
            found => Ok(found),
        }
    }

    fn checkpoints(
        &self,
        task: &TaskId,
        below: Option<SequenceNumber>,
        rows: u32,
    ) -> Result<Vec<CheckpointSummary>, StorageError> {
        self.answer(self.store.checkpoints(task, below, self.rows(rows)))
    }

    fn evidence_results(
        &self,
        task: &TaskId,
        sequence: SequenceNumber,
    ) -> Result<Vec<EvidenceResult>, StorageError> {
        self.answer(self.store.evidence_results(task, sequence))
    }
}

impl RowStorage for Canary {
    fn ask_row(&self, question: &RowQuestion) -> Result<RowAnswer, StorageError> {
        self.answer(self.store.ask_row(question))
    }
}

impl RetentionStorage for Canary {
    fn task_ids(
        &self,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<Result<TaskId, StorageError>>, StorageError> {
        self.answer(self.store.task_ids(after, rows))
    }

    fn checkpoint_span(&self, task: &TaskId) -> Result<Option<CheckpointSpan>, StorageError> {
        self.answer(self.store.checkpoint_span(task))
    }

    fn prunable_checkpoints(&self, plan: &PruneCheckpoints) -> Result<Prunable, StorageError> {
        self.answer(self.store.prunable_checkpoints(plan))
    }

    fn rows_beyond(
        &self,
        table: BoundedTable,
        rule: &RowRule,
    ) -> Result<Option<RowMark>, StorageError> {
        self.answer(self.store.rows_beyond(table, rule))
    }

    fn prunable_rows(&self, plan: &PruneRows) -> Result<Prunable, StorageError> {
        self.answer(self.store.prunable_rows(plan))
    }
}

impl UpkeepStorage for Canary {
    fn reclaim_space(&self, keep_bytes: u64) -> Result<Reclaimed, StorageError> {
        self.answer(self.store.reclaim_space(keep_bytes))
    }

    fn refresh_statistics(&self) -> Result<(), StorageError> {
        self.answer(self.store.refresh_statistics())
    }

    fn shorten_log(&self) -> Result<LogShortened, StorageError> {
        self.answer(self.store.shorten_log())
    }
}

/// A check: it panics when the promise is broken.
type Check = fn(&Canary);

/// The sound store passes the check, the broken one does not.
#[track_caller]
fn is_caught(fault: Fault, check: Check) {
    check(&Canary::new(Fault::None));
    let broken = Canary::new(fault);
    let caught = catch_unwind(AssertUnwindSafe(|| check(&broken))).is_err();
    assert!(caught, "{fault:?} passed the check");
}

/// What was stored is given back, or the answer says that it is damaged.
fn an_edited_state_is_never_given_back(canary: &Canary) {
    canary.create_task(new_task("a")).unwrap();
    canary.commit(append("a", "the state").into()).unwrap();
    let edited = canary
        .raw()
        .execute("UPDATE checkpoints SET snapshot = 'the stale'", []);
    // STRICT tables take no text for bytes: the edit must be one that can happen.
    assert!(edited.is_err());
    let sql = "UPDATE checkpoints SET snapshot = CAST('the stale' AS BLOB)";
    assert_eq!(canary.raw().execute(sql, []).unwrap(), 1);
    let task = task_id("a");
    let loaded = canary.checkpoint(&task, SequenceNumber::FIRST);
    assert!(
        matches!(loaded, Err(StorageError::Corrupt { .. })),
        "{loaded:?}"
    );
    let newest = canary.newest_checkpoint(&task, None).unwrap();
    assert!(
        matches!(newest, Some(FoundCheckpoint::Damaged { .. })),
        "{newest:?}"
    );
}

#[test]
fn a_store_that_acknowledges_without_writing_is_caught() {
    is_caught(Fault::AckWithoutWrite, |store| {
        crate::checkpoints::what_is_loaded_is_what_was_stored(store);
    });
}

#[test]
fn a_store_with_a_transaction_a_part_is_caught() {
    is_caught(Fault::PartByPart, |store| {
        crate::commits::a_failing_part_undoes_the_whole_commit(store);
    });
}

#[test]
fn a_store_that_gives_a_number_again_is_caught() {
    is_caught(Fault::NumberAgain, |store| {
        crate::checkpoints::numbers_begin_at_one_and_have_no_gap(store);
    });
}

#[test]
fn a_store_that_checks_no_seal_is_caught() {
    is_caught(Fault::NoSeal, an_edited_state_is_never_given_back);
}

#[test]
fn a_store_whose_errors_have_no_type_is_caught() {
    is_caught(Fault::Untyped, |store| {
        crate::commits::limits_name_themselves(store)
    });
    is_caught(Fault::Untyped, |store| {
        crate::tasks::another_task_of_the_same_id_is_a_conflict(store);
    });
}

#[test]
fn a_store_whose_pages_have_no_bound_is_caught() {
    is_caught(Fault::Unbounded, |store| {
        crate::tasks::a_page_has_a_bound(store)
    });
}

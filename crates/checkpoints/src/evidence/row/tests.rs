//! Rows: their stored form, and what an answer that never came means.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use agentos_core::{
    Attempt, Audit, BeginKey, Begun, BootId, BootTime, BoundedTable, Checkpoint, CheckpointSpan,
    CheckpointStorage, CheckpointSummary, ClaimRequest, Commit, Cursor, EvidenceResult, Fence,
    FoundCheckpoint, IdempotencyKey, KeyEntry, KeyFence, KeyFilter, KeyId, KeyStorage, KeySummary,
    Lease, LeaseStorage, Limits, LogShortened, Outlook, Page, Prunable, PruneCheckpoints,
    PruneRows, Receipt, Reclaimed, RecordedKey, Renewed, RenewedPermit, RetentionStorage, RowMark,
    RowRule, RowStorage, SequenceNumber, StaleLease, StalePermit, SweepRequest, Swept, Task,
    TaskId, TaskStatus, TaskStorage, Timestamp, UpkeepStorage, WorkFilter, WorkItem, WorkItemId,
    WorkItemStatus, WorkItemSummary, WorkListener,
};

use super::*;

fn row(value: RowValue) -> DbRow {
    DbRow::new("orders")
        .key("id", RowValue::Integer(1))
        .expected("value", value)
}

#[test]
fn every_value_is_stored_exactly() {
    for value in [
        RowValue::Null,
        RowValue::Integer(i64::MIN),
        RowValue::Integer(i64::MAX),
        RowValue::Integer((1 << 53) + 1),
        RowValue::Real(0.1 + 0.2),
        RowValue::Real(5e-324),
        RowValue::Real(f64::MAX),
        RowValue::Real(f64::INFINITY),
        RowValue::Real(f64::NEG_INFINITY),
        RowValue::Text("it's \"quoted\"\0 🦀".into()),
        RowValue::Text(String::new()),
        RowValue::Blob((0..=255).collect()),
        RowValue::Blob(Vec::new()),
    ] {
        let text = serde_json::to_string(&row(value.clone())).unwrap();
        assert_eq!(
            serde_json::from_str::<DbRow>(&text).unwrap(),
            row(value),
            "{text}"
        );
    }
    let zero = serde_json::to_string(&row(RowValue::Real(-0.0))).unwrap();
    let back: DbRow = serde_json::from_str(&zero).unwrap();
    let RowValue::Real(zero) = back.0.expected[0].1 else {
        panic!("{back:?}");
    };
    assert!(zero.is_sign_negative());
}

#[test]
fn the_stored_form_stays() {
    let row = row(RowValue::Blob(vec![0xab, 1]))
        .in_sqlite_file("other.db")
        .expected("note", RowValue::Null)
        .expected("price", RowValue::Real(1.0));
    assert_eq!(
        serde_json::to_string(&row).unwrap(),
        r#"{"source":{"sqlite_file":"other.db"},"table":"orders","key":[["id",{"integer":1}]],"expected":[["value",{"blob":"ab01"}],["note","null"],["price",{"real":"1.0"}]]}"#
    );
}

#[test]
fn values_that_are_none_are_unreadable() {
    for value in [
        r#"{"blob":"abc"}"#,
        r#"{"blob":"zz"}"#,
        r#"{"real":"one"}"#,
        r#"{"integer":9223372036854775808}"#,
        r#"{"integer":1.0}"#,
        r#"{"date":"today"}"#,
    ] {
        let text =
            format!(r#"{{"source":"store","table":"t","key":[["id",{value}]],"expected":[]}}"#);
        assert!(serde_json::from_str::<DbRow>(&text).is_err(), "{value}");
    }
}

#[test]
fn questions_that_can_never_be_asked_are_refused() {
    let id = RowValue::Integer(1);
    for row in [
        DbRow::new("orders"),
        DbRow::new("").key("id", id.clone()),
        DbRow::new("a\0b").key("id", id.clone()),
        DbRow::new("orders").key("", id.clone()),
        DbRow::new("orders").key("id", RowValue::Real(f64::NAN)),
        DbRow::new("orders")
            .key("id", id.clone())
            .in_sqlite_file(""),
    ] {
        assert!(row.validate().is_err(), "{row:?}");
    }
    assert!(DbRow::new("orders").key("id", id).validate().is_ok());
}

/// A store that answers every question with the same error.
struct Unwilling(fn() -> StorageError);

impl TaskStorage for Unwilling {
    fn task(&self, _: &TaskId) -> Result<Option<Task>, StorageError> {
        Err((self.0)())
    }

    fn tasks(&self, _: TaskStatus, _: Option<Cursor>, _: u32) -> Result<Page<Task>, StorageError> {
        Err((self.0)())
    }

    fn audits(&self, _: &TaskId, _: Option<Cursor>, _: u32) -> Result<Page<Audit>, StorageError> {
        Err((self.0)())
    }
}

impl CheckpointStorage for Unwilling {
    fn checkpoint(
        &self,
        _: &TaskId,
        _: SequenceNumber,
    ) -> Result<Option<Checkpoint>, StorageError> {
        Err((self.0)())
    }

    fn newest_checkpoint(
        &self,
        _: &TaskId,
        _: Option<SequenceNumber>,
    ) -> Result<Option<FoundCheckpoint>, StorageError> {
        Err((self.0)())
    }

    fn checkpoints(
        &self,
        _: &TaskId,
        _: Option<SequenceNumber>,
        _: u32,
    ) -> Result<Vec<CheckpointSummary>, StorageError> {
        Err((self.0)())
    }

    fn evidence_results(
        &self,
        _: &TaskId,
        _: SequenceNumber,
    ) -> Result<Vec<EvidenceResult>, StorageError> {
        Err((self.0)())
    }
}

impl RowStorage for Unwilling {
    fn ask_row(&self, _: &RowQuestion) -> Result<RowAnswer, StorageError> {
        Err((self.0)())
    }
}

impl RetentionStorage for Unwilling {
    fn task_ids(
        &self,
        _: Option<Cursor>,
        _: u32,
    ) -> Result<Page<Result<TaskId, StorageError>>, StorageError> {
        Err((self.0)())
    }

    fn checkpoint_span(&self, _: &TaskId) -> Result<Option<CheckpointSpan>, StorageError> {
        Err((self.0)())
    }

    fn prunable_checkpoints(&self, _: &PruneCheckpoints) -> Result<Prunable, StorageError> {
        Err((self.0)())
    }

    fn rows_beyond(&self, _: BoundedTable, _: &RowRule) -> Result<Option<RowMark>, StorageError> {
        Err((self.0)())
    }

    fn prunable_rows(&self, _: &PruneRows) -> Result<Prunable, StorageError> {
        Err((self.0)())
    }
}

impl LeaseStorage for Unwilling {
    fn claim(&self, _: &ClaimRequest) -> Result<Vec<Lease>, StorageError> {
        Err((self.0)())
    }

    fn renew(
        &self,
        _: &[Fence],
        _: Duration,
    ) -> Result<Vec<Result<Renewed, StaleLease>>, StorageError> {
        Err((self.0)())
    }

    fn sweep(&self, _: &SweepRequest) -> Result<Swept, StorageError> {
        Err((self.0)())
    }

    fn work_item(&self, _: WorkItemId) -> Result<Option<WorkItem>, StorageError> {
        Err((self.0)())
    }

    fn work_items(
        &self,
        _: WorkItemStatus,
        _: Option<Cursor>,
        _: u32,
    ) -> Result<Page<WorkItemSummary>, StorageError> {
        Err((self.0)())
    }

    fn work_items_of(
        &self,
        _: &TaskId,
        _: Option<Cursor>,
        _: u32,
    ) -> Result<Page<WorkItemSummary>, StorageError> {
        Err((self.0)())
    }

    fn count_work_items(&self) -> Result<BTreeMap<WorkItemStatus, u64>, StorageError> {
        Err((self.0)())
    }

    fn attempts(&self, _: WorkItemId) -> Result<Vec<Attempt>, StorageError> {
        Err((self.0)())
    }

    fn outlook(&self, _: &WorkFilter) -> Result<Outlook, StorageError> {
        Err((self.0)())
    }

    fn listen(&self, _: Weak<dyn WorkListener>) {}
}

impl KeyStorage for Unwilling {
    fn begin_key(&self, _: &BeginKey) -> Result<Begun, StorageError> {
        Err((self.0)())
    }

    fn renew_keys(
        &self,
        _: &[KeyFence],
        _: Duration,
    ) -> Result<Vec<Result<RenewedPermit, StalePermit>>, StorageError> {
        Err((self.0)())
    }

    fn find_key(&self, _: &IdempotencyKey) -> Result<Option<KeyEntry>, StorageError> {
        Err((self.0)())
    }

    fn find_recorded(&self, _: &IdempotencyKey) -> Result<Option<RecordedKey>, StorageError> {
        Err((self.0)())
    }

    fn newest_key(&self) -> Result<Option<KeyId>, StorageError> {
        Err((self.0)())
    }

    fn keys(
        &self,
        _: &KeyFilter,
        _: Option<Cursor>,
        _: u32,
    ) -> Result<Page<KeySummary>, StorageError> {
        Err((self.0)())
    }

    fn keys_in_doubt(&self, _: Option<Cursor>, _: u32) -> Result<Page<KeySummary>, StorageError> {
        Err((self.0)())
    }
}

impl UpkeepStorage for Unwilling {
    fn reclaim_space(&self, _: u64) -> Result<Reclaimed, StorageError> {
        Err((self.0)())
    }

    fn refresh_statistics(&self) -> Result<(), StorageError> {
        Err((self.0)())
    }

    fn shorten_log(&self) -> Result<LogShortened, StorageError> {
        Err((self.0)())
    }
}

impl Storage for Unwilling {
    fn commit(&self, _: Commit) -> Result<Receipt, StorageError> {
        Err((self.0)())
    }

    fn limits(&self) -> &Limits {
        const LIMITS: &Limits = &Limits {
            snapshot_bytes: 0,
            metadata_bytes: 0,
            payload_bytes: 0,
            outcome_bytes: agentos_core::limits::OUTCOME_BYTES_DEFAULT,
            queue_length: 1,
        };
        LIMITS
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(0)
    }

    fn boot_now(&self) -> BootTime {
        BootTime {
            boot: BootId::new("test"),
            micros: 0,
        }
    }

    fn own_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// Goal: a busy store never makes evidence look broken, which would send resume
/// to an older checkpoint.
#[test]
fn a_store_that_is_busy_or_closed_says_nothing_about_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::new(dir.path(), false, &[]);
    let check = |error: fn() -> StorageError| {
        row(RowValue::Null).check(&base, &Unwilling(error) as &dyn Storage)
    };
    let busy = || StorageError::Busy {
        waited: Duration::from_secs(5),
    };
    assert!(matches!(
        check(busy).unwrap_err(),
        CheckpointError::Storage(StorageError::Busy { .. })
    ));
    assert!(matches!(
        check(|| StorageError::Closed).unwrap_err(),
        CheckpointError::Storage(StorageError::Closed)
    ));
    assert_eq!(
        check(|| StorageError::corrupt("page 7", "bad magic")).unwrap(),
        Check::failed("the row of \"orders\" could not be asked for: corrupt: page 7: bad magic")
    );
}

//! For those who stand between a program and its store: whatever they do not change
//! goes to their field `store` as it is.

/// Methods of a trait that go to the store as they are.
macro_rules! as_it_is {
    ($(fn $name:ident(&self $(, $argument:ident: $type:ty)*) $(-> $answer:ty)?;)*) => {
        $(
            fn $name(&self $(, $argument: $type)*) $(-> $answer)? {
                self.store.$name($($argument),*)
            }
        )*
    };
}

/// The traits of the port that know nothing of commits, leases and keys.
macro_rules! passes_on {
    ($who:ident) => {
        const _: () = {
            use agentos_core::{
                Audit, BoundedTable, Checkpoint, CheckpointSpan, CheckpointStorage,
                CheckpointSummary, Cursor, EvidenceResult, FoundCheckpoint, LogShortened, Page,
                Prunable, PruneCheckpoints, PruneRows, Reclaimed, RetentionStorage, RowAnswer,
                RowMark, RowQuestion, RowRule, RowStorage, SequenceNumber, StorageError, Task,
                TaskId, TaskStatus, TaskStorage, UpkeepStorage,
            };

            use $crate::port::as_it_is;

            impl TaskStorage for $who {
                as_it_is! {
                    fn task(&self, id: &TaskId) -> Result<Option<Task>, StorageError>;
                    fn tasks(&self, status: TaskStatus, after: Option<Cursor>, rows: u32)
                        -> Result<Page<Task>, StorageError>;
                    fn audits(&self, task: &TaskId, after: Option<Cursor>, rows: u32)
                        -> Result<Page<Audit>, StorageError>;
                }
            }

            impl CheckpointStorage for $who {
                as_it_is! {
                    fn checkpoint(&self, task: &TaskId, sequence: SequenceNumber)
                        -> Result<Option<Checkpoint>, StorageError>;
                    fn newest_checkpoint(&self, task: &TaskId, below: Option<SequenceNumber>)
                        -> Result<Option<FoundCheckpoint>, StorageError>;
                    fn checkpoints(
                        &self, task: &TaskId, below: Option<SequenceNumber>, rows: u32
                    ) -> Result<Vec<CheckpointSummary>, StorageError>;
                    fn evidence_results(&self, task: &TaskId, sequence: SequenceNumber)
                        -> Result<Vec<EvidenceResult>, StorageError>;
                }
            }

            impl RowStorage for $who {
                as_it_is! {
                    fn ask_row(&self, question: &RowQuestion) -> Result<RowAnswer, StorageError>;
                }
            }

            impl RetentionStorage for $who {
                as_it_is! {
                    fn task_ids(&self, after: Option<Cursor>, rows: u32)
                        -> Result<Page<Result<TaskId, StorageError>>, StorageError>;
                    fn checkpoint_span(&self, task: &TaskId)
                        -> Result<Option<CheckpointSpan>, StorageError>;
                    fn prunable_checkpoints(&self, plan: &PruneCheckpoints)
                        -> Result<Prunable, StorageError>;
                    fn rows_beyond(&self, table: BoundedTable, rule: &RowRule)
                        -> Result<Option<RowMark>, StorageError>;
                    fn prunable_rows(&self, plan: &PruneRows) -> Result<Prunable, StorageError>;
                }
            }

            impl UpkeepStorage for $who {
                as_it_is! {
                    fn reclaim_space(&self, keep_bytes: u64) -> Result<Reclaimed, StorageError>;
                    fn refresh_statistics(&self) -> Result<(), StorageError>;
                    fn shorten_log(&self) -> Result<LogShortened, StorageError>;
                }
            }
        };
    };
}

/// Idempotency keys.
macro_rules! keys_pass_on {
    ($who:ident) => {
        const _: () = {
            use agentos_core::{
                BeginKey, Begun, Cursor, IdempotencyKey, KeyEntry, KeyFence, KeyFilter, KeyId, KeyStorage,
                KeySummary, Page, RecordedKey, RenewedPermit, StalePermit, StorageError,
            };

            use $crate::port::as_it_is;

            impl KeyStorage for $who {
                as_it_is! {
                    fn begin_key(&self, begin: &BeginKey) -> Result<Begun, StorageError>;
                    fn renew_keys(&self, fences: &[KeyFence], lease: std::time::Duration)
                        -> Result<Vec<Result<RenewedPermit, StalePermit>>, StorageError>;
                    fn find_key(&self, key: &IdempotencyKey) -> Result<Option<KeyEntry>, StorageError>;
                    fn find_recorded(&self, key: &IdempotencyKey)
                        -> Result<Option<RecordedKey>, StorageError>;
                    fn newest_key(&self) -> Result<Option<KeyId>, StorageError>;
                    fn keys(&self, filter: &KeyFilter, after: Option<Cursor>, rows: u32)
                        -> Result<Page<KeySummary>, StorageError>;
                    fn keys_in_doubt(&self, after: Option<Cursor>, rows: u32)
                        -> Result<Page<KeySummary>, StorageError>;
                }
            }
        };
    };
}

pub(crate) use {as_it_is, keys_pass_on, passes_on};

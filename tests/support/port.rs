//! For those who stand between a program and its store: whatever they do not change
//! goes to their field `store` as it is.

/// Methods of a trait that go to the store as they are.
#[macro_export]
macro_rules! as_it_is {
    ($(fn $name:ident(&self $(, $argument:ident: $type:ty)*) $(-> $answer:ty)?;)*) => {
        $(
            fn $name(&self $(, $argument: $type)*) $(-> $answer)? {
                self.store.$name($($argument),*)
            }
        )*
    };
}

/// The traits of the port that know nothing of commits and keys.
#[macro_export]
macro_rules! passes_on {
    ($who:ident) => {
        const _: () = {
            use std::collections::BTreeMap;
            use std::sync::Weak;
            use std::time::Duration;

            use agentos_core::{
                Attempt, Audit, BoundedTable, Checkpoint, CheckpointSpan, CheckpointStorage,
                CheckpointSummary, ClaimRequest, Cursor, EvidenceResult, Fence, FoundCheckpoint,
                Lease, LeaseStorage, LogShortened, Outlook, Page, Prunable, PruneCheckpoints,
                PruneRows, Reclaimed, Renewed, RetentionStorage, RowAnswer, RowMark, RowQuestion,
                RowRule, RowStorage, SequenceNumber, StaleLease, StorageError, SweepRequest, Swept,
                Task, TaskId, TaskStatus, TaskStorage, UpkeepStorage, WorkFilter, WorkItem,
                WorkItemId, WorkItemStatus, WorkItemSummary, WorkListener,
            };

            use $crate::as_it_is;

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

            impl LeaseStorage for $who {
                as_it_is! {
                    fn claim(&self, request: &ClaimRequest) -> Result<Vec<Lease>, StorageError>;
                    fn renew(&self, fences: &[Fence], lease: Duration)
                        -> Result<Vec<Result<Renewed, StaleLease>>, StorageError>;
                    fn sweep(&self, request: &SweepRequest) -> Result<Swept, StorageError>;
                    fn outlook(&self, filter: &WorkFilter) -> Result<Outlook, StorageError>;
                    fn work_item(&self, id: WorkItemId) -> Result<Option<WorkItem>, StorageError>;
                    fn work_items(
                        &self, status: WorkItemStatus, after: Option<Cursor>, rows: u32
                    ) -> Result<Page<WorkItemSummary>, StorageError>;
                    fn work_items_of(&self, task: &TaskId, after: Option<Cursor>, rows: u32)
                        -> Result<Page<WorkItemSummary>, StorageError>;
                    fn count_work_items(&self)
                        -> Result<BTreeMap<WorkItemStatus, u64>, StorageError>;
                    fn attempts(&self, item: WorkItemId) -> Result<Vec<Attempt>, StorageError>;
                    fn listen(&self, listener: Weak<dyn WorkListener>);
                }
            }
        };
    };
}

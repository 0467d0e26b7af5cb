//! Vocabulary and port of AgentOS Recovery.
//!
//! Everything the other crates speak about is named here: ids, time, limits,
//! digests, the codec, errors, records, the parts of a commit, and the port
//! ([`Storage`]) that an engine implements. No SQL, no file, no process and no
//! thread: this crate decides, others do.
//!
//! ```
//! use agentos_core::{Commit, NewTask, SetTaskStatus, TaskId, TaskStatus};
//!
//! # fn main() -> Result<(), agentos_core::StorageError> {
//! let task = TaskId::new("invoice-42")?;
//! // A commit is data: it names what changes, and the engine applies all of it or nothing.
//! let commit = Commit::new()
//!     .part(NewTask::new(task.clone(), "bookkeeping"))
//!     .part(SetTaskStatus::new(task, TaskStatus::Running).reason("picked up"));
//! assert_eq!(commit.parts().len(), 2);
//! # Ok(())
//! # }
//! ```

#[macro_use]
mod text_enum;
#[macro_use]
pub mod crash_point;

pub mod codec;
pub mod digest;
pub mod error;
pub mod ids;
pub mod limits;
pub mod parts;
pub mod probe;
pub mod records;
pub mod retry;
pub mod storage;
pub mod time;

pub use codec::{Codec, CodecError};
pub use digest::{Digest, DigestBuilder};
pub use error::{BoxError, InvalidInput, LimitExceeded, Stale, StorageError};
pub use ids::{
    FencingToken, IdempotencyKey, Incarnation, KeyId, SequenceNumber, TaskId, WorkItemId, Worker,
    WorkerId,
};
pub use limits::Limits;
pub use parts::{
    AbandonKey, AppendCheckpoint, AuditLine, CancelWork, Commit, CompleteWork, DoubtKey, FailWork,
    FinishKey, KeptFor, Part, PartOutcome, PruneCandidate, PruneCheckpoints, PruneRows, Pruned,
    Receipt, RecordVerification, ReleaseWork, RemoveKeys, RequeueWork, Resolution, ResolveKey,
    SetTaskStatus, TouchKeys,
};
pub use probe::{Finding, Probe};
pub use records::audit::Audit;
pub use records::checkpoint::{
    Appended, Checkpoint, CheckpointSummary, CheckpointType, EvidenceOutcome, EvidenceResult,
    FoundCheckpoint, Snapshot, Verification,
};
pub use records::key::{
    BeginKey, Begun, Execution, KeyDecision, KeyEntry, KeyFence, KeyStatus, KeySummary, KeyView,
    NewOutcome, OnDamaged, OnLost, OnRecorded, Permit, PermitHolder, RecordedKey, SealedKey,
    StalePermit,
};
pub use records::retention::{BoundedTable, CheckpointRule, Retention, RowMark, RowRule};
pub use records::row::{RowAnswer, RowQuestion, RowSource, RowValue};
pub use records::task::{NewTask, Task, TaskStatus};
pub use records::work_item::{
    Attempt, AttemptEnd, AttemptOutcome, Due, Fence, Holder, Lease, NewWorkItem, StaleLease,
    WorkItem, WorkItemStatus, WorkItemSummary,
};
pub use retry::{Next, Retry, RetryRule};
pub use storage::{
    CheckpointSpan, CheckpointStorage, ClaimRequest, Cursor, KeyFilter, KeyStorage, LeaseStorage,
    LogShortened, Lost, Outlook, Page, Prunable, Reclaimed, RecoveredItem, Renewed, RenewedPermit,
    RetentionStorage, RowStorage, Storage, SweepRequest, Swept, TaskStorage, UpkeepStorage,
    WorkFilter, WorkListener,
};
pub use time::{BootId, BootTime, Clock, Deadline, ManualClock, Stopwatch, SystemClock, Timestamp};

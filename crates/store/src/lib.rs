//! The storage adapters of AgentOS Recovery.
//!
//! [`sqlite`] keeps everything in one SQLite file, without a server, shared by
//! any number of threads and processes. A write that was acknowledged is as
//! durable as the store was configured.
//!
//! ```
//! use agentos_core::{Commit, NewTask, SetTaskStatus, Storage, TaskId, TaskStatus, TaskStorage};
//! use agentos_store::sqlite::{Config, SqliteStore};
//!
//! # fn main() -> Result<(), agentos_core::StorageError> {
//! # let dir = tempfile::tempdir().expect("a temporary directory");
//! let store = SqliteStore::open(Config::at(dir.path().join("agent.db")))?;
//! let task = TaskId::new("invoice-42")?;
//! store.commit(
//!     Commit::new()
//!         .part(NewTask::new(task.clone(), "bookkeeping"))
//!         .part(SetTaskStatus::new(task.clone(), TaskStatus::Running)),
//! )?;
//! assert_eq!(store.task(&task)?.map(|task| task.status), Some(TaskStatus::Running));
//! # Ok(())
//! # }
//! ```

pub mod sqlite;
mod sync;

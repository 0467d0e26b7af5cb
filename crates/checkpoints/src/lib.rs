//! Checkpoints of AgentOS Recovery: sealed state with evidence about the outside world, and resume.
//!
//! A checkpoint is appended with the state of a task and with *evidence*: what
//! must be true outside for that state to be worth anything (a file has this
//! content, a command succeeded, a row is there). Evidence is made durable and
//! verified before the checkpoint is stored. [`CheckpointManager::resume`]
//! checks seal and evidence again, now, and gives the newest checkpoint that
//! holds. This crate knows the port of `agentos-core`, never an engine.
//!
//! ```
//! use std::sync::Arc;
//! use agentos_checkpoints::{
//!     CheckpointConfig, CheckpointManager, Evidence, NewCheckpoint, Pack, ReadState, Resume,
//! };
//! use agentos_core::{CheckpointType, Storage, TaskId};
//!
//! fn work(storage: Arc<dyn Storage>, task: TaskId) -> Result<(), Box<dyn std::error::Error>> {
//!     let checkpoints = CheckpointManager::new(storage, CheckpointConfig::new("work"))?;
//!     let done = match checkpoints.resume(&task)? {
//!         Resume::From(resumed) => resumed.checkpoint.state::<u64>()?,
//!         Resume::Nowhere { .. } => 0,
//!     };
//!     for step in done + 1..=10 {
//!         std::fs::write(format!("work/step-{step}.txt"), "the result")?;
//!         checkpoints.append(
//!             NewCheckpoint::new(task.clone(), CheckpointType::IterationEnd)
//!                 .state(&step)?
//!                 .evidence(Pack::all([Evidence::file(format!("step-{step}.txt"))])),
//!         )?;
//!     }
//!     Ok(())
//! }
//! ```

mod config;
mod error;
mod evidence;
mod fidelity;
mod limits;
mod manager;
mod new_checkpoint;
mod paths;
mod resume;
mod retention;
mod state;
mod sync;
mod verify;

pub use config::{CheckpointConfig, OnFailure};
pub use error::{CheckpointError, PathRefusal};
pub use evidence::{
    ArtifactExists, ArtifactKind, Check, CheckContext, CommandExit, Custom, DbRow, DigestAlgorithm,
    Evidence, EvidenceKind, FileDigest, Pack, Policy, Recheck,
};
pub use manager::CheckpointManager;
pub use new_checkpoint::NewCheckpoint;
pub use resume::{Label, PassedOver, PassedOverReason, Resume, Resumed};
pub use retention::{Pruning, PruningPlan, plan_pruning, prune};
pub use state::{OldState, ReadState, StateFormat};
pub use verify::Report;

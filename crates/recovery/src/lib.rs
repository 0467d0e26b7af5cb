//! Recovery and upkeep of AgentOS Recovery.
//!
//! **Recovery.** A worker that dies leaves leases behind. [`RecoverySweep`] takes
//! those away that have run out, once; [`Sweeper`] does so all the time in a
//! thread of its own, and sleeps until the next one runs out. Both take away a
//! lease that was lost, never one that was renewed. [`give_up_earlier_starts`] is
//! for a worker that was started anew and does not want to wait for its own. And
//! [`recover()`] says from where a task goes on, and what is open under it.
//!
//! ```
//! use std::sync::Arc;
//! use agentos_checkpoints::{CheckpointManager, Resume};
//! use agentos_core::{Storage, TaskId, Worker};
//! use agentos_recovery::{SweepConfig, Sweeper, give_up_earlier_starts, recover};
//!
//! fn begin(
//!     storage: Arc<dyn Storage>,
//!     checkpoints: &CheckpointManager,
//!     worker: &Worker,
//!     task: &TaskId,
//! ) -> Result<Sweeper, Box<dyn std::error::Error>> {
//!     give_up_earlier_starts(storage.as_ref(), worker)?;
//!     let recovery = recover(checkpoints, storage.as_ref(), task)?;
//!     if let Resume::From(resumed) = &recovery.resume {
//!         println!("goes on from checkpoint {}", resumed.checkpoint.summary.sequence);
//!     }
//!     println!("{} items wait, {} are held", recovery.pending, recovery.in_progress);
//!     Ok(Sweeper::start(storage, SweepConfig::default())?)
//! }
//! ```
//!
//! **Upkeep.** Nothing of a store grows for ever. [`run_upkeep`] takes every table
//! to its bound and gives the space back, once; [`Upkeep`] does so again and again
//! in a thread of its own. Both remove only what a [`Retention`] does not keep, and
//! never what can be resumed from: see `agentos_checkpoints::prune`.
//!
//! ```
//! use std::sync::Arc;
//! use agentos_core::{CheckpointRule, Retention, Storage};
//! use agentos_recovery::{Mode, Upkeep, UpkeepConfig, run_upkeep};
//!
//! fn keep_small(storage: Arc<dyn Storage>) -> Result<Upkeep, Box<dyn std::error::Error>> {
//!     let retention = Retention { checkpoints: CheckpointRule::keep_last(10), ..Retention::default() };
//!     let would_go = run_upkeep(storage.as_ref(), &retention, Mode::DryRun)?;
//!     println!("{} checkpoints would go", would_go.checkpoints.rows);
//!     Ok(Upkeep::start(storage, UpkeepConfig { retention, ..UpkeepConfig::default() })?)
//! }
//! ```
//!
//! This crate knows the port of `agentos-core`, never an engine.
//!
//! [`Retention`]: agentos_core::Retention

mod config;
mod limits;
mod pass;
mod recover;
mod stats;
mod sweep;
mod sweeper;
mod upkeep;

pub use config::{SweepConfig, UpkeepConfig};
pub use pass::{
    Failure, Mode, Removed, Step, UpkeepReport, prune_checkpoints, prune_rows, reclaim_space,
    run_upkeep, run_upkeep_with,
};
pub use recover::{Recovery, recover};
pub use stats::UpkeepStats;
pub use sweep::{RecoverySweep, SweepFailure, SweepStatistics, give_up_earlier_starts};
pub use sweeper::{Sweeper, SweeperError, SweeperHealth};
pub use upkeep::{Upkeep, UpkeepError};

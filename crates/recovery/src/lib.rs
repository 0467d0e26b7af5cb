//! Upkeep of AgentOS Recovery: retention and space, in small batches.
//!
//! Nothing of a store grows for ever. [`run_upkeep`] takes every table to its
//! bound and gives the space back, once; [`Upkeep`] does so again and again in a
//! thread of its own. Both remove only what a [`Retention`] does not keep, and
//! never what can be resumed from: see `agentos_checkpoints::prune`. This crate
//! knows the port of `agentos-core`, never an engine.
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
//! [`Retention`]: agentos_core::Retention

mod config;
mod pass;
mod stats;
mod upkeep;

pub use config::UpkeepConfig;
pub use pass::{
    Failure, Mode, Removed, Step, UpkeepReport, prune_checkpoints, prune_rows, reclaim_space,
    run_upkeep, run_upkeep_with,
};
pub use stats::UpkeepStats;
pub use upkeep::{Upkeep, UpkeepError};

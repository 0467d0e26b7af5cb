//! Nothing is done twice, nothing is paid twice, and doubt is said aloud.
//!
//! [`IdempotencyStore`] is the gate: for one key, callers in any number of threads
//! and processes get one execution. On it rest the cache of model outputs and the
//! ledger of tool calls. This crate knows the port of `agentos-core`, never an engine.

mod error;
mod gate;
mod key;
mod limits;
mod permits;
mod stats;

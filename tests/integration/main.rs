//! The crates together: real files, real processes, real SIGKILL.
//!
//! One binary, a module a subject. Each test has a directory of its own and
//! waits on counted progress, never for a fixed time.

#![expect(clippy::print_stdout, reason = "measured figures are shown")]

mod backup;
mod bad_input;
mod checkpoints;
mod crash_points;
mod damage;
mod disk_errors;
mod disk_full;
mod doctor;
mod group_commit;
mod house;
mod idempotency;
mod key_crashes;
mod key_upkeep;
mod lease_crashes;
mod limits;
mod log_bound;
mod looking;
mod monitoring;
mod odd_work;
mod opening;
mod recovery;
mod states;
mod step_crashes;
mod sweep_failures;
mod traps;
mod upgrades;
mod upkeep;
mod worker_pool;

/// The program that is started many times, stopped and killed.
const VICTIM: &str = env!("CARGO_BIN_EXE_agentos-test-victim");

//! Strikes a program in every way that was asked for, and says what broke.
//!
//! A dry run, in which nobody is struck, counts what there is to strike: named
//! points, system calls, acknowledgements. Each strike that follows from it is
//! one run in a fresh directory. What was violated is shrunk to the smallest
//! workload and the earliest strike that still show it.
//!
//! Deciding is pure (`derive.rs`, `shrink.rs`, the counts of the report); doing is
//! in `attempt.rs` and `drive.rs`.

pub(crate) mod attempt;
mod calls;
mod derive;
mod drive;
mod driver;
mod limits;
mod plan;
mod points;
mod replay;
mod shrink;
pub(crate) mod strike;
pub(crate) mod subject;

pub use driver::Chaos;
pub use limits::{KILL_REPLAYS_MAX, PATIENCE_DEFAULT, SHRINK_RUNS_MAX, STRIKES_MAX, TRIES_MAX};
pub(crate) use replay::quoted;
pub use replay::{SEED_VARIABLE, SIZE_VARIABLE, STRIKE_VARIABLE};
pub use strike::{Family, Strike, StrikeError};
pub use subject::{Aftermath, Staged, Subject};

/// What a kill is counted under: nobody knows what it hit.
const ANY_MOMENT: &str = "any moment";

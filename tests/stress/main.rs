//! Many at once, and many rows: 100 tasks, 20 rivals, 1,000 leases that run out,
//! a million items that wait.
//!
//! `cargo test -p agentos-tests --test stress`; plain `cargo test` leaves it out.
//! Tests of this binary that start processes or count what they cost take turns.

#![expect(clippy::print_stdout, reason = "measured figures are shown")]

mod many;
mod rivals;
mod scale;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The program that is started many times.
const VICTIM: &str = env!("CARGO_BIN_EXE_agentos-test-victim");

static ALONE: Mutex<()> = Mutex::new(());

/// One at a time: they load the machine, and some measure.
fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

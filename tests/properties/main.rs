//! Properties: a model of the store in plain memory, kept in step with the real
//! one, and round trips of whatever a user may name or attach.
//!
//! A failing case is shrunk, printed, and kept in `regressions.txt`, so that it
//! is tried first from then on. `PROPTEST_RNG_SEED` repeats a run.

mod keys;
mod model;
mod retention;
mod round_trips;
mod store;

use proptest::test_runner::{Config, FileFailurePersistence};

/// The configuration of all properties.
pub(crate) fn cases(cases: u32) -> Config {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/properties/regressions.txt");
    Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        ..Config::with_cases(cases)
    }
}

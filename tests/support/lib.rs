//! What the tests share: fresh stores, bounded waiting, files compared by their
//! digests, and victims: real processes that exist to be killed.
//!
//! Nothing here sleeps for a fixed time. Whatever is waited for has a deadline,
//! and a test that misses it says what it waited for.

mod files;
mod gate;
mod keys;
mod leases;
mod port;
mod process;
mod small_disk;
mod stores;
mod upkeep;
mod work;

use std::thread;
use std::time::Duration;

use agentos_core::Deadline;

pub use self::files::{Bits, contents, copy_database, names, settle};
pub use self::gate::{Gate, pass, wait_for_waiter};
pub use self::keys::{KEY_ACTIONS, begin_key, key_action, keyed_file};
pub use self::leases::{
    LEASE_ACTIONS, disagreements, fence, finish_work, lease_action, lease_rows, leased_clock,
    leased_file, open_leased, worker,
};
pub use self::process::Victim;
pub use self::small_disk::{SmallDisk, on_small_disk};
pub use self::stores::{
    Open, append, at, config, fresh, manual_clock, new_task, numbers, sqlite, sqlite_with_clock,
    task_id,
};
pub use self::upkeep::{Found, KEPT, look, upkeep_config, violations, worn_file};
pub use self::work::{Work, new_worker};

/// Longest that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds.
///
/// # Panics
///
/// When [`PATIENCE`] is over.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !holds() {
        assert!(!deadline.passed(), "waited {PATIENCE:?} in vain: {what}");
        thread::park_timeout(Duration::from_micros(200));
    }
}

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

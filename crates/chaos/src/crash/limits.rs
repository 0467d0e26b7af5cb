//! Bounds of the driver, with their units.

use std::time::Duration;

/// Strikes that one drive plans at most, whatever the budget says.
pub const STRIKES_MAX: usize = 100_000;

/// How often a strike that was not reached is tried, in all.
pub const TRIES_MAX: u32 = 3;

/// How often a replayed kill is tried until it shows a violation: the moment of
/// a kill is the scheduler's as well.
pub const KILL_REPLAYS_MAX: u32 = 50;

/// Moments that one of many seeded kills tries, each earlier than the one before,
/// until it finds the victim alive.
pub(crate) const KILL_TRIES_MAX: u32 = 8;

/// Runs that one violation may cost until it is as small as it gets.
pub const SHRINK_RUNS_MAX: u32 = 400;

/// Bytes of the names that one process reached that are read: millions of them.
pub(crate) const POINT_BYTES_MAX: u64 = 64 << 20;

/// Violated runs whose evidence is kept.
pub(crate) const EVIDENCE_MAX: u32 = 20;

/// How long a victim may take to end, when nothing else is said.
pub const PATIENCE_DEFAULT: Duration = Duration::from_secs(20);

const _: () = assert!(TRIES_MAX > 0 && KILL_REPLAYS_MAX > 0);

//! Bounds of this crate alone.

use agentos_core::limits::{PAGE_ROWS_MAX, SWEEP_INTERVAL_HELD, SWEEP_INTERVAL_IDLE};

/// Batches after which a scan ends, whatever is left: the next one goes on.
pub(crate) const SWEEP_BATCHES_MAX: u64 = 65_536;
/// Most failures that the statistics of a sweep keep with their reasons.
pub(crate) const SWEEP_FAILURES_MAX: usize = 32;

/// Work items that are read at a time.
pub(crate) const WORK_ITEMS_PER_PAGE: u32 = 256;
/// Most open work items that a recovery names; all of them are counted.
pub(crate) const OPEN_ITEMS_MAX: usize = 1000;

const _: () = {
    assert!(0 < SWEEP_BATCHES_MAX && 0 < SWEEP_FAILURES_MAX);
    assert!(0 < WORK_ITEMS_PER_PAGE && WORK_ITEMS_PER_PAGE <= PAGE_ROWS_MAX);
    // A sweeper that does not sleep would keep a core busy.
    assert!(!SWEEP_INTERVAL_HELD.is_zero() && !SWEEP_INTERVAL_IDLE.is_zero());
};

//! What upkeep has done since it was started.

use std::collections::BTreeMap;
use std::time::Duration;

use agentos_core::BoundedTable;

use crate::pass::{Removed, UpkeepReport};

/// Counts of an [`Upkeep`](crate::Upkeep) since it was started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpkeepStats {
    /// Passes that have ended.
    pub passes: u64,
    /// Passes of these that did everything there was to do.
    pub complete: u64,
    /// Steps and tasks that failed. They are tried again in the next pass.
    pub failed: u64,
    /// Checkpoints that were removed.
    pub checkpoints: Removed,
    /// Rows that were removed of each table.
    pub rows: BTreeMap<BoundedTable, Removed>,
    /// Bytes given back to the file system.
    pub reclaimed_bytes: u64,
    /// Transactions.
    pub batches: u64,
    /// The longest of them, the wait for the write lock included.
    pub longest_batch: Duration,
    /// The last error, in words; for people.
    pub last_error: Option<String>,
}

impl UpkeepStats {
    pub(crate) fn add(&mut self, report: &UpkeepReport) {
        self.passes += 1;
        self.complete += u64::from(report.is_complete());
        self.failed += report.failed;
        add(&mut self.checkpoints, &report.checkpoints);
        for (table, removed) in &report.rows {
            add(self.rows.entry(*table).or_default(), removed);
        }
        self.reclaimed_bytes += report.reclaimed_bytes;
        self.batches += report.batches;
        self.longest_batch = self.longest_batch.max(report.longest_batch);
        if let Some(failure) = report.failures.last() {
            self.last_error = Some(format!("{:?}: {}", failure.step, failure.error));
        }
    }
}

fn add(sum: &mut Removed, removed: &Removed) {
    sum.rows += removed.rows;
    sum.bytes += removed.bytes;
}

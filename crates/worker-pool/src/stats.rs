//! What a pool did, in numbers.

use crate::heartbeat::HeartbeatStats;

/// What a pool did since its start.
///
/// Each lease that was claimed ends in exactly one of `succeeded`, `failed`,
/// `released`, `lost` and `unreported`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Leases that were claimed.
    pub claimed: u64,
    /// Items that were completed.
    pub succeeded: u64,
    /// Attempts whose failure was recorded, those that panicked included.
    pub failed: u64,
    /// Items that were given back.
    pub released: u64,
    /// Leases that were lost before the end of the work could be recorded: nothing
    /// of it was.
    pub lost: u64,
    /// Ends that could not be recorded although the lease was not known to be lost:
    /// those items come back when their lease runs out.
    pub unreported: u64,
    /// Handlers that panicked.
    pub panicked: u64,
    /// Handlers that run now, and ends that are being recorded.
    pub running: usize,
    /// Claims that failed, and looks for work that did; each was tried again.
    pub claim_errors: u64,
    /// Ends whose recording failed and was, or will be, tried again.
    pub report_errors: u64,
    /// Claims that found nothing.
    pub empty_claims: u64,
    /// Looks for work: reads that change nothing.
    pub looks: u64,
    /// What the heartbeat did.
    pub heartbeat: HeartbeatStats,
}

impl PoolStats {
    /// Attempts whose end was recorded.
    pub fn finished(&self) -> u64 {
        self.succeeded + self.failed
    }
}

//! Every bound, in one place, with its unit in its name.
//!
//! What a user may exceed is refused with
//! [`StorageError::LimitExceeded`], naming
//! limit and value. Bounds that depend on each other are held together by
//! assertions at compile time.

use std::time::Duration;

use crate::error::{InvalidInput, LimitExceeded, StorageError};

/// Longest id, in bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 512;
/// Longest task type, audit event or kind of evidence, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest reason in an audit line, a verification or a failure, in bytes of UTF-8.
pub const REASON_BYTES_MAX: usize = 4096;

/// Largest snapshot unless configured otherwise, in bytes as encoded.
pub const SNAPSHOT_BYTES_DEFAULT: usize = 64 << 20;
/// Largest snapshot that can be configured; also what a decoder may allocate.
pub const SNAPSHOT_BYTES_MAX: usize = 256 << 20;
/// Largest metadata of a task, checkpoint or audit line, in bytes of JSON,
/// unless configured otherwise.
pub const METADATA_BYTES_DEFAULT: usize = 64 << 10;
/// Largest metadata that can be configured.
pub const METADATA_BYTES_MAX: usize = 16 << 20;
/// Deepest nesting of metadata: well below the depth at which JSON readers give up.
pub const METADATA_DEPTH_MAX: usize = 64;
/// Largest evidence pack, in bytes of JSON.
pub const EVIDENCE_BYTES_MAX: usize = 256 << 10;
/// Most items in an evidence pack.
pub const EVIDENCE_ITEMS_MAX: usize = 256;

/// Most parts in one commit.
pub const PARTS_PER_COMMIT_MAX: usize = 4096;
/// Most commits that share one transaction.
pub const COMMITS_PER_GROUP_MAX: usize = 256;
/// Most commits that wait in one process, unless configured otherwise. Callers
/// beyond it wait outside, within their own deadline.
pub const QUEUE_LENGTH_DEFAULT: usize = 1024;
/// Longest queue that can be configured.
pub const QUEUE_LENGTH_MAX: usize = 65_536;

/// Largest payload or result of a work item unless configured otherwise, in bytes.
pub const PAYLOAD_BYTES_DEFAULT: usize = 1 << 20;
/// Largest payload or result that can be configured.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Largest outcome of a key unless configured otherwise, in bytes.
pub const OUTCOME_BYTES_DEFAULT: usize = 16 << 20;
/// Largest outcome that can be configured.
pub const OUTCOME_BYTES_MAX: usize = 256 << 20;
/// Most that is kept of the request of a key, in bytes.
pub const KEPT_REQUEST_BYTES_MAX: usize = 1 << 20;
/// Most keys that one part removes or touches, and permits that one commit renews.
pub const KEYS_PER_PART_MAX: usize = 1000;
/// Longest time to live of an outcome: a hundred years. None is for ever.
pub const TTL_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);
/// Time to live of a model's answer unless configured otherwise.
pub const CACHE_TTL_DEFAULT: Duration = Duration::from_secs(7 * 86_400);
/// Entries of the model cache that are kept, unless configured otherwise.
pub const CACHE_ROWS_DEFAULT: u64 = 1_000_000;
/// Bytes of outcomes in the model cache that are kept, unless configured otherwise.
pub const CACHE_BYTES_DEFAULT: u64 = 4 << 30;
/// How exactly it is known when an outcome was last used: a use is noted when the last
/// one that was is older than this.
pub const USED_AT_RESOLUTION: Duration = Duration::from_secs(3600);

/// Least urgent priority of a work item.
pub const PRIORITY_MIN: i32 = -100;
/// Most urgent priority of a work item. There are few of them, since a claim looks
/// at each that has only work for later.
pub const PRIORITY_MAX: i32 = 100;
/// How often a work item is tried at most, unless it says otherwise.
pub const MAX_ATTEMPTS_DEFAULT: u32 = 5;
/// Most attempts that a work item can be given: no more than are kept of it.
pub const MAX_ATTEMPTS_MAX: u32 = ATTEMPTS_PER_ITEM_MAX;

/// Shortest lease.
pub const LEASE_MIN: Duration = Duration::from_millis(100);
/// Lease unless asked for otherwise.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// Longest lease.
pub const LEASE_MAX: Duration = Duration::from_secs(24 * 3600);
/// A lease is renewed so often before it runs out.
pub const HEARTBEATS_PER_LEASE: u32 = 3;
/// Most items in one claim.
pub const CLAIM_ITEMS_MAX: u32 = 256;
/// Most work types that one claim asks for.
pub const CLAIM_TYPES_MAX: usize = 64;
/// Most leases that one commit renews.
pub const RENEW_LEASES_MAX: usize = 4096;
/// Most expired leases that one batch of a sweep takes away.
pub const SWEEP_ROWS_MAX: u32 = 1000;
/// Expired leases that one batch of a sweep takes away, unless configured
/// otherwise.
pub const SWEEP_ROWS_DEFAULT: u32 = 256;
/// Expired leases that a claim takes away first, at most.
pub const SWEEP_ROWS_PER_CLAIM: u32 = 16;
/// As many batches of these, where those before could not be taken away.
pub const SWEEP_BATCHES_PER_CLAIM: u32 = 4;
/// Longest sleep of a sweeper while leases are held.
pub const SWEEP_INTERVAL_HELD: Duration = Duration::from_millis(50);
/// Longest sleep of a sweeper while none is known to be held: a lease that
/// another process takes meanwhile does not run out before it is seen.
pub const SWEEP_INTERVAL_IDLE: Duration = LEASE_MIN;
/// How long after the lease time a first loss can be claimed again, at most.
pub const TAKEOVER_MARGIN: Duration = Duration::from_millis(100);
/// Longest time until a worker pool sees what another process enqueued.
pub const WAKE_UP_MARGIN: Duration = Duration::from_millis(50);

/// Pause before the second attempt, unless configured otherwise.
pub const RETRY_FIRST_DEFAULT: Duration = Duration::from_secs(1);
/// How many times longer each further pause is, unless configured otherwise.
pub const RETRY_FACTOR_DEFAULT: u32 = 2;
/// Largest such factor.
pub const RETRY_FACTOR_MAX: u32 = 100;
/// The longest pause before an attempt, unless configured otherwise.
pub const RETRY_MOST_DEFAULT: Duration = Duration::from_secs(3600);
/// Longest pause before an attempt that can be configured.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// How long a caller waits for the write lock, unless configured otherwise.
pub const BUSY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Longest wait for the write lock that can be configured.
pub const BUSY_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Read-only connections of one store, unless configured otherwise.
pub const READERS_DEFAULT: u32 = 4;
/// Most read-only connections of one store.
pub const READERS_MAX: u32 = 64;
/// Most rows in one page of a list.
pub const PAGE_ROWS_MAX: u32 = 1000;

/// Size of the file that is given up when the disk is full, unless configured
/// otherwise, in bytes. Zero: none.
pub const BALLAST_BYTES_DEFAULT: u64 = 16 << 20;
/// Largest such file.
pub const BALLAST_BYTES_MAX: u64 = 16 << 30;
/// Size of the write-ahead log beyond which no commit is taken, unless
/// configured otherwise, in bytes.
pub const LOG_BYTES_DEFAULT: u64 = 1 << 30;
/// Smallest such bound: room for a few commits.
pub const LOG_BYTES_MIN: u64 = 1 << 20;
/// Largest such bound.
pub const LOG_BYTES_MAX: u64 = 1 << 40;
/// How long an integrity check is fresh, unless configured otherwise.
pub const INTEGRITY_AGE_DEFAULT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Checkpoints kept of each task, unless configured otherwise.
pub const CHECKPOINTS_KEPT_DEFAULT: u32 = 100;
/// Audit lines kept, unless configured otherwise.
pub const AUDIT_ROWS_DEFAULT: u64 = 1_000_000;
/// How long a work item stays that succeeded or was cancelled, unless
/// configured otherwise.
pub const FINISHED_ITEM_AGE_DEFAULT: Duration = Duration::from_secs(7 * 86_400);
/// Work items kept that succeeded or were cancelled, unless configured otherwise.
pub const FINISHED_ITEM_ROWS_DEFAULT: u64 = 100_000;
/// How long a dead letter stays, unless configured otherwise: Sidekiq's
/// `dead_timeout_in_seconds`.
pub const DEAD_LETTER_AGE_DEFAULT: Duration = Duration::from_secs(180 * 86_400);
/// Dead letters kept, unless configured otherwise: Sidekiq's `dead_max_jobs`.
pub const DEAD_LETTER_ROWS_DEFAULT: u64 = 10_000;
/// Attempts that are kept of one work item, the newest; released ones do not count,
/// and are kept among as many claims. The schema holds it.
pub const ATTEMPTS_PER_ITEM_MAX: u32 = 100;
/// Results of integrity checks that are kept, the newest. The schema holds it.
pub const INTEGRITY_CHECKS_MAX: u32 = 1000;

/// Most rows that one batch of pruning looks at.
pub const PRUNE_ROWS_MAX: u32 = 1000;
/// Bytes of state after which a batch of pruning ends.
pub const PRUNE_BYTES_PER_BATCH: u64 = 16 << 20;
/// Time after which a batch of pruning ends: others wait for its lock.
pub const PRUNE_TIME_PER_BATCH: Duration = Duration::from_millis(2);

/// Pause between two passes of upkeep, unless configured otherwise.
pub const UPKEEP_INTERVAL_DEFAULT: Duration = Duration::from_secs(60);
/// Shortest pause between two passes of upkeep.
pub const UPKEEP_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Longest pause between two passes of upkeep.
pub const UPKEEP_INTERVAL_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Pause between two batches of upkeep, unless configured otherwise: writers
/// get in.
pub const UPKEEP_PAUSE_DEFAULT: Duration = Duration::from_millis(5);
/// Longest pause between two batches of upkeep.
pub const UPKEEP_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Unused bytes that upkeep leaves in the file for what comes next, unless
/// configured otherwise.
pub const FREE_BYTES_KEPT_DEFAULT: u64 = 16 << 20;

/// How long a rechecked command may run, unless configured otherwise.
pub const RECHECK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Longest time a rechecked command can be given.
pub const RECHECK_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

const _: () = {
    assert!(SNAPSHOT_BYTES_DEFAULT <= SNAPSHOT_BYTES_MAX);
    // SQLite's own limit for one value is 1,000,000,000 bytes.
    assert!(SNAPSHOT_BYTES_MAX < 1_000_000_000);
    assert!(METADATA_BYTES_DEFAULT <= METADATA_BYTES_MAX);
    assert!(QUEUE_LENGTH_DEFAULT <= QUEUE_LENGTH_MAX);
    assert!(COMMITS_PER_GROUP_MAX <= QUEUE_LENGTH_DEFAULT);
    assert!(BUSY_TIMEOUT_DEFAULT.as_millis() <= BUSY_TIMEOUT_MAX.as_millis());
    assert!(0 < READERS_DEFAULT && READERS_DEFAULT <= READERS_MAX);
    assert!(BALLAST_BYTES_DEFAULT <= BALLAST_BYTES_MAX);
    assert!(LOG_BYTES_MIN <= LOG_BYTES_DEFAULT && LOG_BYTES_DEFAULT <= LOG_BYTES_MAX);
    assert!(0 < CHECKPOINTS_KEPT_DEFAULT && 0 < PRUNE_ROWS_MAX);
    assert!(PRUNE_TIME_PER_BATCH.as_millis() < BUSY_TIMEOUT_DEFAULT.as_millis());
    assert!(UPKEEP_INTERVAL_MIN.as_millis() <= UPKEEP_INTERVAL_DEFAULT.as_millis());
    assert!(UPKEEP_INTERVAL_DEFAULT.as_millis() <= UPKEEP_INTERVAL_MAX.as_millis());
    assert!(UPKEEP_PAUSE_DEFAULT.as_millis() <= UPKEEP_PAUSE_MAX.as_millis());
    assert!(PAYLOAD_BYTES_DEFAULT <= PAYLOAD_BYTES_MAX);
    assert!(PAYLOAD_BYTES_MAX < 1_000_000_000);
    assert!(OUTCOME_BYTES_DEFAULT <= OUTCOME_BYTES_MAX);
    assert!(OUTCOME_BYTES_MAX < 1_000_000_000);
    assert!(0 < KEYS_PER_PART_MAX && KEYS_PER_PART_MAX <= PARTS_PER_COMMIT_MAX);
    assert!(CACHE_TTL_DEFAULT.as_secs() <= TTL_MAX.as_secs());
    assert!(PRIORITY_MIN <= 0 && 0 <= PRIORITY_MAX);
    assert!(0 < MAX_ATTEMPTS_DEFAULT && MAX_ATTEMPTS_DEFAULT <= MAX_ATTEMPTS_MAX);
    assert!(LEASE_MIN.as_millis() <= LEASE_DEFAULT.as_millis());
    assert!(LEASE_DEFAULT.as_millis() <= LEASE_MAX.as_millis());
    // A heartbeat interval of zero would spin.
    assert!(0 < LEASE_MIN.as_millis() / HEARTBEATS_PER_LEASE as u128);
    assert!(0 < SWEEP_ROWS_DEFAULT && SWEEP_ROWS_DEFAULT <= SWEEP_ROWS_MAX);
    assert!(0 < SWEEP_ROWS_PER_CLAIM && SWEEP_ROWS_PER_CLAIM <= SWEEP_ROWS_MAX);
    assert!(SWEEP_INTERVAL_HELD.as_millis() < TAKEOVER_MARGIN.as_millis());
    assert!(SWEEP_INTERVAL_IDLE.as_millis() <= LEASE_MIN.as_millis());
    assert!(RETRY_FIRST_DEFAULT.as_millis() <= RETRY_MOST_DEFAULT.as_millis());
    assert!(RETRY_MOST_DEFAULT.as_millis() <= RETRY_PAUSE_MAX.as_millis());
    assert!(RECHECK_TIMEOUT_DEFAULT.as_millis() <= RECHECK_TIMEOUT_MAX.as_millis());
};

/// The bounds that a user can set when opening a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest snapshot, in bytes as encoded.
    pub snapshot_bytes: usize,
    /// Largest metadata, in bytes of JSON.
    pub metadata_bytes: usize,
    /// Largest payload or result of a work item, in bytes.
    pub payload_bytes: usize,
    /// Largest outcome of an idempotency key, in bytes.
    pub outcome_bytes: usize,
    /// Most commits that wait in this process.
    pub queue_length: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            snapshot_bytes: SNAPSHOT_BYTES_DEFAULT,
            metadata_bytes: METADATA_BYTES_DEFAULT,
            payload_bytes: PAYLOAD_BYTES_DEFAULT,
            outcome_bytes: OUTCOME_BYTES_DEFAULT,
            queue_length: QUEUE_LENGTH_DEFAULT,
        }
    }
}

impl Limits {
    /// Checks that the limits themselves are within their bounds.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] for one that is too large,
    /// [`StorageError::Invalid`] for a queue of length zero.
    pub fn check(&self) -> Result<(), StorageError> {
        check_size(
            "configured snapshot bytes",
            self.snapshot_bytes,
            SNAPSHOT_BYTES_MAX,
        )?;
        check_size(
            "configured metadata bytes",
            self.metadata_bytes,
            METADATA_BYTES_MAX,
        )?;
        check_size(
            "configured payload bytes",
            self.payload_bytes,
            PAYLOAD_BYTES_MAX,
        )?;
        check_size(
            "configured outcome bytes",
            self.outcome_bytes,
            OUTCOME_BYTES_MAX,
        )?;
        check_size(
            "configured queue length",
            self.queue_length,
            QUEUE_LENGTH_MAX,
        )?;
        if self.queue_length == 0 {
            return Err(InvalidInput::new("configured queue length", "is zero").into());
        }
        Ok(())
    }
}

/// Refuses a size beyond its limit.
///
/// # Errors
///
/// [`StorageError::LimitExceeded`] with `name`, limit and value.
pub fn check_size(name: &'static str, value: usize, limit: usize) -> Result<(), StorageError> {
    if value > limit {
        return Err(LimitExceeded {
            name,
            limit: limit as u64,
            value: value as u64,
        }
        .into());
    }
    Ok(())
}

/// Refuses text that is too long or contains NUL.
///
/// # Errors
///
/// [`StorageError::LimitExceeded`] named `limit_name`, or
/// [`StorageError::Invalid`] about `what`.
pub fn check_text(
    what: &'static str,
    limit_name: &'static str,
    text: &str,
    bytes_max: usize,
) -> Result<(), StorageError> {
    check_size(limit_name, text.len(), bytes_max)?;
    if text.as_bytes().contains(&0) {
        return Err(InvalidInput::new(what, "contains NUL").into());
    }
    Ok(())
}

/// Refuses a name (task type, event, kind) that is empty, too long or contains NUL.
///
/// # Errors
///
/// As [`check_text`], and [`StorageError::Invalid`] when it is empty.
pub fn check_name(what: &'static str, name: &str) -> Result<(), StorageError> {
    if name.is_empty() {
        return Err(InvalidInput::new(what, "is empty").into());
    }
    check_text(what, "name bytes", name, NAME_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_names_itself_its_bound_and_the_value() {
        let error = check_size("snapshot bytes", 11, 10).unwrap_err();
        assert_eq!(
            error.to_string(),
            "snapshot bytes: 11 is over the limit of 10"
        );
        assert!(check_size("snapshot bytes", 10, 10).is_ok());
    }

    #[test]
    fn configured_limits_have_limits() {
        assert!(Limits::default().check().is_ok());
        let wide = Limits {
            snapshot_bytes: SNAPSHOT_BYTES_MAX + 1,
            ..Limits::default()
        };
        assert!(matches!(
            wide.check().unwrap_err(),
            StorageError::LimitExceeded(_)
        ));
        let none = Limits {
            queue_length: 0,
            ..Limits::default()
        };
        assert!(matches!(
            none.check().unwrap_err(),
            StorageError::Invalid(_)
        ));
    }
}

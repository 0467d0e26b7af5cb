//! The bounds of this crate, with their units. Those that others share are in
//! `agentos_core::limits`.

use std::time::Duration;

use agentos_core::limits::{CLAIM_ITEMS_MAX, HEARTBEATS_PER_LEASE, LEASE_MIN, WAKE_UP_MARGIN};

/// After a renewal that failed, the next try comes after this part of the time
/// between two heartbeats.
pub(crate) const RENEWAL_RETRIES_PER_HEARTBEAT: u32 = 10;
/// Longest sleep of the heartbeat's threads while leases are held. Waits do not
/// count the time for which the machine was suspended, deadlines do.
pub(crate) const CLOCK_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Threads of a pool, unless configured otherwise.
pub const THREADS_DEFAULT: usize = 4;
/// Most threads of a pool.
pub const THREADS_MAX: usize = 256;
/// How long a shutdown waits for handlers, unless configured otherwise.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(30);
/// How long it waits for them after they were told to stop, unless configured
/// otherwise.
pub const PARTING_DEFAULT: Duration = Duration::from_secs(1);
/// Longest of either that can be configured.
pub const GRACE_MAX: Duration = Duration::from_secs(3600);

/// An idle pool looks for what other processes enqueued so often.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(25);
/// Pause after a claim that found nothing although something was due, at first; it
/// doubles up to [`LOOK_INTERVAL`].
pub(crate) const EMPTY_PAUSE_FIRST: Duration = Duration::from_millis(1);
/// Pause after the store could not be asked, or an end could not be reported, at
/// first; it doubles.
pub(crate) const ERROR_PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest such pause.
pub(crate) const ERROR_PAUSE_MOST: Duration = Duration::from_secs(1);

const _: () = {
    // The pause before a retry is no spin.
    let heartbeat_us = LEASE_MIN.as_micros() / HEARTBEATS_PER_LEASE as u128;
    assert!(1000 <= heartbeat_us / RENEWAL_RETRIES_PER_HEARTBEAT as u128);
    // What is left of the margin is for the look, the claim and the hand-over.
    assert!(2 * LOOK_INTERVAL.as_millis() <= WAKE_UP_MARGIN.as_millis());
    assert!(EMPTY_PAUSE_FIRST.as_millis() <= LOOK_INTERVAL.as_millis());
    assert!(0 < THREADS_DEFAULT && THREADS_DEFAULT <= THREADS_MAX);
    // One claim can serve every idle thread.
    assert!(THREADS_MAX <= CLAIM_ITEMS_MAX as usize);
    assert!(GRACE_DEFAULT.as_millis() <= GRACE_MAX.as_millis());
    assert!(PARTING_DEFAULT.as_millis() <= GRACE_MAX.as_millis());
};

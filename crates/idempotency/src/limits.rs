//! The bounds of this crate, with their units. Those that others share are in
//! `agentos_core::limits`.

use std::time::Duration;

use agentos_core::limits::{
    HEARTBEATS_PER_LEASE, KEYS_PER_PART_MAX, LEASE_MIN, OUTCOME_BYTES_DEFAULT,
};

/// Longest JSON of which a canonical form is made, and longest such form, in bytes.
pub const JSON_BYTES_MAX: usize = 64 << 20;
/// Deepest nesting of such JSON.
pub const JSON_DEPTH_MAX: usize = 128;

/// One who waits looks for what other processes did so often, unless configured
/// otherwise.
pub const POLL_DEFAULT: Duration = Duration::from_millis(25);
/// Shortest time between two looks that can be configured.
pub const POLL_MIN: Duration = Duration::from_millis(1);
/// Longest time between two looks that can be configured.
pub const POLL_MAX: Duration = Duration::from_secs(1);

/// After a renewal that failed, the next try comes after this part of the time
/// between two renewals.
pub(crate) const RENEWAL_RETRIES_PER_HEARTBEAT: u32 = 10;
/// Longest sleep of the thread that renews while permits are held. Waits do not count
/// the time for which the machine was suspended, deadlines do.
pub(crate) const CLOCK_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// So many uses are written together.
pub(crate) const USES_PER_BATCH: usize = 256;
/// Most uses that are kept until they are written. Further ones are forgotten.
pub(crate) const USES_KEPT_MAX: usize = KEYS_PER_PART_MAX;
/// How long a use waits at most until it is written.
pub(crate) const USE_WAIT_MAX: Duration = Duration::from_secs(60);

/// How often the end of an execution is recorded again, after commits of which nobody
/// knows whether they were made.
pub(crate) const UNKNOWN_COMMITS_MAX: u32 = 3;

/// How long one waits for a tool call that somebody else runs, unless configured
/// otherwise.
pub const TOOL_WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// Most different tool calls of one step, of which identical ones are counted.
pub const CALLS_PER_STEP_MAX: usize = 100_000;
/// How long a command may run, unless it says otherwise.
pub const COMMAND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Bytes of each of a command's two streams that are recorded, unless it says otherwise.
pub const COMMAND_OUTPUT_BYTES_DEFAULT: usize = 4 << 20;
/// Bytes of each of a command's two streams that its caller gets, however few are recorded.
/// What it prints beyond is dropped, so that no command fills the memory.
pub const COMMAND_OUTPUT_BYTES_MAX: usize = 64 << 20;
/// So often it is looked whether the right to run a command is lost meanwhile.
pub const COMMAND_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often one call looks anew at what others do with it, before it says that it is in
/// doubt.
pub(crate) const LOOKS_PER_CALL_MAX: u32 = 16;

/// How long a call of the cache waits for somebody else's answer, unless configured
/// otherwise: longer than a model thinks.
pub const CACHE_WAIT_DEFAULT: Duration = Duration::from_secs(300);
/// Longest such wait that can be configured.
pub const CACHE_WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// So often a call of the cache removes a recorded answer that it cannot read, before
/// it asks the model without recording anything: others go on recording such answers.
pub(crate) const UNREADABLE_ANSWERS_MAX: u32 = 4;

const _: () = {
    // What a command prints is recorded with it, whatever else is unchanged.
    assert!(2 * COMMAND_OUTPUT_BYTES_DEFAULT < OUTCOME_BYTES_DEFAULT);
    assert!(COMMAND_OUTPUT_BYTES_DEFAULT < COMMAND_OUTPUT_BYTES_MAX);
    assert!(CACHE_WAIT_DEFAULT.as_millis() <= CACHE_WAIT_MAX.as_millis());
    assert!(POLL_MIN.as_nanos() <= POLL_DEFAULT.as_nanos());
    assert!(POLL_DEFAULT.as_nanos() <= POLL_MAX.as_nanos());
    assert!(USES_PER_BATCH <= USES_KEPT_MAX && USES_KEPT_MAX <= KEYS_PER_PART_MAX);
    // The pause before a retry is no spin.
    let renewal_us = LEASE_MIN.as_micros() / HEARTBEATS_PER_LEASE as u128;
    assert!(1000 <= renewal_us / RENEWAL_RETRIES_PER_HEARTBEAT as u128);
};

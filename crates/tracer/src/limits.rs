//! Bounds, with their units.

use std::time::Duration;

/// Calls that one trace keeps, each some 200 bytes; further ones are counted
/// by kind and not kept.
pub const CALLS_MAX: usize = 100_000;

/// Bytes of a path that are read from the traced program; the kernel's own bound.
pub const PATH_BYTES_MAX: usize = 4096;

/// Bytes of a position's text form that are parsed.
pub const POSITION_BYTES_MAX: usize = 4096;

/// How long the child waits for the tracer's word before it executes its
/// program, and the tracer for its owner's; beyond it the start has failed.
pub const START_WAIT: Duration = Duration::from_secs(30);

/// How long a tree that was sent SIGKILL may take to be gone.
pub const KILL_WAIT: Duration = Duration::from_secs(10);

/// How long the tracer may take to say how a child ended that has ended.
pub const REAP_WAIT: Duration = Duration::from_secs(10);

const _: () = {
    // Room for at least the shortest position, `1/1#1`.
    assert!(POSITION_BYTES_MAX >= 5);
};

//! Bounds of the harness, with their units. Those of the driver are its own.

use std::time::Duration;

/// How long an interruption may stay unnoticed by a wait.
pub(crate) const INTERRUPT_POLL: Duration = Duration::from_millis(50);

/// Longer waits than this are cut: nothing here waits for ever.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of memory that the words of one victim may take. Who says more is ended by the
/// end of its run, which is inconclusive: what nobody can keep, nobody can judge.
pub const TALK_BYTES_MAX: u64 = 64 << 20;

/// Bytes of memory that a line takes beside its text: without them, empty lines would be
/// free.
pub(crate) const LINE_BYTES: u64 = 32;

/// Bytes that a wait still takes, with a newline for each line, when its time is over:
/// what may stand in the pipe, and what one read had taken out of it.
pub(crate) const LATE_BYTES_MAX: usize = 128 * 1024;

const _: () = assert!(LATE_BYTES_MAX as u64 * LINE_BYTES < TALK_BYTES_MAX);

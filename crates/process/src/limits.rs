//! Every bound of this crate, with its unit in its name.

use std::time::Duration;

/// How long [`run`](crate::run()) waits when the command names no timeout.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// How many bytes of each stream are kept, and how long a line may be, when the
/// command names no bound.
pub const OUTPUT_BYTES_DEFAULT: usize = 1024 * 1024;

/// How long a group that received SIGKILL may take to disappear. Only a process
/// in uninterruptible sleep (a dead disk, a hung mount) takes longer.
pub const KILL_WAIT: Duration = Duration::from_secs(5);

/// How long the guardian's shell may take to start on a busy machine.
pub(crate) const START_WAIT: Duration = Duration::from_secs(30);

/// How long a killed group may linger before `/proc` is asked whether what is
/// left of it are zombies that its new parent does not reap.
pub(crate) const ZOMBIE_GRACE: Duration = Duration::from_millis(20);

/// Pause between two looks at a killed group that has not disappeared yet.
pub(crate) const GONE_POLL: Duration = Duration::from_micros(200);

/// One read from a pipe: the capacity that Linux gives it.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Bytes of memory that [`Child::wait`](crate::Child::wait) gives to unread lines before
/// it lets the child block on its full pipe.
pub(crate) const BUFFERED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of memory that a line takes beside its text: without them, empty lines would be
/// free.
pub(crate) const LINE_BYTES: usize = 32;

const _: () = {
    assert!(ZOMBIE_GRACE.as_nanos() < KILL_WAIT.as_nanos());
    assert!(GONE_POLL.as_nanos() < ZOMBIE_GRACE.as_nanos());
    assert!(READ_BYTES < BUFFERED_BYTES_MAX);
};

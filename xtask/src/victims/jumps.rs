//! Clocks that jump, for victims: the system's, and so much ahead of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use agentos_core::{BootTime, Clock, SystemClock, Timestamp};

/// The system's clocks, each moved by as much as was said last.
#[derive(Debug, Default)]
pub(crate) struct JumpingClock {
    wall_ahead_us: AtomicI64,
    boot_ahead_us: AtomicI64,
}

impl JumpingClock {
    /// The wall clock jumps: from now on it is so many microseconds ahead.
    pub(crate) fn set_wall(&self, ahead_us: i64) {
        self.wall_ahead_us.store(ahead_us, Ordering::SeqCst);
    }

    /// The deadline clock jumps, as none does: from now on it is so many microseconds
    /// ahead.
    pub(crate) fn set_boot(&self, ahead_us: i64) {
        self.boot_ahead_us.store(ahead_us, Ordering::SeqCst);
    }
}

impl Clock for JumpingClock {
    fn wall(&self) -> Timestamp {
        let now = SystemClock.wall().unix_micros();
        Timestamp::from_unix_micros(now + self.wall_ahead_us.load(Ordering::SeqCst))
    }

    fn boot(&self) -> BootTime {
        let now = SystemClock.boot();
        BootTime {
            micros: now.micros + self.boot_ahead_us.load(Ordering::SeqCst),
            ..now
        }
    }
}

/// A clock by which leases follow the wall clock, as in products that keep deadlines
/// as text.
#[derive(Debug)]
pub(crate) struct WallLeases(pub(crate) Arc<JumpingClock>);

impl Clock for WallLeases {
    fn wall(&self) -> Timestamp {
        self.0.wall()
    }

    fn boot(&self) -> BootTime {
        BootTime {
            micros: self.wall().unix_micros(),
            ..self.0.boot()
        }
    }
}

/// Now, by the deadline clock of this machine, which does not jump.
pub(crate) fn true_now_us() -> i64 {
    SystemClock.boot().micros
}

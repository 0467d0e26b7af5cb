//! The only place of this crate that reads a clock: the kernel's processes do
//! not follow a clock that a test could move.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

/// Measures how long something took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "real processes run in real time")]
    pub(crate) fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// A moment to give up at; `None` inside means never.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// It never comes.
    pub(crate) const NEVER: Deadline = Deadline(None);

    /// Whichever comes first.
    pub(crate) fn earlier(self, other: Deadline) -> Deadline {
        Deadline([self.0, other.0].into_iter().flatten().min())
    }

    /// The moment `timeout` from now. A timeout beyond the clock's range never
    /// comes.
    pub(crate) fn after(timeout: Duration) -> Deadline {
        Deadline(Stopwatch::start().0.checked_add(timeout))
    }

    /// What `poll` may wait: never less than nothing, `None` for no limit.
    pub(crate) fn remaining(self) -> Option<Timespec> {
        let left = self.0?.saturating_duration_since(Stopwatch::start().0);
        Timespec::try_from(left).ok()
    }

    pub(crate) fn passed(self) -> bool {
        self.0.is_some_and(|at| at <= Stopwatch::start().0)
    }
}

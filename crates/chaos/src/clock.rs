//! The only place of this crate that reads a clock. Victims are real processes
//! and live in real time, so no clock is handed in.

use std::time::{Duration, Instant};

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

/// A span of time that began at some moment and runs out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    watch: Stopwatch,
    after: Duration,
}

impl Deadline {
    pub(crate) fn after(after: Duration) -> Deadline {
        Deadline {
            watch: Stopwatch::start(),
            after,
        }
    }

    pub(crate) fn remaining(self) -> Duration {
        self.after.saturating_sub(self.watch.elapsed())
    }

    /// Since the deadline was set.
    pub(crate) fn elapsed(self) -> Duration {
        self.watch.elapsed()
    }

    pub(crate) fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// Whichever of the two comes first.
    pub(crate) fn or_sooner(self, timeout: Duration) -> Deadline {
        Deadline::after(timeout.min(self.remaining()))
    }
}

/// Burns the processor for exactly this long: a sleep of 300 µs would last
/// anything up to a few milliseconds, and the moment of a kill matters.
pub(crate) fn spin(duration: Duration) {
    let watch = Stopwatch::start();
    while watch.elapsed() < duration {
        std::hint::spin_loop();
    }
}

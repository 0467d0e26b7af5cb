//! Waiting in real time: victims are real processes, and no clock moves them.

use std::time::Duration;

use agentos_core::{Deadline, Stopwatch};

/// Whichever comes first: the deadline, or so long from now.
pub(crate) fn sooner(deadline: Deadline, timeout: Duration) -> Deadline {
    Deadline::after(timeout.min(deadline.remaining()))
}

/// Burns the processor for exactly this long: a sleep of 300 µs would last
/// anything up to a few milliseconds, and the moment of a kill matters.
pub(crate) fn spin(duration: Duration) {
    let watch = Stopwatch::start();
    while watch.elapsed() < duration {
        std::hint::spin_loop();
    }
}

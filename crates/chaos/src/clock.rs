//! Waiting in real time: victims are real processes, and no clock moves them.

use std::time::Duration;

use agentos_core::{Deadline, Stopwatch};

use crate::interrupt::Interrupt;

/// The end of a scenario: its time is over, or somebody wants it to stop.
#[derive(Debug, Clone)]
pub(crate) struct End {
    deadline: Deadline,
    interrupt: Interrupt,
}

impl End {
    pub(crate) fn new(timeout: Duration, interrupt: Interrupt) -> End {
        End {
            deadline: Deadline::after(timeout),
            interrupt,
        }
    }

    /// What is left; nothing after an interruption.
    pub(crate) fn remaining(&self) -> Duration {
        if self.is_interrupted() {
            Duration::ZERO
        } else {
            self.deadline.remaining()
        }
    }

    /// Whichever comes first: this end, or so long from now.
    pub(crate) fn or_after(&self, timeout: Duration) -> Deadline {
        Deadline::after(timeout.min(self.remaining()))
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupt.is_raised()
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

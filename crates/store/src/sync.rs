//! The locks that the queue is built from, in the few forms it needs.
//!
//! The queue names these and nothing else, so that a test can compile the same
//! file against a scheduler that explores every interleaving.

use agentos_core::Deadline;
pub(crate) use parking_lot::{Mutex, MutexGuard};

/// A condition variable whose waits end with a deadline.
#[derive(Debug, Default)]
pub(crate) struct Condvar(parking_lot::Condvar);

impl Condvar {
    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits for a notification.
    pub(crate) fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(&mut guard);
        guard
    }

    /// Waits for a notification or the deadline; `true` when the deadline passed.
    pub(crate) fn wait_until<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        deadline: &Deadline,
    ) -> (MutexGuard<'a, T>, bool) {
        let timed_out = self
            .0
            .wait_for(&mut guard, deadline.remaining())
            .timed_out();
        (guard, timed_out)
    }
}

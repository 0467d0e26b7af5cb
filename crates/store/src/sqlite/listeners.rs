//! Those who want to know of work that became claimable, and of leases that were
//! lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;

use agentos_core::{Fence, WorkListener};

use crate::sync::Mutex;

/// Listeners of one store. Those that are gone are forgotten.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Vec<Weak<dyn WorkListener>>>);

impl Listeners {
    pub(crate) fn add(&self, listener: Weak<dyn WorkListener>) {
        let mut listeners = self.0.lock();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(listener);
    }

    /// Tells whether work arrived, and of leases that were lost.
    pub(crate) fn tell(&self, arrived: bool, lost: &[Fence]) {
        if !arrived && lost.is_empty() {
            return;
        }
        let listeners: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        for listener in listeners {
            // The commit is done: nothing that a listener does may change its answer.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| {
                if arrived {
                    listener.work_arrived();
                }
                if !lost.is_empty() {
                    listener.leases_lost(lost);
                }
            })) {
                tracing::error!("a listener panicked");
                // Dropping what is unknown could panic again.
                std::mem::forget(panic);
            }
        }
    }
}

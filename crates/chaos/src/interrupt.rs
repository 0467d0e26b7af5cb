//! Asks a run to stop: Ctrl-C, or whatever a program takes for it.
//!
//! Every wait of the harness looks at it many times a second. A scenario that
//! was under way then gets an error, its victims are killed, its directory is
//! removed, and nothing is said about it: half a run proves nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop, shared by all that hold a clone of it. It cannot be taken
/// back.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Not raised yet.
    pub fn new() -> Interrupt {
        Interrupt::default()
    }

    /// Asks to stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked to stop.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// The flag itself, for a signal handler, which may do little more than set
    /// one.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

//! Says from another thread that a command is no longer wanted.
//!
//! A descriptor beside the flag wakes whoever waits for the command at once: nobody
//! looks at a flag now and then.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use crate::error::ProcessError;

/// Cancels commands that run under it: clones are the same token. A token that was
/// cancelled stays so.
#[derive(Debug, Clone)]
pub struct CancelToken(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cancelled: AtomicBool,
    /// Readable once it is cancelled; nobody reads it empty.
    fd: OwnedFd,
}

impl CancelToken {
    /// A token that is not cancelled.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Machine`] when no descriptor is left.
    pub fn new() -> Result<CancelToken, ProcessError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(ProcessError::machine("make a token to cancel with"))?;
        Ok(CancelToken(Arc::new(Inner {
            cancelled: AtomicBool::new(false),
            fd,
        })))
    }

    /// Cancels what runs under it, and what is yet to be run.
    pub fn cancel(&self) {
        if !self.0.cancelled.swap(true, Ordering::AcqRel) {
            // The counter was zero: this can neither block nor overflow.
            let _ = rustix::io::write(&self.0.fd, &1_u64.to_ne_bytes());
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Becomes readable when it is cancelled.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

//! How a gate works.

use std::time::Duration;

use agentos_core::limits::LEASE_DEFAULT;
use agentos_core::storage::check_lease;
use agentos_core::{InvalidInput, StorageError, Worker};

use crate::limits::{POLL_DEFAULT, POLL_MAX, POLL_MIN};

/// How a gate works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateConfig {
    pub(crate) owner: Worker,
    pub(crate) lease: Duration,
    pub(crate) sole_start: bool,
    pub(crate) poll: Duration,
}

impl GateConfig {
    /// Keys are executed by `owner`, under permits of 30 s that are renewed.
    pub fn new(owner: Worker) -> GateConfig {
        GateConfig {
            owner,
            lease: LEASE_DEFAULT,
            sole_start: false,
            poll: POLL_DEFAULT,
        }
    }

    /// How long a permit lasts unless it is renewed: 100 ms to 24 h, 30 s unless
    /// changed. So long after a process died what it executed is in flight.
    ///
    /// It should be several times as long as the store waits for its write lock at most
    /// (`busy_timeout`, 5 s unless changed). Where it is not, one that waits for the lock
    /// that long loses its permits: nothing begins under a permit that is over
    /// ([`GateStats::late`](crate::GateStats::late)), but what is being executed goes on
    /// unless it asks, and may be executed a second time meanwhile where it is taken
    /// over. Of the two one records an outcome.
    #[must_use]
    pub fn permit_lease(mut self, lease: Duration) -> GateConfig {
        self.lease = lease;
        self
    }

    /// Says that the owner's name runs once at a time. Then what an earlier start of it
    /// left is over at once, and not when its permit has run out. Where two run under
    /// the name nevertheless, the later one takes the keys of the earlier one.
    #[must_use]
    pub fn sole_start(mut self, sole_start: bool) -> GateConfig {
        self.sole_start = sole_start;
        self
    }

    /// How often one who waits looks for what other processes did: 1 ms to 1 s, 25 ms
    /// unless changed. What ends in this process wakes him at once.
    #[must_use]
    pub fn poll(mut self, poll: Duration) -> GateConfig {
        self.poll = poll;
        self
    }

    pub(crate) fn check(&self) -> Result<(), StorageError> {
        check_lease(self.lease)?;
        if !(POLL_MIN..=POLL_MAX).contains(&self.poll) {
            let reason = format!("is {:?}, not {POLL_MIN:?} to {POLL_MAX:?}", self.poll);
            return Err(InvalidInput::new("time between two looks", reason).into());
        }
        Ok(())
    }
}

//! What a handler is given, and what it answers.
//!
//! Whatever a handler commits through its [`Job`] is committed under the job's
//! fence: there is no way to write past a lease that was lost.

use std::sync::Arc;

use agentos_core::{
    Commit, CompleteWork, FailWork, Fence, Lease, Part, Receipt, ReleaseWork, Retry, Storage,
    StorageError, TaskId, WorkItemId,
};
use parking_lot::Mutex;

use crate::cancellation::Cancellation;
use crate::heartbeat::Held;

/// Does the work of one type.
pub(crate) type Handler = Box<dyn Fn(&Job) -> Result<Finish, HandlerError> + Send + Sync>;

/// Parts that are committed together, under the lease of a job.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    parts: Vec<Part>,
}

impl Parts {
    /// No parts yet.
    pub fn new() -> Parts {
        Parts::default()
    }

    /// Adds a part. Parts are applied in order.
    #[must_use]
    pub fn part(mut self, part: impl Into<Part>) -> Parts {
        self.parts.push(part.into());
        self
    }

    pub(crate) fn under(self, fence: Fence) -> Commit {
        self.parts
            .into_iter()
            .fold(Commit::under(fence), Commit::part)
    }
}

/// What a handler has done.
#[derive(Debug, Clone)]
pub enum Finish {
    /// The item is done, with this result. An empty result is a result.
    Done(Option<Vec<u8>>),
    /// The item is done, and these parts belong to that: parts and completion are
    /// one commit.
    DoneWith(Parts, Option<Vec<u8>>),
    /// The item goes back and can be claimed at once; the attempt does not count.
    /// Whoever wants a pause answers with a [`HandlerError`] and
    /// [`Retry::After`].
    Release,
    /// The handler has committed the end of the item itself.
    Committed,
}

/// Why a handler failed, and what shall follow.
///
/// Every error becomes one with `?`. Its text holds those of its sources too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    /// Why, for the attempt's row. Cut beyond 4096 bytes.
    pub reason: String,
    /// What shall follow; as the pool was configured when `None`.
    pub retry: Option<Retry>,
}

impl HandlerError {
    /// It failed for this reason. The pool's rule says what follows.
    pub fn new(reason: impl Into<String>) -> HandlerError {
        HandlerError {
            reason: reason.into(),
            retry: None,
        }
    }

    /// It failed, and will always fail: the dead letter.
    pub fn permanent(reason: impl Into<String>) -> HandlerError {
        HandlerError::new(reason).retry(Retry::Never)
    }

    /// What shall follow.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> HandlerError {
        self.retry = Some(retry);
        self
    }
}

impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> HandlerError {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason.push_str(": ");
            reason.push_str(&cause.to_string());
            source = cause.source();
        }
        HandlerError::new(reason)
    }
}

/// How a handler ended its item itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    Succeeded,
    Failed,
    Released,
    /// Whether its commit is there is not known.
    Unknown,
}

/// One attempt at an item, for its handler.
pub struct Job {
    storage: Arc<dyn Storage>,
    lease: Lease,
    held: Arc<Held>,
    cancellation: Cancellation,
    settled: Mutex<Option<Settled>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("lease", &self.lease)
            .field("cancellation", &self.cancellation)
            .finish_non_exhaustive()
    }
}

impl Job {
    pub(crate) fn new(storage: Arc<dyn Storage>, lease: Lease, held: Arc<Held>) -> Job {
        Job {
            storage,
            lease,
            cancellation: held.cancellation(),
            held,
            settled: Mutex::new(None),
        }
    }

    /// The item.
    pub fn id(&self) -> WorkItemId {
        self.lease.fence.item
    }

    /// The lease under which it is held, as it was claimed.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// What was given when it was enqueued.
    pub fn payload(&self) -> &[u8] {
        &self.lease.payload
    }

    /// The task that it belongs to.
    pub fn task(&self) -> Option<&TaskId> {
        self.lease.task.as_ref()
    }

    /// How many attempts were made, this one included.
    pub fn attempt(&self) -> u32 {
        self.lease.attempt
    }

    /// Says when to stop: the lease is lost, or the pool shuts down. A handler that
    /// takes long asks it now and then, or hands a clone to what it waits for.
    pub fn cancellation(&self) -> &Cancellation {
        &self.cancellation
    }

    /// Commits parts under the lease of this job.
    ///
    /// If one of them ends the item ([`Job::prepare_complete`] and the like), what
    /// the handler returns afterwards changes nothing; [`Finish::Committed`] says
    /// so.
    ///
    /// # Errors
    ///
    /// [`StorageError::StaleLease`] when the lease is lost: nothing was written, and
    /// the handler should return. Those of [`Storage::commit`].
    pub fn commit(&self, parts: Parts) -> Result<Receipt, StorageError> {
        let fence = self.lease.fence;
        let end = parts.parts.iter().find_map(|part| end_of(part, fence));
        if end.is_some() {
            self.held.settling();
        }
        let receipt = self.storage.commit(parts.under(fence));
        if let Some(end) = end {
            match &receipt {
                Ok(_) => {
                    self.held.end();
                    *self.settled.lock() = Some(end);
                }
                Err(error) => {
                    self.held.not_settled();
                    if let StorageError::CommitUnknown(_) = error {
                        *self.settled.lock() = Some(Settled::Unknown);
                    }
                }
            }
        }
        receipt
    }

    /// The part that completes the item.
    pub fn prepare_complete(&self, result: Option<Vec<u8>>) -> CompleteWork {
        CompleteWork {
            fence: self.lease.fence,
            result,
        }
    }

    pub(crate) fn settled(&self) -> Option<Settled> {
        *self.settled.lock()
    }

    pub(crate) fn held(&self) -> &Held {
        &self.held
    }
}

/// How a part ends the item that is held under `fence`, if it does.
fn end_of(part: &Part, fence: Fence) -> Option<Settled> {
    match part {
        Part::CompleteWork(CompleteWork { fence: own, .. }) if *own == fence => {
            Some(Settled::Succeeded)
        }
        Part::FailWork(FailWork { fence: own, .. }) if *own == fence => Some(Settled::Failed),
        Part::ReleaseWork(ReleaseWork { fence: own, .. }) if *own == fence => {
            Some(Settled::Released)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fmt;

    use agentos_core::FencingToken;

    use super::*;

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no page number")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn an_error_tells_its_sources_too() {
        let cause = "x".parse::<u32>().unwrap_err();
        let error = HandlerError::from(Outer(cause));
        assert_eq!(
            error,
            HandlerError::new("no page number: invalid digit found in string")
        );
        let permanent = HandlerError::permanent("gone");
        assert_eq!(permanent.retry, Some(Retry::Never));
    }

    #[test]
    fn only_an_end_under_the_own_fence_ends_the_job() {
        let fence = |token| Fence {
            item: WorkItemId::new(1).unwrap(),
            token: FencingToken::new(token).unwrap(),
        };
        let complete = |token| {
            Part::from(CompleteWork {
                fence: fence(token),
                result: None,
            })
        };
        assert_eq!(end_of(&complete(2), fence(2)), Some(Settled::Succeeded));
        assert_eq!(end_of(&complete(1), fence(2)), None);
        let fail = Part::from(FailWork {
            fence: fence(2),
            reason: String::new(),
            retry: Retry::Never,
        });
        assert_eq!(end_of(&fail, fence(2)), Some(Settled::Failed));
        let release = Part::from(ReleaseWork {
            fence: fence(2),
            reason: None,
        });
        assert_eq!(end_of(&release, fence(2)), Some(Settled::Released));
    }
}

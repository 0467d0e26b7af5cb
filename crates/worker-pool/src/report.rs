//! Records how an attempt ended.
//!
//! What is only in the way (a busy store, a full disk) is waited for while the lease
//! holds. Where a commit's outcome is unknown, the attempt's own row says what came
//! of it: its number is the token, and only this holder could have ended it so.

use agentos_core::{
    AttemptOutcome, Commit, CompleteWork, Deadline, FailWork, Fence, ReleaseWork, Retry, Stale,
    StorageError,
};

use crate::cancellation::Loss;
use crate::handler::Parts;
use crate::heartbeat::Held;
use crate::limits::{ERROR_PAUSE_FIRST, ERROR_PAUSE_MOST};
use crate::pause::Pause;
use crate::reason::storable;
use crate::worker::Shared;

/// How an attempt shall end.
#[derive(Debug)]
pub(crate) enum End {
    Complete(Parts, Option<Vec<u8>>),
    Fail(String, Retry),
    Release(Option<String>),
}

/// What was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    Succeeded,
    Failed,
    Released,
    /// The lease is lost.
    Lost,
    /// It could not be recorded.
    Nothing,
}

/// One report.
pub(crate) struct Report<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) fence: Fence,
    pub(crate) held: &'a Held,
    /// Whether an earlier commit may have ended the item already.
    pub(crate) in_doubt: bool,
    /// Whether it is given up when the store is in the way.
    pub(crate) once: bool,
}

impl Report<'_> {
    /// Records the end. A completion that can never be right (its result is too
    /// large, one of its parts is refused) becomes a failure that says so.
    pub(crate) fn record(mut self, end: End, default: Retry) -> Recorded {
        if let (Some(Loss::Taken(_)), false) = (self.held.loss(), self.in_doubt) {
            return Recorded::Lost;
        }
        self.held.settling();
        let refused = match self.record_end(end) {
            Ok(recorded) => return recorded,
            Err(refused) => refused,
        };
        tracing::warn!(item = %self.fence.item, error = %refused, "an end of work was refused");
        let reason = format!("what the handler returned was refused: {refused}");
        match self.record_end(End::Fail(reason, default)) {
            Ok(recorded) => recorded,
            Err(error) => {
                tracing::error!(item = %self.fence.item, %error, "a failure was refused");
                Recorded::Nothing
            }
        }
    }

    /// Tries until it is recorded, the lease is lost, or there is no sense in it.
    ///
    /// # Errors
    ///
    /// What can never be right.
    fn record_end(&mut self, end: End) -> Result<Recorded, StorageError> {
        let (recorded, commit) = commit_of(end, self.fence);
        let cancellation = self.held.cancellation();
        let mut pause = Pause::new(ERROR_PAUSE_FIRST, ERROR_PAUSE_MOST);
        loop {
            let error = match self.shared.storage.commit(commit.clone()) {
                Ok(_) => return Ok(recorded),
                Err(error) => error,
            };
            match error {
                StorageError::StaleLease(Stale::Work(stale)) => {
                    tracing::warn!(%stale, "the end of work under a lost lease was refused");
                    return Ok(self.recorded_before());
                }
                // The item is still held; another part of the commit is at fault.
                StorageError::StaleLease(Stale::Key(_))
                | StorageError::LimitExceeded(_)
                | StorageError::Invalid(_)
                | StorageError::NotFound { .. }
                | StorageError::Conflict { .. }
                | StorageError::IllegalTransition { .. } => return Err(error),
                StorageError::CommitUnknown(_) => self.in_doubt = true,
                StorageError::Busy { .. }
                | StorageError::DiskFull(_)
                | StorageError::LogFull { .. }
                | StorageError::ReadOnly(_)
                | StorageError::Io(_) => {}
                _ => {
                    tracing::error!(item = %self.fence.item, %error, "an end of work is not recorded");
                    return Ok(Recorded::Nothing);
                }
            }
            self.shared.stats.lock().report_errors += 1;
            if self.once || cancellation.wait_lost(Deadline::after(pause.take())) {
                tracing::warn!(item = %self.fence.item, %error, "an end of work is not recorded");
                return Ok(Recorded::Nothing);
            }
        }
    }

    /// The lease is not held any more. It may be this holder itself who has ended
    /// it, in a commit whose outcome was unknown.
    fn recorded_before(&self) -> Recorded {
        if !self.in_doubt {
            return Recorded::Lost;
        }
        self.ended().unwrap_or(Recorded::Lost)
    }

    /// How the attempt's own row says that it ended; `None` while it is open, or
    /// when it is not there.
    pub(crate) fn ended(&self) -> Option<Recorded> {
        let attempts = match self.shared.storage.attempts(self.fence.item) {
            Ok(attempts) => attempts,
            Err(error) => {
                tracing::warn!(item = %self.fence.item, %error, "the attempt cannot be read");
                return Some(Recorded::Nothing);
            }
        };
        let own = |number| number == self.fence.token;
        let ended = attempts.into_iter().find(|attempt| own(attempt.number));
        let end = ended.and_then(|attempt| attempt.end)?;
        Some(match end.outcome {
            AttemptOutcome::Succeeded => Recorded::Succeeded,
            AttemptOutcome::Failed => Recorded::Failed,
            AttemptOutcome::Released => Recorded::Released,
            AttemptOutcome::Expired | AttemptOutcome::Cancelled => Recorded::Lost,
        })
    }
}

fn commit_of(end: End, fence: Fence) -> (Recorded, Commit) {
    match end {
        End::Complete(parts, result) => {
            let complete = CompleteWork { fence, result };
            (Recorded::Succeeded, parts.under(fence).part(complete))
        }
        End::Fail(reason, retry) => {
            let reason = storable(reason);
            let fail = FailWork {
                fence,
                reason,
                retry,
            };
            (Recorded::Failed, Commit::under(fence).part(fail))
        }
        End::Release(reason) => {
            let reason = reason.map(storable);
            let release = ReleaseWork { fence, reason };
            (Recorded::Released, Commit::under(fence).part(release))
        }
    }
}

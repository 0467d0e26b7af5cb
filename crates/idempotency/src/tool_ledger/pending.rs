//! An outcome that is there, and is yet to be recorded.
//!
//! Nothing of it is lost silently: it is recorded, or handed back whole, or the call is
//! in doubt.

use std::fmt;

use agentos_core::{FinishKey, KeyFence, KeyStatus, Part, StorageError};

use super::error::ToolError;
use super::outcome::{TooLarge, ToolOutcome, ToolRecord};
use super::running::{Guard, ToolAnswer};
use super::step::{Turn, keep};
use crate::error::IdempotencyError;

/// The answer to a call that is prepared, and not yet recorded if it was run.
#[derive(Debug)]
pub enum Prepared {
    /// It was run; its outcome is to be recorded.
    Executed(Box<PendingOutcome>),
    /// Nothing was run: this is recorded.
    Replayed(ToolAnswer),
}

impl Prepared {
    /// What came out, recorded or not.
    pub fn outcome(&self) -> &ToolOutcome {
        match self {
            Prepared::Executed(pending) => pending.outcome(),
            Prepared::Replayed(answer) => &answer.outcome,
        }
    }

    /// The part that records the outcome; none if it is recorded.
    pub fn part(&self) -> Option<Part> {
        match self {
            Prepared::Executed(pending) => Some(pending.part()),
            Prepared::Replayed(_) => None,
        }
    }

    /// Says that the commit with the part was made.
    pub fn committed(self) -> ToolAnswer {
        match self {
            Prepared::Executed(pending) => pending.committed(),
            Prepared::Replayed(answer) => answer,
        }
    }

    /// Records the outcome in a commit of its own, unless it is recorded.
    ///
    /// # Errors
    ///
    /// As [`PendingOutcome::record`].
    pub fn record(self) -> Result<ToolAnswer, ToolError> {
        match self {
            Prepared::Executed(pending) => pending.record(),
            Prepared::Replayed(answer) => Ok(answer),
        }
    }
}

/// The outcome of a call that was run, and is not yet recorded.
///
/// [`PendingOutcome::part`] goes into a commit of the caller's own, before a part that
/// completes the work item under whose lease it was run; once that commit is made,
/// [`PendingOutcome::committed`] says so. Dropped without either, the call is in doubt.
#[derive(Debug)]
#[must_use = "dropped, it leaves the call in doubt"]
pub struct PendingOutcome {
    guard: Guard,
    fence: KeyFence,
    turn: Option<Turn>,
    answer: ToolAnswer,
    record: ToolRecord,
}

impl PendingOutcome {
    pub(crate) fn new(
        guard: Guard,
        fence: KeyFence,
        turn: Option<Turn>,
        answer: ToolAnswer,
        record: ToolRecord,
    ) -> PendingOutcome {
        PendingOutcome {
            guard,
            fence,
            turn,
            answer,
            record,
        }
    }

    /// What came out.
    pub fn outcome(&self) -> &ToolOutcome {
        &self.answer.outcome
    }

    /// Whether the right to record it is known to be lost, as
    /// [`CallContext::is_lost`](super::CallContext::is_lost).
    pub fn is_lost(&self) -> bool {
        self.guard.is_lost()
    }

    /// The part that records it. A commit with it is refused with
    /// [`StorageError::StaleLease`] if the right to record was lost.
    pub fn part(&self) -> Part {
        FinishKey {
            fence: self.fence,
            outcome: self.record.to_outcome(),
        }
        .into()
    }

    /// Says that the commit with the part was made.
    pub fn committed(self) -> ToolAnswer {
        let counters = self.guard.ledger().counters();
        let failed = self.record.status() == KeyStatus::Failed;
        counters.failures.add(u64::from(failed));
        keep(self.turn, self.record.is_ordinary_failure());
        self.guard.release();
        self.answer
    }

    /// Records it in a commit of its own. When it returns `Ok`, the outcome is durable.
    ///
    /// # Errors
    ///
    /// [`ToolError::Lost`] when the right to record was lost; [`ToolError::Unrecorded`]
    /// for everything else, from which it can be recorded again.
    pub fn record(self) -> Result<ToolAnswer, ToolError> {
        match &self.record {
            ToolRecord::TooLarge(large) => {
                let large = large.clone();
                Err(self.record_too_large(large))
            }
            ToolRecord::Outcome(_) => match self.try_record() {
                Ok(()) => Ok(self.committed()),
                Err(cause) => Err(self.failed(cause)),
            },
        }
    }

    /// Records that it happened, without its output, which the error carries.
    pub(crate) fn record_too_large(self, large: TooLarge) -> ToolError {
        if let Err(cause) = self.try_record() {
            return self.failed(cause);
        }
        self.guard.ledger().counters().too_large.add(1);
        let output = self.committed().outcome.into_output();
        ToolError::TooLarge { large, output }
    }

    fn try_record(&self) -> Result<(), IdempotencyError> {
        let Some(permit) = self.guard.permit() else {
            return Ok(());
        };
        let gate = self.guard.ledger().gate();
        let outcome = self.record.to_outcome();
        let error = match gate.record(permit, outcome.clone()) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // An earlier try of which nobody knew the end may have recorded it.
        if matches!(error.storage(), Some(StorageError::StaleLease(_)))
            && let Ok(Some(entry)) = gate.lookup(&self.answer.key)
            && (entry.summary.id, entry.summary.token) == (self.fence.key, self.fence.token)
            && entry.summary.view.status == outcome.status()
            && entry.outcome == Some(outcome.bytes)
        {
            return Ok(());
        }
        Err(error)
    }

    fn failed(self, cause: IdempotencyError) -> ToolError {
        let counters = self.guard.ledger().counters();
        match cause {
            IdempotencyError::Storage(cause @ StorageError::StaleLease(_)) => {
                counters.lost.add(1);
                // It is not ours to leave in doubt: whoever has it now decides.
                self.guard.release();
                ToolError::Lost {
                    outcome: Box::new(self.answer.outcome),
                    cause,
                }
            }
            cause => {
                counters.unrecorded.add(1);
                ToolError::Unrecorded(Box::new(Unrecorded {
                    pending: self,
                    cause,
                }))
            }
        }
    }
}

/// A call that happened, and whose outcome could not be recorded. Dropped, it leaves the
/// call in doubt.
#[derive(Debug)]
pub struct Unrecorded {
    pending: PendingOutcome,
    cause: IdempotencyError,
}

impl Unrecorded {
    /// What came out, whole.
    pub fn outcome(&self) -> &ToolOutcome {
        self.pending.outcome()
    }

    /// Why it could not be recorded.
    pub fn cause(&self) -> &IdempotencyError {
        &self.cause
    }

    /// Tries again.
    ///
    /// # Errors
    ///
    /// As [`PendingOutcome::record`].
    pub fn record_again(self) -> Result<ToolAnswer, ToolError> {
        self.pending.record()
    }

    /// To be recorded in a commit of the caller's own.
    pub fn into_pending(self) -> PendingOutcome {
        self.pending
    }
}

impl fmt::Display for Unrecorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the outcome of {} is not recorded",
            self.pending.answer.key
        )
    }
}

impl std::error::Error for Unrecorded {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

//! A call that runs, and what its body is given.
//!
//! That it runs is durable before it does. If it is dropped before it has ended, in a
//! panic too, it is in doubt at once.

use std::sync::atomic::{AtomicBool, Ordering};

use agentos_core::{Execution, IdempotencyKey, KeyFence, crash_point};

use super::ToolLedger;
use super::error::{ToolError, ToolFailure};
use super::outcome::{ToolOutcome, ToolOutput, ToolRecord};
use super::pending::PendingOutcome;
use super::step::Turn;
use crate::gate::HeldPermit;

/// The answer to a call: what came out of it, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolAnswer {
    /// What came out.
    pub outcome: ToolOutcome,
    /// Whether it is what was recorded, and nothing was run.
    pub replayed: bool,
    /// The key of the call.
    pub key: IdempotencyKey,
    /// How often the call was begun, since the ledger knew nothing of it. A call that did
    /// not happen, as its body, a probe or an operator found out, is forgotten: the next
    /// one counts from 1.
    pub executions: u64,
}

impl ToolAnswer {
    /// Whether the tool did what it was asked.
    pub fn is_success(&self) -> bool {
        self.outcome.is_success()
    }

    /// What the tool gave back; none when the call was given up.
    pub fn output(&self) -> Option<&ToolOutput> {
        self.outcome.output()
    }
}

/// What a call begins with.
#[derive(Debug)]
pub enum Started {
    /// It is to be run.
    Run(Box<RunningCall>),
    /// This is recorded.
    Replay(ToolAnswer),
}

/// The right to run a call. Dropped before it is released, in a panic too, it leaves the
/// call in doubt at once.
#[derive(Debug)]
pub(crate) struct Guard {
    ledger: ToolLedger,
    permit: Option<HeldPermit>,
}

impl Guard {
    pub(crate) fn ledger(&self) -> &ToolLedger {
        &self.ledger
    }

    /// There until it is released.
    pub(crate) fn permit(&self) -> Option<&HeldPermit> {
        self.permit.as_ref()
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.permit.as_ref().is_none_or(HeldPermit::is_lost)
    }

    /// The call has ended otherwise.
    pub(crate) fn release(mut self) -> Option<HeldPermit> {
        self.permit.take()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.ledger.leave_in_doubt(permit);
        }
    }
}

/// A call that is to be run by its holder.
///
/// For bodies that are no closures. It ends with [`RunningCall::end`]; dropped before, it
/// leaves the call in doubt at once.
#[derive(Debug)]
#[must_use = "dropped, it leaves the call in doubt"]
pub struct RunningCall {
    guard: Guard,
    turn: Option<Turn>,
    fence: KeyFence,
    execution: Execution,
    key: IdempotencyKey,
    /// The failure after which it is run.
    failure: Option<ToolRecord>,
    /// Its body found that its output is beyond the body's own limit.
    is_too_large: AtomicBool,
}

impl RunningCall {
    pub(crate) fn new(
        ledger: ToolLedger,
        held: HeldPermit,
        failure: Option<ToolRecord>,
    ) -> RunningCall {
        let permit = held.permit();
        RunningCall {
            turn: None,
            failure,
            is_too_large: AtomicBool::new(false),
            fence: permit.fence,
            execution: permit.execution,
            key: permit.key.clone(),
            guard: Guard {
                ledger,
                permit: Some(held),
            },
        }
    }

    pub(crate) fn with_turn(mut self, turn: Option<Turn>) -> RunningCall {
        self.turn = turn;
        self
    }

    /// What a body is given.
    pub fn context(&self) -> CallContext<'_> {
        CallContext { call: self }
    }

    /// Runs a body to its end.
    pub(crate) fn run<F>(self, body: F) -> Result<PendingOutcome, ToolError>
    where
        F: FnOnce(&CallContext<'_>) -> Result<ToolOutput, ToolFailure>,
    {
        crash_point!("tool.before_run");
        let result = if self.guard.is_lost() {
            Err(ToolFailure::not_done("its permit was lost before it ran"))
        } else {
            body(&self.context())
        };
        crash_point!("tool.ran");
        self.end(result)
    }

    /// Ends it with what came out. The outcome is yet to be recorded, unless there is
    /// none.
    ///
    /// # Errors
    ///
    /// [`ToolError::NotDone`], [`ToolError::InDoubt`] and [`ToolError::TooLarge`], each
    /// after that was recorded. Where it could not be: [`ToolError::Unrecorded`] and
    /// [`ToolError::Lost`] for an output that is too large; the others stay pending until
    /// their permit has run out, and the log says so.
    pub fn end(self, result: Result<ToolOutput, ToolFailure>) -> Result<PendingOutcome, ToolError> {
        let outcome = match result {
            Ok(output) => ToolOutcome::Done(output),
            Err(ToolFailure::Failed { message, output }) => ToolOutcome::Failed { message, output },
            Err(ToolFailure::NotDone { reason }) => return Err(self.not_done(reason)),
            Err(ToolFailure::Unknown { reason }) => {
                self.guard.ledger.counters().in_doubt.add(1);
                return Err(ToolError::InDoubt {
                    key: self.key,
                    reason,
                    holder: None,
                });
            }
        };
        let record = match self.is_too_large.into_inner() {
            true => ToolRecord::without_output(&outcome),
            false => ToolRecord::of(&outcome, self.guard.ledger.record_bytes_max()),
        };
        let large = match &record {
            ToolRecord::TooLarge(large) => Some(large.clone()),
            ToolRecord::Outcome(_) => None,
        };
        let answer = ToolAnswer {
            outcome,
            replayed: false,
            executions: executions(self.fence),
            key: self.key,
        };
        let pending = PendingOutcome::new(self.guard, self.fence, self.turn, answer, record);
        match large {
            // Its output is in no commit: that it happened is recorded at once.
            Some(large) => Err(pending.record_too_large(large)),
            None => Ok(pending),
        }
    }

    fn not_done(self, reason: String) -> ToolError {
        let ledger = self.guard.ledger.clone();
        ledger.counters().not_done.add(1);
        // Nothing happened now. Whether it did under the one whose place this took,
        // nobody knows any better: then dropping the guard leaves it in doubt.
        if self.execution != Execution::TakenOver
            && let Some(permit) = self.guard.release()
        {
            let ended = match self.failure {
                // What is known of it is what was known before.
                Some(failure) => ledger.gate().finish(permit, failure.to_outcome()),
                None => ledger.gate().abandon(permit),
            };
            if let Err(error) = ended {
                tracing::warn!(key = %self.key, %error, "a call that did nothing stays pending");
            }
        }
        ToolError::NotDone { reason }
    }
}

/// How often a call was begun.
pub(crate) fn executions(fence: KeyFence) -> u64 {
    fence.token.get().unsigned_abs()
}

/// What the body of a call is given.
#[derive(Debug, Clone, Copy)]
pub struct CallContext<'c> {
    call: &'c RunningCall,
}

impl<'c> CallContext<'c> {
    /// A key for services that accept one: the same for every execution of this call, so
    /// that a service which has seen it does nothing twice.
    pub fn idempotency_key(&self) -> &'c str {
        self.call.key.as_str()
    }

    /// Why it is run: for the first time, after a failure, or in doubt.
    pub fn execution(&self) -> Execution {
        self.call.execution
    }

    /// How often the call was begun, this time included, since the ledger knew nothing of
    /// it. A call that did not happen, as its body, a probe or an operator found out, is
    /// forgotten: the next one counts from 1. So 1 does not say that nobody began it before.
    pub fn executions(&self) -> u64 {
        executions(self.call.fence)
    }

    /// The output is more than is to be recorded: its caller gets all of it, and recorded
    /// is that it happened, as of every output beyond the limit.
    pub(crate) fn output_is_too_large(&self) {
        self.call.is_too_large.store(true, Ordering::Relaxed);
    }

    /// Whether the right to record an outcome is known to be lost: what is not done by
    /// now should not be done. Under the lease of a work item nothing is known here; ask
    /// that lease.
    pub fn is_lost(&self) -> bool {
        self.call.guard.is_lost()
    }

    /// As [`CallContext::is_lost`], also under the lease of a work item: then the store is
    /// asked, which costs a read. One that fails says nothing of it.
    pub fn is_over(&self) -> bool {
        if self.is_lost() {
            return true;
        }
        let guard = &self.call.guard;
        let is_under = |held: &HeldPermit| held.permit().under.is_some();
        if !guard.permit().is_some_and(is_under) {
            return false;
        }
        let Ok(found) = guard.ledger.gate().lookup(&self.call.key) else {
            return false;
        };
        let holder = found.and_then(|entry| entry.summary.view.permit);
        holder.is_none_or(|holder| holder.fence != self.call.fence || holder.left.is_none())
    }
}

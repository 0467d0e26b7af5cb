//! A step of a task: counts identical calls.
//!
//! The n-th identical call of a step is a call of its own, and the same one after a
//! restart, when the step is made again. A call that was not made, or of which nobody
//! knows, does not count: the next identical one is that call once more. Nor does one that
//! failed, where a failure is to be run again: what is asked for after it is that call.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use agentos_core::{Digest, Fence, LimitExceeded, TaskId};
use parking_lot::Mutex;

use super::ToolLedger;
use super::call::ToolCall;
use super::error::{ToolError, ToolFailure};
use super::outcome::{ToolOutcome, ToolOutput};
use super::pending::Prepared;
use super::policy::OnFailure;
use super::running::{CallContext, Started, ToolAnswer};
use crate::limits::CALLS_PER_STEP_MAX;

/// A step of a task, made by [`ToolLedger::step`]. Its clones count together.
///
/// Making it anew counts from the beginning: make it once for each run of the step.
///
/// A call counts once its outcome stands. A failure that is to be run again
/// ([`OnFailure::RunAgain`]) does not: who asks again after it asks for the same call, so
/// that a retry that succeeded is what a restart replays. With [`OnFailure::Replay`] a
/// failure counts like a success, and the next identical call is another one. So whoever
/// asks twice whatever comes out has made one call after a failure and a success: asked
/// twice again after a restart, the second one is a new call and runs.
///
/// Identical calls that are made at the same time are told apart by when they arrive: which
/// of the callers has the first of them is not said, and may be another one after a restart.
/// Where that matters, let each name its [`ToolCall::occurrence`] to the ledger itself.
///
/// Calls that are [shared](ToolCall::shared) and calls with a
/// [key of their own](ToolCall::own_key) are not counted: asked for twice they are the same.
#[derive(Debug, Clone)]
pub struct Step {
    ledger: ToolLedger,
    task: TaskId,
    name: String,
    under: Option<Fence>,
    seen: Arc<Mutex<HashMap<Digest, Occurrences>>>,
}

/// Which occurrences of a call are taken.
#[derive(Debug, Default)]
struct Occurrences {
    taken: u64,
    given_back: BTreeSet<u64>,
}

impl Step {
    pub(crate) fn new(ledger: ToolLedger, task: TaskId, name: String) -> Step {
        Step {
            ledger,
            task,
            name,
            under: None,
            seen: Arc::default(),
        }
    }

    /// Its calls are run under the lease of a work item: only while that is held, and
    /// their outcomes are recorded only then.
    #[must_use]
    pub fn under(mut self, lease: impl Into<Fence>) -> Step {
        self.under = Some(lease.into());
        self
    }

    /// The task.
    pub fn task(&self) -> &TaskId {
        &self.task
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As [`ToolLedger::execute_or_replay`], for the next identical call of this step.
    ///
    /// # Errors
    ///
    /// [`ToolError`].
    pub fn execute_or_replay<F>(&self, call: &ToolCall, body: F) -> Result<ToolAnswer, ToolError>
    where
        F: FnOnce(&CallContext<'_>) -> Result<ToolOutput, ToolFailure>,
    {
        self.prepare(call, body)?.record()
    }

    /// As [`ToolLedger::prepare`], for the next identical call of this step.
    ///
    /// # Errors
    ///
    /// [`ToolError`].
    pub fn prepare<F>(&self, call: &ToolCall, body: F) -> Result<Prepared, ToolError>
    where
        F: FnOnce(&CallContext<'_>) -> Result<ToolOutput, ToolFailure>,
    {
        match self.begin(call)? {
            Started::Replay(answer) => Ok(Prepared::Replayed(answer)),
            Started::Run(running) => Ok(Prepared::Executed(Box::new(running.run(body)?))),
        }
    }

    /// As [`ToolLedger::begin`], for the next identical call of this step.
    ///
    /// # Errors
    ///
    /// [`ToolError`].
    pub fn begin(&self, call: &ToolCall) -> Result<Started, ToolError> {
        let mut call = call.clone().in_step(self.name.clone());
        if !call.has_scope() {
            call = call.of_task(&self.task);
        }
        if let (Some(lease), None) = (self.under, call.fence()) {
            call = call.under(lease);
        }
        let turn = if call.is_one_for_all() {
            None
        } else {
            let policy = self.ledger.policy_of_failures(&call);
            let turn = self.turn(&call, policy)?;
            call = call.occurrence(turn.occurrence);
            Some(turn)
        };
        match self.ledger.begin(&call) {
            Ok(Started::Run(running)) => Ok(Started::Run(Box::new(running.with_turn(turn)))),
            Ok(Started::Replay(answer)) => {
                let failed = matches!(answer.outcome, ToolOutcome::Failed { .. });
                keep(turn, failed);
                Ok(Started::Replay(answer))
            }
            Err(error) => {
                if let ToolError::TooLarge { large, .. } = &error {
                    keep(turn, large.failure.is_some());
                }
                Err(error)
            }
        }
    }

    fn turn(&self, call: &ToolCall, on_failure: OnFailure) -> Result<Turn, ToolError> {
        // The key of the first of them names them all.
        let first = call.clone().occurrence(1).identity()?;
        let call = Digest::of(first.key.as_str().as_bytes());
        let mut seen = self.seen.lock();
        if !seen.contains_key(&call) && CALLS_PER_STEP_MAX <= seen.len() {
            return Err(LimitExceeded {
                name: "calls of a step",
                limit: CALLS_PER_STEP_MAX as u64,
                value: seen.len() as u64 + 1,
            }
            .into());
        }
        let occurrences = seen.entry(call).or_default();
        let occurrence = occurrences.given_back.pop_first().unwrap_or_else(|| {
            occurrences.taken += 1;
            occurrences.taken
        });
        Ok(Turn {
            seen: Arc::clone(&self.seen),
            call,
            occurrence,
            on_failure,
            is_kept: false,
        })
    }
}

/// The occurrence that a call of a step has; given back when it is dropped, unless it
/// is kept.
#[derive(Debug)]
pub(crate) struct Turn {
    seen: Arc<Mutex<HashMap<Digest, Occurrences>>>,
    call: Digest,
    occurrence: u64,
    on_failure: OnFailure,
    is_kept: bool,
}

/// The call was made: the next identical one is another one, unless this one failed and is
/// to be run again.
pub(crate) fn keep(turn: Option<Turn>, failed: bool) {
    if let Some(mut turn) = turn {
        turn.is_kept = !failed || turn.on_failure == OnFailure::Replay;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_kept
            && let Some(occurrences) = self.seen.lock().get_mut(&self.call)
        {
            occurrences.given_back.insert(self.occurrence);
        }
    }
}

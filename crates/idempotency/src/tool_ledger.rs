//! The ledger of tool calls: what was done is replayed, and never silently done again.
//!
//! That a call is about to run is durable before its body does; what came out is durable
//! before its caller sees it. In between, whatever dies leaves the call in doubt: it is
//! neither run again nor passed over, but handled as its policy says.

mod call;
mod config;
mod doubt;
mod error;
mod outcome;
mod pending;
mod policy;
mod running;
mod stats;
mod step;
mod summary;

use std::sync::Arc;
use std::time::Duration;

use agentos_core::limits::KEPT_REQUEST_BYTES_MAX;
use agentos_core::{
    Cursor, Deadline, Execution, IdempotencyKey, KeySummary, OnLost, OnRecorded, Page, RecordedKey,
    Resolution, StorageError, TaskId,
};
pub use call::ToolCall;
pub use config::{LedgerConfig, Redact};
pub use error::{ToolError, ToolFailure};
pub use outcome::{MalformedRecord, RECORD_VERSION, TooLarge, ToolOutcome, ToolOutput, ToolRecord};
pub use pending::{PendingOutcome, Prepared, Unrecorded};
pub use policy::{DoubtfulCall, Effect, OnDoubt, OnFailure, ToolAnnotations, Trust};
pub use running::{CallContext, RunningCall, Started, ToolAnswer};
pub use stats::LedgerStats;
pub use step::Step;
pub use summary::{CallSummary, RecordedCall};

use crate::error::IdempotencyError;
use crate::gate::{Begin, HeldPermit, IdempotencyStore};
use crate::key::CanonicalJson;
use crate::limits::LOOKS_PER_CALL_MAX;
use crate::request::Request;
use call::Identity;
use doubt::Ended;
use stats::LedgerCounters;

/// The ledger of tool calls. Clones share everything.
///
/// ```
/// use agentos_core::TaskId;
/// use agentos_idempotency::{CommandCall, CommandError, ToolCall, ToolFailure, ToolLedger};
/// use serde_json::json;
///
/// fn step(ledger: &ToolLedger, task: &TaskId) -> Result<(), CommandError> {
///     let step = ledger.step(task, "step-3");
///     let mail = ToolCall::new("send_mail", json!({"to": "ann@example.org"}));
///     let answer = step.execute_or_replay(&mail, |context| {
///         let sent = send(context.idempotency_key()).map_err(ToolFailure::unknown)?;
///         Ok(sent.into())
///     })?;
///     if answer.is_success() {
///         step.command(&CommandCall::bash("make report").cwd("/srv/agent"), None)?;
///     }
///     Ok(())
/// }
/// # fn send(_: &str) -> Result<String, String> {
/// #     Ok("sent".into())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ToolLedger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    gate: IdempotencyStore,
    config: LedgerConfig,
    counters: LedgerCounters,
}

impl ToolLedger {
    /// The ledger behind a gate.
    pub fn new(gate: IdempotencyStore, config: LedgerConfig) -> ToolLedger {
        ToolLedger {
            inner: Arc::new(Inner {
                gate,
                config,
                counters: LedgerCounters::default(),
            }),
        }
    }

    /// The gate.
    pub fn gate(&self) -> &IdempotencyStore {
        &self.inner.gate
    }

    /// What was done since it was made.
    pub fn stats(&self) -> LedgerStats {
        self.inner.counters.read()
    }

    /// A step of a task, in which identical calls are counted from the beginning: make it
    /// anew whenever the step is run anew.
    pub fn step(&self, task: &TaskId, name: impl Into<String>) -> Step {
        Step::new(self.clone(), task.clone(), name.into())
    }

    /// Runs a call, or answers with what is recorded.
    ///
    /// The body runs at most once, and only after it is durable that it is about to.
    /// When this returns an answer, what came out is durable. If the body panics, the
    /// call is in doubt at once and the panic goes on.
    ///
    /// # Errors
    ///
    /// [`ToolError`] says for each whether the call happened, and what to do.
    pub fn execute_or_replay<F>(&self, call: &ToolCall, body: F) -> Result<ToolAnswer, ToolError>
    where
        F: FnOnce(&CallContext<'_>) -> Result<ToolOutput, ToolFailure>,
    {
        self.prepare(call, body)?.record()
    }

    /// As [`ToolLedger::execute_or_replay`], but leaves the recording to the caller, who
    /// can put it into one commit with a checkpoint.
    ///
    /// # Errors
    ///
    /// As [`ToolLedger::execute_or_replay`].
    pub fn prepare<F>(&self, call: &ToolCall, body: F) -> Result<Prepared, ToolError>
    where
        F: FnOnce(&CallContext<'_>) -> Result<ToolOutput, ToolFailure>,
    {
        match self.begin(call)? {
            Started::Replay(answer) => Ok(Prepared::Replayed(answer)),
            Started::Run(running) => Ok(Prepared::Executed(Box::new(running.run(body)?))),
        }
    }

    /// Begins a call whose body is no closure, or answers with what is recorded.
    ///
    /// # Errors
    ///
    /// As [`ToolLedger::execute_or_replay`]; nothing was run.
    pub fn begin(&self, call: &ToolCall) -> Result<Started, ToolError> {
        call.check()?;
        let identity = call.identity()?;
        let on_failure = self.policy_of_failures(call);
        if let Some(answer) = self.recorded(&identity, on_failure)? {
            return Ok(Started::Replay(answer));
        }
        let policy = call.policy_in_doubt();
        let mut request = self.request(call, &identity);
        request.on_lost = match policy {
            OnDoubt::Retry => OnLost::TakeOver,
            _ => OnLost::SayInDoubt,
        };
        let wait = call.wait_at_most().unwrap_or(self.inner.config.wait);
        let deadline = Deadline::after(wait);
        // The failure that is to be run again.
        let mut failure = None;
        let mut has_waited = false;
        let mut doubt = String::from("others keep on changing it");
        for _ in 0..LOOKS_PER_CALL_MAX {
            request.on_recorded = match &failure {
                Some((seen, _)) => OnRecorded::RunFailureAgain(*seen),
                None => OnRecorded::Replay,
            };
            let mut begin = self.ask(&request, Duration::ZERO)?;
            if matches!(begin, Begin::InFlight(_)) && !deadline.passed() {
                // What others record meanwhile is as new as what this would run.
                (has_waited, failure) = (true, None);
                request.on_recorded = OnRecorded::Replay;
                begin = self.ask(&request, deadline.remaining())?;
            }
            match begin {
                Begin::Execute(permit) => {
                    let failure = failure.map(|(_, record)| record);
                    return Ok(Started::Run(Box::new(self.run(permit, failure))));
                }
                Begin::Replay(entry) => {
                    let Some(found) = RecordedKey::of(*entry) else {
                        continue; // what is replayed has an outcome
                    };
                    let record = read(&identity.key, &found)?;
                    let is_failure = record.is_ordinary_failure();
                    let seen = found.view.token;
                    // What others recorded since it looked is as new as what it would run.
                    let is_first = failure.is_none() && !has_waited;
                    if is_failure && is_first && on_failure == OnFailure::RunAgain {
                        failure = Some((seen, record));
                        continue;
                    }
                    return self
                        .replay(identity.key, &found, record)
                        .map(Started::Replay);
                }
                Begin::InFlight(holder) => {
                    self.counters().in_flight.add(1);
                    return Err(ToolError::InFlight {
                        key: identity.key,
                        holder: Box::new(holder),
                    });
                }
                Begin::InDoubt(holder) => match self.end_doubt(call, &identity, &policy, holder)? {
                    Ended::LookAgain(reason) => doubt = reason,
                    Ended::Stays { reason, holder } => {
                        self.counters().in_doubt.add(1);
                        return Err(ToolError::InDoubt {
                            key: identity.key,
                            reason,
                            holder: Some(holder),
                        });
                    }
                },
            }
        }
        self.counters().in_doubt.add(1);
        Err(ToolError::InDoubt {
            key: identity.key,
            reason: doubt,
            holder: None,
        })
    }

    /// Calls in doubt, the oldest first, `rows` at a time. A page may have fewer rows,
    /// and yet not be the last.
    ///
    /// # Errors
    ///
    /// As [`IdempotencyStore::in_doubt`].
    pub fn in_doubt(
        &self,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<CallSummary>, IdempotencyError> {
        Ok(summaries(self.gate().in_doubt(after, rows)?))
    }

    /// The calls of a task, the oldest first, `rows` at a time. A page may have fewer
    /// rows, and yet not be the last. Shared calls belong to no task.
    ///
    /// # Errors
    ///
    /// As [`IdempotencyStore::history`].
    pub fn history(
        &self,
        task: &TaskId,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<CallSummary>, IdempotencyError> {
        Ok(summaries(self.gate().history(task, after, rows)?))
    }

    /// A call with its arguments, as far as they were kept, and what is recorded.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`], and [`ToolError::Malformed`].
    pub fn find(&self, key: &IdempotencyKey) -> Result<Option<RecordedCall>, ToolError> {
        let found = self.gate().lookup(key)?;
        let Some(entry) = found.filter(|entry| CallSummary::is_meant(&entry.summary)) else {
            return Ok(None);
        };
        let summary = entry.summary.clone();
        let kept = entry.kept_request.as_deref();
        Ok(Some(RecordedCall {
            arguments: kept.and_then(|bytes| serde_json::from_slice(bytes).ok()),
            record: match RecordedKey::of(entry) {
                Some(found) => Some(read(key, &found)?),
                None => None,
            },
            summary: CallSummary::of(summary),
        }))
    }

    /// An operator has found out that a call in doubt happened, with this outcome. It is
    /// recorded, and an audit line says why.
    ///
    /// # Errors
    ///
    /// As [`IdempotencyStore::resolve`]; [`StorageError::LimitExceeded`] for an outcome
    /// that is too large.
    pub fn resolve_happened(
        &self,
        call: &CallSummary,
        outcome: impl Into<ToolOutcome>,
        reason: impl Into<String>,
    ) -> Result<(), IdempotencyError> {
        let outcome = ToolRecord::Outcome(outcome.into()).to_outcome();
        let resolution = Resolution::Happened(outcome);
        self.gate().resolve(call.entry(), resolution, reason)?;
        self.counters().resolved.add(1);
        Ok(())
    }

    /// An operator has found out that a call in doubt did not happen. It is as if it had
    /// never been made, and an audit line says why.
    ///
    /// # Errors
    ///
    /// As [`IdempotencyStore::resolve`].
    pub fn resolve_did_not_happen(
        &self,
        call: &CallSummary,
        reason: impl Into<String>,
    ) -> Result<(), IdempotencyError> {
        let resolution = Resolution::DidNotHappen;
        self.gate().resolve(call.entry(), resolution, reason)?;
        self.counters().resolved.add(1);
        Ok(())
    }

    /// What is done with a recorded failure of this call.
    pub(crate) fn policy_of_failures(&self, call: &ToolCall) -> OnFailure {
        call.policy_of_failures()
            .unwrap_or(self.inner.config.on_failure)
    }

    pub(crate) fn counters(&self) -> &LedgerCounters {
        &self.inner.counters
    }

    /// Most bytes of what is recorded of a call: two more than its output, and for a
    /// failure four more than that and its message.
    pub fn record_bytes_max(&self) -> usize {
        self.gate().storage().limits().outcome_bytes
    }

    /// Nobody knows what a call did. Where that cannot be recorded its permit runs out.
    pub(crate) fn leave_in_doubt(&self, permit: HeldPermit) {
        let key = permit.permit().key.clone();
        match self.gate().leave_in_doubt(permit) {
            Ok(()) => tracing::warn!(%key, "a tool call is in doubt"),
            Err(IdempotencyError::Storage(StorageError::StaleLease(stale))) => {
                // Its end was recorded in a commit of the caller's own, or it was lost.
                tracing::debug!(%key, %stale, "a tool call is not ours to leave in doubt");
                return;
            }
            Err(error) => tracing::warn!(%key, %error, "a tool call will be in doubt"),
        }
        self.counters().unknown.add(1);
    }

    /// What is recorded and to be replayed. Looks without preparing anything that only
    /// who runs the call needs.
    fn recorded(
        &self,
        identity: &Identity,
        on_failure: OnFailure,
    ) -> Result<Option<ToolAnswer>, ToolError> {
        let Some(found) = self.gate().recorded(&identity.key)? else {
            return Ok(None);
        };
        if found.view.request != identity.request || found.view.expired {
            return Ok(None);
        }
        let record = read(&identity.key, &found)?;
        if record.is_ordinary_failure() && on_failure == OnFailure::RunAgain {
            return Ok(None);
        }
        let key = identity.key.clone();
        self.replay(key, &found, record).map(Some)
    }

    fn request(&self, call: &ToolCall, identity: &Identity) -> Request {
        let mut request = Request::new(identity.key.clone(), identity.request)
            .task(call.task().cloned())
            .operation(call.tool())
            .detail(call.detail());
        request.under = call.fence();
        request.kept_request = self.kept_arguments(call);
        request
    }

    fn kept_arguments(&self, call: &ToolCall) -> Option<Vec<u8>> {
        let config = &self.inner.config;
        if !call.keeps_arguments().unwrap_or(config.keep_arguments) {
            return None;
        }
        let json = match &config.redact {
            Some(redact) => {
                let mut arguments = call.arguments();
                redact(call.tool(), &mut arguments);
                CanonicalJson::of_value(&arguments).ok()?
            }
            None => call.canonical().ok()?.into_owned(),
        };
        Some(json.into_bytes()).filter(|bytes| bytes.len() <= KEPT_REQUEST_BYTES_MAX)
    }

    fn ask(&self, request: &Request, wait: Duration) -> Result<Begin, ToolError> {
        let answer = if wait.is_zero() {
            self.gate().begin(request)
        } else {
            self.gate().begin_wait(request, wait)
        };
        answer.map_err(|error| match error {
            IdempotencyError::Storage(StorageError::Conflict { .. }) => ToolError::Conflict {
                key: request.key.clone(),
            },
            other => other.into(),
        })
    }

    /// After this failure, if it is the one that the permit was given for.
    fn run(&self, permit: HeldPermit, failure: Option<ToolRecord>) -> RunningCall {
        let counters = self.counters();
        counters.executions.add(1);
        let execution = permit.permit().execution;
        match execution {
            Execution::TakenOver => counters.retried_in_doubt.add(1),
            Execution::AfterFailure => counters.rerun_failures.add(1),
            _ => {}
        }
        let failure = failure.filter(|_| execution == Execution::AfterFailure);
        RunningCall::new(self.clone(), permit, failure)
    }

    fn replay(
        &self,
        key: IdempotencyKey,
        found: &RecordedKey,
        record: ToolRecord,
    ) -> Result<ToolAnswer, ToolError> {
        self.gate().touch(found.id, found.used_at);
        self.counters().replays.add(1);
        match record {
            ToolRecord::Outcome(outcome) => Ok(ToolAnswer {
                outcome,
                replayed: true,
                executions: found.view.token.get().unsigned_abs(),
                key,
            }),
            ToolRecord::TooLarge(large) => Err(ToolError::TooLarge {
                large,
                output: None,
            }),
        }
    }
}

fn read(key: &IdempotencyKey, found: &RecordedKey) -> Result<ToolRecord, ToolError> {
    let status = found.view.status;
    ToolRecord::decode_as(&found.outcome, status).map_err(|cause| ToolError::Malformed {
        key: key.clone(),
        cause,
    })
}

fn summaries(page: Page<KeySummary>) -> Page<CallSummary> {
    let items = page.items.into_iter().filter(CallSummary::is_meant);
    Page {
        items: items.map(CallSummary::of).collect(),
        next: page.next,
    }
}

//! Ends the doubt about a call as its policy says, or says why it stays.
//!
//! Whoever ends a doubt first ends it for all: the others look again.

use agentos_core::{Finding, PermitHolder, Resolution, Stale, StorageError, crash_point};

use super::ToolLedger;
use super::call::{Identity, ToolCall};
use super::error::ToolError;
use super::outcome::{ToolOutcome, ToolRecord};
use super::policy::{DoubtfulCall, OnDoubt};
use crate::error::IdempotencyError;

/// What became of a doubt.
pub(super) enum Ended {
    /// It has ended, here or elsewhere.
    LookAgain(String),
    /// It is there as before.
    Stays {
        reason: String,
        holder: Box<PermitHolder>,
    },
}

impl ToolLedger {
    /// Does with a call in doubt what its policy says.
    pub(super) fn end_doubt(
        &self,
        call: &ToolCall,
        identity: &Identity,
        policy: &OnDoubt,
        holder: PermitHolder,
    ) -> Result<Ended, ToolError> {
        let begun = format!("{} began it at {} and is gone", holder.owner, holder.since);
        let (outcome, reason, counter) = match policy {
            // The gate takes it over; this is a doubt that came meanwhile.
            OnDoubt::Retry => return Ok(Ended::LookAgain(begun)),
            OnDoubt::Ask => {
                return Ok(Ended::Stays {
                    reason: begun,
                    holder: Box::new(holder),
                });
            }
            OnDoubt::Fail => {
                let reason = format!("given up: {begun}, and nobody knows whether it happened");
                let outcome = ToolOutcome::GivenUp {
                    reason: reason.clone(),
                };
                (Some(outcome), reason, &self.counters().given_up)
            }
            OnDoubt::Verify(probe) => {
                let question = DoubtfulCall {
                    tool: call.tool().to_owned(),
                    arguments: call.arguments(),
                    arguments_text: call.arguments_text()?,
                    task: call.task().cloned(),
                    key: identity.key.clone(),
                    holder: holder.clone(),
                };
                let verified = &self.counters().verified;
                crash_point!("tool.before_probed");
                let found = probe.ask(&question);
                crash_point!("tool.probed");
                match found {
                    Finding::Happened(outcome) => (
                        Some(outcome),
                        "a probe says that it happened".into(),
                        verified,
                    ),
                    Finding::DidNotHappen => {
                        (None, "a probe says that it did not happen".into(), verified)
                    }
                    Finding::CannotTell(reason) => {
                        return Ok(Ended::Stays {
                            reason: format!("{begun}; the probe cannot tell: {reason}"),
                            holder: Box::new(holder),
                        });
                    }
                }
            }
        };
        let resolution = match &outcome {
            Some(outcome) => {
                Resolution::Happened(ToolRecord::of(outcome, self.record_bytes_max()).to_outcome())
            }
            None => Resolution::DidNotHappen,
        };
        if self.resolve((call, identity), &holder, resolution, &reason)? {
            counter.add(1);
            self.counters().resolved.add(1);
        }
        Ok(Ended::LookAgain(begun))
    }

    /// Ends the doubt about this execution; false when somebody else did before.
    fn resolve(
        &self,
        (call, identity): (&ToolCall, &Identity),
        holder: &PermitHolder,
        resolution: Resolution,
        reason: &str,
    ) -> Result<bool, ToolError> {
        let Some(entry) = self.gate().lookup(&identity.key)? else {
            return Ok(false);
        };
        let permit = entry.summary.view.permit.as_ref();
        if permit.is_none_or(|permit| permit.fence != holder.fence) {
            return Ok(false);
        }
        let lease = call.fence();
        match self
            .gate()
            .resolve_under(lease, &entry.summary, resolution, reason)
        {
            Ok(()) => Ok(true),
            Err(IdempotencyError::Storage(
                StorageError::StaleLease(Stale::Key(_))
                | StorageError::IllegalTransition { .. }
                | StorageError::NotFound { .. },
            )) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

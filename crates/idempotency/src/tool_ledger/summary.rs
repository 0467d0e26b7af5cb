//! What operators see of tool calls.

use agentos_core::{IdempotencyKey, KeyStatus, KeySummary, PermitHolder, TaskId, Timestamp};
use serde_json::Value;

use super::outcome::ToolRecord;
use super::policy::Effect;

/// A call as the ledger has it, without arguments and outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct CallSummary {
    key: KeySummary,
}

impl CallSummary {
    pub(crate) fn of(key: KeySummary) -> CallSummary {
        CallSummary { key }
    }

    /// Whether a key is one of the ledger.
    pub(crate) fn is_meant(key: &KeySummary) -> bool {
        key.key.as_str().starts_with(IdempotencyKey::TOOL_LEDGER)
    }

    /// The key, as its body was given it to hand on.
    pub fn key(&self) -> &IdempotencyKey {
        &self.key.key
    }

    /// The tool.
    pub fn tool(&self) -> &str {
        self.key.operation.as_deref().unwrap_or_default()
    }

    /// The task; none if it is shared.
    pub fn task(&self) -> Option<&TaskId> {
        self.key.task.as_ref()
    }

    /// The step.
    pub fn step(&self) -> Option<&str> {
        self.key.detail.get("step")?.as_str()
    }

    /// Which of the identical calls of its step; none if its caller named it.
    pub fn occurrence(&self) -> Option<u64> {
        self.key.detail.get("occurrence")?.as_u64()
    }

    /// What it was declared to do to the world.
    pub fn effect(&self) -> Option<Effect> {
        Effect::parse(self.key.detail.get("effect")?.as_str()?)
    }

    /// Pending, succeeded or failed.
    pub fn status(&self) -> KeyStatus {
        self.key.view.status
    }

    /// Who runs it, or did when it was lost; `None` once an outcome is recorded.
    pub fn holder(&self) -> Option<&PermitHolder> {
        self.key.view.permit.as_ref()
    }

    /// Whether it was begun and its permit is over.
    pub fn is_in_doubt(&self) -> bool {
        self.holder().is_some_and(|holder| holder.left.is_none())
    }

    /// How often it was begun, since the ledger knew nothing of it: see
    /// [`ToolAnswer::executions`](super::ToolAnswer::executions).
    pub fn executions(&self) -> u64 {
        self.key.token.get().unsigned_abs()
    }

    /// When it was first begun.
    pub fn begun_at(&self) -> Timestamp {
        self.key.created_at
    }

    /// When it was last begun, or its outcome was recorded.
    pub fn changed_at(&self) -> Timestamp {
        self.key.updated_at
    }

    /// Bytes of what is recorded.
    pub fn recorded_bytes(&self) -> Option<u64> {
        self.key.outcome_bytes
    }

    /// The key as the store has it.
    pub fn entry(&self) -> &KeySummary {
        &self.key
    }
}

/// A call as the ledger has it.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedCall {
    /// All but arguments and outcome.
    pub summary: CallSummary,
    /// The arguments, as far as they were kept.
    pub arguments: Option<Value>,
    /// What is recorded; `None` while it is pending.
    pub record: Option<ToolRecord>,
}

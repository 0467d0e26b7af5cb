//! A tool call as plain data, and the key that it has.
//!
//! The key is one digest over length-prefixed parts: scope, step, tool, canonical
//! arguments, occurrence. How long to wait, what to do in doubt and the like are no part
//! of what is called.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use agentos_core::limits::ID_BYTES_MAX;
use agentos_core::limits::check_text;
use agentos_core::{
    Digest, DigestBuilder, Fence, IdempotencyKey, InvalidInput, LimitExceeded, StorageError, TaskId,
};
use serde_json::Value;

use super::error::ToolError;
use super::policy::{Effect, OnDoubt, OnFailure, ToolAnnotations, Trust};
use crate::error::JsonError;
use crate::key::CanonicalJson;

/// Whose call it is: within it the same call is the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Task(TaskId),
    Shared,
}

/// A call of a tool.
///
/// Two calls are the same one when scope, step, tool, arguments and occurrence are. A
/// shared call has no step: it is one for all tasks and steps.
#[derive(Debug, Clone)]
pub struct ToolCall {
    tool: String,
    arguments: Arguments,
    scope: Option<Scope>,
    step: Option<String>,
    occurrence: u64,
    own_key: Option<String>,
    effect: Option<Effect>,
    on_doubt: Option<OnDoubt>,
    on_failure: Option<OnFailure>,
    under: Option<Fence>,
    wait: Option<Duration>,
    keep_arguments: Option<bool>,
}

#[derive(Debug, Clone)]
enum Arguments {
    Value(Value),
    Text(Arc<(CanonicalJson, Value)>),
}

impl ToolCall {
    /// A call of `tool` with these arguments, the first of its kind.
    ///
    /// A value holds integers beyond 64 bits as floats, and different ones become one:
    /// arguments with such a float are refused when the call is used. Give them to
    /// [`ToolCall::from_text`].
    pub fn new(tool: impl Into<String>, arguments: Value) -> ToolCall {
        ToolCall::with(tool.into(), Arguments::Value(arguments))
    }

    /// As [`ToolCall::new`], with arguments as JSON text, such as a model gave them: in
    /// it integers of any size are exact.
    ///
    /// # Errors
    ///
    /// [`JsonError`] when it has no canonical form, or cannot be read as a value, which a
    /// probe and a redaction are given: a number beyond all floats, a nesting of 128.
    pub fn from_text(tool: impl Into<String>, arguments: &str) -> Result<ToolCall, JsonError> {
        let arguments = Arc::new(CanonicalJson::with_value(arguments)?);
        Ok(ToolCall::with(tool.into(), Arguments::Text(arguments)))
    }

    fn with(tool: String, arguments: Arguments) -> ToolCall {
        ToolCall {
            tool,
            arguments,
            scope: None,
            step: None,
            occurrence: 1,
            own_key: None,
            effect: None,
            on_doubt: None,
            on_failure: None,
            under: None,
            wait: None,
            keep_arguments: None,
        }
    }

    /// It belongs to this task, which need not exist.
    #[must_use]
    pub fn of_task(mut self, task: &TaskId) -> ToolCall {
        self.scope = Some(Scope::Task(task.clone()));
        self
    }

    /// It is the same call for all tasks and steps, however often each asks for it: a
    /// [`Step`](super::Step) does not count it.
    #[must_use]
    pub fn shared(mut self) -> ToolCall {
        self.scope = Some(Scope::Shared);
        self
    }

    /// It belongs to this step of its task.
    #[must_use]
    pub fn in_step(mut self, step: impl Into<String>) -> ToolCall {
        self.step = Some(step.into());
        self
    }

    /// It is the `occurrence`-th identical call of its step; the first is 1. A
    /// [`Step`](super::Step) counts by itself.
    #[must_use]
    pub fn occurrence(mut self, occurrence: u64) -> ToolCall {
        self.occurrence = occurrence;
        self
    }

    /// The caller's own key, within the task or shared: step and occurrence then do not
    /// count, and the same key for another tool or other arguments is a conflict.
    #[must_use]
    pub fn own_key(mut self, key: impl Into<String>) -> ToolCall {
        self.own_key = Some(key.into());
        self
    }

    /// What it does to the world. That says what happens in doubt, unless
    /// [`ToolCall::on_doubt`] does.
    #[must_use]
    pub fn effect(mut self, effect: Effect) -> ToolCall {
        self.effect = Some(effect);
        self
    }

    /// It changes nothing: in doubt it is run again.
    #[must_use]
    pub fn read_only(self) -> ToolCall {
        self.effect(Effect::ReadOnly)
    }

    /// Done twice it does no more than done once: in doubt it is run again.
    #[must_use]
    pub fn idempotent(self) -> ToolCall {
        self.effect(Effect::Idempotent)
    }

    /// What its server says of the tool. That of a server that is not trusted changes
    /// nothing.
    #[must_use]
    pub fn annotated(self, annotations: &ToolAnnotations, trust: Trust) -> ToolCall {
        match trust {
            Trust::Trusted => self.effect(annotations.effect()),
            Trust::Untrusted => self,
        }
    }

    /// What to do when nobody knows whether it happened.
    #[must_use]
    pub fn on_doubt(mut self, policy: OnDoubt) -> ToolCall {
        self.on_doubt = Some(policy);
        self
    }

    /// What to do when a failure is recorded.
    #[must_use]
    pub fn on_failure(mut self, policy: OnFailure) -> ToolCall {
        self.on_failure = Some(policy);
        self
    }

    /// It is run under the lease of a work item: only while that is held, and its
    /// outcome is recorded only then.
    #[must_use]
    pub fn under(mut self, lease: impl Into<Fence>) -> ToolCall {
        self.under = Some(lease.into());
        self
    }

    /// How long to wait while somebody else runs it; zero: not at all.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> ToolCall {
        self.wait = Some(wait);
        self
    }

    /// Whether its arguments are kept for operators, or only their digest.
    #[must_use]
    pub fn keep_arguments(mut self, keep: bool) -> ToolCall {
        self.keep_arguments = Some(keep);
        self
    }

    /// The same in all that is said of it, and of this tool and these arguments.
    pub(crate) fn calls(mut self, tool: String, arguments: Value) -> ToolCall {
        self.tool = tool;
        self.arguments = Arguments::Value(arguments);
        self
    }

    /// The tool.
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// The task that it belongs to; none if it is shared, or nothing was said.
    pub fn task(&self) -> Option<&TaskId> {
        match &self.scope {
            Some(Scope::Task(task)) => Some(task),
            _ => None,
        }
    }

    /// The arguments. As a value they are as exact as a value can be: integers beyond 64
    /// bits are rounded. [`ToolCall::arguments_text`] is exact.
    pub fn arguments(&self) -> Value {
        match &self.arguments {
            Arguments::Value(value) => value.clone(),
            Arguments::Text(both) => both.1.clone(),
        }
    }

    /// The arguments as canonical JSON text, with every digit that was given.
    ///
    /// # Errors
    ///
    /// [`JsonError`] when they have no canonical form.
    pub fn arguments_text(&self) -> Result<String, JsonError> {
        let json = self.canonical()?.into_owned();
        Ok(String::from_utf8(json.into_bytes()).map_err(|error| error.utf8_error())?)
    }

    /// The key that it has in the ledger, and that its body is given to hand on.
    ///
    /// # Errors
    ///
    /// [`ToolError::Arguments`], and [`ToolError::Gate`] for what can never be a call.
    pub fn key(&self) -> Result<IdempotencyKey, ToolError> {
        self.check()?;
        Ok(self.identity()?.key)
    }

    pub(crate) fn policy_in_doubt(&self) -> OnDoubt {
        let declared = self.effect.map(Effect::on_doubt);
        self.on_doubt.clone().or(declared).unwrap_or_default()
    }

    pub(crate) fn policy_of_failures(&self) -> Option<OnFailure> {
        self.on_failure
    }

    pub(crate) fn wait_at_most(&self) -> Option<Duration> {
        self.wait
    }

    pub(crate) fn keeps_arguments(&self) -> Option<bool> {
        self.keep_arguments
    }

    pub(crate) fn fence(&self) -> Option<Fence> {
        self.under
    }

    pub(crate) fn has_scope(&self) -> bool {
        self.scope.is_some()
    }

    /// Whether a step does not count it: it says itself which one it is.
    pub(crate) fn is_one_for_all(&self) -> bool {
        self.own_key.is_some() || self.is_shared()
    }

    /// What operators are told beside tool, task and arguments.
    pub(crate) fn detail(&self) -> Value {
        let mut detail = serde_json::Map::new();
        if self.own_key.is_none() {
            detail.insert("occurrence".into(), self.occurrence.into());
        }
        if let (Some(step), false) = (&self.step, self.is_shared()) {
            detail.insert("step".into(), step.as_str().into());
        }
        if let Some(effect) = self.effect {
            detail.insert("effect".into(), effect.as_str().into());
        }
        Value::Object(detail)
    }

    fn is_shared(&self) -> bool {
        self.scope == Some(Scope::Shared)
    }

    /// The arguments in their canonical form.
    pub(crate) fn canonical(&self) -> Result<Cow<'_, CanonicalJson>, JsonError> {
        match &self.arguments {
            Arguments::Text(both) => Ok(Cow::Borrowed(&both.0)),
            Arguments::Value(value) => CanonicalJson::of_value(value).map(Cow::Owned),
        }
    }

    /// The key and the digest of what is called.
    pub(crate) fn identity(&self) -> Result<Identity, JsonError> {
        let arguments = self.canonical()?;
        let task = self.task().map(|task| task.as_str().as_bytes());
        let Some(own) = &self.own_key else {
            let step = self.step.as_deref().filter(|_| !self.is_shared());
            // Everything that makes it this call: its key says what is asked for.
            let request = DigestBuilder::new("tool call")
                .optional(task)
                .optional(step.map(str::as_bytes))
                .bytes(self.tool.as_bytes())
                .bytes(arguments.as_bytes())
                .number(self.occurrence)
                .finish();
            let key = IdempotencyKey::of_ledger(&request);
            return Ok(Identity { key, request });
        };
        let request = DigestBuilder::new("tool call under a key of its own")
            .bytes(self.tool.as_bytes())
            .bytes(arguments.as_bytes())
            .finish();
        let key = DigestBuilder::new("tool ledger key of the caller's own")
            .optional(task)
            .bytes(own.as_bytes())
            .finish();
        let key = IdempotencyKey::of_ledger(&key);
        Ok(Identity { key, request })
    }

    /// Refuses what can never be a call.
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        if !self.has_scope() {
            let reason = "names no task and is not shared";
            return Err(InvalidInput::new("scope of a tool call", reason).into());
        }
        if self.occurrence == 0 {
            return Err(InvalidInput::new("occurrence of a tool call", "is zero").into());
        }
        let step = self.step.as_deref().unwrap_or_default();
        check_text("step of a tool call", "step bytes", step, ID_BYTES_MAX)?;
        match self.own_key.as_deref() {
            Some("") => Err(InvalidInput::new("own key of a tool call", "is empty").into()),
            Some(key) if ID_BYTES_MAX < key.len() => Err(LimitExceeded {
                name: "own key bytes",
                limit: ID_BYTES_MAX as u64,
                value: key.len() as u64,
            }
            .into()),
            _ => Ok(()),
        }
    }
}

/// What a call is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) key: IdempotencyKey,
    pub(crate) request: Digest,
}

#[cfg(test)]
mod tests;

//! What the gate is asked for.

use agentos_core::{
    BeginKey, Digest, Fence, IdempotencyKey, OnDamaged, OnLost, OnRecorded, TaskId, Worker,
};
use serde_json::Value;

/// Asks for the execution of a key, or for what is recorded under it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Request {
    /// The key.
    pub key: IdempotencyKey,
    /// Digest of what is asked for. The same key with another one is a conflict.
    pub digest: Digest,
    /// The task that it belongs to; it need not exist.
    pub task: Option<TaskId>,
    /// What kind of operation it is.
    pub operation: Option<String>,
    /// Which model is asked.
    pub model: Option<String>,
    /// What of the request is to be kept, for people.
    pub kept_request: Option<Vec<u8>>,
    /// Anything else that is to be kept, for people.
    pub detail: Value,
    /// The lease of a work item under which it is executed.
    pub under: Option<Fence>,
    /// What to do with a recorded outcome.
    pub on_recorded: OnRecorded,
    /// What to do when nobody knows whether it was executed.
    pub on_lost: OnLost,
    /// What to do with a damaged record.
    pub on_damaged: OnDamaged,
}

impl Request {
    /// Asks for `key`, which stands for what has this digest. What is not said is as
    /// in [`BeginKey::new`].
    pub fn new(key: IdempotencyKey, digest: Digest) -> Request {
        Request {
            key,
            digest,
            task: None,
            operation: None,
            model: None,
            kept_request: None,
            detail: Value::Null,
            under: None,
            on_recorded: OnRecorded::default(),
            on_lost: OnLost::default(),
            on_damaged: OnDamaged::default(),
        }
    }

    /// It belongs to this task, which need not exist.
    #[must_use]
    pub fn task(mut self, task: impl Into<Option<TaskId>>) -> Request {
        self.task = task.into();
        self
    }

    /// It is this kind of operation: at most 128 bytes.
    #[must_use]
    pub fn operation(mut self, operation: impl Into<String>) -> Request {
        self.operation = Some(operation.into());
        self
    }

    /// It asks this model: at most 128 bytes.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Request {
        self.model = Some(model.into());
        self
    }

    /// Keeps this of the request, for people: at most 1 MiB.
    #[must_use]
    pub fn keep_request(mut self, request: impl Into<Vec<u8>>) -> Request {
        self.kept_request = Some(request.into());
        self
    }

    /// Keeps this as well, for people.
    #[must_use]
    pub fn detail(mut self, detail: Value) -> Request {
        self.detail = detail;
        self
    }

    /// Executes it under the lease of a work item, and only while that is held.
    #[must_use]
    pub fn under(mut self, lease: impl Into<Fence>) -> Request {
        self.under = Some(lease.into());
        self
    }

    /// What to do with a recorded outcome.
    #[must_use]
    pub fn on_recorded(mut self, rule: OnRecorded) -> Request {
        self.on_recorded = rule;
        self
    }

    /// What to do when nobody knows whether it was executed.
    #[must_use]
    pub fn on_lost(mut self, rule: OnLost) -> Request {
        self.on_lost = rule;
        self
    }

    /// What to do with a damaged record.
    #[must_use]
    pub fn on_damaged(mut self, rule: OnDamaged) -> Request {
        self.on_damaged = rule;
        self
    }

    /// All that a decision rests on, without what is only kept.
    pub(crate) fn question(&self, owner: &Worker, sole_start: bool) -> BeginKey {
        BeginKey {
            under: self.under,
            sole_start,
            on_recorded: self.on_recorded,
            on_lost: self.on_lost,
            on_damaged: self.on_damaged,
            ..BeginKey::new(self.key.clone(), self.digest, owner.clone())
        }
    }

    /// With what is only kept.
    pub(crate) fn fill(&self, question: BeginKey) -> BeginKey {
        BeginKey {
            task: self.task.clone(),
            operation: self.operation.clone(),
            model: self.model.clone(),
            kept_request: self.kept_request.clone(),
            detail: self.detail.clone(),
            ..question
        }
    }
}

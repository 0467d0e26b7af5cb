//! Audit lines: what happened to a task, in order.

use serde_json::Value;

use crate::ids::TaskId;
use crate::time::Timestamp;

/// Event of the line that is written when a task is created.
pub const TASK_CREATED: &str = "task_created";
/// Event of the line that is written when a task's state changes.
pub const TASK_STATUS: &str = "task_status";

/// Event of the line that is written when a lost lease is taken away.
pub const WORK_RECOVERED: &str = "work_recovered";
/// Event of the line that is written when a failure takes an item to the dead
/// letter.
pub const WORK_DEAD: &str = "work_dead";
/// Event of the line that is written when an item is cancelled.
pub const WORK_CANCELLED: &str = "work_cancelled";
/// Event of the line that is written when an item leaves the dead letter.
pub const WORK_REQUEUED: &str = "work_requeued";

/// Event of the line that is written when the doubt about a key is ended.
pub const KEY_RESOLVED: &str = "key_resolved";

/// An audit line as it is stored. Lines are never changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// The task it is about.
    pub task: TaskId,
    /// What happened: one of the events of this module, or the user's own.
    pub event: String,
    /// State before, for a transition.
    pub from: Option<String>,
    /// State after, for a transition or a creation.
    pub to: Option<String>,
    /// Why, in words.
    pub reason: Option<String>,
    /// Anything else; `Value::Null` when nothing.
    pub detail: Value,
    /// When, by the store's clock.
    pub created_at: Timestamp,
}

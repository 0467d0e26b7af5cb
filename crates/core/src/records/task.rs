//! Tasks: what an agent is working on.

use serde_json::Value;

use crate::error::StorageError;
use crate::ids::TaskId;
use crate::limits::{Limits, METADATA_DEPTH_MAX, check_name, check_size};
use crate::time::Timestamp;

text_enum! {
    /// State of a task.
    pub enum TaskStatus {
        /// Known, not begun.
        Created = "created",
        /// Being worked on.
        Running = "running",
        /// Done. Final.
        Succeeded = "succeeded",
        /// Given up; can be taken up again.
        Failed = "failed",
        /// No longer wanted. Final.
        Cancelled = "cancelled",
    }
}

impl TaskStatus {
    /// Whether a task in this state may change to `next`.
    pub const fn can_become(self, next: TaskStatus) -> bool {
        use TaskStatus::{Cancelled, Created, Failed, Running, Succeeded};
        matches!(
            (self, next),
            (Created, Running | Failed | Cancelled)
                | (Running, Succeeded | Failed | Cancelled)
                | (Failed, Running | Cancelled)
        )
    }

    /// The state in which tasks are made.
    pub const INITIAL: TaskStatus = TaskStatus::Created;
}

/// A task as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// What kind of work it is, in the user's words.
    pub task_type: String,
    /// Its state.
    pub status: TaskStatus,
    /// What the user stored with it; `Value::Null` when nothing was.
    pub metadata: Value,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
}

/// A task to create.
///
/// Creating the same id with the same content again gives the task that is
/// there; with other content it is a
/// [`Conflict`](crate::StorageError::Conflict).
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Its name.
    pub id: TaskId,
    /// What kind of work it is, in the user's words.
    pub task_type: String,
    /// Anything the user wants to keep with it.
    pub metadata: Value,
}

impl NewTask {
    /// A task of this id and type, without metadata.
    pub fn new(id: TaskId, task_type: impl Into<String>) -> NewTask {
        NewTask {
            id,
            task_type: task_type.into(),
            metadata: Value::Null,
        }
    }

    /// Keeps `metadata` with the task.
    #[must_use]
    pub fn metadata(mut self, metadata: Value) -> NewTask {
        self.metadata = metadata;
        self
    }

    /// Checks everything that has a bound.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] or [`StorageError::Invalid`].
    pub fn check(&self, limits: &Limits) -> Result<(), StorageError> {
        check_name("task type", &self.task_type)?;
        check_metadata(&self.metadata, limits)
    }

    /// Whether `task` is what this would have created.
    pub fn is_same_as(&self, task: &Task) -> bool {
        self.id == task.id && self.task_type == task.task_type && self.metadata == task.metadata
    }
}

/// Metadata as it is stored: `None` for null, else JSON.
pub fn metadata_text(metadata: &Value) -> Option<String> {
    (!metadata.is_null()).then(|| metadata.to_string())
}

/// Refuses metadata beyond its limits, of bytes and of depth.
///
/// # Errors
///
/// [`StorageError::LimitExceeded`].
pub fn check_metadata(metadata: &Value, limits: &Limits) -> Result<(), StorageError> {
    check_size(
        "metadata depth",
        depth(metadata, METADATA_DEPTH_MAX),
        METADATA_DEPTH_MAX,
    )?;
    let bytes = metadata_text(metadata).map_or(0, |text| text.len());
    check_size("metadata bytes", bytes, limits.metadata_bytes)
}

/// Levels of nesting, counted until there are more than `enough`.
fn depth(value: &Value, enough: usize) -> usize {
    let inner = |values: &mut dyn Iterator<Item = &Value>| {
        let left = enough.checked_sub(1);
        1 + values
            .filter_map(|value| left.map(|left| depth(value, left)))
            .max()
            .unwrap_or(0)
    };
    match value {
        Value::Array(values) => inner(&mut values.iter()),
        Value::Object(members) => inner(&mut members.values()),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn final_states_stay() {
        for end in [TaskStatus::Succeeded, TaskStatus::Cancelled] {
            assert!(TaskStatus::ALL.iter().all(|next| !end.can_become(*next)));
        }
    }

    #[test]
    fn every_state_can_be_reached_from_the_first() {
        for status in TaskStatus::ALL {
            let reached = *status == TaskStatus::INITIAL
                || TaskStatus::ALL.iter().any(|from| from.can_become(*status));
            assert!(reached, "{status}");
        }
    }

    #[test]
    fn words_round_trip() {
        for status in TaskStatus::ALL {
            assert_eq!(TaskStatus::parse(status.as_str()), Some(*status));
        }
        assert_eq!(TaskStatus::parse("Running"), None);
    }

    /// What is nested deeper than a reader goes could be stored and never read.
    #[test]
    fn metadata_has_a_depth() {
        let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        let task = |levels| NewTask::new(TaskId::new("a").unwrap(), "t").metadata(nested(levels));
        assert!(task(METADATA_DEPTH_MAX).check(&Limits::default()).is_ok());
        for levels in [METADATA_DEPTH_MAX + 1, METADATA_DEPTH_MAX + 2, 1000] {
            assert!(matches!(
                task(levels).check(&Limits::default()).unwrap_err(),
                StorageError::LimitExceeded(_)
            ));
        }
    }

    #[test]
    fn metadata_has_a_bound() {
        let limits = Limits {
            metadata_bytes: 10,
            ..Limits::default()
        };
        let task = NewTask::new(TaskId::new("a").unwrap(), "t").metadata(json!("12345678"));
        assert!(task.check(&limits).is_ok());
        let task = task.metadata(json!("123456789"));
        assert!(matches!(
            task.check(&limits).unwrap_err(),
            StorageError::LimitExceeded(_)
        ));
    }
}

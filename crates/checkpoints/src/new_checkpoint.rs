//! What the user wants to append, built step by step.
//!
//! The state is encoded, and read back, as it is given; nothing here touches a
//! file or the store. [`CheckpointManager::prepare`](crate::CheckpointManager::prepare)
//! turns it into a part of a commit.

use agentos_core::limits::{Limits, check_size};
use agentos_core::records::task::metadata_text;
use agentos_core::{CheckpointType, Codec, InvalidInput, Snapshot, TaskId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::CheckpointError;
use crate::evidence::Pack;
use crate::state::{StateFormat, encode};

/// A checkpoint to append.
#[derive(Debug, Clone)]
pub struct NewCheckpoint {
    pub(crate) task: TaskId,
    pub(crate) checkpoint_type: CheckpointType,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) evidence: Option<Pack>,
    pub(crate) metadata: Value,
}

impl NewCheckpoint {
    /// A checkpoint of `task` without state, evidence and metadata. What
    /// follows may be given once each; a second time replaces the first.
    pub fn new(task: TaskId, checkpoint_type: CheckpointType) -> NewCheckpoint {
        NewCheckpoint {
            task,
            checkpoint_type,
            snapshot: None,
            evidence: None,
            metadata: Value::Null,
        }
    }

    /// Carries `state`, in bincode and as version 1.
    ///
    /// # Errors
    ///
    /// As [`NewCheckpoint::state_as`].
    pub fn state<T: Serialize + DeserializeOwned>(
        self,
        state: &T,
    ) -> Result<NewCheckpoint, CheckpointError> {
        self.state_as(&StateFormat::new(), state)
    }

    /// Carries `state`, written as `format` says.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NotEncodable`] when the codec cannot write the type,
    /// [`CheckpointError::NotRoundTrip`] when what it wrote is not the state
    /// when it is read back,
    /// [`StorageError::LimitExceeded`](agentos_core::StorageError::LimitExceeded)
    /// beyond what any store may be configured to take.
    pub fn state_as<T: Serialize + DeserializeOwned>(
        mut self,
        format: &StateFormat<T>,
        state: &T,
    ) -> Result<NewCheckpoint, CheckpointError> {
        self.snapshot = Some(encode(format, state)?);
        Ok(self)
    }

    /// Carries the user's own bytes, kept as they are, under the user's own
    /// version.
    #[must_use]
    pub fn raw(mut self, version: u32, bytes: impl Into<Vec<u8>>) -> NewCheckpoint {
        self.snapshot = Some(Snapshot::new(Codec::Raw, version, bytes.into()));
        self
    }

    /// Carries evidence about the outside world.
    #[must_use]
    pub fn evidence(mut self, pack: Pack) -> NewCheckpoint {
        self.evidence = Some(pack);
        self
    }

    /// Keeps `metadata` with the checkpoint.
    #[must_use]
    pub fn metadata(mut self, metadata: Value) -> NewCheckpoint {
        self.metadata = metadata;
        self
    }

    /// Checks everything that has a bound but the evidence. The commit checks
    /// again; here it comes before any file is opened.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), CheckpointError> {
        if let Some(snapshot) = &self.snapshot {
            if self.checkpoint_type == CheckpointType::ErrorBoundary {
                let reason = "carries state, which an error boundary never does";
                return Err(InvalidInput::new("checkpoint", reason).into());
            }
            check_size(
                "snapshot bytes",
                snapshot.bytes().len(),
                limits.snapshot_bytes,
            )?;
        }
        if let Some(text) = metadata_text(&self.metadata) {
            check_size("metadata bytes", text.len(), limits.metadata_bytes)?;
            // A value nested too deeply can be written and never read again.
            if serde_json::from_str::<Value>(&text).ok().as_ref() != Some(&self.metadata) {
                let reason = "cannot be read back: it is nested too deeply";
                return Err(InvalidInput::new("metadata", reason).into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use agentos_core::{LimitExceeded, StorageError};
    use serde_json::json;

    use super::*;

    fn new(checkpoint_type: CheckpointType) -> NewCheckpoint {
        NewCheckpoint::new(TaskId::new("task").unwrap(), checkpoint_type)
    }

    #[test]
    fn limits_are_named() {
        let limits = Limits {
            snapshot_bytes: 3,
            metadata_bytes: 4,
            ..Limits::default()
        };
        let exceeded = |checkpoint: NewCheckpoint| match checkpoint.check(&limits).unwrap_err() {
            CheckpointError::Storage(StorageError::LimitExceeded(exceeded)) => exceeded,
            other => panic!("{other:?}"),
        };
        let checkpoint = || new(CheckpointType::IterationEnd);
        assert!(checkpoint().raw(1, "abc").check(&limits).is_ok());
        assert_eq!(
            exceeded(checkpoint().raw(1, "abcd")),
            LimitExceeded {
                name: "snapshot bytes",
                limit: 3,
                value: 4
            }
        );
        assert!(checkpoint().metadata(json!("ab")).check(&limits).is_ok());
        assert_eq!(
            exceeded(checkpoint().metadata(json!("abc"))),
            LimitExceeded {
                name: "metadata bytes",
                limit: 4,
                value: 5
            }
        );
    }

    #[test]
    fn an_error_boundary_carries_no_state() {
        let limits = Limits::default();
        assert!(new(CheckpointType::ErrorBoundary).check(&limits).is_ok());
        assert!(matches!(
            new(CheckpointType::ErrorBoundary)
                .raw(1, "state")
                .check(&limits)
                .unwrap_err(),
            CheckpointError::Storage(StorageError::Invalid(_))
        ));
    }

    #[test]
    fn metadata_that_nobody_could_read_again_is_refused() {
        let nested = |levels| (0..levels).fold(json!(0.1 + 0.2), |inner, _| json!([inner]));
        let check = |levels| {
            new(CheckpointType::IterationEnd)
                .metadata(nested(levels))
                .check(&Limits::default())
        };
        assert!(check(100).is_ok());
        assert!(matches!(
            check(200).unwrap_err(),
            CheckpointError::Storage(StorageError::Invalid(InvalidInput {
                what: "metadata",
                ..
            }))
        ));
    }
}

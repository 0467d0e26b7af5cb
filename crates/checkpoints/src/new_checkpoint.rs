//! What the user wants to append, built step by step.
//!
//! The state is encoded, and read back, as it is given; nothing here touches a
//! file or the store. [`CheckpointManager::prepare`](crate::CheckpointManager::prepare)
//! turns it into a part of a commit.

use agentos_core::{CheckpointType, Codec, Snapshot, TaskId};
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
}

//! States: the user's type to bytes and back, under a codec and a version.
//!
//! A state is decoded as soon as it is encoded, and compared with what went
//! in, so that nobody is told that a checkpoint is stored which cannot be read
//! back. Reading checks the version first, then the codec; an older version
//! goes through the format's upgrade hook, with the bytes as they were stored.

use agentos_core::limits::{SNAPSHOT_BYTES_MAX, check_size};
use agentos_core::{BoxError, Checkpoint, Codec, CodecError, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::CheckpointError;
use crate::fidelity::fingerprint;

/// How states of type `T` are written, and which older ones can be read.
///
/// Without further words: [`Codec::Bincode`], version 1, no upgrade.
///
/// ```
/// use agentos_checkpoints::{OldState, StateFormat};
/// use agentos_core::{BoxError, Codec};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct State { done: u64, failed: u64 }
///
/// const FORMAT: StateFormat<State> =
///     StateFormat::new().version(2).codec(Codec::Json).upgrade(upgrade);
///
/// /// Version 1 was the bare number of finished steps.
/// fn upgrade(old: OldState<'_>) -> Result<State, BoxError> {
///     Ok(State { done: old.decode()?, failed: 0 })
/// }
/// # assert_eq!(FORMAT.known_version(), 2);
/// ```
#[derive(Debug)]
pub struct StateFormat<T> {
    codec: Codec,
    version: u32,
    upgrade: Option<fn(OldState<'_>) -> Result<T, BoxError>>,
}

impl<T> Clone for StateFormat<T> {
    fn clone(&self) -> StateFormat<T> {
        *self
    }
}

impl<T> Copy for StateFormat<T> {}

impl<T> Default for StateFormat<T> {
    fn default() -> StateFormat<T> {
        StateFormat::new()
    }
}

impl<T> StateFormat<T> {
    /// Bincode, version 1, no upgrade.
    pub const fn new() -> StateFormat<T> {
        StateFormat {
            codec: Codec::Bincode,
            version: 1,
            upgrade: None,
        }
    }

    /// The version of the type. Raise it whenever the type changes.
    #[must_use]
    pub const fn version(mut self, version: u32) -> StateFormat<T> {
        self.version = version;
        self
    }

    /// The codec to write with. [`Codec::Raw`] writes no types: see
    /// [`NewCheckpoint::raw`](crate::NewCheckpoint::raw).
    #[must_use]
    pub const fn codec(mut self, codec: Codec) -> StateFormat<T> {
        self.codec = codec;
        self
    }

    /// How a state of an older version becomes a `T`. The bytes are those that
    /// were stored; what is stored is not changed.
    #[must_use]
    pub const fn upgrade(
        mut self,
        upgrade: fn(OldState<'_>) -> Result<T, BoxError>,
    ) -> StateFormat<T> {
        self.upgrade = Some(upgrade);
        self
    }

    /// The version that is written, and the newest that can be read.
    pub const fn known_version(&self) -> u32 {
        self.version
    }
}

/// A state of an older version, as it was stored.
#[derive(Debug, Clone, Copy)]
pub struct OldState<'a> {
    /// Version under which it was stored.
    pub version: u32,
    /// How the bytes were made.
    pub codec: Codec,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl OldState<'_> {
    /// Decodes the bytes with their own codec.
    ///
    /// # Errors
    ///
    /// As [`Codec::decode`].
    pub fn decode<Old: DeserializeOwned>(&self) -> Result<Old, CodecError> {
        self.codec.decode(self.bytes)
    }
}

/// Encodes a state, and makes sure that it comes back.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(
    format: &StateFormat<T>,
    state: &T,
) -> Result<Snapshot, CheckpointError> {
    let codec = format.codec;
    let bytes = codec
        .encode(state)
        .map_err(|source| CheckpointError::NotEncodable { codec, source })?;
    // Beyond it the decoder refuses, which would look like another mistake.
    check_size("snapshot bytes", bytes.len(), SNAPSHOT_BYTES_MAX)?;
    let not_round_trip = |source| CheckpointError::NotRoundTrip { codec, source };
    let back: T = codec
        .decode(&bytes)
        .map_err(|error| not_round_trip(error.into()))?;
    let human_readable = codec == Codec::Json;
    let shown = |state: &T| {
        fingerprint(state, human_readable).map_err(|error| not_round_trip(error.into()))
    };
    if shown(state)? != shown(&back)? {
        return Err(not_round_trip("another value is read back".into()));
    }
    Ok(Snapshot::new(codec, format.version, bytes))
}

/// Reads the state out of a [`Checkpoint`].
pub trait ReadState {
    /// The state, written as [`StateFormat::new`] says: bincode, version 1.
    ///
    /// # Errors
    ///
    /// As [`ReadState::state_as`].
    fn state<T: DeserializeOwned>(&self) -> Result<T, CheckpointError> {
        self.state_as(&StateFormat::new())
    }

    /// The state, written in `format` or in an older version that it upgrades.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoState`], [`CheckpointError::NewerStateVersion`],
    /// [`CheckpointError::OlderStateVersion`] without an upgrade hook,
    /// [`CheckpointError::UpgradeFailed`] when the hook gives up,
    /// [`CheckpointError::WrongCodec`] at the same version,
    /// [`CheckpointError::OtherType`] when the bytes are no `T`.
    fn state_as<T: DeserializeOwned>(&self, format: &StateFormat<T>) -> Result<T, CheckpointError>;

    /// The bytes that [`NewCheckpoint::raw`](crate::NewCheckpoint::raw) was
    /// given; their version is in the snapshot.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoState`], and [`CheckpointError::WrongCodec`] when
    /// the state was written with a codec.
    fn raw_state(&self) -> Result<&[u8], CheckpointError>;
}

impl ReadState for Checkpoint {
    fn state_as<T: DeserializeOwned>(&self, format: &StateFormat<T>) -> Result<T, CheckpointError> {
        decode(snapshot_of(self)?, format)
    }

    fn raw_state(&self) -> Result<&[u8], CheckpointError> {
        let snapshot = snapshot_of(self)?;
        check_codec(snapshot, Codec::Raw)?;
        Ok(snapshot.bytes())
    }
}

fn snapshot_of(checkpoint: &Checkpoint) -> Result<&Snapshot, CheckpointError> {
    checkpoint.snapshot.as_ref().ok_or(CheckpointError::NoState)
}

fn check_codec(snapshot: &Snapshot, expected: Codec) -> Result<(), CheckpointError> {
    let found = snapshot.codec();
    if found == expected {
        Ok(())
    } else {
        Err(CheckpointError::WrongCodec { found, expected })
    }
}

fn decode<T: DeserializeOwned>(
    snapshot: &Snapshot,
    format: &StateFormat<T>,
) -> Result<T, CheckpointError> {
    let (found, known) = (snapshot.version(), format.version);
    if found > known {
        return Err(CheckpointError::NewerStateVersion { found, known });
    }
    if found < known {
        let upgrade = format
            .upgrade
            .ok_or(CheckpointError::OlderStateVersion { found, known })?;
        let old = OldState {
            version: found,
            codec: snapshot.codec(),
            bytes: snapshot.bytes(),
        };
        return upgrade(old).map_err(|source| CheckpointError::UpgradeFailed { found, source });
    }
    check_codec(snapshot, format.codec)?;
    format
        .codec
        .decode(snapshot.bytes())
        .map_err(CheckpointError::OtherType)
}

#[cfg(test)]
mod tests;

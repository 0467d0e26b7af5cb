//! The codec: values to bytes and back. The sole caller of bincode.
//!
//! Decoding reads to the last byte, allocates at most [`SNAPSHOT_BYTES_MAX`]
//! whatever a length prefix claims, and answers damage with an error. Bincode
//! output begins with a format byte, so that another binary format can take
//! its place without touching what is stored.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::BoxError;
use crate::limits::SNAPSHOT_BYTES_MAX;

/// How the bytes of a snapshot were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Bincode 2, standard configuration, behind a format byte. Compact and fast.
    Bincode,
    /// JSON, for people who want to read it.
    Json,
    /// The user's own bytes, kept as they are.
    Raw,
}

/// Format of bincode snapshots written by this build.
///
/// - 1: bincode 2, `config::standard()` (little endian, variable-length integers).
const BINCODE_FORMAT: u8 = 1;

impl Codec {
    /// Every codec.
    pub const ALL: &'static [Codec] = &[Codec::Bincode, Codec::Json, Codec::Raw];

    /// The number that is stored.
    pub const fn id(self) -> u8 {
        match self {
            Codec::Bincode => 1,
            Codec::Json => 2,
            Codec::Raw => 3,
        }
    }

    /// Reads a stored number; `None` when this build does not know it.
    pub fn from_id(id: u8) -> Option<Codec> {
        Codec::ALL.iter().copied().find(|codec| codec.id() == id)
    }

    /// Encodes a value.
    ///
    /// # Errors
    ///
    /// [`CodecError::Encode`] when the type cannot be written in this format,
    /// [`CodecError::RawIsUntyped`] for [`Codec::Raw`].
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, CodecError> {
        match self {
            Codec::Bincode => {
                let mut bytes = vec![BINCODE_FORMAT];
                bincode::serde::encode_into_std_write(value, &mut bytes, bincode_config())
                    .map_err(|error| CodecError::Encode(Box::new(error)))?;
                Ok(bytes)
            }
            Codec::Json => {
                serde_json::to_vec(value).map_err(|error| CodecError::Encode(Box::new(error)))
            }
            Codec::Raw => Err(CodecError::RawIsUntyped),
        }
    }

    /// Decodes a value from all of `bytes`.
    ///
    /// Check a seal first: this reads what it is given.
    ///
    /// # Errors
    ///
    /// [`CodecError::Decode`] when the bytes are not such a value,
    /// [`CodecError::TrailingBytes`] when some are left over,
    /// [`CodecError::NewerFormat`] when a newer build wrote them,
    /// [`CodecError::RawIsUntyped`] for [`Codec::Raw`].
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, CodecError> {
        match self {
            Codec::Bincode => {
                let (&format, payload) = bytes.split_first().ok_or(CodecError::Empty)?;
                if format != BINCODE_FORMAT {
                    return Err(CodecError::NewerFormat {
                        found: format,
                        known: BINCODE_FORMAT,
                    });
                }
                let (value, read) = bincode::serde::decode_from_slice(payload, bincode_config())
                    .map_err(|error| CodecError::Decode(Box::new(error)))?;
                if read != payload.len() {
                    return Err(CodecError::TrailingBytes {
                        left: payload.len() - read,
                    });
                }
                Ok(value)
            }
            Codec::Json => {
                serde_json::from_slice(bytes).map_err(|error| CodecError::Decode(Box::new(error)))
            }
            Codec::Raw => Err(CodecError::RawIsUntyped),
        }
    }
}

/// Without the limit a damaged length prefix makes bincode ask for that much
/// memory, and the process is aborted.
fn bincode_config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<SNAPSHOT_BYTES_MAX>()
}

/// Why bytes could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The type cannot be written in this format: choose another codec.
    #[error("the value cannot be encoded")]
    Encode(#[source] BoxError),
    /// The bytes are not such a value: another type, or damage.
    #[error("the bytes cannot be decoded")]
    Decode(#[source] BoxError),
    /// The value ended before the bytes did: another type, or damage.
    #[error("{left} bytes are left after the value")]
    TrailingBytes {
        /// How many.
        left: usize,
    },
    /// There is not even a format byte.
    #[error("there are no bytes")]
    Empty,
    /// A newer build wrote the bytes: upgrade this program.
    #[error("format {found} is newer than {known}, which this build reads")]
    NewerFormat {
        /// Format byte of the snapshot.
        found: u8,
        /// Newest format of this build.
        known: u8,
    },
    /// Raw bytes have no type: ask for the bytes instead.
    #[error("raw bytes have no type")]
    RawIsUntyped,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct State {
        step: u32,
        notes: Vec<String>,
        scores: BTreeMap<String, f64>,
    }

    fn state() -> State {
        State {
            step: 7,
            notes: vec!["a".into(), String::new()],
            scores: BTreeMap::from([("x".into(), 0.5)]),
        }
    }

    #[test]
    fn both_formats_round_trip() {
        for codec in [Codec::Bincode, Codec::Json] {
            let bytes = codec.encode(&state()).unwrap();
            assert_eq!(codec.decode::<State>(&bytes).unwrap(), state());
        }
    }

    #[test]
    fn ids_are_stable_and_distinct() {
        assert_eq!(
            Codec::ALL
                .iter()
                .map(|codec| codec.id())
                .collect::<Vec<_>>(),
            [1, 2, 3]
        );
        for codec in Codec::ALL {
            assert_eq!(Codec::from_id(codec.id()), Some(*codec));
        }
        assert_eq!(Codec::from_id(0), None);
    }

    #[test]
    fn the_bytes_of_format_one_stay_readable() {
        // Format byte, then bincode: 7, ["a", ""], {"x": 0.5}.
        let stored = [
            1, 7, 2, 1, b'a', 0, 1, 1, b'x', 0, 0, 0, 0, 0, 0, 0xe0, 0x3f,
        ];
        assert_eq!(Codec::Bincode.decode::<State>(&stored).unwrap(), state());
        assert_eq!(Codec::Bincode.encode(&state()).unwrap(), stored);
    }

    #[test]
    fn left_over_bytes_are_an_error() {
        let mut bytes = Codec::Bincode.encode(&state()).unwrap();
        bytes.push(0);
        assert!(matches!(
            Codec::Bincode.decode::<State>(&bytes).unwrap_err(),
            CodecError::TrailingBytes { left: 1 }
        ));
        let mut text = Codec::Json.encode(&state()).unwrap();
        text.push(b'}');
        assert!(matches!(
            Codec::Json.decode::<State>(&text).unwrap_err(),
            CodecError::Decode(_)
        ));
    }

    #[test]
    fn a_length_prefix_of_sixty_gibibytes_is_an_error_and_no_abort() {
        let mut bytes = vec![BINCODE_FORMAT, 253]; // 253: an u64 follows
        bytes.extend_from_slice(&(60_u64 << 30).to_le_bytes());
        bytes.extend_from_slice(b"few");
        for error in [
            Codec::Bincode
                .decode::<Vec<u8>>(&bytes)
                .map(|_| ())
                .unwrap_err(),
            Codec::Bincode
                .decode::<String>(&bytes)
                .map(|_| ())
                .unwrap_err(),
            Codec::Bincode
                .decode::<Vec<u64>>(&bytes)
                .map(|_| ())
                .unwrap_err(),
        ] {
            assert!(matches!(error, CodecError::Decode(_)));
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        assert!(matches!(
            Codec::Bincode.decode::<State>(&[9, 0]).unwrap_err(),
            CodecError::NewerFormat { found: 9, known: 1 }
        ));
        assert!(matches!(
            Codec::Bincode.decode::<State>(&[]).unwrap_err(),
            CodecError::Empty
        ));
    }
}

//! What comes out of a tool call, and how it is stored.
//!
//! What is stored says its version and what kind of end it is; the output follows as it
//! is, byte for byte. Reading it never panics and never allocates more than it was
//! given: what is not one of ours is an error.

use std::str::Utf8Error;

use agentos_core::limits::REASON_BYTES_MAX;
use agentos_core::{Digest, KeyStatus, NewOutcome};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the stored form that this build writes.
///
/// - 1: a byte of version, a byte of kind, and then by kind. Done: the output. Failed:
///   length of the message (4 bytes, little-endian), the message, the output. Too large:
///   size (8 bytes, little-endian), digest (32 bytes), whether it failed (one byte), the
///   message. Given up: the reason.
pub const RECORD_VERSION: u8 = 1;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const TOO_LARGE: u8 = 2;
const GIVEN_UP: u8 = 3;

/// What a tool gave back: bytes, of any kind. Empty is an output too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolOutput(Vec<u8>);

impl ToolOutput {
    /// An output of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> ToolOutput {
        ToolOutput(bytes.into())
    }

    /// An output that is the JSON of a value.
    ///
    /// # Errors
    ///
    /// As [`serde_json::to_vec`].
    pub fn json(value: &impl Serialize) -> Result<ToolOutput, serde_json::Error> {
        serde_json::to_vec(value).map(ToolOutput)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The output as text.
    ///
    /// # Errors
    ///
    /// When it is no UTF-8.
    pub fn text(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.0)
    }

    /// The value whose JSON it is.
    ///
    /// # Errors
    ///
    /// As [`serde_json::from_slice`].
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }
}

impl From<Vec<u8>> for ToolOutput {
    fn from(bytes: Vec<u8>) -> ToolOutput {
        ToolOutput(bytes)
    }
}

impl From<&[u8]> for ToolOutput {
    fn from(bytes: &[u8]) -> ToolOutput {
        ToolOutput(bytes.to_vec())
    }
}

impl From<String> for ToolOutput {
    fn from(text: String) -> ToolOutput {
        ToolOutput(text.into_bytes())
    }
}

impl From<&str> for ToolOutput {
    fn from(text: &str) -> ToolOutput {
        ToolOutput(text.as_bytes().to_vec())
    }
}

/// How a tool call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolOutcome {
    /// It did what it was asked.
    Done(ToolOutput),
    /// It failed, and that is known: a non-zero exit, an error of a service.
    Failed {
        /// Why, in words: at most 4096 bytes are kept.
        message: String,
        /// What it gave back nevertheless.
        output: ToolOutput,
    },
    /// Nobody knows whether it happened, and its policy was to give it up. It is never
    /// run again.
    GivenUp {
        /// Why.
        reason: String,
    },
}

impl ToolOutcome {
    /// A failure of this message and output.
    pub fn failed(message: impl Into<String>, output: impl Into<ToolOutput>) -> ToolOutcome {
        ToolOutcome::Failed {
            message: message.into(),
            output: output.into(),
        }
    }

    /// Whether it did what it was asked.
    pub fn is_success(&self) -> bool {
        matches!(self, ToolOutcome::Done(_))
    }

    /// What it gave back; none when it was given up.
    pub fn output(&self) -> Option<&ToolOutput> {
        match self {
            ToolOutcome::Done(output) | ToolOutcome::Failed { output, .. } => Some(output),
            ToolOutcome::GivenUp { .. } => None,
        }
    }

    /// What it gave back; none when it was given up.
    pub fn into_output(self) -> Option<ToolOutput> {
        match self {
            ToolOutcome::Done(output) | ToolOutcome::Failed { output, .. } => Some(output),
            ToolOutcome::GivenUp { .. } => None,
        }
    }
}

impl From<ToolOutput> for ToolOutcome {
    fn from(output: ToolOutput) -> ToolOutcome {
        ToolOutcome::Done(output)
    }
}

/// Stands in place of an output that was beyond the limit: the call happened, and only
/// the one who ran it has seen its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLarge {
    /// Size of the output, in bytes.
    pub bytes: u64,
    /// blake3 digest of the output.
    pub digest: Digest,
    /// The message, if the call failed.
    pub failure: Option<String>,
}

/// What is stored of the end of a tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolRecord {
    /// All of it.
    Outcome(ToolOutcome),
    /// That it happened, without its output.
    TooLarge(TooLarge),
}

/// These bytes are no end of a tool call that this build knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedRecord {
    /// They end before they should.
    #[error("the record of a tool call is cut off")]
    CutOff,
    /// A newer build wrote them.
    #[error("version {0} of the record of a tool call is unknown")]
    Version(u8),
    /// There is no such kind of end.
    #[error("kind {0} of the end of a tool call is unknown")]
    Kind(u8),
    /// A message is no UTF-8, or longer than any.
    #[error("a message in the record of a tool call is no text of ours")]
    Message,
    /// A flag is neither 0 nor 1.
    #[error("a flag in the record of a tool call is {0}")]
    Flag(u8),
    /// The key says that it succeeded and the record that it failed, or the reverse.
    #[error("the record of a tool call is one of another state")]
    Status,
}

impl ToolRecord {
    /// What is stored of an outcome when at most `bytes_max` bytes may be.
    pub(crate) fn of(outcome: &ToolOutcome, bytes_max: usize) -> ToolRecord {
        let whole = ToolRecord::Outcome(outcome.clone());
        match whole.encoded_bytes() <= bytes_max {
            true => whole,
            false => ToolRecord::without_output(outcome),
        }
    }

    /// That it happened, and what identifies its output, if it has one.
    pub(crate) fn without_output(outcome: &ToolOutcome) -> ToolRecord {
        let Some(output) = outcome.output() else {
            return ToolRecord::Outcome(outcome.clone());
        };
        ToolRecord::TooLarge(TooLarge {
            bytes: output.0.len() as u64,
            digest: Digest::of(&output.0),
            failure: match outcome {
                ToolOutcome::Failed { message, .. } => Some(kept(message).to_owned()),
                _ => None,
            },
        })
    }

    /// The state of a key with this end.
    pub fn status(&self) -> KeyStatus {
        match self {
            ToolRecord::Outcome(ToolOutcome::Done(_))
            | ToolRecord::TooLarge(TooLarge { failure: None, .. }) => KeyStatus::Succeeded,
            _ => KeyStatus::Failed,
        }
    }

    /// Whether it is a failure that policy may run again: one that was given up never is.
    pub(crate) fn is_ordinary_failure(&self) -> bool {
        match self {
            ToolRecord::Outcome(outcome) => matches!(outcome, ToolOutcome::Failed { .. }),
            ToolRecord::TooLarge(large) => large.failure.is_some(),
        }
    }

    /// As it is handed to the store: it counts for ever.
    pub fn to_outcome(&self) -> NewOutcome {
        NewOutcome {
            failed: self.status() == KeyStatus::Failed,
            bytes: self.encode(),
            ttl: None,
        }
    }

    /// Bytes of the stored form.
    fn encoded_bytes(&self) -> usize {
        2 + match self {
            ToolRecord::Outcome(ToolOutcome::Done(output)) => output.0.len(),
            ToolRecord::Outcome(ToolOutcome::Failed { message, output }) => {
                4 + kept(message).len() + output.0.len()
            }
            ToolRecord::Outcome(ToolOutcome::GivenUp { reason }) => kept(reason).len(),
            ToolRecord::TooLarge(large) => {
                8 + Digest::BYTES + 1 + large.failure.as_deref().map_or(0, |text| kept(text).len())
            }
        }
    }

    /// The stored form. Messages are cut to 4096 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_bytes());
        bytes.push(RECORD_VERSION);
        match self {
            ToolRecord::Outcome(ToolOutcome::Done(output)) => {
                bytes.push(DONE);
                bytes.extend_from_slice(&output.0);
            }
            ToolRecord::Outcome(ToolOutcome::Failed { message, output }) => {
                bytes.push(FAILED);
                let message = kept(message);
                let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
                bytes.extend_from_slice(&length.to_le_bytes());
                bytes.extend_from_slice(message.as_bytes());
                bytes.extend_from_slice(&output.0);
            }
            ToolRecord::Outcome(ToolOutcome::GivenUp { reason }) => {
                bytes.push(GIVEN_UP);
                bytes.extend_from_slice(kept(reason).as_bytes());
            }
            ToolRecord::TooLarge(large) => {
                bytes.push(TOO_LARGE);
                bytes.extend_from_slice(&large.bytes.to_le_bytes());
                bytes.extend_from_slice(large.digest.as_bytes());
                bytes.push(u8::from(large.failure.is_some()));
                let message = large.failure.as_deref().unwrap_or_default();
                bytes.extend_from_slice(kept(message).as_bytes());
            }
        }
        bytes
    }

    /// Reads the stored form.
    ///
    /// # Errors
    ///
    /// [`MalformedRecord`], for everything that [`ToolRecord::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<ToolRecord, MalformedRecord> {
        let (&version, rest) = bytes.split_first().ok_or(MalformedRecord::CutOff)?;
        if version != RECORD_VERSION {
            return Err(MalformedRecord::Version(version));
        }
        let (&kind, rest) = rest.split_first().ok_or(MalformedRecord::CutOff)?;
        match kind {
            DONE => Ok(ToolRecord::Outcome(ToolOutcome::Done(rest.into()))),
            FAILED => {
                let (length, rest) = take::<4>(rest)?;
                let length = usize::try_from(u32::from_le_bytes(length))
                    .map_err(|_| MalformedRecord::CutOff)?;
                let (message, output) = rest
                    .split_at_checked(length)
                    .ok_or(MalformedRecord::CutOff)?;
                let message = message_of(message)?;
                Ok(ToolRecord::Outcome(ToolOutcome::failed(message, output)))
            }
            TOO_LARGE => {
                let (size, rest) = take::<8>(rest)?;
                let (digest, rest) = take::<{ Digest::BYTES }>(rest)?;
                let ([failed], rest) = take::<1>(rest)?;
                let failure = match failed {
                    0 if rest.is_empty() => None,
                    0 => return Err(MalformedRecord::Message),
                    1 => Some(message_of(rest)?),
                    other => return Err(MalformedRecord::Flag(other)),
                };
                Ok(ToolRecord::TooLarge(TooLarge {
                    bytes: u64::from_le_bytes(size),
                    digest: Digest::from_bytes(digest),
                    failure,
                }))
            }
            GIVEN_UP => Ok(ToolRecord::Outcome(ToolOutcome::GivenUp {
                reason: message_of(rest)?,
            })),
            other => Err(MalformedRecord::Kind(other)),
        }
    }

    /// Reads the stored form of a key in this state.
    ///
    /// # Errors
    ///
    /// As [`ToolRecord::decode`], and [`MalformedRecord::Status`].
    pub(crate) fn decode_as(
        bytes: &[u8],
        status: KeyStatus,
    ) -> Result<ToolRecord, MalformedRecord> {
        let record = ToolRecord::decode(bytes)?;
        if record.status() != status {
            return Err(MalformedRecord::Status);
        }
        Ok(record)
    }
}

/// What of a message is stored.
fn kept(message: &str) -> &str {
    &message[..message.floor_char_boundary(REASON_BYTES_MAX)]
}

fn message_of(bytes: &[u8]) -> Result<String, MalformedRecord> {
    if bytes.len() > REASON_BYTES_MAX {
        return Err(MalformedRecord::Message);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| MalformedRecord::Message)?;
    Ok(text.to_owned())
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), MalformedRecord> {
    bytes
        .split_first_chunk::<N>()
        .map(|(chunk, rest)| (*chunk, rest))
        .ok_or(MalformedRecord::CutOff)
}

#[cfg(test)]
mod tests;

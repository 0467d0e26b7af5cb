//! Checkpoints: the state of a task at a moment, under a seal.

use serde_json::Value;

use crate::codec::Codec;
use crate::digest::{Digest, DigestBuilder};
use crate::ids::{SequenceNumber, TaskId};
use crate::time::Timestamp;

text_enum! {
    /// Why a checkpoint was made.
    pub enum CheckpointType {
        /// An iteration begins.
        IterationStart = "iteration_start",
        /// An iteration is done.
        IterationEnd = "iteration_end",
        /// A tool was run.
        ToolExecuted = "tool_executed",
        /// A model answered.
        LlmResponse = "llm_response",
        /// A person has to approve.
        ApprovalPoint = "approval_point",
        /// The task's state changed.
        StateTransition = "state_transition",
        /// Somebody asked for it.
        ManualCheckpoint = "manual_checkpoint",
        /// Something failed here. Carries no state and is never resumed from.
        ErrorBoundary = "error_boundary",
    }
}

text_enum! {
    /// What the last check of a checkpoint's evidence said. Recorded for
    /// people and for retention; resume never trusts it.
    pub enum Verification {
        /// Nothing was checked, or there was nothing to check.
        Unverified = "unverified",
        /// The evidence held.
        Verified = "verified",
        /// The evidence did not hold.
        Failed = "failed",
    }
}

text_enum! {
    /// What a check of one item of evidence said.
    pub enum EvidenceOutcome {
        /// It holds.
        Passed = "passed",
        /// It does not hold, or could not be asked.
        Failed = "failed",
    }
}

/// State as bytes: what was encoded, how, and which version of the user's type.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    codec: Codec,
    version: u32,
    bytes: Vec<u8>,
    digest: Digest,
}

impl Snapshot {
    /// Takes encoded bytes and digests them.
    pub fn new(codec: Codec, version: u32, bytes: Vec<u8>) -> Snapshot {
        let digest = Digest::of(&bytes);
        Snapshot {
            codec,
            version,
            bytes,
            digest,
        }
    }

    /// How the bytes were made.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The user's version of the state's type.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// blake3 of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What is left of it without the bytes.
    pub fn summary(&self) -> SnapshotSummary {
        SnapshotSummary {
            codec: self.codec,
            version: self.version,
            bytes: self.bytes.len() as u64,
            digest: self.digest,
        }
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.summary().fmt(f) // the bytes may be megabytes, and private
    }
}

/// A snapshot without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// How the bytes were made.
    pub codec: Codec,
    /// The user's version of the state's type.
    pub version: u32,
    /// How many bytes there are.
    pub bytes: u64,
    /// blake3 of the bytes.
    pub digest: Digest,
}

/// What checking one item of evidence said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceResult {
    /// Position of the item in its pack, from 0.
    pub item: u32,
    /// The kind of evidence.
    pub kind: String,
    /// What the check said.
    pub outcome: EvidenceOutcome,
    /// Why it failed.
    pub reason: Option<String>,
    /// When it was checked, by the store's clock.
    pub checked_at: Timestamp,
}

/// A checkpoint as it is stored, its seal checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What it is, without the state.
    pub summary: CheckpointSummary,
    /// The state; `None` for a checkpoint that carries none.
    pub snapshot: Option<Snapshot>,
    /// The evidence, as JSON of the crate that checks it.
    pub evidence: Option<String>,
    /// What the user stored with it; `Value::Null` when nothing was.
    pub metadata: Value,
}

/// A checkpoint without state, evidence and metadata, as lists show it.
///
/// Lists read no state, so they do not check the seal: loading does.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointSummary {
    /// The task it belongs to.
    pub task: TaskId,
    /// Its number in that task.
    pub sequence: SequenceNumber,
    /// Why it was made.
    pub checkpoint_type: CheckpointType,
    /// Its state without the bytes; `None` when it carries none.
    pub snapshot: Option<SnapshotSummary>,
    /// What the last check of its evidence said.
    pub verification: Verification,
    /// When it was appended, by the store's clock.
    pub created_at: Timestamp,
    /// The seal over all of the above but `verification`, and over evidence
    /// and metadata.
    pub seal: Digest,
}

/// What was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The number it got.
    pub sequence: SequenceNumber,
    /// Its seal.
    pub seal: Digest,
    /// When, by the store's clock.
    pub created_at: Timestamp,
}

/// A checkpoint that is there, whole or damaged.
#[derive(Debug, Clone, PartialEq)]
pub enum FoundCheckpoint {
    /// It is what was stored.
    Sound(Box<Checkpoint>),
    /// It is not.
    Damaged {
        /// Its number, which its place in the index gives.
        sequence: SequenceNumber,
        /// What is wrong with it.
        detail: String,
    },
}

/// Everything that a checkpoint's seal covers.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a> {
    /// The task it belongs to.
    pub task: &'a TaskId,
    /// Its number in that task.
    pub sequence: SequenceNumber,
    /// Why it was made.
    pub checkpoint_type: CheckpointType,
    /// Its state, without the bytes: their digest stands for them.
    pub snapshot: Option<SnapshotSummary>,
    /// The evidence, as stored.
    pub evidence: Option<&'a str>,
    /// The metadata, as stored.
    pub metadata: Option<&'a str>,
    /// When it was appended.
    pub created_at: Timestamp,
}

impl Sealed<'_> {
    /// The seal: a blake3 digest over the length-prefixed fields, so that
    /// neither a byte of them nor what they belong to can change unnoticed.
    pub fn seal(&self) -> Digest {
        let builder = DigestBuilder::new("agentos checkpoint 1")
            .bytes(self.task.as_str().as_bytes())
            .number(self.sequence.get())
            .bytes(self.checkpoint_type.as_str().as_bytes())
            .optional(self.evidence.map(str::as_bytes))
            .optional(self.metadata.map(str::as_bytes))
            .number(self.created_at.unix_micros().cast_unsigned());
        match &self.snapshot {
            None => builder.number(0),
            Some(snapshot) => builder
                .number(1)
                .number(snapshot.codec.id().into())
                .number(snapshot.version.into())
                .number(snapshot.bytes)
                .bytes(snapshot.digest.as_bytes()),
        }
        .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nothing that a checkpoint is, or belongs to, can be swapped.
    /// Method: change each sealed field alone; every seal must differ.
    #[test]
    fn every_field_is_under_the_seal() {
        let task = TaskId::new("task").unwrap();
        let other = TaskId::new("other").unwrap();
        let snapshot = |codec, version, bytes: &[u8]| {
            Some(Snapshot::new(codec, version, bytes.to_vec()).summary())
        };
        let base = Sealed {
            task: &task,
            sequence: SequenceNumber::FIRST,
            checkpoint_type: CheckpointType::IterationEnd,
            snapshot: snapshot(Codec::Bincode, 1, b"state"),
            evidence: Some("{}"),
            metadata: None,
            created_at: Timestamp::from_unix_micros(1),
        };
        let variants = [
            base,
            Sealed {
                task: &other,
                ..base
            },
            Sealed {
                sequence: SequenceNumber::new(2).unwrap(),
                ..base
            },
            Sealed {
                checkpoint_type: CheckpointType::IterationStart,
                ..base
            },
            Sealed {
                snapshot: snapshot(Codec::Raw, 1, b"state"),
                ..base
            },
            Sealed {
                snapshot: snapshot(Codec::Bincode, 2, b"state"),
                ..base
            },
            Sealed {
                snapshot: snapshot(Codec::Bincode, 1, b"stat"),
                ..base
            },
            Sealed {
                snapshot: None,
                ..base
            },
            Sealed {
                evidence: None,
                ..base
            },
            Sealed {
                evidence: Some("[]"),
                ..base
            },
            Sealed {
                metadata: Some("{}"),
                ..base
            },
            Sealed {
                created_at: Timestamp::from_unix_micros(2),
                ..base
            },
        ];
        let seals: std::collections::HashSet<_> = variants
            .iter()
            .map(|sealed| *sealed.seal().as_bytes())
            .collect();
        assert_eq!(seals.len(), variants.len());
    }

    /// A seal in a stored file must be computed alike by every later build.
    #[test]
    fn the_seal_of_version_one_stays() {
        let sealed = Sealed {
            task: &TaskId::new("task").unwrap(),
            sequence: SequenceNumber::FIRST,
            checkpoint_type: CheckpointType::IterationEnd,
            snapshot: Some(Snapshot::new(Codec::Bincode, 1, b"state".to_vec()).summary()),
            evidence: None,
            metadata: Some("{}"),
            created_at: Timestamp::from_unix_micros(1),
        };
        assert_eq!(
            sealed.seal().to_string(),
            "d2a97edf3f86ecb8ea95947ca02e3852bb1953a2343f6dc24929df5f60a07dcf"
        );
    }
}

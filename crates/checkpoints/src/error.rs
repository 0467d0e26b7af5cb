//! What can go wrong with a checkpoint, sorted by what the caller does next.
//!
//! Errors of the store come through unchanged as
//! [`CheckpointError::Storage`]: busy is still `Busy`, damaged still `Corrupt`.

use std::io;
use std::path::PathBuf;

use agentos_core::{
    BoxError, Codec, CodecError, EvidenceOutcome, EvidenceResult, InvalidInput, LimitExceeded,
    StorageError,
};

/// Whether a call failed for want of the machine's resources, and not for what
/// it was about.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Why a checkpoint was not made, read or resumed from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    // Mend the outside world, then append again.
    /// The evidence does not hold. Nothing was stored: do the work again, or
    /// append without this evidence.
    #[error("the evidence does not hold: {}", first_failure(results))]
    EvidenceFailed {
        /// What each item said that was checked.
        results: Vec<EvidenceResult>,
    },
    /// A file that the evidence speaks of, or a directory on the way to it,
    /// could not be made durable. Nothing was stored: mend the disk or the
    /// permissions, or turn
    /// [`sync_evidence`](crate::CheckpointConfig::sync_evidence) off.
    #[error("{} could not be made durable", path.display())]
    NotDurable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    // Retry.
    /// The machine had no descriptors, memory or processes left to check
    /// evidence with. That says nothing about the evidence: nothing was stored,
    /// and nothing may be concluded from it.
    #[error("the machine could not check the evidence")]
    Machine(#[source] BoxError),

    // Correct the call.
    /// Evidence may not speak of this path. Nothing was opened or stored.
    #[error("evidence item {item}: {} {refusal}", path.display())]
    PathRefused {
        /// Position of the item in its pack, from 0.
        item: usize,
        /// The path as it was given.
        path: PathBuf,
        /// Why.
        refusal: PathRefusal,
    },
    /// The base directory of evidence is missing, is no directory or cannot be
    /// reached.
    #[error("the base directory {} cannot be used", path.display())]
    BaseDirectory {
        /// The path as it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The state's type cannot be written with this codec at all. Nothing was
    /// stored: choose another codec or change the type.
    #[error("the state cannot be encoded as {codec:?}")]
    NotEncodable {
        /// The codec that was asked for.
        codec: Codec,
        /// What it said.
        source: CodecError,
    },
    /// The state was encoded, and what was encoded is not the state when it is
    /// read back: untagged enums and skipped fields do this. Nothing was
    /// stored: choose another codec or change the type.
    #[error("the state does not come back from {codec:?} as it was")]
    NotRoundTrip {
        /// The codec that was asked for.
        codec: Codec,
        /// How it was found out.
        source: BoxError,
    },

    // Ask for what is there.
    /// The checkpoint carries no state.
    #[error("the checkpoint carries no state")]
    NoState,
    /// The state was written with another codec: ask for it in that one.
    #[error("the state is {found:?}, not {expected:?}")]
    WrongCodec {
        /// Codec of the stored state.
        found: Codec,
        /// Codec that was asked for.
        expected: Codec,
    },
    /// The state has an older version and the format has no upgrade hook: add
    /// one, or ask for that version.
    #[error("the state has version {found}, older than {known}, and nothing upgrades it")]
    OlderStateVersion {
        /// Version of the stored state.
        found: u32,
        /// Version of the format.
        known: u32,
    },
    /// The upgrade hook gave up. The state is stored unchanged.
    #[error("the state of version {found} could not be upgraded")]
    UpgradeFailed {
        /// Version of the stored state.
        found: u32,
        /// What the hook said.
        source: BoxError,
    },
    /// The bytes are what was stored, and they are not of this type: ask for
    /// the type that was stored, or raise the version when the type changes.
    #[error("the state is not of the type that was asked for")]
    OtherType(#[source] CodecError),

    // Upgrade this program.
    /// A newer program wrote the state. It was left untouched.
    #[error("the state has version {found}, newer than {known}")]
    NewerStateVersion {
        /// Version of the stored state.
        found: u32,
        /// Version of the format.
        known: u32,
    },
    /// The evidence was written in a form that this build does not read. It
    /// was left untouched.
    #[error("the evidence cannot be read: {reason}")]
    UnreadableEvidence {
        /// What is unknown about it.
        reason: String,
    },

    // As the store says.
    /// The store did not do what it was asked, or a limit or rule of its
    /// vocabulary was broken.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<InvalidInput> for CheckpointError {
    fn from(error: InvalidInput) -> CheckpointError {
        StorageError::from(error).into()
    }
}

impl From<LimitExceeded> for CheckpointError {
    fn from(error: LimitExceeded) -> CheckpointError {
        StorageError::from(error).into()
    }
}

/// Why evidence may not speak of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathRefusal {
    /// It leaves the base directory, as it stands or through a symbolic link,
    /// and [`allow_outside`](crate::CheckpointConfig::allow_outside) is off.
    Outside,
    /// It is a file of the store itself, by name or by hard link: opening and
    /// closing one would drop the engine's locks.
    OwnFile,
}

impl std::fmt::Display for PathRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PathRefusal::Outside => "leaves the base directory",
            PathRefusal::OwnFile => "is a file of the store itself",
        })
    }
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn first_failure(results: &[EvidenceResult]) -> String {
    let mut failed = results
        .iter()
        .filter(|result| result.outcome == EvidenceOutcome::Failed);
    let Some(first) = failed.next() else {
        return "too few items passed".into();
    };
    let others = failed.count();
    let reason = first.reason.as_deref().unwrap_or("no reason given");
    let first = format!("item {} ({}): {reason}", first.item, first.kind);
    match others {
        0 => first,
        others => format!("{first}, and {others} more"),
    }
}

#[cfg(test)]
mod tests {
    use agentos_core::Timestamp;

    use super::*;

    #[test]
    fn a_failure_names_its_first_item_and_counts_the_others() {
        let result = |item, outcome, reason: Option<&str>| EvidenceResult {
            item,
            kind: "file_digest".into(),
            outcome,
            reason: reason.map(str::to_owned),
            checked_at: Timestamp::from_unix_micros(0),
        };
        let error = CheckpointError::EvidenceFailed {
            results: vec![
                result(0, EvidenceOutcome::Passed, None),
                result(1, EvidenceOutcome::Failed, Some("out.txt does not exist")),
                result(2, EvidenceOutcome::Failed, None),
            ],
        };
        assert_eq!(
            error.to_string(),
            "the evidence does not hold: item 1 (file_digest): out.txt does not exist, and 1 more"
        );
    }

    #[test]
    fn want_of_resources_is_told_from_what_is_wrong_with_a_file() {
        use rustix::io::Errno;
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN] {
            assert!(is_exhaustion(&errno.into()), "{errno:?}");
        }
        for errno in [Errno::NOENT, Errno::ACCESS, Errno::IO] {
            assert!(!is_exhaustion(&errno.into()), "{errno:?}");
        }
    }
}

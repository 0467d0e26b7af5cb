//! Evidence: what a checkpoint claims about the outside world, as a pack with a
//! policy, and the JSON in which it is stored.
//!
//! The JSON carries a format version. A form that this build does not know,
//! down to an unknown field, is unreadable, never half understood: evidence
//! that is not understood must not pass. An empty pack verifies nothing.

pub(crate) mod artifact;
pub(crate) mod command;
pub(crate) mod custom;
pub(crate) mod digest;
pub(crate) mod row;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use agentos_core::limits::{EVIDENCE_BYTES_MAX, EVIDENCE_ITEMS_MAX, check_size};
use agentos_core::{EvidenceOutcome, EvidenceResult, InvalidInput, StorageError, Verification};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use artifact::{ArtifactExists, ArtifactKind};
pub use command::{CommandExit, Recheck};
pub use custom::{Check, CheckContext, Custom, EvidenceKind};
pub use digest::{DigestAlgorithm, FileDigest};
pub use row::DbRow;

use crate::error::{CheckpointError, with_causes};

/// Format of evidence written by this build.
///
/// - 1: first release.
const FORMAT: u32 = 1;

/// One claim about the outside world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Evidence {
    /// Something exists at a path.
    ArtifactExists(ArtifactExists),
    /// A file has a certain content.
    FileDigest(FileDigest),
    /// A command ended as it should.
    CommandExit(CommandExit),
    /// A row is in a database.
    DbRow(DbRow),
    /// A kind of the user's own, registered by name.
    Custom(Custom),
}

impl Evidence {
    /// The kinds that this crate knows, as results name them.
    pub(crate) const OWN_KINDS: &'static [&'static str] = &[
        "artifact_exists",
        "file_digest",
        "command_exit",
        "db_row",
        "custom",
    ];

    /// The file at `path` keeps the content that it has when the checkpoint is
    /// prepared: its blake3 digest is taken then.
    pub fn file(path: impl Into<PathBuf>) -> Evidence {
        FileDigest::new(path, DigestAlgorithm::Blake3).into()
    }

    /// Something of this kind exists at `path`.
    pub fn exists(path: impl Into<PathBuf>, kind: ArtifactKind) -> Evidence {
        ArtifactExists::new(path, kind).into()
    }

    /// The command `argv` exited with `exit_code`, which must be 0; `None` when
    /// a signal killed it. See [`CommandExit`] for other codes and rechecks.
    pub fn command<I>(argv: I, exit_code: Option<i32>) -> Evidence
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        CommandExit::new(argv, exit_code).into()
    }

    /// The kind that the user registered as `name` holds for `params`.
    pub fn custom(name: impl Into<String>, params: Value) -> Evidence {
        Custom::new(name, params).into()
    }

    /// The kind, as results name it: one of this crate's, or the name under
    /// which the user's own is registered.
    pub fn kind(&self) -> &str {
        match self {
            Evidence::ArtifactExists(_) => "artifact_exists",
            Evidence::FileDigest(_) => "file_digest",
            Evidence::CommandExit(_) => "command_exit",
            Evidence::DbRow(_) => "db_row",
            Evidence::Custom(custom) => &custom.name,
        }
    }

    /// The path that it speaks of, as it was given.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Evidence::ArtifactExists(artifact) => Some(artifact.path()),
            Evidence::FileDigest(digest) => Some(digest.path()),
            Evidence::CommandExit(command) => command.path(),
            Evidence::DbRow(row) => row.path(),
            Evidence::Custom(_) => None,
        }
    }

    fn validate(&self) -> Result<(), CheckpointError> {
        match self {
            Evidence::ArtifactExists(artifact) => artifact.validate(),
            Evidence::FileDigest(digest) => digest.validate(),
            Evidence::CommandExit(command) => command.validate(),
            Evidence::DbRow(row) => row.validate(),
            Evidence::Custom(custom) => Ok(custom.validate()?),
        }
    }
}

macro_rules! evidence_from {
    ($($kind:ident)+) => {
        $(
            impl From<$kind> for Evidence {
                fn from(item: $kind) -> Evidence {
                    Evidence::$kind(item)
                }
            }
        )+
    };
}

evidence_from! { ArtifactExists FileDigest CommandExit DbRow Custom }

/// How many items of a pack must pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Every one.
    All,
    /// At least so many; never more than there are, never none.
    AtLeast(NonZeroU32),
}

impl Policy {
    /// Whether `passed` of `items` are enough.
    fn holds(self, passed: usize, items: usize) -> bool {
        match self {
            Policy::All => passed == items,
            Policy::AtLeast(least) => passed >= least.get() as usize,
        }
    }
}

/// What a checkpoint claims about the outside world.
#[derive(Debug, Clone, PartialEq)]
pub struct Pack {
    policy: Policy,
    items: Vec<Evidence>,
}

impl Pack {
    /// Every item must pass. Without items nothing is claimed, and nothing can
    /// be verified.
    pub fn all<I>(items: I) -> Pack
    where
        I: IntoIterator,
        I::Item: Into<Evidence>,
    {
        Pack {
            policy: Policy::All,
            items: items.into_iter().map(Into::into).collect(),
        }
    }

    /// At least `least` items must pass. Refused when the checkpoint is
    /// prepared if there are fewer.
    pub fn at_least<I>(least: NonZeroU32, items: I) -> Pack
    where
        I: IntoIterator,
        I::Item: Into<Evidence>,
    {
        Pack {
            policy: Policy::AtLeast(least),
            ..Pack::all(items)
        }
    }

    /// How many items must pass.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The items, in order.
    pub fn items(&self) -> &[Evidence] {
        &self.items
    }

    pub(crate) fn items_mut(&mut self) -> &mut [Evidence] {
        &mut self.items
    }

    /// Reads the evidence of a stored checkpoint.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::UnreadableEvidence`] for a form that this build does
    /// not know, and for claims that it would never have stored.
    pub fn from_json(text: &str) -> Result<Pack, CheckpointError> {
        let unreadable = |reason: String| CheckpointError::UnreadableEvidence { reason };
        let announced: Announced =
            serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        if announced.format != FORMAT {
            let found = announced.format;
            return Err(unreadable(format!(
                "it has format {found}, and this build reads {FORMAT}"
            )));
        }
        let StoredPack { policy, items, .. } =
            serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        let pack = Pack { policy, items };
        pack.validate_items()
            .map_err(|error| unreadable(with_causes(&error)))?;
        Ok(pack)
    }

    /// As it is stored, in bytes that [`Pack::from_json`] reads.
    pub(crate) fn to_json(&self) -> Result<String, CheckpointError> {
        let stored = StoredPackRef {
            format: FORMAT,
            policy: self.policy,
            items: &self.items,
        };
        serde_json::to_string(&stored).map_err(|error| invalid(error.to_string()))
    }

    /// Refuses what may not be stored, before anything is looked at.
    pub(crate) fn validate(&self) -> Result<(), CheckpointError> {
        self.validate_items()?;
        let with_digests = Pack {
            policy: self.policy,
            items: self.items.iter().map(with_placeholder).collect(),
        };
        let text = with_digests.to_json()?;
        check_size("evidence bytes", text.len(), EVIDENCE_BYTES_MAX)?;
        // Parameters nested too deeply can be written and never read again.
        if Pack::from_json(&text).ok().as_ref() != Some(&with_digests) {
            return Err(invalid("cannot be read back: it is nested too deeply"));
        }
        Ok(())
    }

    fn validate_items(&self) -> Result<(), CheckpointError> {
        check_size("evidence items", self.items.len(), EVIDENCE_ITEMS_MAX)?;
        if let Policy::AtLeast(least) = self.policy
            && least.get() as usize > self.items.len()
        {
            let items = self.items.len();
            return Err(invalid(format!("asks for {least} of {items} items")));
        }
        self.items.iter().try_for_each(Evidence::validate)
    }

    /// What the results of all items say together.
    pub(crate) fn verdict(&self, results: &[EvidenceResult]) -> Verification {
        debug_assert_eq!(results.len(), self.items.len());
        let passed = results
            .iter()
            .filter(|result| result.outcome == EvidenceOutcome::Passed)
            .count();
        if self.items.is_empty() {
            Verification::Unverified
        } else if self.policy.holds(passed, self.items.len()) {
            Verification::Verified
        } else {
            Verification::Failed
        }
    }

    /// Whether the pack may still hold when so many items are known to fail.
    pub(crate) fn may_hold(&self, failed: usize) -> bool {
        let items = self.items.len();
        self.policy.holds(items.saturating_sub(failed), items)
    }
}

fn with_placeholder(item: &Evidence) -> Evidence {
    match item {
        Evidence::FileDigest(digest) if digest.is_pending() => digest.with_placeholder().into(),
        item => item.clone(),
    }
}

#[derive(Deserialize)]
struct Announced {
    format: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPack {
    #[serde(rename = "format")]
    _format: u32,
    policy: Policy,
    items: Vec<Evidence>,
}

#[derive(Serialize)]
struct StoredPackRef<'a> {
    format: u32,
    policy: Policy,
    items: &'a [Evidence],
}

fn invalid(reason: impl Into<String>) -> CheckpointError {
    InvalidInput::new("evidence", reason).into()
}

/// Refuses a path that names nothing, or that JSON could not keep.
fn check_path(path: &Path) -> Result<(), CheckpointError> {
    let reason = match path.to_str() {
        None => "is not Unicode",
        Some("") => "is empty",
        Some(text) if text.contains('\0') => "contains NUL",
        Some(_) => return Ok(()),
    };
    Err(StorageError::from(InvalidInput::new("evidence path", reason)).into())
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)])
        .collect()
}

/// Reads hexadecimal; `None` for anything else.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|value| value.try_into().ok()))
        .collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    Some(pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests;

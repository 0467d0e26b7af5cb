//! How checkpoints are made: where evidence may look, and what happens when it
//! does not hold. Plain data; checked when the manager is made.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::CheckpointError;
use crate::evidence::EvidenceKind;
use crate::evidence::custom::check_kind_name;

/// What to do with a checkpoint whose evidence does not hold when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnFailure {
    /// Say so and store nothing.
    #[default]
    Refuse,
    /// Store it as failed. Resume passes it over unless the evidence has come
    /// to hold by then.
    StoreAsFailed,
}

/// How a [`CheckpointManager`](crate::CheckpointManager) makes checkpoints.
#[derive(Clone)]
pub struct CheckpointConfig {
    pub(crate) base_dir: PathBuf,
    pub(crate) allow_outside: bool,
    pub(crate) auto_verify: bool,
    pub(crate) sync_evidence: bool,
    pub(crate) on_failure: OnFailure,
    kinds: Vec<(String, Arc<dyn EvidenceKind>)>,
}

impl CheckpointConfig {
    /// Evidence lies under `base_dir`, which must exist. It is made durable and
    /// verified before the commit, and what does not hold is refused.
    pub fn new(base_dir: impl Into<PathBuf>) -> CheckpointConfig {
        CheckpointConfig {
            base_dir: base_dir.into(),
            allow_outside: false,
            auto_verify: true,
            sync_evidence: true,
            on_failure: OnFailure::Refuse,
            kinds: Vec::new(),
        }
    }

    /// Whether evidence may speak of files outside the base directory. Off
    /// unless turned on. The store's own files are refused either way.
    #[must_use]
    pub fn allow_outside(mut self, allow: bool) -> CheckpointConfig {
        self.allow_outside = allow;
        self
    }

    /// Whether evidence is verified before the commit. On unless turned off;
    /// then checkpoints are stored as unverified, and resume checks them.
    #[must_use]
    pub fn auto_verify(mut self, verify: bool) -> CheckpointConfig {
        self.auto_verify = verify;
        self
    }

    /// Whether the files that evidence speaks of, and their directories up to
    /// the base directory, are synced before the commit. On unless turned off;
    /// then a power cut may keep a checkpoint and take its files.
    #[must_use]
    pub fn sync_evidence(mut self, sync: bool) -> CheckpointConfig {
        self.sync_evidence = sync;
        self
    }

    /// What to do when evidence does not hold before the commit.
    #[must_use]
    pub fn on_failure(mut self, on_failure: OnFailure) -> CheckpointConfig {
        self.on_failure = on_failure;
        self
    }

    /// Registers a kind of evidence of the user's own. Every program that
    /// resumes from such checkpoints must register it as well: a kind that is
    /// not registered fails.
    #[must_use]
    pub fn kind(
        mut self,
        name: impl Into<String>,
        kind: impl EvidenceKind + 'static,
    ) -> CheckpointConfig {
        self.kinds.push((name.into(), Arc::new(kind)));
        self
    }

    pub(crate) fn refuses(&self) -> bool {
        self.on_failure == OnFailure::Refuse
    }

    pub(crate) fn find_kind(&self, name: &str) -> Option<&dyn EvidenceKind> {
        let (_, kind) = self.kinds.iter().find(|(known, _)| known == name)?;
        Some(kind.as_ref())
    }

    /// Checks the names of kinds, and makes the base directory absolute and
    /// free of symbolic links.
    pub(crate) fn settle(mut self) -> Result<CheckpointConfig, CheckpointError> {
        for (at, (name, _)) in self.kinds.iter().enumerate() {
            check_kind_name(name)?;
            if self.kinds[..at].iter().any(|(earlier, _)| earlier == name) {
                let reason = format!("{name:?} is registered twice");
                return Err(agentos_core::InvalidInput::new("evidence kind", reason).into());
            }
        }
        let unusable = |source| CheckpointError::BaseDirectory {
            path: self.base_dir.clone(),
            source,
        };
        let base_dir = self.base_dir.canonicalize().map_err(unusable)?;
        if !base_dir.metadata().map_err(unusable)?.is_dir() {
            return Err(unusable(std::io::ErrorKind::NotADirectory.into()));
        }
        self.base_dir = base_dir;
        Ok(self)
    }
}

impl std::fmt::Debug for CheckpointConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds: Vec<&str> = self.kinds.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("CheckpointConfig")
            .field("base_dir", &self.base_dir)
            .field("allow_outside", &self.allow_outside)
            .field("auto_verify", &self.auto_verify)
            .field("sync_evidence", &self.sync_evidence)
            .field("on_failure", &self.on_failure)
            .field("kinds", &kinds)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::evidence::{Check, CheckContext};

    fn pass(_: &Value, _: &CheckContext<'_>) -> Check {
        Check::Passed
    }

    #[test]
    fn the_base_directory_is_made_absolute_and_plain() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        std::fs::create_dir(top.join("real")).unwrap();
        std::os::unix::fs::symlink("real", top.join("link")).unwrap();
        let config = CheckpointConfig::new(top.join("link/../link"));
        assert_eq!(config.settle().unwrap().base_dir, top.join("real"));
    }

    #[test]
    fn a_base_directory_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [file, dir.path().join("missing")] {
            match CheckpointConfig::new(&path).settle().unwrap_err() {
                CheckpointError::BaseDirectory { path: named, .. } => assert_eq!(named, path),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn kinds_have_names_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let config = || CheckpointConfig::new(dir.path()).kind("mine", pass);
        assert!(config().kind("other", pass).settle().is_ok());
        for taken in ["mine", "file_digest", ""] {
            assert!(config().kind(taken, pass).settle().is_err(), "{taken}");
        }
        let config = config().settle().unwrap();
        assert!(config.find_kind("mine").is_some());
        assert!(config.find_kind("other").is_none());
    }
}

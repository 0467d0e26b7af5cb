//! Evidence that something exists: a file, a directory, or anything at a path.
//! Only names and attributes are looked at; to sync it, a file is opened.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::CheckpointError;
use crate::evidence::{Check, check_path};
use crate::paths::{Base, kind_in_words};
use crate::sync::Syncer;

/// What must be at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything.
    Any,
}

/// Something exists at a path. A symbolic link stands for what it leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactExists {
    path: PathBuf,
    artifact: ArtifactKind,
}

impl ArtifactExists {
    /// Something of this `kind` is at `path`.
    pub fn new(path: impl Into<PathBuf>, kind: ArtifactKind) -> ArtifactExists {
        ArtifactExists {
            path: path.into(),
            artifact: kind,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn validate(&self) -> Result<(), CheckpointError> {
        check_path(&self.path)
    }

    /// Checks it, and with `syncer` makes it durable if it holds.
    pub(crate) fn check(
        &self,
        base: &Base<'_>,
        syncer: Option<&mut Syncer>,
    ) -> Result<Check, CheckpointError> {
        let path = self.path.display();
        let found = match base.find(&self.path) {
            Ok(found) => found,
            Err(problem) => return Ok(Check::failed(format!("{path} {problem}"))),
        };
        let Some(meta) = &found.meta else {
            return Ok(Check::failed(format!("{path} does not exist")));
        };
        let expected = match self.artifact {
            ArtifactKind::File if !meta.is_file() => "a file",
            ArtifactKind::Directory if !meta.is_dir() => "a directory",
            _ => {
                if let Some(syncer) = syncer {
                    syncer.found(base, &found)?;
                }
                return Ok(Check::Passed);
            }
        };
        let is = kind_in_words(meta);
        Ok(Check::failed(format!("{path} is {is}, not {expected}")))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn each_kind_passes_for_what_it_names_and_fails_for_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::write(top.join("file"), "").unwrap();
        fs::create_dir(top.join("dir")).unwrap();
        symlink("file", top.join("link")).unwrap();
        symlink("nothing", top.join("dangling")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, top.join("pipe"), 0o600.into()).unwrap();
        let base = Base::new(&top, false, &[]);
        let check = |path: &str, kind| {
            let mut syncer = Syncer::default();
            ArtifactExists::new(path, kind)
                .check(&base, Some(&mut syncer))
                .unwrap()
        };
        use ArtifactKind::{Any, Directory, File};
        for (path, kind) in [
            ("file", File),
            ("link", File),
            ("dir", Directory),
            (".", Directory),
            ("file", Any),
            ("dir", Any),
            ("pipe", Any),
        ] {
            assert_eq!(check(path, kind), Check::Passed, "{path} {kind:?}");
        }
        for (path, kind, reason) in [
            ("dir", File, "dir is a directory, not a file"),
            ("pipe", File, "pipe is a named pipe, not a file"),
            ("file", Directory, "file is a file, not a directory"),
            ("nothing", Any, "nothing does not exist"),
            ("dangling", Any, "dangling does not exist"),
            ("../away", Any, "../away leaves the base directory"),
        ] {
            assert_eq!(check(path, kind), Check::failed(reason));
        }
    }
}

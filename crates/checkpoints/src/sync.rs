//! Makes what evidence speaks of durable, before the checkpoint is.
//!
//! A file's content lasts once the file is synced, and its name once the
//! directory is that holds it. Each file and each directory is synced once per
//! pack: files as they come, through the descriptor that was read; directories
//! at the end, the deepest first.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use agentos_core::crash_point;

use crate::error::CheckpointError;
use crate::paths::{Base, FileId, Found, Place, id_of, open_directory, open_regular};

/// What one pack still has to sync, and what it has synced.
#[derive(Debug, Default)]
pub(crate) struct Syncer {
    files: HashSet<FileId>,
    directories: BTreeSet<PathBuf>,
    /// Calls of fsync so far.
    syncs: u32,
}

impl Syncer {
    /// Syncs an opened file, and notes the directories that name it.
    pub(crate) fn file(
        &mut self,
        base: &Base<'_>,
        place: &Place,
        file: &File,
    ) -> Result<(), CheckpointError> {
        let meta = file
            .metadata()
            .map_err(|source| not_durable(&place.path, source))?;
        if !self.files.contains(&id_of(&meta)) {
            crash_point!("evidence.before_file_synced");
            file.sync_all()
                .map_err(|source| not_durable(&place.path, source))?;
            crash_point!("evidence.file_synced");
            self.syncs += 1;
            self.files.insert(id_of(&meta));
        }
        self.directories.extend(base.directories_naming(place));
        Ok(())
    }

    /// Syncs whatever was found: a file's content, a directory's entries, and
    /// of anything else (a named pipe, a socket) only the name.
    pub(crate) fn found(&mut self, base: &Base<'_>, found: &Found) -> Result<(), CheckpointError> {
        let Found { place, meta } = found;
        match meta {
            None => return Ok(()),
            Some(meta) if meta.is_file() => {
                let file = open_regular(&place.path, meta)
                    .map_err(|source| not_durable(&place.path, source))?;
                self.file(base, place, &file)?;
            }
            Some(meta) if meta.is_dir() => {
                self.directories.insert(place.path.clone());
            }
            Some(_) => {}
        }
        self.directories.extend(base.directories_naming(place));
        Ok(())
    }

    /// The directories, in the order in which they are synced.
    fn order(&self) -> Vec<&Path> {
        let mut order: Vec<&Path> = self.directories.iter().map(PathBuf::as_path).collect();
        order.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
        order
    }

    /// Syncs the directories that were noted.
    pub(crate) fn finish(self) -> Result<(), CheckpointError> {
        for dir in self.order() {
            crash_point!("evidence.before_directory_synced");
            open_directory(dir)
                .and_then(|dir| dir.sync_all())
                .map_err(|source| not_durable(dir, source))?;
            crash_point!("evidence.directory_synced");
        }
        let syncs = self.syncs as usize + self.directories.len();
        tracing::debug!(syncs, "evidence made durable");
        Ok(())
    }

    /// Calls of fsync so far; directories come at the end.
    #[cfg(test)]
    pub(crate) fn syncs(&self) -> u32 {
        self.syncs
    }
}

fn not_durable(path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::NotDurable {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_file_and_directory_is_synced_once_and_the_deepest_first() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/one"), "1").unwrap();
        fs::hard_link(top.join("a/b/one"), top.join("a/two")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, top.join("pipe"), 0o600.into()).unwrap();
        let base = Base::new(&top, false, &[]);
        let mut syncer = Syncer::default();
        for path in ["a/b/one", "a/two", "a/b", "a/b/one", "pipe", "nothing"] {
            let found = base.find(Path::new(path)).unwrap();
            syncer.found(&base, &found).unwrap();
        }
        assert_eq!(syncer.syncs(), 1, "one file under two names");
        assert_eq!(
            syncer.order(),
            [top.join("a/b"), top.join("a"), top.clone()]
        );
        syncer.finish().unwrap();
    }

    #[test]
    fn a_directory_that_is_gone_is_not_durable() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let syncer = Syncer {
            directories: BTreeSet::from([gone.clone()]),
            ..Syncer::default()
        };
        match syncer.finish().unwrap_err() {
            CheckpointError::NotDurable { path, .. } => assert_eq!(path, gone),
            other => panic!("{other:?}"),
        }
    }
}

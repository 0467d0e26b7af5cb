//! Where a store's files are.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agentos_core::{InvalidInput, StorageError};

use super::error::of_io;
use super::registry::open_files;

/// Suffix of a database that is being made. Long, so that it is nobody else's file.
pub(crate) const NEW: &str = ".agentos-new";

/// Suffix of the side file whose lock is held while writing.
pub(crate) const LOCK: &str = ".wlock";

/// Suffix of the side file whose lock is held by the next to write.
pub(crate) const TURNSTILE: &str = ".wturn";

/// Suffix of the file whose room is given up when the disk is full.
pub(crate) const BALLAST: &str = ".agentos-ballast";

/// Suffix of that file while it is being made.
pub(crate) const NEW_BALLAST: &str = ".agentos-ballast-new";

/// The one path of a database, whichever way it was named: two names of one
/// file must share a write lock.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, StorageError> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(InvalidInput::new("database path", "contains NUL").into());
    }
    if let Ok(found) = fs::canonicalize(path) {
        return Ok(found);
    }
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        let reason = format!("{} is a link to nowhere", path.display());
        return Err(InvalidInput::new("database path", reason).into());
    }
    let Some(name) = path.file_name() else {
        let reason = format!("{} names no file", path.display());
        return Err(InvalidInput::new("database path", reason).into());
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = fs::canonicalize(parent).map_err(|error| of_io(error, parent))?;
    Ok(parent.join(name))
}

/// `path` with `suffix` after its last letter.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    name.into()
}

/// Refuses to write to a file of the database at `path`, or of any other that
/// this process has open, by whichever name.
pub(crate) fn refuse_own(
    path: &Path,
    target: &Path,
    what: &'static str,
) -> Result<(), StorageError> {
    let identity = |path: &Path| {
        fs::metadata(path)
            .ok()
            .map(|found| (found.dev(), found.ino()))
    };
    let found = identity(target);
    let own = files(path)
        .iter()
        .chain(&open_files())
        .any(|file| file == target || (found.is_some() && identity(file) == found));
    if own {
        let reason = format!("{} is a file of an open store", target.display());
        return Err(InvalidInput::new(what, reason).into());
    }
    Ok(())
}

/// Every file that belongs to the database at `path`.
pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![path.to_path_buf()];
    let suffixes = [
        "-wal",
        "-shm",
        "-journal",
        LOCK,
        TURNSTILE,
        NEW,
        BALLAST,
        NEW_BALLAST,
    ];
    files.extend(suffixes.map(|suffix| with_suffix(path, suffix)));
    files
}

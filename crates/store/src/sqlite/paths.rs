//! Where a store's files are.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use agentos_core::{InvalidInput, StorageError};

use super::error::of_io;

/// The one path of a database, whichever way it was named: two names of one
/// file must share a write lock.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, StorageError> {
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

/// Every file that belongs to the database at `path`.
pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![path.to_path_buf()];
    files.extend(
        ["-wal", "-shm", "-journal", ".wlock", ".new"].map(|suffix| with_suffix(path, suffix)),
    );
    files
}

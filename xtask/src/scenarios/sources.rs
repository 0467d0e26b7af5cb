//! A snapshot of this project's own source files, as an input that is real and
//! that nobody edits while a scenario runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Below the root of the repository.
const FOLDERS: [&str; 2] = ["crates", "xtask"];
/// A few of them.
const SOME: [&str; 1] = ["xtask/src/chat"];
/// Deeper folders are not looked into.
const DEPTH_MAX: u32 = 8;

/// Copies every Rust file into one flat folder, which it makes. A file keeps its
/// path as its name, with `~` for `/`.
pub(super) fn copy_into(folder: &Path) -> io::Result<()> {
    copy(&FOLDERS, folder)
}

/// Copies a few of them, for work that is done often.
pub(super) fn copy_some_into(folder: &Path) -> io::Result<()> {
    copy(&SOME, folder)
}

fn copy(folders: &[&str], folder: &Path) -> io::Result<()> {
    fs::create_dir(folder)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for below in folders {
        let mut files = Vec::new();
        rust_files(&root.join(below), DEPTH_MAX, &mut files)?;
        for file in files {
            let path = file.strip_prefix(&root).unwrap_or(&file);
            let name = path.to_string_lossy().replace('/', "~");
            // An editor may have removed it for a moment.
            if let Some(content) = unless_gone(fs::read(&file))? {
                fs::write(folder.join(name), content)?;
            }
        }
    }
    Ok(())
}

fn rust_files(folder: &Path, depth: u32, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let Some(depth) = depth.checked_sub(1) else {
        return Ok(());
    };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let Some(kind) = unless_gone(entry.file_type())? else {
            continue;
        };
        if kind.is_dir() {
            rust_files(&path, depth, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_this_file_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = folder.path().join("snapshot");
        copy_into(&snapshot).unwrap();
        let here = snapshot.join("xtask~src~scenarios~sources.rs");
        assert_eq!(
            fs::read_to_string(here).unwrap(),
            include_str!("sources.rs")
        );
    }
}

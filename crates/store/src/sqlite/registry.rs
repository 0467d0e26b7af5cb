//! Which databases this process has open.
//!
//! A file of any of them must be opened by nobody but SQLite: closing such a
//! descriptor drops the locks of the whole process, also those of another store.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::paths::files;

static OPEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A database that is open, or being opened, until this is dropped.
#[derive(Debug)]
pub(crate) struct Registered(PathBuf);

impl Registered {
    /// Before the first connection to the database at `path` is opened.
    pub(crate) fn new(path: &Path) -> Registered {
        OPEN.lock().push(path.to_path_buf());
        Registered(path.to_path_buf())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut open = OPEN.lock();
        if let Some(place) = open.iter().position(|path| *path == self.0) {
            open.swap_remove(place);
        }
    }
}

/// Every file of every database that this process has open.
pub(crate) fn open_files() -> Vec<PathBuf> {
    let mut open = OPEN.lock().clone();
    open.sort_unstable();
    open.dedup();
    open.iter().flat_map(|path| files(path)).collect()
}

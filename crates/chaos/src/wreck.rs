//! What a scenario leaves behind: its directory, and what its victims said.
//!
//! The directory is removed with this, unless somebody keeps it.

use std::io;
use std::path::{Path, PathBuf};

use crate::transcript::Transcript;

/// What a scenario leaves behind.
pub(crate) struct Wreck {
    pub(crate) root: tempfile::TempDir,
    pub(crate) transcripts: Vec<Transcript>,
}

impl Wreck {
    pub(crate) fn new(work_dir: &Path) -> io::Result<Wreck> {
        std::fs::create_dir_all(work_dir)?;
        let root = tempfile::Builder::new()
            .prefix("agentos-chaos-")
            .tempdir_in(work_dir)?;
        let wreck = Wreck {
            root,
            transcripts: Vec::new(),
        };
        std::fs::create_dir(wreck.run_dir())?;
        std::fs::create_dir(wreck.log_dir())?;
        Ok(wreck)
    }

    /// Belongs to the scenario.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.root.path().join("run")
    }

    /// The victims' standard error, apart from the scenario's own files.
    pub(crate) fn log_dir(&self) -> PathBuf {
        self.root.path().join("victims")
    }
}

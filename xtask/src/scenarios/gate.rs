//! A gate at which victims wait: a file that is locked until it opens. Whoever is
//! waiting there does nothing else, and holds nothing of the store.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use agentos_chaos::Run;

pub(super) struct Gate {
    path: PathBuf,
    file: File,
}

impl Gate {
    /// Makes one that is shut, in the directory of a run.
    pub(super) fn shut(run: &Run, name: &str) -> io::Result<Gate> {
        let path = run.dir().join(format!("gate-{name}"));
        let file = File::create(&path)?;
        file.lock()?;
        Ok(Gate { path, file })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Lets everybody pass, those who come later too.
    pub(super) fn open(&self) -> io::Result<()> {
        self.file.unlock()
    }
}

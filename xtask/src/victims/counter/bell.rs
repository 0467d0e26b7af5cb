//! A tool that fails the first time it is used for a part of the work, and succeeds from
//! then on. The outside world counts its effects, and knows by their keys which were made.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use agentos_core::Finding;
use agentos_idempotency::{DoubtfulCall, ToolFailure, ToolOutcome, ToolOutput};

/// What rang: a line each, with the key of its call and the part of the work.
pub(crate) const RUNG: &str = "rung.log";
/// What was refused: a line each, with the part of the work.
const REFUSED: &str = "refused.log";
/// The tool's name.
pub(crate) const RING: &str = "ring";
/// So often it is to ring for each part.
pub(crate) const RINGS: u64 = 2;

/// The bell of an agent's folder.
#[derive(Debug, Clone)]
pub(super) struct Bell {
    work: PathBuf,
}

impl Bell {
    pub(super) fn of(work: &Path) -> Bell {
        Bell {
            work: work.to_owned(),
        }
    }

    /// Rings, unless nobody listens yet.
    pub(super) fn ring(&self, key: &str, part: u64) -> Result<ToolOutput, ToolFailure> {
        let unknown = |error: io::Error| ToolFailure::unknown(error.to_string());
        let refused = self.read(REFUSED).map_err(unknown)?;
        let part = part.to_string();
        if !refused.lines().any(|line| line == part) {
            self.append(REFUSED, &format!("{part}\n"))
                .map_err(unknown)?;
            return Err(ToolFailure::failed("nobody listens", ""));
        }
        let line = format!("{key} {part}\n");
        self.append(RUNG, &line).map_err(unknown)?;
        Ok(rung())
    }

    /// Asks whether it rang for a call.
    pub(super) fn ask(&self, call: &DoubtfulCall) -> Finding<ToolOutcome> {
        let lines = match self.read(RUNG) {
            Ok(lines) => lines,
            Err(error) => return Finding::CannotTell(error.to_string()),
        };
        let is_it = |line: &str| line.split(' ').next() == Some(call.key.as_str());
        match lines.lines().any(is_it) {
            true => Finding::Happened(ToolOutcome::Done(rung())),
            false => Finding::DidNotHappen,
        }
    }

    fn read(&self, name: &str) -> io::Result<String> {
        match fs::read_to_string(self.work.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        }
    }

    /// One call, so that a kill leaves a line or none.
    fn append(&self, name: &str, line: &str) -> io::Result<()> {
        let path = self.work.join(name);
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(line.as_bytes())
    }
}

fn rung() -> ToolOutput {
    ToolOutput::from("rung")
}

//! A victim whose disk misbehaves: SQLite's calls fail at chosen moments, or each sync takes
//! longer. The victim knows nothing of it; a shim between SQLite and its files does it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use agentos_crash_vfs::{Fault, FileKind, Installed, Operation, Shim};
use serde::{Deserialize, Serialize};

use super::Role;

/// The shim of this process, until its end.
static SHIM: OnceLock<Installed> = OnceLock::new();

/// The role of a victim whose disk misbehaves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shimmed {
    /// The directory whose databases it is about.
    pub(crate) dir: PathBuf,
    /// How much longer each sync takes, in milliseconds.
    pub(crate) sync_delay_ms: u64,
    /// What fails.
    pub(crate) failing: Option<Failing>,
    /// What the victim does.
    pub(crate) role: Box<Role>,
}

/// Calls that fail: from the `nth` on so many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failing {
    /// `read`, `write`, `sync`, …
    pub(crate) operation: String,
    /// Of the log alone, or of the database alone.
    pub(crate) in_log: bool,
    pub(crate) nth: u64,
    pub(crate) times: u64,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.in_log { "log" } else { "database" };
        let Failing { operation, nth, .. } = self;
        write!(f, "{operation} {nth} of the {file} fails")?;
        match self.times {
            1 => Ok(()),
            u64::MAX => f.write_str(", and all after it"),
            times => write!(f, ", {times} in a row"),
        }
    }
}

impl Shimmed {
    pub(crate) fn run(self) -> Result<(), Box<dyn Error>> {
        let mut shim = Shim::over(&self.dir).sync_delay(Duration::from_millis(self.sync_delay_ms));
        if let Some(failing) = &self.failing {
            shim = shim.fault(failing.fault()?);
        }
        // It stays to the end of the process.
        let _ = SHIM.set(shim.install()?);
        self.role.play()
    }
}

impl Failing {
    fn fault(&self) -> Result<Fault, Box<dyn Error>> {
        let operation = Operation::ALL
            .into_iter()
            .find(|operation| operation.name() == self.operation)
            .ok_or_else(|| format!("no operation is called {}", self.operation))?;
        let kind = if self.in_log {
            FileKind::Wal
        } else {
            FileKind::Main
        };
        Ok(Fault::of(operation)
            .on(kind)
            .from_nth(self.nth)
            .times(self.times))
    }
}

/// How many calls of this process were made to fail so far.
pub(super) fn struck() -> u64 {
    SHIM.get().map_or(0, |shim| shim.counts().failed())
}

/// How often SQLite has called in this process, by operation.
pub(super) fn calls() -> BTreeMap<String, u64> {
    let counts = SHIM.get().map(Installed::counts).unwrap_or_default();
    let named = |operation: Operation| (operation.name().to_owned(), counts.of(operation));
    Operation::ALL.into_iter().map(named).collect()
}

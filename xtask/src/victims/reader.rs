//! A reader that holds its view of the database open, again and again: what a
//! shell in a transaction, or a slow report, does to the write-ahead log. It says
//! when it has ended one.

use std::error::Error;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use super::say;

/// The role of a reader.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reader {
    /// The database.
    pub(crate) db: PathBuf,
    /// How long it holds each view, in milliseconds.
    pub(crate) hold_ms: u64,
}

impl Reader {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let connection = Connection::open_with_flags(&self.db, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(60))?;
        loop {
            connection.execute_batch("BEGIN")?;
            connection.query_row("SELECT COUNT(*) FROM tasks", [], |_| Ok(()))?;
            thread::park_timeout(Duration::from_millis(self.hold_ms));
            connection.execute_batch("COMMIT")?;
            say("progress")?;
        }
    }
}

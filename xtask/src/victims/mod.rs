//! Victims: programs that exist to be killed. One role a file.
//!
//! A victim prints `ack …` after the commit, so a printed line is a promise. It
//! dies of its first error with a message and exit code 2. Its role travels as
//! JSON, so that starting one and being one cannot disagree.

mod agent;
mod appender;
mod counter;
mod janitor;
mod loader;
mod reader;
mod tally;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use agentos_chaos::VictimSpec;
use agentos_store::sqlite::{Config, DumpOptions, SqliteStore, dump};
use serde::{Deserialize, Serialize};

pub(crate) use self::agent::{Agent, LINES_PER_ITERATION, Progress, artifact_of, input_lines};
pub(crate) use self::appender::{Appender, State};
pub(crate) use self::counter::{ANSWER_EVENT, Counter, WORKED_LOG, names};
pub(crate) use self::janitor::{AUDITS_KEPT, Janitor, KEPT, numbered, results, retention, state};
pub(crate) use self::loader::{Loader, ack_path, newest_ack};
pub(crate) use self::reader::Reader;
pub(crate) use self::tally::{Answer, Tally, share};

/// What a victim does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Works in iterations: a command makes an artifact, a checkpoint keeps it.
    Agent(Agent),
    /// Appends checkpoints to one task.
    Appender(Appender),
    /// Counts words in iterations, until it has an exact answer.
    Counter(Counter),
    /// Tidies up and makes backups, in turns, while a thread of it appends.
    Janitor(Janitor),
    /// Does everything at once, as fast as it can.
    Loader(Loader),
    /// Holds its view of a database open, again and again.
    Reader(Reader),
    /// Opens a store, and says so before and after.
    Open { db: PathBuf },
    /// Writes the evidence of a database; nobody kills it.
    Dump { db: PathBuf, out: PathBuf },
}

/// Plays a role, as read from the command line.
pub(crate) fn run(role: &str) -> Result<(), Box<dyn Error>> {
    match serde_json::from_str(role)? {
        Role::Agent(agent) => agent.run(),
        Role::Appender(appender) => appender.run(),
        Role::Counter(counter) => counter.run(),
        Role::Janitor(janitor) => janitor.run(),
        Role::Loader(loader) => loader.run(),
        Role::Reader(reader) => reader.run(),
        Role::Open { db } => {
            say("open")?;
            drop(SqliteStore::open(Config::at(db))?);
            Ok(say("opened")?)
        }
        Role::Dump { db, out } => {
            dump(&db, &out, DumpOptions::default())?;
            Ok(())
        }
    }
}

/// The program that plays a role, and its arguments.
pub(crate) fn command(role: &Role) -> io::Result<(PathBuf, Vec<OsString>)> {
    let role = serde_json::to_string(role)?;
    Ok((std::env::current_exe()?, vec!["victim".into(), role.into()]))
}

/// The victim that plays a role.
pub(crate) fn spec(name: &str, role: &Role) -> io::Result<VictimSpec> {
    let (program, arguments) = command(role)?;
    Ok(VictimSpec::new(name, program).args(arguments))
}

/// Prints a line at once: what it says has happened.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

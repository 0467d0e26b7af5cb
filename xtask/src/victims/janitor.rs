//! A process that tidies up a store without an end: upkeep, then a backup, then
//! upkeep again. A thread of it appends meanwhile, so that there is always
//! something to tidy up. It says what it begins and what it has ended.

use std::error::Error;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use agentos_core::{
    AppendCheckpoint, CheckpointRule, CheckpointType, Codec, Retention, RowRule, Snapshot, Storage,
    TaskId,
};
use agentos_process::CommandSpec;
use agentos_recovery::{Mode, run_upkeep};
use agentos_store::sqlite::{Config, SqliteStore};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::say;
use crate::canary::Canary;

/// Checkpoints of each task that its rule keeps.
pub(crate) const KEPT: u32 = 5;
/// Audit lines that its rule keeps.
const AUDITS_KEPT: u64 = 20;

/// The role of a janitor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Janitor {
    /// The database.
    pub(crate) db: PathBuf,
    /// Where the backup goes.
    pub(crate) copy: PathBuf,
    /// The task that its thread appends to.
    pub(crate) task: String,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// What a janitor keeps.
pub(crate) fn retention() -> Retention {
    Retention {
        checkpoints: CheckpointRule::keep_last(KEPT),
        audits: RowRule {
            max_age: None,
            max_rows: Some(AUDITS_KEPT),
        },
        ..Retention::default()
    }
}

impl Janitor {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        say("open")?;
        let config = Config::at(&self.db).busy_timeout(Duration::from_secs(30));
        let store = SqliteStore::open(config)?;
        let task = TaskId::new(&self.task)?;
        thread::scope(|scope| {
            scope.spawn(|| end_with(append(&store, &task)));
            end_with(self.tidy(&store));
        });
        Ok(())
    }

    fn tidy(&self, store: &SqliteStore) -> Result<(), Box<dyn Error>> {
        for round in 1_u64.. {
            say(&format!("upkeep {round}"))?;
            if self.canary == Some(Canary::PruneNewestOnly) {
                self.prune_newest_only()?;
            } else {
                let report = run_upkeep(store, &retention(), Mode::Apply)?;
                if let Some(failure) = report.failures.into_iter().next() {
                    return Err(failure.error.into());
                }
            }
            say(&format!("backup {round}"))?;
            if self.canary == Some(Canary::CopyMainFile) {
                let copy = CommandSpec::new("cp").arg(&self.db).arg(&self.copy);
                agentos_process::run(&copy)?;
            } else {
                store.backup(&self.copy)?;
            }
            say(&format!("done {round}"))?;
        }
        Ok(())
    }

    /// Keeps the newest of each task, whatever they are.
    fn prune_newest_only(&self) -> rusqlite::Result<()> {
        let connection = Connection::open(&self.db)?;
        connection.busy_timeout(Duration::from_secs(30))?;
        let sql = "DELETE FROM checkpoints WHERE sequence_number <= (
                       SELECT last_sequence - ?1 FROM checkpoint_counters c
                       WHERE c.task_id = checkpoints.task_id)";
        connection.execute(sql, [KEPT]).map(drop)
    }
}

/// Appends without an end; acknowledges each number.
fn append(store: &SqliteStore, task: &TaskId) -> Result<(), Box<dyn Error>> {
    for count in 0_u32.. {
        let checkpoint = AppendCheckpoint {
            snapshot: Some(Snapshot::new(Codec::Raw, 1, state(count))),
            ..AppendCheckpoint::new(task.clone(), CheckpointType::IterationEnd)
        };
        let receipt = store.commit(checkpoint.into())?;
        for appended in receipt.appended() {
            say(&format!("ack {}", appended.sequence))?;
        }
    }
    Ok(())
}

/// A state of a size that changes, so that pages are filled and freed.
fn state(count: u32) -> Vec<u8> {
    let bytes = 200 + (count as usize * 977) % 9000;
    count
        .to_le_bytes()
        .into_iter()
        .cycle()
        .take(bytes)
        .collect()
}

fn end_with(result: Result<(), Box<dyn Error>>) {
    if let Err(error) = result {
        let _ = say(&format!("error {error:?}"));
        std::process::exit(2);
    }
}

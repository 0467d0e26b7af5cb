//! A process that tidies up a store without an end: upkeep, then a backup, then
//! upkeep again. A thread of it appends meanwhile, so that there is always
//! something to tidy up, and before each backup something that upkeep has not seen.
//! It says what it begins and what it has ended.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use agentos_core::{
    AppendCheckpoint, CheckpointRule, CheckpointStorage, CheckpointType, Codec, EvidenceOutcome,
    EvidenceResult, Retention, RowRule, Snapshot, Storage, TaskId, Timestamp, UpkeepStorage,
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
pub(crate) const AUDITS_KEPT: u64 = 20;
/// Checkpoints that are acknowledged between an upkeep and the backup after it:
/// they stand in the log alone.
const APPENDS_BETWEEN: u64 = 3;

/// The role of a janitor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Janitor {
    /// The database.
    pub(crate) db: PathBuf,
    /// Where the backup goes.
    pub(crate) copy: PathBuf,
    /// The task that its thread appends to.
    pub(crate) task: String,
    /// It ends after so many turns, and appends between its steps instead of all the time.
    pub(crate) rounds: Option<u64>,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// What a janitor keeps.
pub(crate) fn retention() -> Retention {
    Retention {
        checkpoints: CheckpointRule::keep_last(KEPT),
        audits: RowRule {
            max_rows: Some(AUDITS_KEPT),
            ..RowRule::keep_all()
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
        let acked = Acked::default();
        if let Some(rounds) = self.rounds {
            return self.tidy(&store, rounds, &|| {
                append(&store, &task, &acked, APPENDS_BETWEEN)
            });
        }
        thread::scope(|scope| {
            scope.spawn(|| end_with(append(&store, &task, &acked, u64::MAX)));
            end_with(self.tidy(&store, u64::MAX, &|| {
                acked.wait_for_more(APPENDS_BETWEEN);
                Ok(())
            }));
        });
        Ok(())
    }

    fn tidy(
        &self,
        store: &SqliteStore,
        rounds: u64,
        more: &dyn Fn() -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        for round in 1..=rounds {
            say(&format!("upkeep {round}"))?;
            if self.canary == Some(Canary::PruneNewestOnly) {
                self.prune_newest_only()?;
            } else {
                let report = run_upkeep(store, &retention(), Mode::Apply)?;
                if let Some(failure) = report.failures.into_iter().next() {
                    return Err(failure.error.into());
                }
            }
            if self.canary == Some(Canary::PruneChildren) {
                let sql = "DELETE FROM task_audits; DELETE FROM evidence_results;";
                self.connect()?.execute_batch(sql)?;
            }
            say(&format!("tidied {round}"))?;
            // The pass leaves some free pages; here all of them are given back.
            say(&format!("vacuum {round}"))?;
            store.reclaim_space(0)?;
            say(&format!("vacuumed {round}"))?;
            more()?;
            say(&format!("log {round}"))?;
            store.shorten_log()?;
            say(&format!("shortened {round}"))?;
            more()?;
            say(&format!("backup {round}"))?;
            if self.canary == Some(Canary::CopyMainFile) {
                let copy = CommandSpec::new("cp").arg(&self.db).arg(&self.copy);
                agentos_process::run(&copy)?;
            } else if self.canary == Some(Canary::CopyOver) {
                let whole = self.copy.with_extension("whole");
                store.backup(&whole)?;
                std::fs::write(&self.copy, std::fs::read(&whole)?)?;
            } else {
                store.backup(&self.copy)?;
            }
            say(&format!("done {round}"))?;
        }
        Ok(())
    }

    /// Keeps the newest of each task, whatever they are.
    fn prune_newest_only(&self) -> rusqlite::Result<()> {
        let sql = "DELETE FROM checkpoints WHERE sequence_number <= (
                       SELECT last_sequence - ?1 FROM checkpoint_counters c
                       WHERE c.task_id = checkpoints.task_id)";
        self.connect()?.execute(sql, [KEPT]).map(drop)
    }

    /// A way into the file that is not the store's.
    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(&self.db)?;
        connection.busy_timeout(Duration::from_secs(30))?;
        Ok(connection)
    }
}

/// How many checkpoints the thread has acknowledged.
#[derive(Default)]
struct Acked {
    count: Mutex<u64>,
    grown: Condvar,
}

impl Acked {
    fn one_more(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.grown.notify_all();
    }

    /// Waits until so many more were acknowledged. An error of the thread ends the
    /// process, and this with it.
    fn wait_for_more(&self, more: u64) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = *count + more;
        while *count < enough {
            count = self
                .grown
                .wait(count)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Appends so many, each checkpoint with what follows from its number; acknowledges each.
fn append(
    store: &SqliteStore,
    task: &TaskId,
    acked: &Acked,
    count: u64,
) -> Result<(), Box<dyn Error>> {
    let newest = store.checkpoints(task, None, 1)?;
    let newest = newest.first().map_or(0, |found| found.sequence.get());
    for number in newest + 1..=newest.saturating_add(count) {
        let receipt = store.commit(numbered(task.clone(), number).into())?;
        for appended in receipt.appended() {
            if appended.sequence.get() != number {
                return Err(format!("{number} was given {}", appended.sequence).into());
            }
            say(&format!("ack {number}"))?;
            acked.one_more();
        }
    }
    Ok(())
}

/// Checkpoint `number` of a task: its content follows from the number.
pub(crate) fn numbered(task: TaskId, number: u64) -> AppendCheckpoint {
    AppendCheckpoint {
        snapshot: Some(Snapshot::new(Codec::Raw, 1, state(number))),
        results: results(number),
        ..AppendCheckpoint::new(task, CheckpointType::IterationEnd)
    }
}

/// What the evidence of checkpoint `number` said.
pub(crate) fn results(number: u64) -> Vec<EvidenceResult> {
    let result = |item| EvidenceResult {
        item,
        kind: "numbered".into(),
        outcome: EvidenceOutcome::Passed,
        reason: Some(format!("{number}, {item}")),
        checked_at: Timestamp::from_unix_micros(0),
    };
    vec![result(0), result(1)]
}

/// The state of checkpoint `number`, of a size that changes, so that pages are
/// filled and freed.
pub(crate) fn state(number: u64) -> Vec<u8> {
    let bytes = 200 + (number as usize * 977) % 9000;
    number
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

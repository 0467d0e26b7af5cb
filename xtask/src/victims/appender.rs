//! Appends checkpoints to one task, together with others.
//!
//! It waits at a gate until all are there, appends, and acknowledges each
//! checkpoint with the number that it got.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentos_checkpoints::{CheckpointConfig, CheckpointManager, NewCheckpoint};
use agentos_core::records::checkpoint::Sealed;
use agentos_core::{
    AuditLine, CheckpointType, Codec, NewTask, SequenceNumber, Snapshot, Storage, TaskId,
};
use agentos_store::sqlite::{Config, SqliteStore};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::{BUSY_TIMEOUT, Role, say};
use crate::canary::Canary;

/// The role of an appender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Appender {
    /// The database.
    pub(crate) db: PathBuf,
    /// Its task.
    pub(crate) task: String,
    /// Who it is: part of the state.
    pub(crate) writer: u64,
    /// How many checkpoints it appends.
    pub(crate) count: u64,
    /// A file whose lock it waits for before it begins.
    pub(crate) gate: PathBuf,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// What a checkpoint of an appender says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Who wrote it.
    pub(crate) writer: u64,
    /// Which of the writer's checkpoints it is, from 1.
    pub(crate) step: u64,
}

impl Appender {
    /// How it is started.
    pub(crate) fn role(&self) -> Role {
        Role::Appender(self.clone())
    }

    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let store = Arc::new(SqliteStore::open(
            Config::at(&self.db).busy_timeout(BUSY_TIMEOUT),
        )?);
        let task = TaskId::new(&self.task)?;
        store.create_task(NewTask::new(task.clone(), "appended to"))?;
        let base = self.db.parent().ok_or("the database has no folder")?;
        let checkpoints = CheckpointManager::new(
            Arc::clone(&store) as Arc<dyn Storage>,
            CheckpointConfig::new(base),
        )?;
        let own_numbers = self.canary == Some(Canary::OwnNumbers);
        let raw = if own_numbers {
            Some(OwnNumbers::read(self, &task, store.now())?)
        } else {
            None
        };
        say("ready")?;
        File::open(&self.gate)?.lock_shared()?;
        if let Some(raw) = raw {
            return raw.write();
        }
        for step in 1..=self.count {
            if self.canary == Some(Canary::AckWithoutWrite) && step.is_multiple_of(3) {
                say(&format!("ack {step} {}", self.writer))?;
                continue;
            }
            if self.canary == Some(Canary::SkipNumber) && step == self.count {
                skip_number(&self.db, &self.task)?;
            }
            let state = State {
                writer: self.writer,
                step,
            };
            let new = NewCheckpoint::new(task.clone(), CheckpointType::IterationEnd);
            let appended = checkpoints.append(new.state(&state)?)?;
            say(&format!("ack {} {}", appended.sequence, self.writer))?;
            if self.canary == Some(Canary::RewriteApart) {
                rewrite(&self.db, store.as_ref(), &task, appended.sequence)?;
            }
        }
        Ok(())
    }
}

/// Takes a checkpoint away and puts it back as it was, with a commit of its own before that.
fn rewrite(
    db: &Path,
    store: &SqliteStore,
    task: &TaskId,
    sequence: SequenceNumber,
) -> Result<(), Box<dyn Error>> {
    let connection = Connection::open(db)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let of = params![task.as_str(), sequence.get().cast_signed()];
    let which = "FROM checkpoints WHERE task_id = ?1 AND sequence_number = ?2";
    let keep = format!("CREATE TEMP TABLE kept AS SELECT * {which}");
    connection.execute(&keep, of)?;
    connection.execute(&format!("DELETE {which}"), of)?;
    store.commit(AuditLine::new(task.clone(), "rewritten").into())?;
    // Another one may have its row's number by now.
    connection.execute_batch(
        "UPDATE kept SET checkpoint_id = NULL; INSERT INTO checkpoints SELECT * FROM kept",
    )?;
    Ok(())
}

fn skip_number(db: &Path, task: &str) -> rusqlite::Result<()> {
    let connection = Connection::open(db)?;
    connection.busy_timeout(Duration::from_secs(20))?;
    let sql = "UPDATE checkpoint_counters SET last_sequence = last_sequence + 1 WHERE task_id = ?1";
    connection.execute(sql, [task]).map(drop)
}

/// The canary that knows its numbers before it writes.
struct OwnNumbers {
    connection: Connection,
    task: TaskId,
    first: u64,
    writer: u64,
    count: u64,
    now: agentos_core::Timestamp,
}

impl OwnNumbers {
    fn read(
        appender: &Appender,
        task: &TaskId,
        now: agentos_core::Timestamp,
    ) -> Result<OwnNumbers, Box<dyn Error>> {
        let connection = Connection::open(&appender.db)?;
        let last: i64 = connection.query_row(
            "SELECT COALESCE(MAX(sequence_number), 0) FROM checkpoints WHERE task_id = ?1",
            [task.as_str()],
            |row| row.get(0),
        )?;
        Ok(OwnNumbers {
            connection,
            task: task.clone(),
            first: last.unsigned_abs() + 1,
            writer: appender.writer,
            count: appender.count,
            now,
        })
    }

    fn write(self) -> Result<(), Box<dyn Error>> {
        for step in 1..=self.count {
            let sequence = SequenceNumber::new(self.first + step - 1)?;
            let bytes = Codec::Bincode.encode(&State {
                writer: self.writer,
                step,
            })?;
            let snapshot = Snapshot::new(Codec::Bincode, 1, bytes);
            let seal = Sealed {
                task: &self.task,
                sequence,
                checkpoint_type: CheckpointType::IterationEnd,
                snapshot: Some(snapshot.summary()),
                evidence: None,
                metadata: None,
                created_at: self.now,
            }
            .seal();
            self.connection.execute(
                "INSERT INTO checkpoints (task_id, sequence_number, checkpoint_type, verification,
                    created_at, codec, state_version, state_bytes, state_digest, seal, snapshot)
                 VALUES (?1, ?2, 'iteration_end', 'unverified', ?3, ?4, 1, ?5, ?6, ?7, ?8)",
                params![
                    self.task.as_str(),
                    sequence.get().cast_signed(),
                    self.now.to_text(),
                    Codec::Bincode.id(),
                    snapshot.summary().bytes.cast_signed(),
                    snapshot.digest().as_bytes(),
                    seal.as_bytes(),
                    snapshot.bytes(),
                ],
            )?;
            say(&format!("ack {sequence} {}", self.writer))?;
        }
        Ok(())
    }
}

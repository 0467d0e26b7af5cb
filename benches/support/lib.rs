//! What the benchmarks share: a store, and the floor beside it.
//!
//! The floor is a raw, prepared `rusqlite` transaction that writes the same
//! rows into the same tables and indexes, with the same pragmas. A ratio to it
//! means something; a figure alone, on a shared machine, does not.

mod keys;
mod leases;
mod measure;

use std::path::Path;
use std::sync::Arc;

use agentos_checkpoints::{CheckpointConfig, CheckpointManager, NewCheckpoint};
use agentos_core::{
    AppendCheckpoint, CheckpointType, Codec, NewTask, Snapshot, Storage, TaskId, Verification,
};
use agentos_store::sqlite::{Config, Durability, SqliteStore};
use rusqlite::{Connection, OpenFlags, params};
use serde::{Deserialize, Serialize};

pub use self::keys::{KeyFloor, add_others, ask, cache, gate, opened, owner, request};
pub use self::leases::{Fill, LeaseFloor, OurLeases};
pub use self::measure::{Ratio, mark, median, micros, sync_latency, timed};

/// An agent's state of about 1 KiB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Which iteration.
    pub iteration: u64,
    /// What was said.
    pub notes: Vec<String>,
}

impl State {
    /// A state of about 1 KiB.
    pub fn sample(iteration: u64) -> State {
        State {
            iteration,
            notes: vec!["0123456789abcdef".repeat(8); 8],
        }
    }
}

/// A store with tasks, and a manager over it.
pub struct Ours {
    /// The store.
    pub store: Arc<SqliteStore>,
    /// The manager.
    pub checkpoints: CheckpointManager,
    /// Its tasks.
    pub tasks: Vec<TaskId>,
}

impl Ours {
    /// Opens a new store in `dir` with `tasks` tasks.
    pub fn open(dir: &Path, durability: Durability, tasks: usize) -> Ours {
        let config = Config::at(dir.join("ours.db")).durability(durability);
        let store = Arc::new(SqliteStore::open(config).expect("a new store opens"));
        let tasks = make_tasks(&store, tasks);
        let config = CheckpointConfig::new(dir);
        let checkpoints = CheckpointManager::new(Arc::clone(&store) as Arc<dyn Storage>, config)
            .expect("the directory is there");
        Ours {
            store,
            checkpoints,
            tasks,
        }
    }

    /// Appends a state through the manager: encoded, decoded again, digested,
    /// sealed, committed.
    pub fn append(&self, task: &TaskId, state: &State) {
        let new = NewCheckpoint::new(task.clone(), CheckpointType::IterationEnd)
            .state(state)
            .expect("the state can be encoded");
        self.checkpoints
            .append(new)
            .expect("the checkpoint is appended");
    }

    /// A part with an encoded state, to commit without the manager.
    pub fn part(&self, task: &TaskId, bytes: &[u8]) -> AppendCheckpoint {
        part(task, bytes)
    }
}

fn part(task: &TaskId, bytes: &[u8]) -> AppendCheckpoint {
    AppendCheckpoint {
        snapshot: Some(Snapshot::new(Codec::Raw, 1, bytes.to_vec())),
        verification: Verification::Unverified,
        ..AppendCheckpoint::new(task.clone(), CheckpointType::IterationEnd)
    }
}

fn make_tasks(store: &SqliteStore, count: usize) -> Vec<TaskId> {
    (0..count)
        .map(|index| {
            let id = TaskId::new(format!("task-{index:04}")).expect("a short id");
            store
                .create_task(NewTask::new(id.clone(), "bench"))
                .expect("a new task");
            id
        })
        .collect()
}

/// A raw connection with the pragmas of the store's writer.
fn raw(path: &Path, durability: Durability) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).expect("the file opens");
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Relaxed => "NORMAL",
    };
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = {synchronous};
             PRAGMA foreign_keys = ON;
             PRAGMA wal_autocheckpoint = 4000;
             PRAGMA journal_size_limit = 67108864;
             PRAGMA temp_store = MEMORY;
             PRAGMA trusted_schema = OFF;
             PRAGMA cell_size_check = ON;
             PRAGMA mmap_size = 0;"
        ))
        .expect("the pragmas are taken");
    connection.set_prepared_statement_cache_capacity(64);
    connection
}

/// The floor: a raw connection to a file of the same schema.
pub struct Floor {
    connection: Connection,
    tasks: Vec<TaskId>,
    /// The same bytes that the store writes.
    bytes: Vec<u8>,
}

impl Floor {
    /// Makes a file of the same schema with the same tasks, and opens it raw.
    pub fn open(dir: &Path, durability: Durability, tasks: usize, bytes: Vec<u8>) -> Floor {
        let path = dir.join("floor.db");
        let store = SqliteStore::open(Config::at(&path)).expect("a new store opens");
        let tasks = make_tasks(&store, tasks);
        drop(store);
        let connection = raw(&path, durability);
        Floor {
            connection,
            tasks,
            bytes,
        }
    }

    /// One transaction that appends `rows` checkpoints, spread over the tasks.
    pub fn transaction(&self, rows: usize) -> rusqlite::Result<()> {
        let run = |sql: &str| -> rusqlite::Result<()> {
            self.connection.prepare_cached(sql)?.execute([]).map(drop)
        };
        run("BEGIN IMMEDIATE")?;
        for row in 0..rows {
            let task = self.tasks[row % self.tasks.len()].as_str();
            let number: i64 = self
                .connection
                .prepare_cached(
                    "UPDATE checkpoint_counters SET last_sequence = last_sequence + 1
                     WHERE task_id = ?1 RETURNING last_sequence",
                )?
                .query_row([task], |row| row.get(0))?;
            self.connection
                .prepare_cached(
                    "INSERT INTO checkpoints (task_id, sequence_number, checkpoint_type,
                        verification, created_at, codec, state_version, state_bytes,
                        state_digest, seal, metadata, evidence, snapshot)
                     VALUES (?1, ?2, 'iteration_end', 'unverified',
                        '2026-01-29 00:00:01.000042', 1, 1, ?3, ?4, ?4, NULL, NULL, ?5)",
                )?
                .execute(params![
                    task,
                    number,
                    self.bytes.len() as i64,
                    [7_u8; 32],
                    self.bytes
                ])?;
        }
        run("COMMIT")
    }
}

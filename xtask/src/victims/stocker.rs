//! A process that fills a store with rows of every kind, and then waits for its end.
//!
//! What it writes follows from numbers. The first part is in the database file when it
//! begins the second, which stays in the log: it is killed with the store open.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentos_checkpoints::{CheckpointConfig, CheckpointManager, Evidence, NewCheckpoint, Pack};
use agentos_core::{
    AuditLine, CancelWork, CheckpointType, ClaimRequest, Commit, CompleteWork, FailWork,
    LeaseStorage, NewTask, NewWorkItem, Retry, SetTaskStatus, Storage, TaskId, TaskStatus,
    WorkFilter, Worker, WorkerId,
};
use agentos_idempotency::{
    CacheConfig, CallContext, GateConfig, IdempotencyStore, LedgerConfig, LlmAnswer,
    LlmOutputCache, LlmRequest, OnDoubt, OnFailure, ToolCall, ToolFailure, ToolLedger, ToolOutput,
};
use agentos_store::sqlite::{Config, Durability, SqliteStore};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{BUSY_TIMEOUT, say};

/// The tasks, and how many checkpoints each has in the first part.
pub(crate) const STOCKED: [(&str, u64); 2] = [("alpha", 10), ("beta", 6)];
/// Calls and answers of the first part.
pub(crate) const CALLS: u64 = 6;
/// Rounds of the second part; each is a checkpoint of the first task with its audit line,
/// a call and an answer.
pub(crate) const LATE: u64 = 4;
/// Commits of one such round: one, and two each for the call and the answer.
pub(crate) const LATE_COMMITS: u64 = 5;
/// The event of its audit lines.
pub(crate) const STOCKED_EVENT: &str = "stocked";
/// The tool, and the model, that it asks.
const TOOL: &str = "stock";
const MODEL: &str = "model";
/// The name of every process that works on the store, one start after the other.
const WORKER: &str = "stocker";
const LEASE: Duration = Duration::from_secs(3600);
/// States are up to so long: some are on pages of their own.
const STATE_BYTES: u64 = 9000;

/// The role of a stocker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stocker {
    /// The database.
    pub(crate) db: PathBuf,
    /// The folder of artifacts.
    pub(crate) work: PathBuf,
}

/// The library on an open store, as a program has it.
pub(super) struct Shelves {
    pub(super) checkpoints: CheckpointManager,
    pub(super) ledger: ToolLedger,
    pub(super) cache: LlmOutputCache,
    pub(super) me: Worker,
}

impl Shelves {
    pub(super) fn over(
        storage: &Arc<dyn Storage>,
        work: &PathBuf,
    ) -> Result<Shelves, Box<dyn Error>> {
        let me = Worker::start(WorkerId::new(WORKER)?);
        let config = GateConfig::new(me.clone()).sole_start(true);
        let gate = IdempotencyStore::new(Arc::clone(storage), config)?;
        let config = LedgerConfig::new().on_failure(OnFailure::Replay);
        Ok(Shelves {
            checkpoints: CheckpointManager::new(
                Arc::clone(storage),
                CheckpointConfig::new(work).sync_evidence(false),
            )?,
            ledger: ToolLedger::new(gate.clone(), config),
            cache: LlmOutputCache::new(gate, CacheConfig::default())?,
            me,
        })
    }
}

/// The state of checkpoint `number` of a task.
pub(crate) fn stocked_state(task: &str, number: u64) -> Vec<u8> {
    let length = 100 + usize::try_from(number * 1777 % STATE_BYTES).unwrap_or(0);
    let line = format!("{task} {number} ");
    line.into_bytes().into_iter().cycle().take(length).collect()
}

/// Whether it has no state: an error boundary.
pub(crate) fn is_boundary(task: &str, number: u64) -> bool {
    task == STOCKED[1].0 && number == 3
}

/// The artifact that every third checkpoint has as evidence.
fn artifact() -> &'static str {
    "artifact.txt"
}

/// What a call gives back; every third fails.
pub(crate) fn stocked_output(number: u64) -> Vec<u8> {
    format!("done {number}. ")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(20 + usize::try_from(number * 911 % 6000).unwrap_or(0))
        .collect()
}

/// A call that is stocked.
pub(super) fn stocked_call(number: u64) -> Result<ToolCall, Box<dyn Error>> {
    let task = TaskId::new(STOCKED[0].0)?;
    Ok(ToolCall::new(TOOL, json!({ "number": number }))
        .of_task(&task)
        .on_doubt(OnDoubt::Ask))
}

/// What the model says.
pub(crate) fn stocked_answer(number: u64) -> String {
    format!("answer {number}. ").repeat(1 + usize::try_from(number * 37 % 200).unwrap_or(0))
}

/// A question to the model.
pub(super) fn stocked_request(number: u64) -> LlmRequest {
    LlmRequest::json(MODEL, json!({ "question": number }))
}

impl Stocker {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        fs::create_dir_all(&self.work)?;
        fs::write(self.work.join(artifact()), "an artifact")?;
        self.in_store(|shelves, store| {
            self.tasks(shelves, store)?;
            for number in 0..CALLS {
                call(shelves, number)?;
                ask(shelves, number)?;
            }
            items(shelves, store)
        })?;
        self.in_store(|shelves, store| {
            for round in 0..LATE {
                let number = STOCKED[0].1 + 1 + round;
                append(shelves, store, STOCKED[0].0, number)?;
                call(shelves, CALLS + round)?;
                ask(shelves, CALLS + round)?;
            }
            say("stocked")?;
            loop {
                thread::park();
            }
        })
    }

    /// Opens the store, works on it, and closes it.
    fn in_store(
        &self,
        work: impl FnOnce(&Shelves, &Arc<SqliteStore>) -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        // Nobody cuts the power here.
        let config = Config::at(&self.db)
            .durability(Durability::Relaxed)
            .busy_timeout(BUSY_TIMEOUT)
            .ballast_bytes(0);
        let store = Arc::new(SqliteStore::open(config)?);
        let shared = Arc::clone(&store) as Arc<dyn Storage>;
        work(&Shelves::over(&shared, &self.work)?, &store)?;
        store.close();
        Ok(())
    }

    fn tasks(&self, shelves: &Shelves, store: &SqliteStore) -> Result<(), Box<dyn Error>> {
        for (task, checkpoints) in STOCKED {
            let id = TaskId::new(task)?;
            let new = NewTask::new(id.clone(), "stock").metadata(json!({ "of": task }));
            store.create_task(new)?;
            store.commit(SetTaskStatus::new(id, TaskStatus::Running).into())?;
            for number in 1..=checkpoints {
                append(shelves, store, task, number)?;
            }
        }
        Ok(())
    }
}

/// Appends a checkpoint with its audit line.
fn append(
    shelves: &Shelves,
    store: &SqliteStore,
    task: &str,
    number: u64,
) -> Result<(), Box<dyn Error>> {
    let id = TaskId::new(task)?;
    let new = if is_boundary(task, number) {
        NewCheckpoint::new(id.clone(), CheckpointType::ErrorBoundary)
    } else if number.is_multiple_of(4) {
        let state = String::from_utf8(stocked_state(task, number))?;
        NewCheckpoint::new(id.clone(), CheckpointType::ManualCheckpoint).state(&state)?
    } else {
        NewCheckpoint::new(id.clone(), CheckpointType::IterationEnd)
            .raw(1, stocked_state(task, number))
    };
    let new = match number % 3 {
        0 => new.evidence(Pack::all([Evidence::file(artifact())])),
        _ => new,
    };
    let part = shelves
        .checkpoints
        .prepare(new.metadata(json!({ "number": number })))?;
    let line = AuditLine::new(id, STOCKED_EVENT)
        .reason(format!("checkpoint {number}"))
        .detail(Value::from(number));
    store.commit(Commit::new().part(part).part(line))?;
    Ok(())
}

fn call(shelves: &Shelves, number: u64) -> Result<(), Box<dyn Error>> {
    let answer = shelves
        .ledger
        .execute_or_replay(&stocked_call(number)?, |_: &CallContext<'_>| {
            let output = ToolOutput::new(stocked_output(number));
            match number % 3 {
                0 => Err(ToolFailure::failed("it failed", output)),
                _ => Ok(output),
            }
        });
    // A failure is an outcome as well.
    answer?;
    Ok(())
}

fn ask(shelves: &Shelves, number: u64) -> Result<(), Box<dyn Error>> {
    let answer = || Ok::<_, std::io::Error>(LlmAnswer::new(stocked_answer(number)));
    shelves
        .cache
        .get_or_generate(&stocked_request(number), answer)?;
    Ok(())
}

/// Work items in every state.
fn items(shelves: &Shelves, store: &SqliteStore) -> Result<(), Box<dyn Error>> {
    let task = TaskId::new(STOCKED[0].0)?;
    let item = |number: u64| {
        NewWorkItem::new("work")
            .task(task.clone())
            .payload(format!("payload {number} ").repeat(20))
            .max_attempts(1)
            .unique_key(format!("item {number}"))
    };
    store.commit((0..6).map(item).fold(Commit::new(), Commit::part))?;
    let leases = store.claim(&ClaimRequest {
        filter: WorkFilter::types(["work"]),
        items: 4,
        lease: LEASE,
        ..ClaimRequest::new(shelves.me.clone())
    })?;
    let [complete, fail, cancel, _held] = leases.as_slice() else {
        return Err(format!("{} of 4 items were claimed", leases.len()).into());
    };
    let commit = Commit::new()
        .part(CompleteWork {
            fence: complete.fence,
            result: Some(b"a result ".repeat(30)),
        })
        .part(FailWork {
            fence: fail.fence,
            reason: "it cannot be done".into(),
            retry: Retry::Never,
        })
        .part(CancelWork {
            item: cancel.fence.item,
            reason: Some("it need not be done".into()),
        });
    store.commit(commit)?;
    Ok(())
}

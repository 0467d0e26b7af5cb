//! A worker of the kill storm: a pool with its heartbeat, and a sweeper.
//!
//! Each item has three steps. A step is a command that works out a value from the one
//! before and appends a line to a log that all share; then it is committed under the
//! lease as a checkpoint of the item's task, the last one together with the item's
//! completion and the success of the task. Who takes an item over goes on behind the
//! newest checkpoint. It ends when nothing is open any more.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use agentos_checkpoints::{CheckpointConfig, CheckpointManager, NewCheckpoint, ReadState, Resume};
use agentos_core::{
    CheckpointType, RetryRule, SetTaskStatus, Storage, TaskStatus, WorkItemStatus, Worker, WorkerId,
};
use agentos_process::CommandSpec;
use agentos_recovery::{SweepConfig, Sweeper, give_up_earlier_starts};
use agentos_store::sqlite::Config;
use agentos_worker_pool::{Finish, HandlerError, Job, Parts, WorkerPool};
use serde::{Deserialize, Serialize};

use super::recorded::Recorded;
use super::{BUSY_TIMEOUT, say};
use crate::broken_store;
use crate::canary::Canary;
use crate::model::{STEPS, Step, value_after};

/// What every item is.
pub(crate) const WORK_TYPE: &str = "storm";
/// How often it looks whether anything is open, unless an item has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Works the value out, tells of it in the log with one write, and prints it.
const COMMAND: &str = r#"
set -eu
value=$(( (VALUE * 31 + NUMBER * 7 + STEP) % 1000003 ))
printf '%s %s %s %s\n' "$NUMBER" "$STEP" "$TOKEN" "$value" >> "$LOG"
printf '%s' "$value"
"#;

/// The role of a worker of the kill storm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stormer {
    /// The database.
    pub(crate) db: PathBuf,
    /// The log of what was done.
    pub(crate) log: PathBuf,
    /// Its name, the same in each of its starts.
    pub(crate) name: String,
    /// Threads of its pool.
    pub(crate) threads: usize,
    /// How long its leases last, in milliseconds.
    pub(crate) lease_ms: u64,
    /// Whether it gives up at once what its earlier starts held.
    pub(crate) gives_up: bool,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// The state of an item's task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepDone {
    /// Steps that are done.
    pub(crate) step: u64,
    /// The value after them.
    pub(crate) value: u64,
    /// Under which lease the last of them was done.
    pub(crate) token: i64,
}

/// What follows a lost lease: another attempt soon, since losses are what this is
/// about.
fn after_loss() -> RetryRule {
    RetryRule {
        first: Duration::from_millis(5),
        factor: 2,
        most: Duration::from_millis(50),
    }
}

impl Stormer {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        say("open")?;
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let storage = Recorded::over(broken_store::open(config, self.canary)?);
        let worker = Worker::start(WorkerId::new(&self.name)?);
        say(&format!("process {worker}"))?;
        if self.gives_up {
            give_up_earlier_starts(storage.as_ref(), &worker)?;
        }
        let base = self.db.parent().ok_or("the database has no folder")?;
        let checkpoints =
            CheckpointManager::new(Arc::clone(&storage), CheckpointConfig::new(base))?;
        let sweeper = Sweeper::start(
            Arc::clone(&storage),
            SweepConfig {
                after_loss: after_loss(),
                ..SweepConfig::default()
            },
        )?;
        let (ended, wake) = channel();
        let this = self.clone();
        let pool = WorkerPool::builder(Arc::clone(&storage), worker)
            .threads(self.threads)
            .lease(Duration::from_millis(self.lease_ms))
            .after_loss(after_loss())
            .handler(WORK_TYPE, move |job| this.work(job, &checkpoints, &ended))
            .start()?;
        say("works")?;
        while is_open(storage.as_ref())? {
            // Whichever it is, a look follows.
            let _ = wake.recv_timeout(LOOK);
        }
        pool.shutdown();
        sweeper.stop();
        say("done")?;
        Ok(())
    }

    /// Does what is left of an item.
    fn work(
        &self,
        job: &Job,
        checkpoints: &CheckpointManager,
        ended: &Sender<()>,
    ) -> Result<Finish, HandlerError> {
        let number: u64 = std::str::from_utf8(job.payload())?.parse()?;
        let task = job.task().ok_or(HandlerError::new("no task"))?;
        let token = job.lease().fence.token.get();
        let mut state = match checkpoints.resume(task)? {
            Resume::From(resumed) if self.canary != Some(Canary::RedoSteps) => {
                resumed.checkpoint.state::<StepDone>()?
            }
            _ => StepDone {
                step: 0,
                value: number,
                token,
            },
        };
        while state.step < STEPS {
            let step = state.step + 1;
            let done = Step {
                number,
                step,
                token,
                value: self.execute(number, step, token, state.value)?,
            };
            state = StepDone {
                step,
                value: done.value,
                token,
            };
            let new = NewCheckpoint::new(task.clone(), CheckpointType::ToolExecuted);
            let mut parts = Parts::new().part(checkpoints.prepare(new.state(&state)?)?);
            if step == STEPS {
                let result = done.to_string().into_bytes();
                parts = parts
                    .part(SetTaskStatus::new(task.clone(), TaskStatus::Succeeded))
                    .part(job.prepare_complete(Some(result)));
            }
            commit(job, parts)?;
            say(&format!("ack step {done}"))?;
        }
        // Who listens is gone only when all of it is over.
        let _ = ended.send(());
        Ok(Finish::Committed)
    }

    /// One step, in the world.
    fn execute(&self, number: u64, step: u64, token: i64, value: u64) -> Result<u64, HandlerError> {
        if self.canary == Some(Canary::SkipStep) && number % 10 == 3 && step == 2 {
            return Ok(value_after(value, number, step));
        }
        let spec = CommandSpec::bash(COMMAND)
            .env("NUMBER", number.to_string())
            .env("STEP", step.to_string())
            .env("TOKEN", token.to_string())
            .env("VALUE", value.to_string())
            .env("LOG", &self.log);
        let finished = agentos_process::run(&spec)?;
        if !finished.success() {
            let words = String::from_utf8_lossy(&finished.stderr);
            let reason = format!("the command ended with {}: {words}", finished.outcome);
            return Err(HandlerError::new(reason));
        }
        Ok(std::str::from_utf8(&finished.stdout)?.parse()?)
    }
}

/// Commits under the lease of the job. A store that is busy is asked again while the
/// lease is held: nothing was written, and the step need not be done again.
fn commit(job: &Job, parts: Parts) -> Result<(), HandlerError> {
    loop {
        match job.commit(parts.clone()) {
            Ok(_) => return Ok(()),
            Err(error) if error.is_transient() && !job.cancellation().is_cancelled() => {
                say("busy")?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether any item waits or is held.
fn is_open(storage: &dyn Storage) -> Result<bool, Box<dyn Error>> {
    let counts = storage.count_work_items()?;
    let open = [WorkItemStatus::Pending, WorkItemStatus::InProgress];
    let count = |status| counts.get(status).copied().unwrap_or(0);
    Ok(open.iter().map(count).sum::<u64>() > 0)
}

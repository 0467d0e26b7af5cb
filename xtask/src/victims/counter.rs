//! An agent with an exact answer: it counts the words of a folder of files, and talks
//! with a model about them.
//!
//! It works on one item of work, under a lease: in each iteration it adds some files to
//! the statistics, writes what is known so far as an artifact, asks the model, through
//! the cache, and runs the tool that the model asks for, through the ledger. Before that it
//! rings a bell twice, which does not ring at the first try: two calls that look alike, of
//! which one is tried again. The tool's
//! outcome and a checkpoint with the whole state and that artifact as evidence are one
//! commit; the last one holds the answer, the success of the task and the end of the item
//! as well. Started again, it finds out by itself where to go on, and goes through its
//! last words once more: they are replayed.
//!
//! Where the files of an iteration are read, and nowhere else, a line is added to
//! a log: how much was worked is counted there, whatever the agent says.

mod bell;
mod life;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use agentos_core::{
    NewTask, NewWorkItem, RetryRule, SetTaskStatus, TaskId, TaskStatus, WorkItemStatus, Worker,
    WorkerId,
};
use agentos_recovery::{RecoverySweep, SweepConfig};
use agentos_store::sqlite::Config;
use agentos_worker_pool::{Finish, HandlerError, WorkQueue, WorkerPool};
use serde::{Deserialize, Serialize};

pub(crate) use self::bell::{RING, RINGS, RUNG};
use self::life::Life;
use super::talk::Talk;
use super::tally::{Answer, Tally};
use super::{BUSY_TIMEOUT, say};
use crate::broken_store;
use crate::canary::Canary;

/// The event under which the answer stands in the audit.
pub(crate) const ANSWER_EVENT: &str = "answer";
/// The log of the work, in the counter's folder: a line with the iteration's
/// number whenever the files of an iteration are read.
pub(crate) const WORKED_LOG: &str = "worked.log";

/// The step of an iteration in the ledger; its number follows.
pub(crate) const STEP: &str = "iteration ";
/// The type of its work item.
pub(crate) const COUNT: &str = "count";
/// More attempts than any story has lives.
const ATTEMPTS: u32 = 20;
/// After a further loss: the scenario has no time to lose.
const PAUSE: Duration = Duration::from_millis(1);

type Fallible<T> = Result<T, Box<dyn Error>>;

/// The role of a counter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Counter {
    /// The database.
    pub(crate) db: PathBuf,
    /// Where artifacts go.
    pub(crate) work: PathBuf,
    /// The folder of files that is worked on.
    pub(crate) input: PathBuf,
    /// Its task.
    pub(crate) task: String,
    /// In how many iterations the work is done.
    pub(crate) iterations: u64,
    /// The port at which the model listens.
    pub(crate) model: u16,
    /// How this start is called by the model.
    pub(crate) caller: String,
    /// The name of the worker. One that had the name before is known to be dead; of
    /// others it is waited until their leases have run out.
    pub(crate) worker: String,
    /// The lease of its item, in milliseconds. It is renewed meanwhile.
    pub(crate) lease_ms: u64,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// The state of a counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mind {
    /// What it has counted.
    pub(crate) tally: Tally,
    /// What was said.
    pub(crate) talk: Talk,
}

/// The exact result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// About the files.
    pub(crate) counted: Answer,
    /// Digest of all that was said, in hexadecimal.
    pub(crate) said: String,
}

impl Mind {
    fn start() -> Mind {
        Mind {
            tally: Tally::start(),
            talk: Talk::start(),
        }
    }

    fn report(&self) -> Report {
        Report {
            counted: self.tally.answer(),
            said: self.talk.digest.clone(),
        }
    }
}

impl Counter {
    pub(crate) fn run(&self) -> Fallible<()> {
        say("open")?;
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let store = broken_store::open(config, self.canary)?;
        let task = TaskId::new(&self.task)?;
        let status = store
            .create_task(NewTask::new(task.clone(), "counts words"))?
            .status;
        if status == TaskStatus::Created {
            store.commit(SetTaskStatus::new(task.clone(), TaskStatus::Running).into())?;
        }
        let item = NewWorkItem::new(COUNT)
            .task(task.clone())
            .unique_key(COUNT)
            .max_attempts(ATTEMPTS);
        let item = WorkQueue::new(Arc::clone(&store)).enqueue(item)?.id;
        let worker = Worker::start(WorkerId::new(&self.worker)?);
        let life = Life::new(self, Arc::clone(&store), task, worker.clone())?;
        let ended = store.work_item(item)?.map(|item| item.summary.status);
        if ended == Some(WorkItemStatus::Succeeded) {
            return life.again();
        }
        let after_loss = RetryRule {
            first: PAUSE,
            factor: 1,
            most: PAUSE,
        };
        let sweep = SweepConfig {
            after_loss,
            ..SweepConfig::default()
        };
        RecoverySweep::new(Arc::clone(&store), sweep).give_up_earlier_starts(&worker)?;
        let (tell, told) = mpsc::channel();
        let pool = WorkerPool::builder(store, worker)
            .threads(1)
            .lease(Duration::from_millis(self.lease_ms))
            .after_loss(after_loss)
            .handler(COUNT, move |job| {
                let lived = life.live(job).map_err(|error| error.to_string());
                let answer = lived.clone().map(|()| Finish::Committed);
                // Nobody listens any more only when all is over.
                let _ = tell.send(lived);
                answer.map_err(HandlerError::new)
            })
            .start()?;
        told.recv()??;
        pool.shutdown();
        Ok(())
    }
}

/// The artifact of an iteration, relative to the counter's folder.
pub(crate) fn artifact_of(iteration: u64) -> PathBuf {
    format!("iteration-{iteration:04}.json").into()
}

/// The files of a folder, by name, in order.
pub(crate) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

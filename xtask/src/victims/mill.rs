//! The desk at which the steps of a [`Plan`] are made, with all that the library has: an
//! item is claimed, a model asked through the cache, a tool run through the ledger, and one
//! commit holds what came out of the tool, a checkpoint with its artifact as evidence, the
//! end of the item, the next item, and a line in the book, in which all threads write.
//!
//! It is the same desk before a power cut and after it: what was in the middle of a step
//! is found out, and gone on with.

use std::convert::Infallible;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentos_checkpoints::{CheckpointConfig, CheckpointManager, Evidence, NewCheckpoint, Pack};
use agentos_core::{
    AuditLine, BoxError, CheckpointType, Commit, Deadline, Finding, Lease, NewTask, NewWorkItem,
    Part, Retry, SetTaskStatus, Storage, StorageError, TaskId, TaskStatus, WorkFilter, Worker,
    WorkerId,
};
use agentos_idempotency::{
    CacheConfig, CallOptions, DoubtfulCall, GateConfig, IdempotencyStore, LedgerConfig, LlmAnswer,
    LlmOutputCache, LlmRequest, OnDoubt, Scope, ToolCall, ToolFailure, ToolLedger, ToolOutcome,
    ToolOutput,
};
use agentos_store::sqlite::SqliteStore;
use agentos_worker_pool::{LeaseConfig, LeaseManager};
use serde_json::json;

use crate::canary::Canary;
use crate::model::cut::Mark;
use crate::model::mill::{Plan, Step, Way};

/// The task of the book.
pub(crate) const BOOK: &str = "mill";
/// The event of its lines.
pub(crate) const BOOKED: &str = "ground";
/// The tool of each step.
pub(crate) const TOOL: &str = "grind";
/// More than any story loses.
const ATTEMPTS: u32 = 50;
/// Longer than any story lasts.
const LEASE: Duration = Duration::from_secs(600);
/// For an item to be due.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(1);

type Fallible<T> = Result<T, BoxError>;

/// Hears each mark, in order for each thread.
pub(crate) type Marker = Box<dyn Fn(Mark) -> io::Result<()> + Send + Sync>;

/// Where steps are made.
pub(crate) struct Mill {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) checkpoints: CheckpointManager,
    pub(crate) ledger: ToolLedger,
    cache: LlmOutputCache,
    leases: LeaseManager,
    plan: Plan,
    work: PathBuf,
    marker: Marker,
    canary: Option<Canary>,
}

impl Mill {
    /// A mill on an open store; artifacts go to `work`.
    pub(crate) fn new(
        store: SqliteStore,
        work: &Path,
        plan: Plan,
        marker: Marker,
        canary: Option<Canary>,
    ) -> Result<Mill, Box<dyn Error + Send + Sync>> {
        let store = Arc::new(store);
        let shared = || Arc::clone(&store) as Arc<dyn Storage>;
        let me = Worker::start(WorkerId::new("miller")?);
        let gate = IdempotencyStore::new(shared(), GateConfig::new(me.clone()))?;
        let synced = canary != Some(Canary::ArtifactUnsynced);
        let config = CheckpointConfig::new(work).sync_evidence(synced);
        let leases = LeaseConfig {
            lease: LEASE,
            ..LeaseConfig::default()
        };
        Ok(Mill {
            checkpoints: CheckpointManager::new(shared(), config)?,
            ledger: ToolLedger::new(gate.clone(), LedgerConfig::new()),
            cache: LlmOutputCache::new(gate, CacheConfig::default())?,
            leases: LeaseManager::new(shared(), me, leases)?,
            plan,
            work: work.to_owned(),
            marker,
            canary,
            store,
        })
    }

    /// The task of a thread.
    pub(crate) fn task(thread: u64) -> Result<TaskId, StorageError> {
        TaskId::new(Plan::task(thread))
    }

    /// The task of the book.
    pub(crate) fn book() -> Result<TaskId, StorageError> {
        TaskId::new(BOOK)
    }

    /// What a model is asked in a step.
    pub(crate) fn request(step: Step) -> Result<LlmRequest, StorageError> {
        let scope = Scope::Task(Mill::task(step.thread)?);
        Ok(LlmRequest::json("mill", step.question()).scope(scope))
    }

    /// The recorded answer to it.
    pub(crate) fn answer(&self, step: Step) -> Fallible<Option<String>> {
        let found = self.cache.peek::<String>(&Mill::request(step)?)?;
        Ok(found.map(|cached| cached.body))
    }

    fn item(step: Step) -> Result<NewWorkItem, StorageError> {
        let item = NewWorkItem::new(Plan::task(step.thread)).task(Mill::task(step.thread)?);
        Ok(item.max_attempts(ATTEMPTS).unique_key(step.item_key()))
    }

    fn say(&self, mark: Mark) -> io::Result<()> {
        (self.marker)(mark)
    }

    /// Makes the tasks and the first items: one commit.
    pub(crate) fn set_up(&self) -> Fallible<()> {
        let mut commit = Commit::new().part(NewTask::new(Mill::book()?, "book"));
        for thread in 0..self.plan.threads {
            let task = Mill::task(thread)?;
            commit = commit
                .part(NewTask::new(task.clone(), "grinds"))
                .part(SetTaskStatus::new(task, TaskStatus::Running))
                .part(Mill::item(Step { thread, number: 1 })?);
        }
        self.say(Mark::Setup)?;
        self.store.commit(commit)?;
        Ok(self.say(Mark::SetUp)?)
    }

    /// Makes a step, or goes on with it.
    pub(crate) fn grind(&self, step: Step) -> Fallible<()> {
        let task = Mill::task(step.thread)?;
        let mut lease = self.claim(step)?;
        if step.fails_first() && lease.attempt == 1 {
            let retry = Retry::After(Duration::ZERO);
            self.leases.fail(&lease, "the stones are cold", retry)?;
            lease = self.claim(step)?;
        }
        self.say(Mark::Claimed(step))?;
        if step.asks() {
            let options = CallOptions::new().under(&lease);
            let answer = || Ok::<_, Infallible>(LlmAnswer::new(self.plan.answer(step)));
            self.cache.call(&Mill::request(step)?, &options, answer)?;
            self.say(Mark::Asked(step))?;
        }
        let call = ToolCall::new(TOOL, json!({"step": step.to_string()}));
        let call = call.on_doubt(OnDoubt::verify(self.probe(step)));
        let ledger = self.ledger.step(&task, step.name()).under(&lease);
        let prepared = ledger.prepare(&call, |_| {
            let made = self.say(Mark::Running(step)).and_then(|()| self.make(step));
            made.map_err(|error| ToolFailure::unknown(error.to_string()))?;
            Ok(ToolOutput::new(self.plan.output(step)))
        })?;
        if step.way() == Way::InPlace {
            self.leases.renew(&mut lease)?;
        }
        let commit = match prepared.part() {
            Some(outcome) => Commit::under(&lease).part(outcome),
            None => Commit::under(&lease),
        };
        let commit = commit.part(self.checkpoint(&task, step)?).part(
            self.leases
                .prepare_complete(&lease, Some(self.plan.result(step))),
        );
        let commit = match step.number < self.plan.steps {
            true => commit.part(Mill::item(step.next())?),
            false => commit.part(SetTaskStatus::new(task, TaskStatus::Succeeded)),
        };
        self.commit(step, commit)?;
        prepared.committed();
        Ok(())
    }

    /// Commits a step with its line in the book.
    fn commit(&self, step: Step, commit: Commit) -> Fallible<()> {
        let line = AuditLine::new(Mill::book()?, BOOKED).detail(step.label());
        self.say(Mark::Begun(step))?;
        if self.canary == Some(Canary::AckBeforeCommit) {
            self.say(Mark::Acknowledged(step))?;
        }
        if self.canary == Some(Canary::AuditApart) {
            self.store.commit(commit)?;
            self.store.commit(Part::from(line).into())?;
        } else {
            self.store.commit(commit.part(line))?;
        }
        if self.canary != Some(Canary::AckBeforeCommit) {
            self.say(Mark::Acknowledged(step))?;
        }
        Ok(())
    }

    fn checkpoint(&self, task: &TaskId, step: Step) -> Fallible<Part> {
        let evidence = Plan::evidence(step).into_iter();
        let pack = Pack::all(evidence.map(|step| Evidence::file(Plan::artifact(step))));
        let new = NewCheckpoint::new(task.clone(), CheckpointType::IterationEnd)
            .raw(1, self.plan.state(step))
            .metadata(step.label())
            .evidence(pack);
        Ok(self.checkpoints.prepare(new)?.into())
    }

    fn claim(&self, step: Step) -> Fallible<Lease> {
        let filter = WorkFilter::types([Plan::task(step.thread)]);
        let deadline = Deadline::after(PATIENCE);
        while !deadline.passed() {
            if let Some(lease) = self.leases.claim(&filter)? {
                return Ok(lease);
            }
            thread::park_timeout(PAUSE);
        }
        Err(format!("the item of step {step} did not come due").into())
    }

    /// The tool: makes an artifact, and syncs nothing.
    fn make(&self, step: Step) -> io::Result<()> {
        let first = self.work.join(Plan::first_name(step));
        if let (Way::InNewFolder, Some(folder)) = (step.way(), first.parent()) {
            fs::create_dir_all(folder)?;
        }
        fs::write(&first, self.plan.flour(step))?;
        match step.way() {
            Way::Renamed => fs::rename(first, self.work.join(Plan::artifact(step))),
            Way::InPlace | Way::InNewFolder => Ok(()),
        }
    }

    /// Finds out whether the tool has done its work.
    fn probe(
        &self,
        step: Step,
    ) -> impl Fn(&DoubtfulCall) -> Finding<ToolOutcome> + Send + Sync + 'static {
        let (plan, work) = (self.plan, self.work.clone());
        move |_| match plan.is_made(&work, step) {
            true => Finding::Happened(ToolOutcome::Done(ToolOutput::new(plan.output(step)))),
            false => Finding::DidNotHappen,
        }
    }
}

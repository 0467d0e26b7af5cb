//! A process that writes a row of every kind in every way, step by step. The last commit of
//! a step has an audit line that says so; a step without its line is done again. Before it
//! begins it gives up what an earlier start of it held.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentos_core::{
    AbandonKey, AuditLine, CancelWork, ClaimRequest, Commit, CompleteWork, Deadline, Digest,
    FailWork, Finding, IdempotencyKey, Incarnation, KeyFence, Lease, NewOutcome, NewTask,
    NewWorkItem, OnLost, RecordVerification, ReleaseWork, RemoveKeys, RequeueWork, Retry,
    RetryRule, SequenceNumber, SetTaskStatus, Storage, TaskId, TaskStatus, TaskStorage, TouchKeys,
    Verification, WorkItemId, WorkItemStatus, Worker, WorkerId,
};
use agentos_idempotency::{
    Begin, CacheConfig, CacheError, CallContext, DoubtfulCall, GateConfig, IdempotencyStore,
    LedgerConfig, LlmAnswer, LlmOutputCache, LlmRequest, OnDoubt, Request, ToolCall, ToolError,
    ToolFailure, ToolLedger, ToolOutcome,
};
use agentos_recovery::{RecoverySweep, SweepConfig};
use agentos_store::sqlite::{Config, SqliteStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::janitor::numbered;
use super::{BUSY_TIMEOUT, ack};
use crate::broken_store;
use crate::canary::Canary;

/// The task of all that it writes.
pub(crate) const CLERKS_TASK: &str = "clerk";
/// The event of its audit lines; the reason is the step.
pub(crate) const CLERKS_EVENT: &str = "done";
/// The work items, by their unique keys. The last one is cancelled.
const ITEMS: [&str; 3] = ["a", "b", "c"];
/// More than starts.
const ATTEMPTS: u32 = 100;
/// After each lost lease.
const PAUSE: Duration = Duration::from_millis(1);
/// For work to be due again.
const PATIENCE: Duration = Duration::from_secs(10);
pub(super) const LEASE: Duration = Duration::from_secs(60);
const PAGE: u32 = 1000;

type Fallible<T> = Result<T, Box<dyn Error>>;
type Step = (&'static str, fn(&Desk) -> Fallible<()>);

/// The steps, in order.
const STEPS: [Step; 13] = [
    ("begin", Desk::begin),
    ("verify", Desk::verify),
    ("fail", Desk::fail),
    ("requeue", Desk::requeue),
    ("release", Desk::release),
    ("cancel", Desk::cancel),
    ("give up", Desk::give_up),
    ("call", Desk::call),
    ("ask", Desk::ask),
    ("abandon", Desk::abandon),
    ("touch and remove", Desk::touch_and_remove),
    ("complete", Desk::complete),
    ("complete again", Desk::complete_again),
];

/// The names of the steps, in order.
pub(crate) fn clerks_steps() -> Vec<&'static str> {
    STEPS.iter().map(|(name, _)| *name).collect()
}

/// The role of a clerk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Clerk {
    /// The database.
    pub(crate) db: PathBuf,
    /// What its tool does: a line for each run.
    pub(crate) world: PathBuf,
    /// It does so many steps.
    pub(crate) steps: usize,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// The steps whose audit lines are there, oldest first.
pub(crate) fn steps_done(
    store: &(impl TaskStorage + ?Sized),
) -> Result<Vec<String>, agentos_core::StorageError> {
    let task = TaskId::new(CLERKS_TASK)?;
    if store.task(&task)?.is_none() {
        return Ok(Vec::new());
    }
    let mut lines = store.audits(&task, None, PAGE)?.items;
    lines.retain(|line| line.event == CLERKS_EVENT);
    Ok(lines.into_iter().filter_map(|line| line.reason).collect())
}

impl Clerk {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let store = Arc::new(SqliteStore::open(config)?);
        self.work(&store, LEASE, &mut |step| ack(&step))
    }

    /// Does what is left of its steps in an open store, as a start of its own; those that
    /// are done are `told`. What it begins under a key, and cannot end, is its own for as
    /// long as `permits` last.
    pub(super) fn work(
        &self,
        store: &Arc<SqliteStore>,
        permits: Duration,
        told: &mut dyn FnMut(&'static str) -> io::Result<()>,
    ) -> Fallible<()> {
        let desk = Desk::new(self, store, permits)?;
        let swept = desk.sweep.give_up_earlier_starts(&desk.me)?;
        if let Some(failure) = swept.failures.into_iter().next() {
            return Err(failure.error.into());
        }
        for (name, step) in STEPS.into_iter().take(self.steps) {
            let done = steps_done(&*desk.store)?;
            if !done.iter().any(|done| done == name) {
                let result = step(&desk);
                if self.canary == Some(Canary::AckFailure) {
                    // Whatever it was.
                    let _ = result;
                } else {
                    result?;
                }
            }
            told(name)?;
        }
        Ok(())
    }
}

struct Desk {
    store: Arc<dyn Storage>,
    sweep: RecoverySweep,
    gate: IdempotencyStore,
    ledger: ToolLedger,
    cache: LlmOutputCache,
    me: Worker,
    task: TaskId,
    world: PathBuf,
    canary: Option<Canary>,
}

impl Desk {
    fn new(clerk: &Clerk, store: &Arc<SqliteStore>, permits: Duration) -> Fallible<Desk> {
        let shared = broken_store::over(Arc::clone(store), clerk.canary);
        let me = Worker::start(WorkerId::new("clerk")?);
        let config = GateConfig::new(me.clone())
            .permit_lease(permits)
            .sole_start(true);
        let gate = IdempotencyStore::new(Arc::clone(&shared), config)?;
        let after_loss = RetryRule {
            first: PAUSE,
            factor: 1,
            most: PAUSE,
        };
        let sweep = SweepConfig {
            rows_per_batch: 1,
            after_loss,
        };
        Ok(Desk {
            sweep: RecoverySweep::new(Arc::clone(&shared), sweep),
            ledger: ToolLedger::new(gate.clone(), LedgerConfig::new()),
            cache: LlmOutputCache::new(gate.clone(), CacheConfig::default())?,
            gate,
            me,
            task: TaskId::new(CLERKS_TASK)?,
            world: clerk.world.clone(),
            canary: clerk.canary,
            store: shared,
        })
    }

    /// The audit line of a step.
    fn line(&self, step: &str) -> AuditLine {
        AuditLine::new(self.task.clone(), CLERKS_EVENT).reason(step)
    }

    /// Commits the end of a step.
    fn end(&self, step: &str, commit: Commit) -> Fallible<()> {
        if self.canary == Some(Canary::AuditApart) {
            self.store.commit(commit)?;
            self.store.commit(self.line(step).into())?;
        } else {
            self.store.commit(commit.part(self.line(step)))?;
        }
        Ok(())
    }

    fn claim(&self, worker: &Worker, items: u32) -> Fallible<Vec<Lease>> {
        let deadline = Deadline::after(PATIENCE);
        let mut leases = Vec::new();
        while leases.len() < items as usize {
            let left = items - u32::try_from(leases.len())?;
            let request = ClaimRequest {
                items: left,
                lease: LEASE,
                ..ClaimRequest::new(worker.clone())
            };
            leases.extend(self.store.claim(&request)?);
            if deadline.passed() {
                return Err(format!("{} of {items} items came due", leases.len()).into());
            }
            if leases.len() < items as usize {
                thread::park_timeout(PAUSE);
            }
        }
        Ok(leases)
    }

    fn claim_one(&self) -> Fallible<Lease> {
        let claimed = self.claim(&self.me, 1)?.into_iter().next();
        claimed.ok_or_else(|| "no work".into())
    }

    fn items(&self, status: WorkItemStatus) -> Fallible<Vec<WorkItemId>> {
        let items = self.store.work_items(status, None, PAGE)?.items;
        let mut ids: Vec<WorkItemId> = items.into_iter().map(|item| item.id).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    fn begin(&self) -> Fallible<()> {
        let running = SetTaskStatus::new(self.task.clone(), TaskStatus::Running);
        let commit = Commit::new()
            .part(NewTask::new(self.task.clone(), "writes"))
            .part(running)
            .part(numbered(self.task.clone(), 1));
        let item = |key: &&str| {
            let item = NewWorkItem::new("work").task(self.task.clone());
            item.max_attempts(ATTEMPTS).unique_key(*key)
        };
        let commit = ITEMS.iter().map(item).fold(commit, Commit::part);
        // Without its task a line cannot be written.
        self.end("begin", commit)
    }

    fn verify(&self) -> Fallible<()> {
        let record = RecordVerification {
            task: self.task.clone(),
            sequence: SequenceNumber::new(1)?,
            verification: Verification::Verified,
            results: Vec::new(),
        };
        self.end("verify", record.into())
    }

    fn fail(&self) -> Fallible<()> {
        let fence = self.claim_one()?.fence;
        let fail = FailWork {
            fence,
            reason: "it cannot be done".into(),
            retry: Retry::Never,
        };
        self.end("fail", Commit::under(fence).part(fail))
    }

    fn requeue(&self) -> Fallible<()> {
        let failed = self.items(WorkItemStatus::Failed)?;
        let item = *failed.first().ok_or("nothing has failed")?;
        let reason = Some("it can be done".into());
        self.end("requeue", RequeueWork { item, reason }.into())
    }

    fn release(&self) -> Fallible<()> {
        let fence = self.claim_one()?.fence;
        for renewed in self.store.renew(&[fence], LEASE)? {
            renewed?;
        }
        let release = ReleaseWork {
            fence,
            reason: None,
        };
        self.end("release", Commit::under(fence).part(release))
    }

    fn cancel(&self) -> Fallible<()> {
        let pending = self.items(WorkItemStatus::Pending)?;
        let item = *pending.last().ok_or("nothing is pending")?;
        let reason = Some("it need not be done".into());
        self.end("cancel", CancelWork { item, reason }.into())
    }

    /// An earlier start of the same name holds all: one whose name is less.
    fn give_up(&self) -> Fallible<()> {
        let earlier = Worker {
            incarnation: Incarnation::new("0")?,
            ..self.me.clone()
        };
        self.claim(&earlier, 2)?;
        let swept = self.sweep.give_up_earlier_starts(&self.me)?;
        if let Some(failure) = swept.failures.into_iter().next() {
            return Err(failure.error.into());
        }
        if swept.recovered != 2 {
            return Err(format!("{} of 2 leases were given up", swept.recovered).into());
        }
        self.end("give up", Commit::new())
    }

    /// Nobody is told what came of it, and a probe finds out.
    fn call(&self) -> Fallible<()> {
        let world = self.world.clone();
        let probe = move |_: &DoubtfulCall| match is_written(&world) {
            Ok(true) => Finding::Happened(ToolOutcome::Done("written".into())),
            Ok(false) => Finding::DidNotHappen,
            Err(error) => Finding::CannotTell(error.to_string()),
        };
        let call = ToolCall::new("write", json!({}))
            .of_task(&self.task)
            .on_doubt(OnDoubt::verify(probe));
        let body = |_: &CallContext<'_>| {
            let written = write_to(&self.world).map(|()| "cut off".to_owned());
            Err(ToolFailure::unknown(
                written.unwrap_or_else(|error| error.to_string()),
            ))
        };
        let first = self.ledger.execute_or_replay(&call, body);
        match first {
            Err(ToolError::InDoubt { .. }) => self.ledger.execute_or_replay(&call, body)?,
            answer => answer?,
        };
        self.end("call", Commit::new())
    }

    /// First the model fails, then it answers; at last the answer is wanted no more.
    fn ask(&self) -> Fallible<()> {
        let request = LlmRequest::json("model", json!({ "question": 1 }));
        let failed = || Err::<LlmAnswer<String>, _>(io::Error::other("it is busy"));
        match self.cache.get_or_generate(&request, failed) {
            Err(CacheError::Generate(_)) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let answers = || Ok::<_, io::Error>(LlmAnswer::new("answer".to_owned()));
        self.cache.get_or_generate(&request, answers)?;
        self.cache.invalidate(&request)?;
        self.end("ask", Commit::new())
    }

    fn key(&self, name: &str) -> Fallible<Begin> {
        let request = Request::new(IdempotencyKey::new(name)?, Digest::of(name.as_bytes()));
        Ok(self.gate.begin(&request.on_lost(OnLost::TakeOver))?)
    }

    fn abandon(&self) -> Fallible<()> {
        let Begin::Execute(held) = self.key("abandoned")? else {
            return Err("a key that was abandoned is there".into());
        };
        for renewed in self.store.renew_keys(&[held.fence()], LEASE)? {
            renewed?;
        }
        let fence = held.fence();
        self.end("abandon", AbandonKey { fence }.into())
    }

    /// A key that is recorded.
    fn recorded(&self, name: &str) -> Fallible<KeyFence> {
        match self.key(name)? {
            Begin::Execute(held) => {
                let fence = held.fence();
                self.gate.finish(held, NewOutcome::success("done"))?;
                Ok(fence)
            }
            Begin::Replay(entry) => Ok(KeyFence {
                key: entry.summary.id,
                token: entry.summary.token,
            }),
            other => Err(format!("{name} is {other:?}").into()),
        }
    }

    fn touch_and_remove(&self) -> Fallible<()> {
        let (touched, removed) = (self.recorded("touched")?, self.recorded("removed")?);
        let commit = Commit::new()
            .part(TouchKeys {
                keys: vec![touched.key],
            })
            .part(RemoveKeys {
                keys: vec![removed],
            });
        self.end("touch and remove", commit)
    }

    fn complete(&self) -> Fallible<()> {
        self.complete_one("complete")
    }

    fn complete_again(&self) -> Fallible<()> {
        self.complete_one("complete again")
    }

    fn complete_one(&self, step: &str) -> Fallible<()> {
        let fence = self.claim_one()?.fence;
        let result = Some(step.as_bytes().to_vec());
        let complete = CompleteWork { fence, result };
        self.end(step, Commit::under(fence).part(complete))
    }
}

fn write_to(world: &Path) -> io::Result<()> {
    let mut world = OpenOptions::new().create(true).append(true).open(world)?;
    world.write_all(b"written\n")
}

fn is_written(world: &Path) -> io::Result<bool> {
    match std::fs::metadata(world) {
        Ok(found) => Ok(found.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

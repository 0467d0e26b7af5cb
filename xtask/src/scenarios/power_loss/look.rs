//! Opens what a power cut left as its next user would, with the real library and after a
//! reboot, and looks at all of it: reads, recovers, reads again, checks integrity and the
//! evidence of every checkpoint, and goes on working a little.
//!
//! What it says follows from the files alone; what had been acknowledged it does not know.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentos_checkpoints::{NewCheckpoint, Resume};
use agentos_core::{BootId, BootTime};
use agentos_core::{
    BoxError, CheckpointStorage, CheckpointType, Clock, IdempotencyKey, KeyFilter, KeyStatus,
    KeyStorage, LeaseStorage, RetryRule, SequenceNumber, Storage, SystemClock, TaskStatus,
    TaskStorage, Timestamp, WorkItemStatus,
};
use agentos_idempotency::ToolRecord;
use agentos_recovery::{RecoverySweep, SweepConfig, recover};
use agentos_store::sqlite::{Config, SqliteStore};

use crate::model::cut::{Found, Seen};
use crate::model::mill::{Plan, Step};
use crate::victims::{BOOKED, Mill};

/// The database of a mill, in its directory.
pub(crate) const DB: &str = "mill.db";
/// The folder of its artifacts there.
pub(crate) const WORK: &str = "work";
/// Of so many images one is worked with for a whole step.
const STEPS_EVERY: u64 = 8;
/// Rows asked for at a time; no mill has more.
const PAGE: u32 = 1000;

type Fallible<T> = Result<T, BoxError>;

/// The clocks of the machine that came back: the boot is another one.
#[derive(Debug)]
pub(crate) struct Rebooted;

impl Clock for Rebooted {
    fn wall(&self) -> Timestamp {
        SystemClock.wall()
    }

    fn boot(&self) -> BootTime {
        BootTime {
            boot: BootId::new("after the power cut"),
            ..SystemClock.boot()
        }
    }
}

/// How a store is opened after a cut.
pub(crate) fn config(dir: &Path) -> Config {
    Config::at(dir.join(DB))
        .busy_timeout(Duration::from_secs(30))
        .ballast_bytes(0)
        .readers(1)
        .clock(Rebooted)
}

/// How leases that were lost in a cut are taken away.
pub(crate) fn sweep(storage: Arc<dyn Storage>) -> RecoverySweep {
    let at_once = RetryRule {
        first: Duration::ZERO,
        factor: 1,
        most: Duration::ZERO,
    };
    let config = SweepConfig {
        after_loss: at_once,
        ..SweepConfig::default()
    };
    RecoverySweep::new(storage, config)
}

/// What was found in a directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Looked {
    /// What was there before recovery.
    pub(crate) seen: Seen,
    /// What is wrong, whatever had been acknowledged.
    pub(crate) broken: Vec<String>,
}

/// How much is done after looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoOn {
    /// A checkpoint is appended.
    Append,
    /// A whole step of this thread is made, or gone on with.
    Step(u64),
}

impl GoOn {
    /// What follows from the print of an image: a step for one of some.
    pub(crate) fn of(print: u64, plan: &Plan) -> GoOn {
        match print.is_multiple_of(STEPS_EVERY) {
            true => GoOn::Step((print >> 8) % plan.threads),
            false => GoOn::Append,
        }
    }
}

/// Looks at a directory; nobody else has it open.
pub(crate) fn look(dir: &Path, plan: &Plan, go_on: GoOn) -> Looked {
    let mut looked = Looked::default();
    // The whole integrity check follows, which sees what looking through at open does.
    let skip = go_on == GoOn::Append;
    let store = match SqliteStore::open(config(dir).skip_check_after_crash(skip)) {
        Ok(store) => store,
        Err(error) => {
            looked.say(format!("it does not open: {error}"));
            return looked;
        }
    };
    let work = dir.join(WORK);
    let marker = Box::new(|_| Ok(()));
    let result = Mill::new(store, &work, *plan, marker, None).and_then(|mill| {
        let eye = Eye {
            mill: &mill,
            plan,
            work: &work,
        };
        let result = eye.look(&mut looked, go_on);
        mill.store.close();
        result
    });
    if let Err(error) = result {
        looked.say(format!(
            "it cannot be worked with: {}",
            chain(error.as_ref())
        ));
    }
    looked
}

/// An error and its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

impl Looked {
    fn say(&mut self, what: impl Into<String>) {
        self.broken.push(what.into());
    }
}

struct Eye<'all> {
    mill: &'all Mill,
    plan: &'all Plan,
    work: &'all Path,
}

impl Eye<'_> {
    fn look(&self, looked: &mut Looked, go_on: GoOn) -> Fallible<()> {
        let store = &self.mill.store;
        looked.seen = self.read(&mut looked.broken)?;
        let held: usize = looked.seen.threads.iter().map(held).sum();
        let swept = sweep(Arc::clone(store) as Arc<dyn Storage>).scan_and_recover()?;
        if swept.recovered != held as u64 || !swept.is_complete() {
            looked.say(format!(
                "{held} leases were lost, and the sweep says {swept:?}"
            ));
        }
        if looked.seen.book.is_some() {
            self.recovered(looked)?;
        }
        for problem in store.check_integrity()?.problems {
            looked.say(format!("integrity: {problem}"));
        }
        if looked.seen.book.is_some() {
            self.go_on(looked, go_on)?;
        } else {
            self.mill.set_up()?;
        }
        Ok(())
    }

    /// Reads everything, and compares it with what follows from the plan.
    fn read(&self, broken: &mut Vec<String>) -> Fallible<Seen> {
        let store = &self.mill.store;
        let book = Mill::book()?;
        let lines = match store.task(&book)? {
            None => None,
            Some(_) => {
                let mut lines = store.audits(&book, None, PAGE)?.items;
                lines.retain(|line| line.event == BOOKED);
                let steps = lines.iter().map(|line| Step::of_label(&line.detail));
                let steps: Option<Vec<Step>> = steps.collect();
                Some(steps.ok_or("a line of the book names no step")?)
            }
        };
        let threads = (0..self.plan.threads).map(|thread| self.read_thread(thread, broken));
        Ok(Seen {
            book: lines,
            threads: threads.collect::<Fallible<_>>()?,
        })
    }

    fn read_thread(&self, thread: u64, broken: &mut Vec<String>) -> Fallible<Found> {
        let store = &self.mill.store;
        let task = Mill::task(thread)?;
        let mut found = Found {
            status: store.task(&task)?.map(|task| task.status),
            ..Found::default()
        };
        self.read_checkpoints(thread, &mut found, broken)?;
        for item in store.work_items_of(&task, None, PAGE)?.items {
            let key = item.unique_key.as_deref().unwrap_or_default();
            let Some(step) = (1..=self.plan.steps)
                .map(|number| Step { thread, number })
                .find(|step| step.item_key() == key)
            else {
                broken.push(format!("a strange item of thread {thread}: {key:?}"));
                continue;
            };
            found.items.insert(step.number, item.status);
            if item.status == WorkItemStatus::Succeeded {
                let result = store.work_item(item.id)?.and_then(|item| item.result);
                if result != Some(self.plan.result(step)) {
                    broken.push(format!("the result of step {step} is another one"));
                }
            }
        }
        let filter = KeyFilter {
            prefix: Some(IdempotencyKey::TOOL_LEDGER.into()),
            task: Some(task),
            ..KeyFilter::default()
        };
        for key in store.keys(&filter, None, PAGE)?.items {
            let name = key.detail["step"].as_str().unwrap_or_default();
            let Some(step) = (1..=self.plan.steps)
                .map(|number| Step { thread, number })
                .find(|step| step.name() == name)
            else {
                broken.push(format!("a strange call of thread {thread}: {name:?}"));
                continue;
            };
            found.calls.insert(step.number, key.view.status);
            if key.view.status == KeyStatus::Succeeded {
                // Reading it checks its seal.
                let entry = store.find_recorded(&key.key)?;
                let record = entry.and_then(|entry| ToolRecord::decode(&entry.outcome).ok());
                let output = match &record {
                    Some(ToolRecord::Outcome(outcome)) => outcome.output(),
                    _ => None,
                };
                if output.map(|output| output.as_bytes()) != Some(&self.plan.output(step)) {
                    broken.push(format!("what came out of step {step} is something else"));
                }
            }
        }
        for number in 1..=self.plan.steps {
            let step = Step { thread, number };
            if !step.asks() {
                continue;
            }
            if let Some(answer) = self.mill.answer(step)? {
                found.answers.insert(number);
                if answer != self.plan.answer(step) {
                    broken.push(format!("the answer of step {step} is another one"));
                }
            }
        }
        Ok(found)
    }

    /// Every checkpoint with its seal checked, its state, and its artifacts as they lie
    /// there.
    fn read_checkpoints(
        &self,
        thread: u64,
        found: &mut Found,
        broken: &mut Vec<String>,
    ) -> Fallible<()> {
        let store = &self.mill.store;
        let task = Mill::task(thread)?;
        let mut all = store.checkpoints(&task, None, PAGE)?;
        all.reverse();
        let numbers: Vec<u64> = all.iter().map(|one| one.sequence.get()).collect();
        found.newest = numbers.last().copied().unwrap_or(0);
        let oldest = numbers.first().copied().unwrap_or(1);
        if !(oldest..)
            .zip(&numbers)
            .all(|(expected, found)| expected == *found)
        {
            broken.push(format!(
                "the numbers of thread {thread} have gaps: {numbers:?}"
            ));
        }
        for summary in all {
            // What a sweep writes of a lost lease carries no step.
            if summary.checkpoint_type == CheckpointType::ErrorBoundary {
                continue;
            }
            let number = summary.sequence;
            let Some(checkpoint) = store.checkpoint(&task, number)? else {
                broken.push(format!(
                    "checkpoint {number} of thread {thread} is listed only"
                ));
                continue;
            };
            let step = Step::of_label(&checkpoint.metadata);
            found.checkpoints.push((number.get(), step));
            let Some(step) = step else { continue };
            let state = checkpoint.snapshot.as_ref().map(|state| state.bytes());
            if state != Some(&self.plan.state(step)) {
                broken.push(format!("the state of step {step} is another one"));
            }
            for other in Plan::evidence(step) {
                if !self.plan.is_made(self.work, other) {
                    broken.push(format!(
                        "checkpoint {number} of thread {thread} is there, and {} is not as it was",
                        Plan::artifact(other).display()
                    ));
                }
            }
        }
        Ok(())
    }

    /// What recovery gives: the newest checkpoint, whose evidence holds; nothing is held
    /// any more; and what was begun is in doubt.
    fn recovered(&self, looked: &mut Looked) -> Fallible<()> {
        let store = &self.mill.store;
        for thread in 0..self.plan.threads {
            let recovery = recover(&self.mill.checkpoints, store.as_ref(), &Mill::task(thread)?)?;
            let found = looked.seen.threads.get(thread as usize);
            let newest = found.and_then(|found| found.checkpoints.last().copied());
            let (resumed, passed_over) = match &recovery.resume {
                Resume::From(resumed) => (
                    Some(resumed.checkpoint.summary.sequence.get()),
                    &resumed.passed_over,
                ),
                Resume::Nowhere { passed_over } => (None, passed_over),
            };
            if resumed != newest.map(|(number, _)| number) || !passed_over.is_empty() {
                let words: Vec<String> = passed_over.iter().map(ToString::to_string).collect();
                looked.say(format!(
                    "thread {thread} resumes from {resumed:?} and not from {newest:?}: {words:?}"
                ));
            }
            if recovery.in_progress > 0 {
                looked.say(format!("thread {thread} holds something after the sweep"));
            }
        }
        let doubtful = self.mill.ledger.in_doubt(None, PAGE)?.items.len();
        let calls = looked
            .seen
            .threads
            .iter()
            .flat_map(|found| found.calls.values());
        let pending = calls
            .filter(|status| **status == KeyStatus::Pending)
            .count();
        if doubtful != pending {
            looked.say(format!(
                "{pending} calls were begun, and {doubtful} are in doubt"
            ));
        }
        Ok(())
    }

    fn go_on(&self, looked: &mut Looked, go_on: GoOn) -> Fallible<()> {
        let thread = match go_on {
            GoOn::Append => 0,
            GoOn::Step(thread) => thread,
        };
        let task = Mill::task(thread)?;
        let before = self.newest(thread)?;
        let found = looked.seen.threads.get(thread as usize);
        let book = looked.seen.book.iter().flatten();
        let done = book.filter(|step| step.thread == thread).count() as u64;
        match go_on {
            GoOn::Step(_) if done < self.plan.steps => {
                let number = done + 1;
                self.mill.grind(Step { thread, number })?;
            }
            _ => {
                let new = NewCheckpoint::new(task.clone(), CheckpointType::ManualCheckpoint);
                let new = new.raw(1, *b"after the cut");
                self.mill.checkpoints.append(new)?;
            }
        }
        let over = found.is_some_and(|found| found.status == Some(TaskStatus::Succeeded));
        let after = self.newest(thread)?;
        if after != before + 1 {
            looked.say(format!(
                "after {before} comes checkpoint {after} of thread {thread} (over: {over})"
            ));
        }
        Ok(())
    }

    /// The newest number of a thread's checkpoints.
    fn newest(&self, thread: u64) -> Fallible<u64> {
        let newest = self.mill.store.checkpoints(&Mill::task(thread)?, None, 1)?;
        Ok(newest
            .first()
            .map_or(0, |one| SequenceNumber::get(one.sequence)))
    }
}

/// How many items of a thread are held.
fn held(found: &Found) -> usize {
    let items = found.items.values();
    items
        .filter(|status| **status == WorkItemStatus::InProgress)
        .count()
}

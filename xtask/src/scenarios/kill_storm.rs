//! Scenario 9. Goal: whatever happens to the workers, every item is done, rightly and
//! by one of them, and nothing is done again that need not be.
//!
//! Method: 8 worker processes share the items of one file. Each item has three steps;
//! each step appends a line to a log outside of the store, and is then committed under
//! the lease as a checkpoint. For a seeded time workers are killed, stopped for longer
//! or shorter than a lease lasts, and started again; each blow falls after a seeded
//! number of steps was acknowledged. In the middle of it a backup is made. Then the
//! workers are left to finish.
//!
//! SIGSTOP may hit whoever holds the write lock; then all others wait until it goes on.
//! So no stop is longer than they have patience, and the leases that run out meanwhile
//! are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Prng, Run, Scenario, Verdict};
use agentos_checkpoints::ReadState;
use agentos_core::limits::{PRIORITY_MAX, PRIORITY_MIN};
use agentos_core::{
    CheckpointType, Commit, Deadline, Fence, LeaseStorage, NewTask, NewWorkItem, SetTaskStatus,
    Stopwatch, Storage, TaskId, TaskStatus, TaskStorage, WorkItemStatus,
};
use agentos_store::sqlite::{Config, SqliteStore};

use super::crew::{Crew, Kill, Word};
use super::told::{Told, count, found, given_to, lost};
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::{History, Moment, Reply, STEPS, Step, Stormed, judge_deadlines, judge_losses};
use crate::victims::{StepDone, Stormer, WORK_TYPE, true_now_us};
use crate::work::Work;

const PROCESSES: u64 = 8;
const ITEMS: u64 = 200;
const ITEMS_QUICK: u64 = 60;
/// How long the storm lasts, in milliseconds, if the work does.
const STORM_MS: RangeInclusive<u64> = 3000..=5000;
const STORM_MS_QUICK: RangeInclusive<u64> = 1000..=2000;
/// It lasts longer until so many were killed.
const KILLS_MIN: u64 = 2;
/// It ends in any case when so many of 100 steps were acknowledged: there shall be work
/// left for those who come after it.
const STORM_PERCENT: u64 = 85;
const THREADS: usize = 2;
const LEASE_MS: u64 = 400;
/// Acknowledged steps between two blows.
const STEPS_BETWEEN: RangeInclusive<u64> = 1..=10;
const STEPS_BETWEEN_QUICK: RangeInclusive<u64> = 1..=5;
/// Of 100 blows so many are kills.
const KILLS: u64 = 55;
const KILL_OFFSET_MAX: Duration = Duration::from_millis(2);
/// How long one is stopped: from a part of a lease to more than two, and much shorter
/// than the patience of the others.
const STOP_MS: RangeInclusive<u64> = 50..=900;
/// Half of the stops end when the leases have just run out, and others work on the items.
const STOP_MS_CLOSE: RangeInclusive<u64> = LEASE_MS * 2 / 3..=LEASE_MS * 5 / 4;
const CLOSE: u64 = 50;
/// Of 100 who are started again so many give up at once what they held before.
const GIVE_UP: u64 = 50;
/// How long one stays dead.
const DEAD_MS: RangeInclusive<u64> = 0..=200;
/// So many are left at work.
const AT_WORK_MIN: usize = 3;
/// Longest wait for a word.
const LISTEN: Duration = Duration::from_millis(2);
/// For the last item to be done, once nobody disturbs any more.
const PATIENCE: Duration = Duration::from_secs(40);
/// Most attempts at an item: no loss may be the last.
const ATTEMPTS_MAX: u32 = 100;

type Fallible<T> = Result<T, Failure>;

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "8 workers are killed, stopped and restarted at random: every item is done once and rightly";
    Scenario::new(9, "kill-storm", goal, move |run| {
        let items = if run.quick() { ITEMS_QUICK } else { ITEMS };
        let mut storm = Storm::new(run.dir(), items, canary);
        let result = storm.tell(run);
        storm.figures();
        storm.outcome.after(result)
    })
}

/// A storm, what was told in it, and what comes of it.
pub(crate) struct Storm {
    db: PathBuf,
    log: PathBuf,
    copy: PathBuf,
    canary: Option<Canary>,
    items: u64,
    told: Told,
    /// From when on a worker's earlier starts may lose what they held.
    given_up: Vec<(String, Moment)>,
    /// What was acknowledged when the backup was begun.
    copied: Option<Vec<Step>>,
    kills: u64,
    stops: u64,
    starts: u64,
    refused: u64,
    storm: Duration,
    lost: usize,
    done: usize,
    /// Whether attempts may fail: system calls of a worker were made to.
    pub(crate) may_fail: bool,
    pub(crate) outcome: Outcome,
}

impl Storm {
    /// One that has not begun, in a directory.
    pub(crate) fn new(dir: &Path, items: u64, canary: Option<Canary>) -> Storm {
        Storm {
            db: dir.join("storm.db"),
            log: dir.join("steps.log"),
            copy: dir.join("storm-backup.db"),
            canary,
            items,
            told: Told::default(),
            given_up: Vec::new(),
            copied: None,
            kills: 0,
            stops: 0,
            starts: 0,
            refused: 0,
            storm: Duration::ZERO,
            lost: 0,
            done: 0,
            may_fail: false,
            outcome: Outcome::passed(),
        }
    }

    fn tell(&mut self, run: &mut Run) -> Fallible<()> {
        self.prepare()?;
        let roles = (1..=PROCESSES).map(|number| self.worker(number, THREADS));
        let mut crew = Crew::start(run, roles.collect())?;
        run.progress("the storm");
        self.rage(run, &mut crew)?;
        run.progress("after the storm");
        self.calm(run, &mut crew)?;
        drop(crew);
        self.judge(run)
    }

    /// One of the workers.
    pub(crate) fn worker(&self, number: u64, threads: usize) -> Stormer {
        Stormer {
            db: self.db.clone(),
            log: self.log.clone(),
            name: format!("worker-{number}"),
            threads,
            lease_ms: LEASE_MS,
            gives_up: false,
            canary: self.canary,
        }
    }

    /// Items with a task each, in one commit, and an empty log.
    pub(crate) fn prepare(&self) -> Fallible<()> {
        fs::write(&self.log, "")?;
        let store = SqliteStore::open(Config::at(&self.db))?;
        let mut commit = Commit::new();
        for number in 0..self.items {
            let task = TaskId::new(format!("task {number}"))?;
            let item = NewWorkItem::new(WORK_TYPE)
                .task(task.clone())
                .priority(priority(number))
                .payload(number.to_string())
                .max_attempts(ATTEMPTS_MAX);
            commit = commit
                .part(NewTask::new(task.clone(), "three steps"))
                .part(SetTaskStatus::new(task, TaskStatus::Running))
                .part(item);
        }
        store.commit(commit)?;
        Ok(())
    }

    /// Blows, one after the other, until the time is over or nearly all is done.
    fn rage(&mut self, run: &mut Run, crew: &mut Crew) -> Fallible<()> {
        let (time, steps) = if run.quick() {
            (STORM_MS_QUICK, STEPS_BETWEEN_QUICK)
        } else {
            (STORM_MS, STEPS_BETWEEN)
        };
        let length = Duration::from_millis(between(&mut run.rng, &time));
        let all = self.items * STEPS;
        let copy_at = run.rng.between(all / 8, all / 3);
        let mut next = 1 + between(&mut run.rng, &steps);
        // It begins with the work.
        let mut watch = None;
        loop {
            self.look_around(run, crew)?;
            let acked = self.told.steps.len() as u64;
            if acked == 0 {
                continue;
            }
            let watch = watch.get_or_insert_with(Stopwatch::start);
            self.storm = watch.elapsed();
            if acked >= copy_at && self.copied.is_none() {
                self.back_up(crew)?;
            }
            let is_over = self.storm >= length && self.kills >= KILLS_MIN;
            if is_over || acked * 100 >= all * STORM_PERCENT {
                break;
            }
            if acked >= next && AT_WORK_MIN < crew.at_work() {
                self.blow(run, crew, acked, all)?;
                next = acked + between(&mut run.rng, &steps);
            }
        }
        if self.copied.is_none() {
            self.back_up(crew)?;
        }
        Ok(())
    }

    fn blow(&mut self, run: &mut Run, crew: &mut Crew, acked: u64, all: u64) -> Fallible<()> {
        let millis = |rng: &mut Prng, range| Duration::from_millis(between(rng, range));
        if run.rng.percent(KILLS) {
            let how = Kill {
                offset: run.rng.duration_between(Duration::ZERO, KILL_OFFSET_MAX),
                pause: millis(&mut run.rng, &DEAD_MS),
                gives_up: run.rng.percent(GIVE_UP),
            };
            let mut words = Vec::new();
            let killed = crew.kill_one(&mut run.rng, &how, &mut words)?;
            self.heed(words)?;
            if let Some(name) = killed {
                self.told.died(&name, true_now_us());
                self.kills += 1;
                #[expect(clippy::cast_precision_loss, reason = "a part of all steps")]
                self.outcome.kill_point(acked as f64 / all as f64);
            }
            Ok(())
        } else {
            let range = if run.rng.percent(CLOSE) {
                STOP_MS_CLOSE
            } else {
                STOP_MS
            };
            let pause = millis(&mut run.rng, &range);
            self.stops += u64::from(crew.stop_one(&mut run.rng, pause)?);
            Ok(())
        }
    }

    /// A worker has said all this and is dead, by itself or not.
    pub(crate) fn has_died(&mut self, name: &str, lines: &[String]) -> Fallible<()> {
        for line in lines {
            self.told.heed(name, line)?;
        }
        self.told.died(name, true_now_us());
        Ok(())
    }

    /// From now on a later start of this worker may give up what it held.
    pub(crate) fn gives_up(&mut self, name: &str) {
        self.given_up.push((name.to_owned(), true_now_us()));
    }

    /// Everybody goes on or is started again, and ends by itself.
    pub(crate) fn calm(&mut self, run: &mut Run, crew: &mut Crew) -> Fallible<()> {
        crew.all_go_on()?;
        let deadline = Deadline::after(PATIENCE);
        while !crew.have_ended() {
            if deadline.passed() {
                return Err(Failure::new(format!(
                    "the workers are not done {PATIENCE:?} after the storm"
                )));
            }
            self.look_around(run, crew)?;
        }
        Ok(())
    }

    fn look_around(&mut self, run: &mut Run, crew: &mut Crew) -> Fallible<()> {
        if run.is_over() {
            return Err(Failure::new("the scenario's time is over"));
        }
        let words = crew.listen(LISTEN)?;
        self.heed(words)?;
        let now = true_now_us();
        let (give_up, started) = crew.tend(run)?;
        self.starts += started;
        let give_up = give_up.into_iter().map(|name| (name, now));
        self.given_up.extend(give_up);
        Ok(())
    }

    fn heed(&mut self, words: Vec<Word>) -> Fallible<()> {
        let mut words = words.into_iter();
        words.try_for_each(|Word { name, line }| self.told.heed(&name, &line))
    }

    /// Backs the file up while all are at work that are alive. Nobody is stopped: it
    /// might hold the write lock.
    fn back_up(&mut self, crew: &mut Crew) -> Fallible<()> {
        crew.all_go_on()?;
        let acked = self.told.steps.clone();
        let config = Config::at(&self.db).busy_timeout(PATIENCE);
        SqliteStore::open(config)?.backup(&self.copy)?;
        self.copied = Some(acked);
        Ok(())
    }

    /// Reads the file and the log.
    pub(crate) fn judge(&mut self, run: &Run) -> Fallible<()> {
        let wreck = Wreck::open(&self.db, run.dir())?;
        for problem in wreck.problems()? {
            self.outcome.violate(problem);
        }
        let done = read_log(&self.log)?;
        self.done = done.len();
        let work = Work::read(&self.db)?;
        self.lost = lost(&work).len();
        self.outcome
            .check(work.items.len() as u64 == self.items, || {
                format!("{} items are there", work.items.len())
            });
        let history = self.told.history(found(&wreck.store)?);
        self.told.judge(&history, &work, &mut self.outcome);
        self.judge_deadlines(&history);
        self.refused = count(&history, |_, reply| *reply == Reply::Stale);
        let told = &self.told.steps;
        let strange = done
            .iter()
            .chain(told)
            .find(|step| step.number >= self.items);
        if let Some(step) = strange {
            self.outcome
                .violate(format!("there is no item for the step {step}"));
        }
        // Items are enqueued in the order of their numbers.
        for (number, item) in (0..self.items).zip(history.items.values()) {
            let task = TaskId::new(format!("task {number}"))?;
            let of = |steps: &[Step]| {
                let own = steps.iter().filter(|step| step.number == number);
                own.copied().collect()
            };
            let stormed = Stormed {
                number,
                committed: committed(&wreck, &task, number)?,
                done: of(&done),
                acked: of(told),
                may_fail: self.may_fail,
            };
            for broken in stormed.judge(item) {
                self.outcome.violate(broken);
            }
            let status = wreck.store.task(&task)?.map(|task| task.status);
            self.outcome
                .check(status == Some(TaskStatus::Succeeded), || {
                    format!("{task} is {status:?}")
                });
        }
        match self.copied.take() {
            Some(acked) if self.outcome.verdict == Verdict::Passed => {
                self.look_at_copy(run, &acked)
            }
            _ => Ok(()),
        }
    }

    /// Nobody lost a lease before its deadline, unless a later start of its holder
    /// gave it up.
    fn judge_deadlines(&mut self, history: &History) {
        let mut may_go: BTreeMap<Fence, Moment> = BTreeMap::new();
        for (name, moment) in &self.given_up {
            for fence in given_to(history, name, *moment) {
                let known = may_go.entry(fence).or_insert(*moment);
                *known = (*known).min(*moment);
            }
        }
        let lease = i64::try_from(LEASE_MS * 1000).unwrap_or(i64::MAX);
        let may_go = |fence| may_go.get(&fence).copied();
        for broken in judge_deadlines(history, &self.told.taken, |_| lease, may_go) {
            self.outcome.violate(broken);
        }
    }

    /// The backup is sound, of one moment, and has what was acknowledged before it.
    fn look_at_copy(&mut self, run: &Run, before: &[Step]) -> Fallible<()> {
        let wreck = Wreck::open(&self.copy, run.dir())?;
        for problem in wreck.problems()? {
            self.outcome.violate(format!("in the backup: {problem}"));
        }
        let work = Work::read(&self.copy)?;
        for broken in judge_losses(&lost(&work), &work) {
            self.outcome.violate(format!("in the backup: {broken}"));
        }
        let mut steps = BTreeSet::new();
        for number in 0..self.items {
            let task = TaskId::new(format!("task {number}"))?;
            steps.extend(committed(&wreck, &task, number)?);
        }
        let missing = before.iter().filter(|step| !steps.contains(step)).count();
        self.outcome.check(missing == 0, || {
            format!("the backup lacks {missing} steps that were acknowledged before it")
        });
        let held = wreck
            .store
            .work_items(WorkItemStatus::InProgress, None, 1000)?;
        self.outcome.metric("leases_in_backup", held.items.len());
        Ok(())
    }

    /// What happened, in numbers.
    pub(crate) fn figures(&mut self) {
        let outcome = &mut self.outcome;
        outcome.metric("items", self.items);
        outcome.metric("kills", self.kills);
        outcome.metric("stops", self.stops);
        outcome.metric("restarts", self.starts);
        let storm = u64::try_from(self.storm.as_millis()).unwrap_or(u64::MAX);
        outcome.metric("storm_ms", storm);
        outcome.metric("acked", self.told.steps.len());
        outcome.metric("steps_done", self.done);
        let again = self
            .done
            .saturating_sub(usize::try_from(self.items * STEPS).unwrap_or(0));
        outcome.metric("done_again", again);
        outcome.metric("leases_lost", self.lost);
        outcome.metric("refused", self.refused);
        outcome.metric("busy", self.told.busy);
    }
}

/// Each item its own, as far as there are so many: whoever loses one is followed at
/// once, while it is the most urgent, and not when all others are done.
fn priority(number: u64) -> i32 {
    let priorities = i64::from(PRIORITY_MAX) - i64::from(PRIORITY_MIN) + 1;
    let place = i64::try_from(number).unwrap_or(0) % priorities;
    PRIORITY_MAX - i32::try_from(place).unwrap_or(0)
}

fn between(rng: &mut Prng, range: &RangeInclusive<u64>) -> u64 {
    rng.between(*range.start(), *range.end())
}

/// What was done in the world.
fn read_log(log: &Path) -> Fallible<Vec<Step>> {
    let text = fs::read_to_string(log)?;
    let read = |line| {
        Step::parse(line).ok_or_else(|| Failure::new(format!("the log has the line {line:?}")))
    };
    text.lines().map(read).collect()
}

/// The steps of a task that are committed, each seal checked.
fn committed(wreck: &Wreck, task: &TaskId, number: u64) -> Fallible<Vec<Step>> {
    let mut steps = Vec::new();
    for checkpoint in wreck.all(task)? {
        if checkpoint.summary.checkpoint_type == CheckpointType::ErrorBoundary {
            continue;
        }
        let state: StepDone = checkpoint.state()?;
        steps.push(Step {
            number,
            step: state.step,
            token: state.token,
            value: state.value,
        });
    }
    Ok(steps)
}

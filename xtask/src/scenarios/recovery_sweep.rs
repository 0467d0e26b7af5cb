//! Scenario 4. Goal: a sweep finds every lease that was lost, exactly once, and no
//! other; everything about it is on record, and what can be tried again is.
//!
//! Method: processes claim 100 items between them, at once and for long; then they
//! shorten their leases to a seeded time each, all at one moment, and are killed. A
//! living worker holds some more. When the last of the short leases has run out, a
//! process sweeps in seeded batches, sweeps again, and finishes what can be claimed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, Scenario, ScenarioResult, Victim};
use agentos_core::{Commit, NewTask, NewWorkItem, Storage, TaskId};
use agentos_store::sqlite::{Config, SqliteStore};

use super::gate::Gate;
use super::{fact, same};
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::judge_losses;
use crate::victims::{HeldLease, Holder, Recoverer, Role, Scan, spec};
use crate::work::{Claim, Work};

/// Items that are held by processes that die.
const LOST: u32 = 100;
/// Items that a living worker holds.
const KEPT: u32 = 10;
const PROCESSES: u32 = 10;
const PROCESSES_QUICK: u32 = 4;
const TASKS: u32 = 5;
/// In percent: items that have no second attempt.
const LAST_CHANCE_PERCENT: u64 = 15;
/// Long enough that none runs out before it is shortened, or while others look.
const LONG_MS: u64 = 600_000;
/// What the leases are shortened to.
const SHORT_MS: std::ops::RangeInclusive<u64> = 100..=300;
/// Fewer than there are: several batches are needed.
const ROWS_PER_BATCH: std::ops::RangeInclusive<u64> = 25..=60;
/// For a line to come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "100 leases of dead workers: exactly 100 found, 100 recovered, and no other";
    Scenario::new(4, "recovery-sweep", goal, move |run| {
        Story::begin(run, canary)?.tell(run)
    })
}

struct Story {
    canary: Option<Canary>,
    db: PathBuf,
    processes: u32,
    /// How often each item can be tried.
    max_attempts: BTreeMap<i64, u32>,
    /// The leases of those who were killed, and of the one who lives.
    lost: Vec<HeldLease>,
    kept: Vec<Claim>,
    scan: Option<Scan>,
    finished: usize,
    outcome: Outcome,
}

type Fallible<T> = Result<T, Failure>;

impl Story {
    fn begin(run: &mut Run, canary: Option<Canary>) -> Fallible<Story> {
        let mut story = Story {
            canary,
            db: run.dir().join("work.db"),
            processes: if run.quick() {
                PROCESSES_QUICK
            } else {
                PROCESSES
            },
            max_attempts: BTreeMap::new(),
            lost: Vec::new(),
            kept: Vec::new(),
            scan: None,
            finished: 0,
            outcome: Outcome::passed(),
        };
        story.prepare(run)?;
        Ok(story)
    }

    fn tell(mut self, run: &mut Run) -> ScenarioResult {
        let result = self.all(run);
        let scan = self.scan.as_ref();
        let found = scan.map(|scan| scan.expired_found);
        self.outcome.metric("expired_found", found);
        let recovered = scan.map(|scan| scan.recovered);
        self.outcome.metric("recovered", recovered);
        let sweep_ms = scan.map(|scan| (scan.duration_ms * 1e3).round() / 1e3);
        self.outcome.metric("sweep_ms", sweep_ms);
        self.outcome.metric("processes", self.processes);
        self.outcome.metric("finished", self.finished);
        self.outcome.after(result)
    }

    fn prepare(&mut self, run: &mut Run) -> Fallible<()> {
        let store = SqliteStore::open(Config::at(&self.db))?;
        let mut commit = Commit::new();
        for task in 0..TASKS {
            commit = commit.part(NewTask::new(task_of(task)?, "worked on"));
        }
        let mut max_attempts = Vec::new();
        for number in 0..LOST + KEPT {
            let last_chance = run.rng.percent(LAST_CHANCE_PERCENT);
            let most = if last_chance { 1 } else { 2 };
            max_attempts.push(most);
            let work_type = if number < LOST {
                type_of(number % self.processes)
            } else {
                "kept".to_owned()
            };
            let item = NewWorkItem::new(work_type)
                .task(task_of(number % TASKS)?)
                .payload(format!("item {number}"))
                .max_attempts(most);
            commit = commit.part(item);
        }
        let receipt = store.commit(commit)?;
        let items = receipt.enqueued().map(|(item, _)| item.get());
        self.max_attempts = items.zip(max_attempts).collect();
        Ok(())
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        // It is killed with the run, and not before.
        let keeper = self.hold(run)?;
        let before = Work::read(&self.db)?;
        run.progress("the sweep");
        let last = self.lost.iter().map(|one| one.deadline_us).max();
        let recoverer = Role::Recoverer(Recoverer {
            db: self.db.clone(),
            worker: "recoverer".into(),
            begin_us: last.unwrap_or_default(),
            rows_per_batch: u32::try_from(
                run.rng
                    .between(*ROWS_PER_BATCH.start(), *ROWS_PER_BATCH.end()),
            )?,
            canary: self.canary,
        });
        let mut recoverer = run.start(&spec("recoverer", &recoverer)?)?;
        recoverer.wait_for_line("its sweeps", PATIENCE, |line| line == "swept")?;
        self.heed(&recoverer)?;
        let exit = recoverer.wait_for_exit(PATIENCE)?;
        self.outcome.check(exit.success(), || {
            format!("the recoverer ended with {exit}")
        });
        let finished: Vec<HeldLease> = recoverer
            .acks()
            .iter()
            .skip(2)
            .map(|ack| fact(ack))
            .collect::<Result<_, _>>()?;
        self.finished = finished.len();
        self.look(&before, &finished)?;
        drop(keeper);
        Ok(())
    }

    /// Everything is claimed, and all but one worker die. Gives the one who lives.
    fn hold(&mut self, run: &mut Run) -> Fallible<Victim> {
        let gate = Gate::shut(run, "shorten")?;
        let mut holders = Vec::new();
        for number in 0..self.processes {
            let share = LOST / self.processes;
            let short = run.rng.between(*SHORT_MS.start(), *SHORT_MS.end());
            holders.push(self.start(run, &type_of(number), share, Some((&gate, short)))?);
        }
        let mut keeper = self.start(run, "kept", KEPT, None)?;
        run.progress("everything is claimed");
        for holder in &mut holders {
            holder.wait_for_line("its leases", PATIENCE, |line| line == "holding")?;
        }
        keeper.wait_for_line("its leases", PATIENCE, |line| line == "waiting")?;
        gate.open()?;
        for holder in &mut holders {
            holder.wait_for_line("its renewal", PATIENCE, |line| line == "waiting")?;
        }
        for mut holder in holders {
            let acks = holder.kill()?.acks();
            // What it held before the renewal, and after it.
            for ack in &acks[acks.len() / 2..] {
                self.lost.push(fact(ack)?);
            }
        }
        for ack in keeper.acks().iter().take(KEPT as usize) {
            self.kept.push(fact::<HeldLease>(ack)?.claim);
        }
        let claimed = self.lost.iter().map(|one| one.claim.item);
        let claimed: BTreeSet<i64> = claimed
            .chain(self.kept.iter().map(|one| one.item))
            .collect();
        same(
            &mut self.outcome,
            "items that were claimed",
            claimed.len(),
            (LOST + KEPT) as usize,
        );
        Ok(keeper)
    }

    fn start(
        &self,
        run: &mut Run,
        work_type: &str,
        items: u32,
        shorten: Option<(&Gate, u64)>,
    ) -> Fallible<Victim> {
        let (gate, short) = shorten.unzip();
        let holder = Role::Holder(Holder {
            db: self.db.clone(),
            worker: format!("holder of {work_type}"),
            work_type: work_type.into(),
            items,
            lease_ms: LONG_MS,
            renewals: u32::from(gate.is_some()),
            renewed_ms: short.unwrap_or(LONG_MS),
            gate: gate.map(Gate::path),
            leaves: false,
            // What is judged is the sweep.
            canary: None,
        });
        Ok(run.start(&spec(work_type, &holder)?)?)
    }

    /// Hears what the sweeps said of themselves.
    fn heed(&mut self, recoverer: &Victim) -> Fallible<()> {
        let acks = recoverer.acks();
        let scans: Vec<Scan> = acks
            .iter()
            .take(2)
            .map(|ack| fact(ack))
            .collect::<Result<_, _>>()?;
        let [first, second] = scans.as_slice() else {
            return Err(Failure::new("there were not two sweeps"));
        };
        let last_chances = self
            .lost
            .iter()
            .filter(|one| self.max_attempts.get(&one.claim.item) == Some(&1));
        let dead = last_chances.count() as u64;
        let lost = u64::from(LOST);
        let outcome = &mut self.outcome;
        same(outcome, "expired leases found", first.expired_found, lost);
        same(outcome, "items recovered", first.recovered, lost);
        same(outcome, "items requeued", first.requeued, lost - dead);
        same(
            outcome,
            "items without an attempt left",
            first.dead_lettered,
            dead,
        );
        same(outcome, "failures", (first.failed, first.errors), (0, 0));
        let again = (second.expired_found, second.recovered, second.errors);
        same(
            outcome,
            "found, recovered and failed by a second sweep",
            again,
            (0, 0, 0),
        );
        self.scan = Some(first.clone());
        Ok(())
    }

    /// Reads the file.
    fn look(&mut self, before: &Work, finished: &[HeldLease]) -> Fallible<()> {
        let base = self.db.parent().unwrap_or(&self.db);
        let wreck = Wreck::open(&self.db, base)?;
        let outcome = &mut self.outcome;
        for problem in wreck.problems()? {
            outcome.violate(problem);
        }
        // Each seal is checked.
        for task in 0..TASKS {
            wreck.all(&task_of(task)?)?;
        }
        drop(wreck);
        let work = Work::read(&self.db)?;
        let lost: Vec<Claim> = self.lost.iter().map(|one| one.claim.clone()).collect();
        for broken in judge_losses(&lost, &work) {
            outcome.violate(broken);
        }
        for kept in &self.kept {
            let what = format!("item {} of the living worker", kept.item);
            let (was, is) = (before.items.get(&kept.item), work.items.get(&kept.item));
            same(outcome, &what, is, was);
        }
        let finished: BTreeMap<i64, &Claim> = finished
            .iter()
            .map(|one| (one.claim.item, &one.claim))
            .collect();
        for Claim { item, token, .. } in &lost {
            let Some(found) = work.items.get(item) else {
                outcome.violate(format!("item {item} is gone"));
                continue;
            };
            let dead = self.max_attempts.get(item) == Some(&1);
            let (status, last) = if dead {
                ("failed", *token)
            } else {
                ("succeeded", token + 1)
            };
            let is = (found.status.as_str(), found.token, found.losses);
            same(outcome, format!("item {item}"), is, (status, last, 1));
            let done = finished.get(item).map(|claim| claim.token);
            let expected = (!dead).then_some(token + 1);
            same(
                outcome,
                format!("the token under which item {item} was done"),
                done,
                expected,
            );
        }
        Ok(())
    }
}

fn task_of(number: u32) -> Fallible<TaskId> {
    Ok(TaskId::new(format!("task {number}"))?)
}

fn type_of(number: u32) -> String {
    format!("type {number}")
}

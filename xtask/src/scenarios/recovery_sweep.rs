//! Scenario 4. Goal: a sweep finds every lease that was lost, exactly once, and no
//! other; everything about it is on record, and what can be tried again is.
//!
//! Method: processes claim 100 items between them, at once and for long; then they
//! shorten their leases to a seeded time each, all at one moment, and are killed. A
//! living worker holds some more. When the last of the short leases has run out, a
//! process sweeps in seeded batches, sweeps again, and finishes what can be claimed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
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
pub(crate) const TASKS: u32 = 5;
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
        let mut items = Vec::new();
        for number in 0..LOST + KEPT {
            let last_chance = run.rng.percent(LAST_CHANCE_PERCENT);
            let work_type = if number < LOST {
                type_of(number % self.processes)
            } else {
                "kept".to_owned()
            };
            items.push((work_type, if last_chance { 1 } else { 2 }));
        }
        self.max_attempts = enqueue(&self.db, items)?;
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
            lease_ms: LONG_MS,
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
        let scans = scans(&recoverer.acks())?;
        let last_chances = self
            .lost
            .iter()
            .filter(|one| self.max_attempts.get(&one.claim.item) == Some(&1));
        let dead = last_chances.count() as u64;
        judge_scans(&scans, u64::from(LOST), dead, &mut self.outcome);
        self.scan = scans.into_iter().next();
        Ok(())
    }

    /// Reads the file.
    fn look(&mut self, before: &Work, finished: &[HeldLease]) -> Fallible<()> {
        let lost: Vec<Claim> = self.lost.iter().map(|one| one.claim.clone()).collect();
        let recovery = Recovery {
            before,
            lost: &lost,
            kept: &self.kept,
            max_attempts: &self.max_attempts,
            finished,
            all_heard: true,
        };
        recovery.look(&self.db, &mut self.outcome)
    }
}

/// Makes the file, with items of these types that can be tried so often. Gives how often
/// each can.
pub(crate) fn enqueue(db: &Path, items: Vec<(String, u32)>) -> Fallible<BTreeMap<i64, u32>> {
    let store = SqliteStore::open(Config::at(db))?;
    let mut commit = Commit::new();
    for task in 0..TASKS {
        commit = commit.part(NewTask::new(task_of(task)?, "worked on"));
    }
    let mut max_attempts = Vec::new();
    for (number, (work_type, most)) in (0..).zip(items) {
        max_attempts.push(most);
        let item = NewWorkItem::new(work_type)
            .task(task_of(number % TASKS)?)
            .payload(format!("item {number}"))
            .max_attempts(most);
        commit = commit.part(item);
    }
    let receipt = store.commit(commit)?;
    let items = receipt.enqueued().map(|(item, _)| item.get());
    Ok(items.zip(max_attempts).collect())
}

/// What two sweeps said of themselves.
pub(crate) fn scans(acks: &[String]) -> Fallible<Vec<Scan>> {
    let scans: Vec<Scan> = acks
        .iter()
        .take(2)
        .map(|ack| fact(ack))
        .collect::<Result<_, _>>()?;
    if scans.len() < 2 {
        return Err(Failure::new("there were not two sweeps"));
    }
    Ok(scans)
}

/// Judges what sweeps, one after the other, said of themselves: the first takes away all
/// leases that are `lost`, of which `dead` have no attempt left, and the others none.
pub(crate) fn judge_scans(scans: &[Scan], lost: u64, dead: u64, outcome: &mut Outcome) {
    let mut scans = scans.iter();
    if let Some(first) = scans.next() {
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
    }
    for second in scans {
        let again = (second.expired_found, second.recovered, second.errors);
        same(
            outcome,
            "found, recovered and failed by a second sweep",
            again,
            (0, 0, 0),
        );
    }
}

/// A file in which all is done that could be done.
pub(crate) struct Recovery<'r> {
    /// What was in it before.
    pub(crate) before: &'r Work,
    /// Every lease that was lost.
    pub(crate) lost: &'r [Claim],
    /// What a living worker holds.
    pub(crate) kept: &'r [Claim],
    /// How often each item can be tried.
    pub(crate) max_attempts: &'r BTreeMap<i64, u32>,
    /// What was acknowledged as done.
    pub(crate) finished: &'r [HeldLease],
    /// Whether that was all, or a crash may have swallowed some of it.
    pub(crate) all_heard: bool,
}

impl Recovery<'_> {
    /// Reads the file.
    pub(crate) fn look(&self, db: &Path, outcome: &mut Outcome) -> Fallible<()> {
        let wreck = Wreck::open(db, db.parent().unwrap_or(db))?;
        for problem in wreck.problems()? {
            outcome.violate(problem);
        }
        // Each seal is checked.
        for task in 0..TASKS {
            wreck.all(&task_of(task)?)?;
        }
        drop(wreck);
        let work = Work::read(db)?;
        for broken in judge_losses(self.lost, &work) {
            outcome.violate(broken);
        }
        for kept in self.kept {
            let what = format!("item {} of the living worker", kept.item);
            let was = self.before.items.get(&kept.item);
            same(outcome, &what, work.items.get(&kept.item), was);
        }
        let mut finished: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for HeldLease { claim, .. } in self.finished {
            finished.entry(claim.item).or_default().push(claim.token);
        }
        // The newest of each item, and how many there were.
        let mut lost: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for claim in self.lost {
            let (token, losses) = lost.entry(claim.item).or_default();
            *token = claim.token.max(*token);
            *losses += 1;
        }
        for (item, (token, losses)) in lost {
            let Some(found) = work.items.get(&item) else {
                outcome.violate(format!("item {item} is gone"));
                continue;
            };
            let most = self.max_attempts.get(&item).copied().map(i64::from);
            let dead = most == Some(losses);
            let (status, last) = if dead {
                ("failed", token)
            } else {
                ("succeeded", token + 1)
            };
            let is = (found.status.as_str(), found.token, found.losses);
            same(outcome, format!("item {item}"), is, (status, last, losses));
            let done = finished.remove(&item).unwrap_or_default();
            if done.is_empty() && !self.all_heard {
                continue;
            }
            let expected = if dead { vec![] } else { vec![token + 1] };
            same(
                outcome,
                format!("the tokens under which item {item} was done"),
                done,
                expected,
            );
        }
        Ok(())
    }
}

pub(crate) fn task_of(number: u32) -> Fallible<TaskId> {
    Ok(TaskId::new(format!("task {number}"))?)
}

fn type_of(number: u32) -> String {
    format!("type {number}")
}

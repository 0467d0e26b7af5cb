//! Scenario 10. Goal: an item that kills its worker each time is tried exactly as
//! often as it may be and lands in the dead letter, with its whole history; it keeps
//! nobody else's work from being done.
//!
//! Method: processes with pools work on many items; the handler of one of them (of
//! two, in the long form) calls `process::abort`. Whoever dies is started again
//! under the same name, until nothing is left to do. A process that dies takes down
//! what its other threads work on: that is a lost attempt of an item which is not to
//! blame, and it must be finished all the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use agentos_chaos::{
    Failure, HarnessError, Outcome, Run, Scenario, ScenarioResult, Verdict, Victim,
};
use agentos_core::{Commit, NewTask, NewWorkItem, Storage, TaskId};
use agentos_process::Exit;
use agentos_store::sqlite::{Config, SqliteStore};

use super::{fact, same};
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::judge_losses;
use crate::victims::{POISON, Pooled, Role, result_of, spec};
use crate::work::{Claim, Try, Work};

const PROCESSES: usize = 2;
const ITEMS: u64 = 30;
const ITEMS_QUICK: u64 = 12;
/// How often a poison item may be tried.
const MAX_ATTEMPTS: std::ops::RangeInclusive<u64> = 2..=4;
const MAX_ATTEMPTS_QUICK: std::ops::RangeInclusive<u64> = 2..=3;
const LEASE_MS: std::ops::RangeInclusive<u64> = 100..=160;
/// Until a process is asked again whether it has ended.
const TURN: Duration = Duration::from_millis(10);
/// The number of SIGABRT.
const SIGABRT: i32 = 6;
pub(crate) const WORK_TYPE: &str = "meal";
const TASK: &str = "dinner";

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "an item that kills its worker ends in the dead letter after its last attempt, and all others finish";
    Scenario::new(10, "poison-item", goal, move |run| {
        Story::begin(run, canary)?.tell(run)
    })
}

struct Story {
    role: Pooled,
    /// How often each poison item may be tried.
    poison: Poison,
    /// What each of the others must come to.
    results: Results,
    /// Processes that died, and the attempts of which they did.
    deaths: u64,
    died_of: Vec<Claim>,
    finished: Vec<Claim>,
    /// Attempts at poison items that are on record.
    attempts: usize,
    dead_letters: usize,
    outcome: Outcome,
}

type Fallible<T> = Result<T, Failure>;

impl Story {
    fn begin(run: &mut Run, canary: Option<Canary>) -> Fallible<Story> {
        let first = run.rng.between(0, 20);
        let role = Pooled {
            db: run.dir().join("work.db"),
            worker: String::new(),
            work_type: WORK_TYPE.into(),
            lease_ms: run.rng.between(*LEASE_MS.start(), *LEASE_MS.end()),
            pause_ms: (first, 2 * first),
            threads: usize::try_from(run.rng.between(1, 3))?,
            aborts: true,
            canary,
        };
        let mut story = Story {
            role,
            poison: BTreeMap::new(),
            results: BTreeMap::new(),
            deaths: 0,
            died_of: Vec::new(),
            finished: Vec::new(),
            attempts: 0,
            dead_letters: 0,
            outcome: Outcome::passed(),
        };
        story.prepare(run)?;
        Ok(story)
    }

    fn tell(mut self, run: &mut Run) -> ScenarioResult {
        let result = self.all(run);
        let allowed: u64 = self.poison.values().sum();
        self.outcome.metric("poison_items", self.poison.len());
        self.outcome.metric("max_attempts", allowed);
        self.outcome.metric("attempts", self.attempts);
        self.outcome.metric("deaths", self.deaths);
        self.outcome.metric("dead_letters", self.dead_letters);
        self.outcome.metric("finished", self.finished.len());
        self.outcome.after(result)
    }

    /// Enqueues everything: the poison anywhere in between, and as urgent as it may
    /// be.
    fn prepare(&mut self, run: &mut Run) -> Fallible<()> {
        let (items, range, poisons) = if run.quick() {
            (ITEMS_QUICK, MAX_ATTEMPTS_QUICK, 1)
        } else {
            (ITEMS, MAX_ATTEMPTS, 2)
        };
        let mut poison: Vec<Option<u64>> = vec![None; usize::try_from(items)?];
        poison.extend((0..poisons).map(|_| Some(run.rng.between(*range.start(), *range.end()))));
        run.rng.shuffle(&mut poison);
        let deaths: u64 = poison.iter().flatten().sum();
        let dishes: Vec<Dish> = poison
            .into_iter()
            .map(|poison| Dish {
                // One that is not to blame can be taken down by every death, and lose a
                // lease now and then on a machine that stands still.
                attempts: poison.unwrap_or(10 + deaths),
                is_poison: poison.is_some(),
                priority: i32::try_from(run.rng.between(0, 4)).unwrap_or(0) - 2,
            })
            .collect();
        (self.poison, self.results) = enqueue(&self.role.db, &dishes)?;
        Ok(())
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        let names = (1..=PROCESSES).map(|number| format!("cook {number}"));
        let names: Vec<String> = names.collect();
        let mut working = Vec::new();
        for name in &names {
            working.push(self.start(run, name)?);
        }
        let allowed: u64 = self.poison.values().sum();
        while !working.is_empty() {
            let mut still = Vec::new();
            for mut victim in working {
                match victim.wait_for_exit(TURN) {
                    Err(HarnessError::TimedOut { .. }) if !run.is_over() => still.push(victim),
                    Err(error) => return Err(error.into()),
                    Ok(exit) => {
                        if self.heed(&victim, exit)? {
                            still.push(self.start(run, &victim.name())?);
                        }
                    }
                }
            }
            working = still;
            if allowed < self.deaths {
                let reason = format!(
                    "{} processes died of what may be tried {allowed} times",
                    self.deaths
                );
                self.outcome.violate(reason);
                return Ok(());
            }
            if self.outcome.verdict != Verdict::Passed {
                return Ok(());
            }
        }
        self.look()
    }

    fn start(&self, run: &mut Run, name: &str) -> Fallible<Victim> {
        let role = Role::Pooled(Pooled {
            worker: name.into(),
            ..self.role.clone()
        });
        // Where the system writes memory images, there they go with the run.
        let spec = spec(name, &role)?.cwd(run.dir());
        Ok(run.start(&spec)?)
    }

    /// Hears a process that has ended. Whether it must be started again.
    fn heed(&mut self, victim: &Victim, exit: Exit) -> Fallible<bool> {
        for ack in victim.acks() {
            self.finished.push(fact(&ack)?);
        }
        let mut died_of = Vec::new();
        for line in victim.said() {
            if let Some(claim) = line.strip_prefix("poison ") {
                died_of.push(fact::<Claim>(claim)?);
            }
        }
        let died = exit == Exit::Signalled { signal: SIGABRT };
        self.outcome.check(died != died_of.is_empty(), || {
            format!("{} ended with {exit} after {died_of:?}", victim.name())
        });
        self.outcome.check(died || exit.success(), || {
            format!("{} ended with {exit}", victim.name())
        });
        self.deaths += u64::from(died);
        self.died_of.extend(died_of);
        Ok(died)
    }

    /// Reads the file.
    fn look(&mut self) -> Fallible<()> {
        let meal = Meal {
            poison: &self.poison,
            results: &self.results,
            died_of: &self.died_of,
            finished: &self.finished,
            may_fail: false,
        };
        let (dead_letters, attempts) = meal.look(&self.role.db, &mut self.outcome)?;
        self.dead_letters = dead_letters;
        self.attempts = attempts;
        Ok(())
    }
}

/// An item that is to be enqueued.
pub(crate) struct Dish {
    pub(crate) is_poison: bool,
    /// How often it may be tried.
    pub(crate) attempts: u64,
    pub(crate) priority: i32,
}

/// How often each poison item may be tried.
pub(crate) type Poison = BTreeMap<i64, u64>;
/// What each of the others must come to.
pub(crate) type Results = BTreeMap<i64, Vec<u8>>;

/// Makes the file with these items, which belong to one task.
pub(crate) fn enqueue(db: &Path, dishes: &[Dish]) -> Fallible<(Poison, Results)> {
    let task = TaskId::new(TASK)?;
    let mut commit = Commit::new().part(NewTask::new(task.clone(), "worked on"));
    let mut payloads = Vec::new();
    for (number, dish) in dishes.iter().enumerate() {
        let payload = if dish.is_poison {
            POISON.to_vec()
        } else {
            format!("dish {number}").into_bytes()
        };
        let item = NewWorkItem::new(WORK_TYPE)
            .task(task.clone())
            .priority(dish.priority)
            .payload(payload.clone())
            .max_attempts(u32::try_from(dish.attempts)?);
        commit = commit.part(item);
        payloads.push(payload);
    }
    let store = SqliteStore::open(Config::at(db))?;
    let receipt = store.commit(commit)?;
    let (mut poison, mut results) = (Poison::new(), Results::new());
    for (((item, _), payload), dish) in receipt.enqueued().zip(payloads).zip(dishes) {
        if dish.is_poison {
            poison.insert(item.get(), dish.attempts);
        } else {
            results.insert(item.get(), result_of(&payload));
        }
    }
    Ok((poison, results))
}

/// All that was to be done, and what was told of it.
pub(crate) struct Meal<'m> {
    pub(crate) poison: &'m Poison,
    pub(crate) results: &'m Results,
    /// Attempts at poison that were told of.
    pub(crate) died_of: &'m [Claim],
    /// What was acknowledged as done.
    pub(crate) finished: &'m [Claim],
    /// Whether attempts may also end with a failure that their handler reports.
    pub(crate) may_fail: bool,
}

impl Meal<'_> {
    /// Reads the file when nothing is left to do. Gives how many items are in the dead
    /// letter, and how many attempts at poison are on record.
    pub(crate) fn look(&self, db: &Path, outcome: &mut Outcome) -> Fallible<(usize, usize)> {
        let wreck = Wreck::open(db, db.parent().unwrap_or(db))?;
        for problem in wreck.problems()? {
            outcome.violate(problem);
        }
        // Each seal is checked.
        wreck.all(&TaskId::new(TASK)?)?;
        drop(wreck);
        let work = Work::read(db)?;
        let status = |status: &str| {
            let items = work
                .items
                .values()
                .filter(move |item| item.status == status);
            items.map(|item| item.id).collect::<Vec<i64>>()
        };
        let poison: Vec<i64> = self.poison.keys().copied().collect();
        same(outcome, "the dead letter", status("failed"), poison);
        let others: Vec<i64> = self.results.keys().copied().collect();
        same(outcome, "what succeeded", status("succeeded"), others);
        let lost: Vec<Claim> = work.tries.iter().filter(is_lost).map(claim_of).collect();
        for broken in judge_losses(&lost, &work) {
            outcome.violate(broken);
        }
        let of_poison = |one: &&Try| is_lost(one) || (self.may_fail && has_failed(one));
        let ended: Vec<Claim> = work.tries.iter().filter(of_poison).map(claim_of).collect();
        for claim in self.died_of.iter().filter(|claim| !ended.contains(claim)) {
            let Claim { item, token, who } = claim;
            outcome.violate(format!(
                "{who} died of item {item} in attempt {token}, and its history does not say so"
            ));
        }
        let mut attempts = 0;
        for (item, most) in self.poison {
            attempts += look_at_poison(&work, *item, *most, self.may_fail, outcome);
        }
        for (item, result) in self.results {
            self.look_at_other(&work, *item, result, outcome);
        }
        Ok((status("failed").len(), attempts))
    }

    fn look_at_other(&self, work: &Work, item: i64, result: &Vec<u8>, outcome: &mut Outcome) {
        let found = work.items.get(&item).and_then(|item| item.result.as_ref());
        same(
            outcome,
            format!("the result of item {item}"),
            found,
            Some(result),
        );
        let done = self.finished.iter().filter(|claim| claim.item == item);
        let done: Vec<i64> = done.map(|claim| claim.token).collect();
        let last = work.tries_at(item).last();
        let last: Vec<i64> = last.iter().map(|one| one.claim.token).collect();
        // A process that dies may have no time left for its last words.
        outcome.check(done == last || done.is_empty(), || {
            format!("item {item} was acknowledged under {done:?}, and is done under {last:?}")
        });
    }
}

/// Judges an item of the dead letter; gives the attempts that are on record.
fn look_at_poison(
    work: &Work,
    item: i64,
    most: u64,
    may_fail: bool,
    outcome: &mut Outcome,
) -> usize {
    // An attempt that was claimed and given back unbegun, because the machine stood
    // still meanwhile, counts as none.
    let tries: Vec<Claim> = work
        .tries_at(item)
        .filter(|one| one.outcome.as_deref() != Some("released"))
        .map(claim_of)
        .collect();
    let name = format!("item {item} of the dead letter");
    same(
        outcome,
        format!("{name}, attempts on record"),
        tries.len() as u64,
        most,
    );
    let lost = work.tries_at(item).filter(is_lost).count() as u64;
    let failed = work.tries_at(item).filter(has_failed).count() as u64;
    let failed = if may_fail { failed } else { 0 };
    same(
        outcome,
        format!("{name}, attempts that were lost, or failed where they may"),
        lost + failed,
        most,
    );
    let Some(found) = work.items.get(&item) else {
        return tries.len();
    };
    let (most, lost) = (signed(most), signed(lost));
    same(
        outcome,
        format!("{name}, attempts and losses"),
        (found.attempts, found.losses),
        (most, lost),
    );
    // Of a lost lease the error is put into words when it is taken away.
    let last = work.tries_at(item).last();
    let last = last.and_then(|one| {
        let held = format!("{} held it until ", one.claim.who);
        if is_lost(&one) {
            Some(held)
        } else {
            one.error.clone()
        }
    });
    let told = found.last_error.as_deref().unwrap_or_default();
    outcome.check(last.is_some_and(|last| told.starts_with(&last)), || {
        format!("{name}: its last error is {told:?}")
    });
    tries.len()
}

fn is_lost(one: &&Try) -> bool {
    one.outcome.as_deref() == Some("expired")
}

fn has_failed(one: &&Try) -> bool {
    one.outcome.as_deref() == Some("failed")
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn claim_of(one: &Try) -> Claim {
    one.claim.clone()
}

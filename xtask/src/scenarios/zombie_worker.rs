//! Scenario 8. Goal: a worker that lost its lease without knowing can change nothing
//! under it, and is told who has it now.
//!
//! Method: a worker claims an item, appends some checkpoints under its lease, and
//! is stopped with SIGSTOP while it stands between two transactions. Its lease runs
//! out, another process takes the item over and commits under its own. Then the
//! first one goes on and tries all that a holder may do: once while the other one
//! works, once after that one has completed the item. Each must be refused by type,
//! and after the tries every row of the file must be what it was. All this twice:
//! the successor is another worker, or another start of the same one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, Scenario, ScenarioResult, Verdict, Victim};
use agentos_core::{
    Commit, Deadline, NewTask, NewWorkItem, SetTaskStatus, Storage, TaskId, TaskStatus,
};
use agentos_store::sqlite::{Config, SqliteStore};

use super::gate::Gate;
use super::{fact, same};
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::{changes, judge_losses};
use crate::victims::{Answered, Attempted, HeldLease, Role, Succession, Successor, Zombie, spec};
use crate::work::{Claim, Rows, Work, everything};

/// Length of the lease that is lost.
const LEASE_MS: std::ops::RangeInclusive<u64> = 100..=250;
const CHECKPOINTS_MAX: u64 = 3;
/// For a line to come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// The rounds, by what the workers' names have in common.
pub(crate) const OTHER_NAME: &str = "another worker";
pub(crate) const SAME_NAME: &str = "the same name";
pub(crate) const FIRST: &str = "worker one";
pub(crate) const SECOND: &str = "worker two";

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal =
        "a worker that was stopped past its lease changes nothing, and is told who has the item";
    Scenario::new(8, "zombie-worker", goal, move |run| {
        Story::begin(run, canary).tell(run)
    })
}

struct Story {
    canary: Option<Canary>,
    db: PathBuf,
    /// The leases that were lost so far.
    lost: Vec<Claim>,
    tried: usize,
    refused: usize,
    outcome: Outcome,
}

/// One item, and the two who work on it.
pub(crate) struct Round {
    pub(crate) name: &'static str,
    pub(crate) second: &'static str,
    /// Checkpoints of the first one.
    pub(crate) checkpoints: u32,
    pub(crate) task: TaskId,
    pub(crate) item: i64,
    pub(crate) result: String,
}

type Fallible<T> = Result<T, Failure>;

impl Story {
    fn begin(run: &Run, canary: Option<Canary>) -> Story {
        Story {
            canary,
            db: run.dir().join("work.db"),
            lost: Vec::new(),
            tried: 0,
            refused: 0,
            outcome: Outcome::passed(),
        }
    }

    fn tell(mut self, run: &mut Run) -> ScenarioResult {
        let result = self.all(run);
        self.outcome.metric("takeovers", self.lost.len());
        self.outcome.metric("tried", self.tried);
        self.outcome.metric("refused", self.refused);
        self.outcome.after(result)
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        let mut rounds = [(OTHER_NAME, SECOND), (SAME_NAME, FIRST)];
        run.rng.shuffle(&mut rounds);
        for (name, second) in rounds {
            run.progress(name);
            let round = prepare(&self.db, run, name, second)?;
            self.live_on(run, &round)?;
            if self.outcome.verdict != Verdict::Passed {
                break;
            }
        }
        Ok(())
    }

    fn live_on(&mut self, run: &mut Run, round: &Round) -> Fallible<()> {
        let gate = |place: &str| Gate::shut(run, &format!("{place}-{}", round.name));
        let (claims_at, completes_at) = (gate("claim")?, gate("complete")?);
        let wakes_at = [gate("wake")?, gate("wake again")?];
        let successor = Role::Successor(Successor {
            db: self.db.clone(),
            worker: round.second.into(),
            task: round.task.as_str().into(),
            work_type: round.name.into(),
            result: round.result.clone(),
            claims_at: claims_at.path(),
            completes_at: completes_at.path(),
            canary: self.canary,
        });
        let zombie = Role::Zombie(Zombie {
            db: self.db.clone(),
            worker: FIRST.into(),
            task: round.task.as_str().into(),
            work_type: round.name.into(),
            lease_ms: run.rng.between(*LEASE_MS.start(), *LEASE_MS.end()),
            checkpoints: round.checkpoints,
            given: Vec::new(),
            gates: wakes_at.iter().map(Gate::path).collect(),
            canary: self.canary,
        });
        let mut successor = run.start(&spec("successor", &successor)?)?;
        successor.wait_for_line("ready", PATIENCE, |line| line == "ready")?;
        let mut zombie = run.start(&spec("zombie", &zombie)?)?;
        zombie.wait_for_line("its work", PATIENCE, |line| line == "between")?;
        let held: HeldLease = fact(zombie.acks().first().map_or("", String::as_str))?;
        stop(&mut zombie)?;
        claims_at.open()?;
        successor.wait_for_acks(1, PATIENCE)?;
        let taken: Succession = fact(successor.acks().first().map_or("", String::as_str))?;
        let token = held.claim.token + 1;
        same(
            &mut self.outcome,
            "the successor's token",
            taken.lease.claim.token,
            token,
        );
        let who = taken.lease.claim.who;
        self.lost.push(held.claim.clone());

        let stale = |status: &str, holder| Answered::Stale {
            item: held.claim.item,
            token: held.claim.token,
            status: Some(status.into()),
            newest: Some(token),
            holder,
        };
        let told = stale("in_progress", Some((who, taken.since)));
        let when = format!("{}, while the successor works", round.name);
        let before = everything(&self.db)?;
        wakes_at[0].open()?;
        zombie.resume()?;
        let heard = self.heed(&mut zombie, 1, &told, &when)?;
        self.look_for_traces(&before, &when)?;
        if self.outcome.verdict != Verdict::Passed {
            return Ok(());
        }
        completes_at.open()?;
        successor.wait_for_line("its end", PATIENCE, |line| line == "completed")?;
        let told = stale("succeeded", None);
        let when = format!("{}, after the successor's end", round.name);
        let before = everything(&self.db)?;
        wakes_at[1].open()?;
        self.heed(&mut zombie, heard, &told, &when)?;
        self.look_for_traces(&before, &when)?;
        for (name, victim) in [
            ("the zombie", &mut zombie),
            ("the successor", &mut successor),
        ] {
            let exit = victim.wait_for_exit(PATIENCE)?;
            self.outcome
                .check(exit.success(), || format!("{name} ended with {exit}"));
        }
        look(&self.db, round, &self.lost, &mut self.outcome)
    }

    /// Hears what the zombie tried, beyond the acknowledgements that were heard
    /// before. Gives how many there are now.
    fn heed(
        &mut self,
        zombie: &mut Victim,
        heard: usize,
        told: &Answered,
        when: &str,
    ) -> Fallible<usize> {
        zombie.wait_for_line("its tries", PATIENCE, |line| line == "tried")?;
        let acks = zombie.acks();
        let tries = acks.get(heard..).unwrap_or_default();
        self.outcome
            .check(!tries.is_empty(), || format!("{when}: nothing was tried"));
        for attempt in tries {
            let Attempted { what, answer } = fact(attempt)?;
            self.tried += 1;
            self.refused += usize::from(matches!(answer, Answered::Stale { .. }));
            let what = format!("{when}, {what}: the answer");
            same(&mut self.outcome, what, &answer, told);
        }
        Ok(acks.len())
    }

    /// Nobody but the zombie did anything since: every row must be what it was.
    fn look_for_traces(&mut self, before: &Rows, when: &str) -> Fallible<()> {
        for broken in changes(before, &everything(&self.db)?) {
            self.outcome.violate(format!("{when}: {broken}"));
        }
        Ok(())
    }
}

/// Makes an item with a task of its own.
pub(crate) fn prepare(
    db: &Path,
    run: &mut Run,
    name: &'static str,
    second: &'static str,
) -> Fallible<Round> {
    let store = SqliteStore::open(Config::at(db))?;
    let task = TaskId::new(name)?;
    let receipt = store.commit(
        Commit::new()
            .part(NewTask::new(task.clone(), "worked on"))
            .part(SetTaskStatus::new(task.clone(), TaskStatus::Running))
            .part(NewWorkItem::new(name).task(task.clone())),
    )?;
    let enqueued = receipt.enqueued().next();
    let (item, _) = enqueued.ok_or_else(|| Failure::new("nothing was enqueued"))?;
    Ok(Round {
        name,
        second,
        checkpoints: u32::try_from(run.rng.between(0, CHECKPOINTS_MAX))?,
        task,
        item: item.get(),
        result: format!("the successor's {}", run.rng.next_u64()),
    })
}

/// Reads what is left when the successor has completed the item of a round.
pub(crate) fn look(
    db: &Path,
    round: &Round,
    lost: &[Claim],
    outcome: &mut Outcome,
) -> Fallible<()> {
    let when = round.name;
    let wreck = Wreck::open(db, db.parent().unwrap_or(db))?;
    for problem in wreck.problems()? {
        outcome.violate(format!("{when}: {problem}"));
    }
    let states: Vec<String> = wreck
        .all(&round.task)?
        .iter()
        .filter_map(|checkpoint| checkpoint.snapshot.as_ref())
        .map(|state| String::from_utf8_lossy(state.bytes()).into_owned())
        .collect();
    drop(wreck);
    let before = (1..=round.checkpoints).map(|number| format!("before, {number}"));
    let after = (1..=2).map(|number| format!("after, {number}"));
    let expected: Vec<String> = before.chain(after).collect();
    same(
        outcome,
        format!("{when}: the checkpoints"),
        states,
        expected,
    );
    let work = Work::read(db)?;
    for broken in judge_losses(lost, &work) {
        outcome.violate(format!("{when}: {broken}"));
    }
    let item = work.items.get(&round.item);
    let item = item.ok_or_else(|| Failure::new("the item is gone"))?;
    let found = (item.status.as_str(), item.result.as_deref());
    let expected = ("succeeded", Some(round.result.as_bytes()));
    same(outcome, format!("{when}: the item"), found, expected);
    let outcomes: Vec<_> = work
        .tries_at(round.item)
        .map(|one| one.outcome.as_deref())
        .collect();
    let expected = vec![Some("expired"), Some("succeeded")];
    same(outcome, format!("{when}: the attempts"), outcomes, expected);
    // What the successor enqueued with its end, and nothing else.
    let types: BTreeSet<&str> = work
        .items
        .values()
        .map(|item| item.work_type.as_str())
        .filter(|name| ![SAME_NAME, OTHER_NAME].contains(name))
        .collect();
    same(
        outcome,
        format!("{when}: what was enqueued"),
        types,
        BTreeSet::from(["follows"]),
    );
    Ok(())
}

/// Stops a victim, and waits until each of its threads stands still.
fn stop(victim: &mut Victim) -> Fallible<()> {
    victim.pause()?;
    let threads = PathBuf::from(format!("/proc/{}/task", victim.pid()));
    let deadline = Deadline::after(PATIENCE);
    loop {
        let mut stopped = true;
        for thread in fs::read_dir(&threads)? {
            let stat = fs::read_to_string(thread?.path().join("stat"))?;
            let state = stat.rsplit(')').next().unwrap_or_default();
            stopped &= state.starts_with(" T");
        }
        if stopped {
            return Ok(());
        }
        if deadline.passed() {
            return Err(Failure::new("the zombie does not stand still"));
        }
        thread::yield_now();
    }
}

//! Scenario 20. Goal: on a disk whose syncs take long, leases are kept by those who work, and
//! taken over from those who are dead as soon as promised; no work is done twice; and who
//! waits with a deadline is told in time.
//!
//! Method: a shim between SQLite and its files makes each sync of each victim take a seeded
//! time longer. A worker is killed with its lease held, and another one takes over. Then two
//! workers have handlers that take longer than a lease, so that only the heartbeat keeps it;
//! each commits without an end meanwhile, and so does a third process, which shortens the log
//! besides, while a caller with less time than one sync takes makes its commits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, Scenario, ScenarioResult, Verdict, Victim};
use agentos_core::limits::TAKEOVER_MARGIN;
use agentos_core::{Commit, NewTask, NewWorkItem, Storage, TaskId};
use agentos_store::sqlite::{Config, SqliteStore};

use super::fact;
use super::gate::Gate;
use super::lease_expiration::{WORK_TYPE, heed, look, prepare};
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::{Takeover, Timing};
use crate::victims::{
    Called, HeldLease, Holder, Impatient, Noisy, Role, SLOW_TASK, SLOW_WORK, Shimmed, Sluggish,
    Taker, Way, Worked, spec,
};
use crate::work::Work;

/// How much longer each sync takes, in milliseconds.
const DELAY_MS: std::ops::RangeInclusive<u64> = 40..=70;
/// The lease of the one that is killed.
const LOST_LEASE_MS: u64 = 300;
/// The lease of those who work, in delays: well above what a renewal waits for.
const LEASE_DELAYS: u64 = 25;
const LEASE_MS_MIN: u64 = 1500;
/// How long a handler takes, in percent of the lease.
const WORK_PERCENT: u64 = 120;
/// Work for two workers of two threads.
const ITEMS: u64 = 4;
/// Calls of the one with little time, which waits for half of a delay.
const CALLS: u64 = 8;
/// Syncs that a takeover waits for: those of a sweep and of a claim, each with that of the
/// log's first page.
const TAKEOVER_SYNCS: u32 = 4;
/// Syncs that a commit waits for once it has its turn.
const COMMIT_SYNCS: u64 = 2;
/// For whoever has it: threads come late on a busy machine.
const MARGIN: Duration = Duration::from_millis(100);
/// Takeovers, and works, until one is not disturbed by the machine.
const TAKEOVERS_MAX: u32 = 4;
const WORKS_MAX: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "with slow syncs leases are kept, lost ones are taken over, and deadlines hold";
    Scenario::new(20, "slow-disk", goal, move |run| {
        let mut story = Story {
            canary,
            delay_ms: run.rng.between(*DELAY_MS.start(), *DELAY_MS.end()),
            takeover_us: None,
            calls: Vec::new(),
            noise: 0,
            outcome: Outcome::passed(),
        };
        let result = story.all(run);
        story.tell(result)
    })
}

struct Story {
    canary: Option<Canary>,
    delay_ms: u64,
    takeover_us: Option<i64>,
    calls: Vec<Called>,
    noise: u64,
    outcome: Outcome,
}

type Fallible<T> = Result<T, Failure>;

impl Story {
    fn tell(mut self, result: Fallible<()>) -> ScenarioResult {
        let busy = self.calls.iter().filter(|call| call.refused.is_some());
        let busy = busy.count();
        let longest = self.calls.iter().map(|call| call.took_us).max();
        let ms = |us: Option<i64>| us.map(|us| us as f64 / 1e3);
        self.outcome.metric("sync_delay_ms", self.delay_ms);
        self.outcome.metric("lease_ms", self.lease_ms());
        self.outcome.metric("takeover_ms", ms(self.takeover_us));
        self.outcome.metric("calls", self.calls.len());
        self.outcome.metric("busy", busy);
        self.outcome.metric("longest_call_ms", ms(longest));
        self.outcome.metric("commits_beside", self.noise);
        self.outcome.after(result)
    }

    fn lease_ms(&self) -> u64 {
        (LEASE_DELAYS * self.delay_ms).max(LEASE_MS_MIN)
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        self.takeovers(run)?;
        let mut disturbed = Vec::new();
        for round in 1..=WORKS_MAX {
            if self.outcome.verdict != Verdict::Passed {
                return Ok(());
            }
            disturbed = self.work(run, round)?;
            if disturbed.is_empty() {
                return Ok(());
            }
        }
        for reason in disturbed {
            self.outcome.not_judged(reason);
        }
        Ok(())
    }

    /// Starts a victim whose syncs are slow, and waits until it is ready.
    fn start(&self, run: &mut Run, name: &str, dir: &Path, role: Role) -> Fallible<Victim> {
        let role = Role::Shimmed(Shimmed {
            dir: dir.to_path_buf(),
            sync_delay_ms: self.delay_ms,
            failing: None,
            role: Box::new(role),
        });
        let mut victim = run.start(&spec(name, &role)?)?;
        let is_ready = |line: &str| line == "ready" || line == "waiting";
        victim.wait_for_line("ready", PATIENCE, is_ready)?;
        Ok(victim)
    }

    /// Until one is in time, or none is.
    fn takeovers(&mut self, run: &mut Run) -> Fallible<()> {
        let delay = Duration::from_millis(self.delay_ms);
        let margin = TAKEOVER_MARGIN + delay * TAKEOVER_SYNCS;
        let ways = [Way::Sweeper, Way::Claims, Way::Pool];
        let way = run.rng.pick(&ways).copied().unwrap_or(Way::Pool);
        let (mut told, mut excused) = (Vec::new(), false);
        for round in 1..=TAKEOVERS_MAX {
            run.progress(format!("takeover by {way:?}"));
            let takeover = self.take_over(run, way, round)?;
            match takeover.timing(margin) {
                Timing::InTime => {
                    self.takeover_us = Some(takeover.late_us());
                    return Ok(());
                }
                Timing::Early | Timing::Late => {
                    self.outcome.violate(format!("{way:?}: {takeover}"));
                    return Ok(());
                }
                timing @ (Timing::Disturbed | Timing::Excused) => {
                    excused |= timing == Timing::Excused;
                    told.push(takeover.to_string());
                }
            }
        }
        let told = told.join("; ");
        let reason = format!("{way:?}: none of {TAKEOVERS_MAX} was in time: {told}");
        match excused {
            true => self.outcome.not_judged(reason),
            false => self.outcome.violate(reason),
        }
        Ok(())
    }

    fn take_over(&mut self, run: &mut Run, way: Way, round: u32) -> Fallible<Takeover> {
        let dir = run.dir().join(format!("takeover-{round}"));
        fs::create_dir(&dir)?;
        let db = dir.join("work.db");
        let item = prepare(&db, 1, 0)?;
        let gate = Gate::shut(run, &format!("takeover-{round}"))?;
        let taker = Role::Taker(Taker {
            db: db.clone(),
            worker: "second".into(),
            work_type: WORK_TYPE.into(),
            way,
            gate: gate.path(),
            probe: run.dir().join(format!("probe-{round}")),
            canary: self.canary,
        });
        let mut taker = self.start(run, "taker", &dir, taker)?;
        let holder = Role::Holder(Holder {
            db: db.clone(),
            worker: "first".into(),
            work_type: WORK_TYPE.into(),
            items: 1,
            lease_ms: LOST_LEASE_MS,
            renewals: 1,
            renewed_ms: LOST_LEASE_MS,
            gate: None,
            leaves: false,
            canary: self.canary,
        });
        let mut holder = self.start(run, "holder", &dir, holder)?;
        gate.open()?;
        let acks = holder.kill()?.acks();
        let held: HeldLease = fact(acks.last().map_or("", String::as_str))?;
        let (taken, _) = heed(&mut taker, way, item.get(), &mut self.outcome)?;
        let when = format!("after the takeover by {way:?}");
        look(&db, &when, &[held.claim], &taken, &mut self.outcome)?;
        Ok(Takeover::of(
            held.deadline_us,
            taken.watched_us,
            taken.taken_us,
            &taken.stalls,
        ))
    }

    /// Gives what cannot be judged, since the machine stood still.
    fn work(&mut self, run: &mut Run, round: u32) -> Fallible<Vec<String>> {
        run.progress("work that takes longer than a lease");
        let dir = run.dir().join(format!("work-{round}"));
        fs::create_dir(&dir)?;
        let db = dir.join("work.db");
        stock(&db)?;
        let gate = Gate::shut(run, &format!("work-{round}"))?;
        let probe = |run: &Run, name: &str| -> PathBuf { run.dir().join(format!("probe-{name}")) };
        // It has no time to wait for others that open the file.
        let impatient = Role::Impatient(Impatient {
            db: db.clone(),
            waits_ms: self.delay_ms / 2,
            calls: CALLS,
            probe: probe(run, "impatient"),
            gate: gate.path(),
            canary: self.canary,
        });
        let mut impatient = self.start(run, "impatient", &dir, impatient)?;
        let noisy = Role::Noisy(Noisy {
            db: db.clone(),
            gate: gate.path(),
        });
        let mut noisy = self.start(run, "noisy", &dir, noisy)?;
        let world = dir.join("world.log");
        let mut workers = Vec::new();
        for name in ["one", "other"] {
            let sluggish = Role::Sluggish(Sluggish {
                db: db.clone(),
                worker: name.into(),
                lease_ms: self.lease_ms(),
                work_ms: self.lease_ms() * WORK_PERCENT / 100,
                world: world.clone(),
                probe: probe(run, name),
                gate: gate.path(),
                canary: self.canary,
            });
            workers.push(self.start(run, name, &dir, sluggish)?);
        }
        gate.open()?;
        let (mut stalled_us, mut succeeded) = (0, 0);
        for worker in &mut workers {
            let acks = worker.wait_for_acks(1, PATIENCE)?;
            let worked: Worked = fact(&acks[0])?;
            stalled_us = worked.longest_stall_us.max(stalled_us);
            succeeded += worked.succeeded;
            self.noise += worked.noise;
        }
        impatient.wait_for_line("done", PATIENCE, |line| line == "done")?;
        noisy.kill()?;
        for victim in workers.iter_mut().chain([&mut impatient]) {
            let exit = victim.wait_for_exit(PATIENCE)?;
            self.outcome
                .check(exit.success(), || format!("a victim ended with {exit}"));
        }
        self.calls = impatient
            .acks()
            .iter()
            .map(|call| fact(call))
            .collect::<Fallible<_>>()?;
        self.judge_calls();
        self.judge_work(&db, &world, succeeded, stalled_us)
    }

    /// Each call was done, or refused as `Busy`, in the time that it had.
    fn judge_calls(&mut self) {
        let waits = Duration::from_millis(self.delay_ms / 2);
        let syncs = Duration::from_millis(self.delay_ms * COMMIT_SYNCS);
        let bound = i64::try_from((waits + syncs + MARGIN).as_micros()).unwrap_or(i64::MAX);
        for call in &self.calls {
            let refused = call.refused.as_deref();
            self.outcome
                .check(matches!(refused, None | Some("Busy")), || {
                    format!("a caller with little time was told {refused:?}")
                });
            let late = call.took_us - call.stalled_us - bound;
            self.outcome.check(late <= 0, || {
                format!("a caller with {waits:?} waited {late} us longer than it may: {call:?}")
            });
        }
    }

    /// Each item was begun once, under the first lease, which was never lost.
    fn judge_work(
        &mut self,
        db: &Path,
        world: &Path,
        succeeded: u64,
        stalled_us: i64,
    ) -> Fallible<Vec<String>> {
        let wreck = Wreck::open(db, db.parent().unwrap_or(db))?;
        for problem in wreck.problems()? {
            self.outcome.violate(problem);
        }
        drop(wreck);
        let mut broken = Vec::new();
        let work = Work::read(db)?;
        for item in work.items.values() {
            let found = (item.status.as_str(), item.losses, item.token);
            if found != ("succeeded", 0, 1) {
                broken.push(format!(
                    "item {} is {}, {} of its leases were lost, and its token is {}",
                    item.id, found.0, found.1, found.2
                ));
            }
        }
        let mut begun: BTreeMap<String, u64> = BTreeMap::new();
        for line in fs::read_to_string(world)?.lines() {
            let item = line.split(' ').next().unwrap_or_default();
            *begun.entry(item.to_owned()).or_default() += 1;
        }
        if begun.len() as u64 != ITEMS || begun.values().any(|times| *times != 1) {
            broken.push(format!("handlers began so often: {begun:?}"));
        }
        if succeeded != ITEMS {
            broken.push(format!("{succeeded} of {ITEMS} items were done"));
        }
        // A machine that stands still for that long loses leases.
        let excused = i64::try_from(self.lease_ms() * 1000 / 3).unwrap_or(i64::MAX) < stalled_us;
        if excused {
            let told = |reason| format!("the machine stood still for {stalled_us} us: {reason}");
            return Ok(broken.into_iter().map(told).collect());
        }
        for reason in broken {
            self.outcome.violate(reason);
        }
        Ok(Vec::new())
    }
}

/// Makes the store with its work.
fn stock(db: &Path) -> Fallible<()> {
    let store = SqliteStore::open(Config::at(db))?;
    let task = TaskId::new(SLOW_TASK)?;
    let item = |_| NewWorkItem::new(SLOW_WORK).task(task.clone());
    let commit = Commit::new().part(NewTask::new(task.clone(), "slow"));
    store.commit((0..ITEMS).map(item).fold(commit, Commit::part))?;
    store.close();
    Ok(())
}

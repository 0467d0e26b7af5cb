//! Scenario 11. Goal: a wall clock that jumps moves texts, due times and ages, and no
//! lease; a deadline clock that jumps, which none does, makes takeovers early or late,
//! and never two winners.
//!
//! Method: processes claim, renew, sweep and complete the same items. First the wall
//! clocks of most of them jump by hours, in both directions, again and again: no lease
//! may be lost or taken over before the deadline that it was given, by a clock that
//! does not jump, while what leases say of their moments follows the claimer's wall
//! clock; at the end a claim takes what is due by its own wall clock, and upkeep counts
//! what is old by its own. Then, on another file, the deadline clocks jump, by as much
//! as a lease or by hours: each item is completed once, by the one who was told so;
//! what is stuck under a deadline of a jump waits for it and can then be finished.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Prng, Run, Scenario, Verdict};
use agentos_core::{
    BoundedTable, Clock, Fence, LeaseStorage, Retention, RetryRule, RowRule, Storage, SweepRequest,
    SystemClock, Timestamp, WorkFilter, WorkItemStatus, Worker, WorkerId,
};
use agentos_recovery::{Mode, run_upkeep};
use agentos_store::sqlite::{Config, SqliteStore};
use agentos_worker_pool::{LeaseConfig, LeaseManager};

use super::rivalry::{lease_of, prepare, run_rivals, sweep_the_rest};
use super::told::{Told, count, found, lost};
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::{Call, History, Moment, Reply, begin_line, end_line, judge_deadlines};
use crate::victims::{BOOT_BASE_US, HOUR_US, JumpingClock, Jumps, Rival, true_now_us};
use crate::work::Work;

/// Processes whose wall clocks jump, and others beside them.
const JUMPING: u64 = 4;
const STEADY: u64 = 2;
const ITEMS: u64 = 24;
/// Leases that each process takes.
const LEASES: u64 = 14;
const LEASES_QUICK: u64 = 8;
const LEASE_MS: u64 = 150;
/// Of 100 leases so many end with a completion, if they are not lost before.
const COMPLETES: u64 = 25;
const COMPLETES_UNDER_JUMPS: u64 = 40;
/// Most items of one claim.
const CLAIM_MAX: u32 = 256;
/// How far the clock of the last one is ahead: as far as every other, or farther.
const AHEAD_US: i64 = 7 * HOUR_US;
const AHEAD: &str = "ahead";
/// How many items it is given.
const LEFT: u32 = 3;
/// Beyond every jump.
const FAR_US: i64 = 48 * HOUR_US;

type Fallible<T> = Result<T, Failure>;

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "clocks that jump hours both ways touch no lease, and never make two winners";
    Scenario::new(11, "clock-jump", goal, move |run| {
        let mut story = Story::new(canary);
        let result = story
            .wall_clocks(run)
            .and_then(|()| story.deadline_clocks(run));
        story.outcome.after(result)
    })
}

/// What comes of processes whose clocks jump.
pub(crate) struct Story {
    canary: Option<Canary>,
    /// Whether everybody told of all that it did, or a crash may have swallowed a word.
    pub(crate) all_heard: bool,
    pub(crate) outcome: Outcome,
}

impl Story {
    /// Nothing yet.
    pub(crate) fn new(canary: Option<Canary>) -> Story {
        Story {
            canary,
            all_heard: true,
            outcome: Outcome::passed(),
        }
    }

    fn rivals(&self, run: &mut Run, db: &Path, jumps: Jumps) -> Vec<Rival> {
        let leases = if run.quick() { LEASES_QUICK } else { LEASES };
        let (steady, completes) = match jumps {
            Jumps::Deadlines => (0, COMPLETES_UNDER_JUMPS),
            Jumps::Wall | Jumps::None => (STEADY, COMPLETES),
        };
        let rival = |number| Rival {
            db: db.to_owned(),
            gate: db.with_extension("gate"),
            name: format!("rival-{number}"),
            seed: run.rng.next_u64(),
            leases,
            lease_ms: LEASE_MS,
            nap_ms: 1,
            completes,
            jumps: if number <= JUMPING {
                jumps
            } else {
                Jumps::None
            },
            canary: self.canary,
        };
        (1..=JUMPING + steady).map(rival).collect()
    }

    fn wall_clocks(&mut self, run: &mut Run) -> Fallible<()> {
        run.progress("wall clocks jump");
        let db = run.dir().join("wall.db");
        let now = prepare_wall(&db)?;
        let rivals = self.rivals(run, &db, Jumps::Wall);
        let leases = lease_of(&rivals);
        let mut told = Told::default();
        run_rivals(run, rivals, &mut told)?;
        self.after_wall_clocks(run, &db, now, told, leases)
    }

    /// Judges what came of processes whose wall clocks jumped.
    pub(crate) fn after_wall_clocks(
        &mut self,
        run: &mut Run,
        db: &Path,
        now: Timestamp,
        mut told: Told,
        leases: impl Fn(&str) -> Moment,
    ) -> Fallible<()> {
        for broken in told.texts.iter().flat_map(|texts| texts.judge()) {
            self.outcome.violate(broken);
        }
        let clock = Arc::new(JumpingClock::default());
        let store = open(db, &clock)?;
        let history = self.look(&store, &mut told)?;
        for broken in judge_deadlines(&history, &told.taken, leases, |_| None) {
            self.outcome.violate(broken);
        }
        self.outcome.metric("wall_jumps", told.jumps);
        self.outcome.metric("claimed", told.texts.len());
        let renewed =
            |call: &Call, reply: &Reply| matches!(call, Call::Renew(_)) && *reply == Reply::Done;
        self.outcome.metric("renewed", count(&history, renewed));
        if self.outcome.verdict != Verdict::Passed {
            // Who knows when these leases run out.
            return Ok(());
        }
        sweep_the_rest(&store)?;
        self.due(&store, &clock, now, &mut run.rng)?;
        self.ages(&store, &clock, now)?;
        drop(store);
        self.sound(db, run)
    }

    /// A claim takes what is due by its own wall clock: all of that, and no more.
    fn due(
        &mut self,
        store: &Arc<SqliteStore>,
        clock: &JumpingClock,
        now: Timestamp,
        rng: &mut Prng,
    ) -> Fallible<()> {
        let mut waiting: Vec<(i64, i64)> = Vec::new();
        for item in store.work_items(WorkItemStatus::Pending, None, 1000)?.items {
            waiting.push((item.available_at.unix_micros(), item.id.get()));
        }
        waiting.sort_unstable();
        // Between two that are far enough apart for the clock not to go past one.
        let apart: Vec<i64> = waiting
            .windows(2)
            .filter(|pair| pair[1].0 - pair[0].0 > HOUR_US / 2)
            .map(|pair| i64::midpoint(pair[0].0, pair[1].0))
            .collect();
        let latest = waiting.last().map_or(now.unix_micros(), |(due, _)| *due);
        let at = rng.pick(&apart).copied().unwrap_or(latest + HOUR_US);
        clock.set_wall(at - SystemClock.wall().unix_micros());
        let leases = manager(store, "by the wall clock")?;
        let claimed = leases.claim_up_to(&WorkFilter::any(), CLAIM_MAX)?;
        let mut given: Vec<i64> = claimed.iter().map(|one| one.fence.item.get()).collect();
        given.sort_unstable();
        let mut expected: Vec<i64> = waiting
            .iter()
            .filter(|(due, _)| *due <= at)
            .map(|(_, item)| *item)
            .collect();
        expected.sort_unstable();
        self.outcome.check(given == expected, || {
            format!("the items {expected:?} are due at {at}, and {given:?} were claimed")
        });
        for lease in &claimed {
            leases.complete(lease, None)?;
        }
        self.outcome.metric("waiting", waiting.len());
        self.outcome.metric("due", given.len());
        Ok(())
    }

    /// Upkeep counts by its own wall clock what is older than an hour.
    fn ages(
        &mut self,
        store: &Arc<SqliteStore>,
        clock: &JumpingClock,
        now: Timestamp,
    ) -> Fallible<()> {
        let done = store
            .work_items(WorkItemStatus::Succeeded, None, 1000)?
            .items;
        let done: Vec<i64> = done
            .iter()
            .map(|item| item.updated_at.unix_micros())
            .collect();
        let hour = Duration::from_micros(HOUR_US.unsigned_abs());
        let retention = Retention {
            work_items: RowRule {
                max_age: Some(hour),
                ..RowRule::keep_all()
            },
            ..Retention::default()
        };
        let mut counts = Vec::new();
        for hours in [-12, -3, 0, 3, 12] {
            // A little aside, so that none is exactly that old.
            let at = now.unix_micros() + hours * HOUR_US + HOUR_US / 7;
            let is_near = |moment: &&i64| (at - HOUR_US - **moment).abs() < HOUR_US / 60;
            if done.iter().any(|moment| is_near(&moment)) {
                continue;
            }
            clock.set_wall(at - SystemClock.wall().unix_micros());
            let report = run_upkeep(store.as_ref(), &retention, Mode::DryRun)?;
            let old = report.rows.get(&BoundedTable::FinishedWorkItems);
            let old = old.map_or(0, |removed| removed.rows);
            let expected = done.iter().filter(|moment| **moment < at - HOUR_US).count();
            self.outcome.check(old == expected as u64, || {
                format!("at {at} {expected} items are older than an hour, and {old} were counted")
            });
            counts.push(old);
        }
        self.outcome.metric("older_than_an_hour", counts);
        Ok(())
    }

    fn deadline_clocks(&mut self, run: &mut Run) -> Fallible<()> {
        run.progress("deadline clocks jump");
        let db = run.dir().join("deadlines.db");
        prepare_deadlines(&db)?;
        let rivals = self.rivals(run, &db, Jumps::Deadlines);
        let leases = lease_of(&rivals);
        let mut told = Told::default();
        run_rivals(run, rivals, &mut told)?;
        self.after_deadline_clocks(run, &db, told, leases)
    }

    /// Judges what came of processes whose deadline clocks jumped.
    pub(crate) fn after_deadline_clocks(
        &mut self,
        run: &Run,
        db: &Path,
        mut told: Told,
        leases: impl Fn(&str) -> Moment,
    ) -> Fallible<()> {
        let clock = Arc::new(JumpingClock::default());
        let store = open(db, &clock)?;
        let sweep = || -> Fallible<usize> {
            let request = SweepRequest {
                after_loss: RetryRule::AT_ONCE,
                ..SweepRequest::default()
            };
            Ok(store.sweep(&request)?.recovered.len())
        };
        // Somebody whose clock is hours ahead is given what is left, and dies.
        clock.set_boot(BOOT_BASE_US + AHEAD_US);
        sweep()?;
        let left = self.claim_the_rest(&store, &mut told)?;
        // By a clock that is right its leases go on, and they end at last.
        clock.set_boot(BOOT_BASE_US + HOUR_US);
        let early = sweep()?;
        let late = store.work_items(WorkItemStatus::InProgress, None, 1000)?;
        let late = late.items.len();
        self.outcome.check(early == 0 && late == left, || {
            format!("{early} of {left} leases ended before their deadlines, {late} went on")
        });
        clock.set_boot(BOOT_BASE_US + FAR_US);
        sweep()?;
        told.recovered += store.counters().recovered;
        let history = self.look(&store, &mut told)?;
        let early = judge_deadlines(&history, &told.taken, leases, |_| None).len();
        // And all of it can be finished.
        let leases = manager(&store, "at last")?;
        for lease in leases.claim_up_to(&WorkFilter::any(), CLAIM_MAX)? {
            leases.complete(&lease, None)?;
        }
        let finished = store.count_work_items()?;
        let succeeded = finished.get(&WorkItemStatus::Succeeded).copied();
        self.outcome.check(succeeded == Some(ITEMS), || {
            format!("at the end the items are {finished:?}")
        });
        drop((leases, store));
        self.sound(db, run)?;
        let completed = |call: &Call, reply: &Reply| {
            matches!(call, Call::Complete(..)) && *reply == Reply::Done
        };
        self.outcome.metric("deadline_jumps", told.jumps);
        self.outcome.metric("completed", count(&history, completed));
        self.outcome.metric("early_takeovers", early);
        self.outcome.metric("late_takeovers", late);
        Ok(())
    }

    /// Claims some of what is left, and tells of it; says how many.
    fn claim_the_rest(&self, store: &Arc<SqliteStore>, told: &mut Told) -> Fallible<usize> {
        let leases = manager(store, AHEAD)?;
        told.heed(AHEAD, &format!("process {}", leases.worker()))?;
        told.heed(AHEAD, &begin_line(0, true_now_us(), &Call::Claim))?;
        let left = leases.claim_up_to(&WorkFilter::any(), LEFT)?;
        let given = Reply::Claimed(left.iter().map(Fence::from).collect());
        told.heed(AHEAD, &end_line(0, true_now_us(), &given))?;
        Ok(left.len())
    }

    /// What must be true whatever the clocks said.
    fn look(&mut self, store: &SqliteStore, told: &mut Told) -> Fallible<History> {
        let history = told.history(found(store)?);
        let work = Work::read(store.path())?;
        told.judge(&history, &work, &mut self.outcome);
        let (recovered, expired) = (told.recovered, lost(&work).len() as u64);
        let is_told = recovered == expired || (recovered < expired && !self.all_heard);
        self.outcome.check(is_told, || {
            format!("{recovered} leases were counted as recovered, and {expired} attempts expired")
        });
        Ok(history)
    }

    fn sound(&mut self, db: &Path, run: &Run) -> Fallible<()> {
        for problem in Wreck::open(db, run.dir())?.problems()? {
            self.outcome.violate(problem);
        }
        Ok(())
    }
}

/// Makes the file for wall clocks that jump: half of the items are due, the others over
/// the hours that the clocks jump.
pub(crate) fn prepare_wall(db: &Path) -> Fallible<Timestamp> {
    let now = SystemClock.wall();
    prepare(db, ITEMS, |number| {
        let half = ITEMS / 2;
        if number < half {
            moved(now, -HOUR_US)
        } else {
            let hours = i64::try_from(number - half).unwrap_or(0) - 6;
            moved(now, hours * HOUR_US)
        }
    })?;
    Ok(now)
}

/// Makes the file for deadline clocks that jump: all is due.
pub(crate) fn prepare_deadlines(db: &Path) -> Fallible<()> {
    let now = SystemClock.wall();
    prepare(db, ITEMS, |_| now)
}

fn open(db: &Path, clock: &Arc<JumpingClock>) -> Fallible<Arc<SqliteStore>> {
    let config = Config::at(db).clock(Arc::clone(clock));
    Ok(Arc::new(SqliteStore::open(config)?))
}

fn manager(store: &Arc<SqliteStore>, name: &str) -> Fallible<LeaseManager> {
    let storage = Arc::clone(store) as Arc<dyn Storage>;
    let config = LeaseConfig {
        after_loss: RetryRule::AT_ONCE,
        ..LeaseConfig::default()
    };
    Ok(LeaseManager::new(
        storage,
        Worker::start(WorkerId::new(name)?),
        config,
    )?)
}

/// A moment moved by so many microseconds.
fn moved(moment: Timestamp, micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(moment.unix_micros() + micros)
}

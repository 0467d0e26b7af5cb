//! Scenario 3. Goal: a worker that dies is replaced when its lease has run out, not
//! earlier, and at most 100 ms later; exactly its lease is found and taken away, and
//! its successor's token is higher.
//!
//! Method: a worker claims an item under a short lease, may renew it, and is killed.
//! Another process waits for the item from before the kill: with a sweeper, with
//! claims of its own, or with a pool. What is measured runs from the deadline that
//! the first worker was told to the moment at which the second one had its claim
//! acknowledged, by the one boot-time clock of the machine.
//!
//! The bound is a promise of the library on a machine that works, and a machine can
//! only make a takeover later. So a probe runs beside it: a thread in the second
//! worker makes one small synced write after the other. A takeover that is late
//! while the probe is not, or by 300 ms more than the probe, is a violation at once.
//! Else it is made again, and one that is in time shows that the library keeps its
//! promise. If none of six is, that is a violation, unless the probe's waits make up
//! for what one of them was late: then nothing was judged. Nothing excuses what is
//! early, or found more than once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, Scenario, ScenarioResult, Verdict, Victim};
use agentos_core::limits::TAKEOVER_MARGIN;
use agentos_core::{ClaimRequest, LeaseStorage, ReleaseWork, WorkFilter, Worker, WorkerId};
use agentos_core::{Commit, NewTask, NewWorkItem, Storage, TaskId, WorkItemId};
use agentos_store::sqlite::{Config, SqliteStore};

use super::gate::Gate;
use super::{fact, same};
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::{Takeover, Timing, judge_losses};
use crate::victims::{Done, HeldLease, Holder, Role, Taken, Taker, Way, spec};
use crate::work::{Claim, Work};

/// Length of the lease.
const LEASE_MS: std::ops::RangeInclusive<u64> = 100..=300;
/// Between the first worker's last word and its end, at most.
const OFFSET_MAX: Duration = Duration::from_millis(3);
/// Takeovers of one way, of which one must be in time.
const TAKEOVERS_MAX: usize = 6;
/// For a line to come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const WORK_TYPE: &str = "page";

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal =
        "a dead worker's item is taken over when its lease has run out, and at most 100 ms later";
    Scenario::new(3, "lease-expiration", goal, move |run| {
        Story::begin(run, canary)?.tell(run)
    })
}

/// A takeover, as the seed has it; one that is disturbed is made again like this.
struct Plan {
    way: Way,
    lease_ms: u64,
    renewals: u32,
    /// How often the item was claimed and given back before.
    claims_before: u32,
    /// Between the last word of the first worker and its end.
    offset: Duration,
}

/// One takeover of each way; in the short form with a sweeper and one more.
fn plans(run: &mut Run) -> Vec<Plan> {
    let mut ways = vec![Way::Claims, Way::Pool];
    run.rng.shuffle(&mut ways);
    ways.truncate(if run.quick() { 1 } else { 2 });
    ways.push(Way::Sweeper);
    run.rng.shuffle(&mut ways);
    let rng = &mut run.rng;
    let plan = |way| Plan {
        way,
        lease_ms: rng.between(*LEASE_MS.start(), *LEASE_MS.end()),
        renewals: rng.pick(&[0, 1, 2]).copied().unwrap_or_default(),
        claims_before: rng.pick(&[0, 1, 2]).copied().unwrap_or_default(),
        offset: rng.duration_between(Duration::ZERO, OFFSET_MAX),
    };
    ways.into_iter().map(plan).collect()
}

struct Story {
    canary: Option<Canary>,
    db: PathBuf,
    /// The leases that were lost so far.
    lost: Vec<Claim>,
    /// What the sweeper said of itself.
    swept: Option<(u64, u64)>,
    /// Of those that came in time the one that was latest.
    latest_us: Option<i64>,
    /// Those that had to be made again.
    disturbed: u64,
    outcome: Outcome,
}

type Fallible<T> = Result<T, Failure>;

impl Story {
    fn begin(run: &Run, canary: Option<Canary>) -> Fallible<Story> {
        Ok(Story {
            canary,
            db: run.dir().join("work.db"),
            lost: Vec::new(),
            swept: None,
            latest_us: None,
            disturbed: 0,
            outcome: Outcome::passed(),
        })
    }

    fn tell(mut self, run: &mut Run) -> ScenarioResult {
        let result = self.all(run);
        let (found, recovered) = self.swept.unzip();
        self.outcome.metric("expired_found", found);
        self.outcome.metric("recovered", recovered);
        let takeover_ms = self.latest_us.map(|us| us as f64 / 1e3);
        self.outcome.metric("takeover_ms", takeover_ms);
        self.outcome.metric("takeovers", self.lost.len());
        self.outcome.metric("disturbed", self.disturbed);
        self.outcome.after(result)
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        for plan in plans(run) {
            self.take_over_in_time(run, &plan)?;
            if self.outcome.verdict != Verdict::Passed {
                break;
            }
        }
        Ok(())
    }

    /// Takeovers of one way, until one is not disturbed.
    fn take_over_in_time(&mut self, run: &mut Run, plan: &Plan) -> Fallible<()> {
        let way = plan.way;
        let (mut late, mut excused) = (Vec::new(), false);
        while late.len() < TAKEOVERS_MAX {
            run.progress(format!("takeover by {way:?}"));
            let takeover = self.take_over(run, plan)?;
            match takeover.timing(TAKEOVER_MARGIN) {
                Timing::InTime => {
                    self.latest_us = self.latest_us.max(Some(takeover.late_us()));
                    return Ok(());
                }
                Timing::Early | Timing::Late => {
                    self.outcome.violate(format!("{way:?}: {takeover}"));
                }
                timing @ (Timing::Disturbed | Timing::Excused) => {
                    self.disturbed += 1;
                    excused |= timing == Timing::Excused;
                    late.push(takeover.to_string());
                }
            }
            if self.outcome.verdict != Verdict::Passed {
                return Ok(());
            }
        }
        let late = late.join("; ");
        let reason = format!("{way:?}: none of {TAKEOVERS_MAX} was in time: {late}");
        if excused {
            self.outcome.not_judged(reason);
        } else {
            self.outcome.violate(reason);
        }
        Ok(())
    }

    fn take_over(&mut self, run: &mut Run, plan: &Plan) -> Fallible<Takeover> {
        let way = plan.way;
        let round = self.lost.len() + 1;
        let item = prepare(&self.db, round, plan.claims_before)?;
        let gate = Gate::shut(run, &round.to_string())?;
        let taker = Role::Taker(Taker {
            db: self.db.clone(),
            worker: "second".into(),
            work_type: WORK_TYPE.into(),
            way,
            gate: gate.path(),
            probe: run.dir().join(format!("probe-{round}")),
            canary: self.canary,
        });
        let mut taker = run.start(&spec(&format!("taker-{round}"), &taker)?)?;
        taker.wait_for_line("ready", PATIENCE, |line| line == "ready")?;
        let holder = Role::Holder(Holder {
            db: self.db.clone(),
            worker: "first".into(),
            work_type: WORK_TYPE.into(),
            items: 1,
            lease_ms: plan.lease_ms,
            renewals: plan.renewals,
            renewed_ms: plan.lease_ms,
            gate: None,
            leaves: false,
            canary: self.canary,
        });
        let mut holder = run.start(&spec(&format!("holder-{round}"), &holder)?)?;
        holder.wait_for_line("its lease", PATIENCE, |line| line == "waiting")?;
        gate.open()?;
        let transcript = holder.kill_after(plan.offset)?;
        let acks = transcript.acks();
        let held: HeldLease = fact(acks.last().map_or("", String::as_str))?;
        self.lost.push(held.claim.clone());
        same(
            &mut self.outcome,
            "the first worker's token",
            held.claim.token,
            i64::from(plan.claims_before) + 1,
        );
        let (taken, done) = heed(&mut taker, way, item.get(), &mut self.outcome)?;
        self.swept = done.swept.or(self.swept);
        let when = format!("after the takeover by {way:?}");
        look(&self.db, &when, &self.lost, &taken, &mut self.outcome)?;
        Ok(Takeover::of(
            held.deadline_us,
            taken.watched_us,
            taken.taken_us,
            &taken.stalls,
        ))
    }
}

/// Hears the one who takes over an item whose lease was lost, to its end.
pub(crate) fn heed(
    taker: &mut Victim,
    way: Way,
    item: i64,
    outcome: &mut Outcome,
) -> Fallible<(Taken, Done)> {
    let exit = taker.wait_for_exit(PATIENCE)?;
    let acks = taker.acks();
    let [taken, done] = acks.as_slice() else {
        let reason = format!("{way:?}: it ended with {exit} and acknowledged {acks:?}");
        return Err(Failure::new(reason));
    };
    let (taken, done): (Taken, Done) = (fact(taken)?, fact(done)?);
    outcome.check(exit.success(), || format!("{way:?}: it ended with {exit}"));
    same(
        outcome,
        "the item that was taken over",
        taken.lease.claim.item,
        item,
    );
    if done.swept.is_some() {
        same(
            outcome,
            "leases found and taken away",
            done.swept,
            Some((1, 1)),
        );
    }
    same(
        outcome,
        "leases that a later scan found",
        done.found_again,
        0,
    );
    Ok((taken, done))
}

/// Reads the file: of each lost lease there is what must be, and who took the item over
/// has completed it.
pub(crate) fn look(
    db: &Path,
    when: &str,
    lost: &[Claim],
    taken: &Taken,
    outcome: &mut Outcome,
) -> Fallible<()> {
    let wreck = Wreck::open(db, db.parent().unwrap_or(db))?;
    for problem in wreck.problems()? {
        outcome.violate(format!("{when}: {problem}"));
    }
    drop(wreck);
    let work = Work::read(db)?;
    for broken in judge_losses(lost, &work) {
        outcome.violate(format!("{when}: {broken}"));
    }
    let last = &taken.lease.claim;
    let of_item = lost.iter().filter(|claim| claim.item == last.item);
    let (losses, before) = of_item.fold((0, None), |(losses, before), claim| {
        (losses + 1, before.max(Some(claim.token)))
    });
    if let Some(before) = before {
        same(outcome, "the token of the takeover", last.token, before + 1);
    }
    let found = work.items.get(&last.item);
    let found = found.ok_or_else(|| Failure::new("the item is gone"))?;
    same(
        outcome,
        "the item's state",
        found.status.as_str(),
        "succeeded",
    );
    same(outcome, "its losses", found.losses, losses);
    same(outcome, "its token", found.token, last.token);
    let newest = work.tries_at(last.item).last().map(|one| &one.claim);
    same(outcome, "its last attempt", newest, Some(last));
    Ok(())
}

/// Enqueues an item with a task of its own, which is claimed and given back at
/// once some times, so that its token is any.
pub(crate) fn prepare(db: &Path, round: usize, claims_before: u32) -> Fallible<WorkItemId> {
    let store = SqliteStore::open(Config::at(db))?;
    let task = TaskId::new(format!("task {round}"))?;
    let item = NewWorkItem::new(WORK_TYPE)
        .task(task.clone())
        .payload(format!("page {round}"));
    let commit = Commit::new()
        .part(NewTask::new(task, "worked on"))
        .part(item);
    let receipt = store.commit(commit)?;
    let enqueued = receipt.enqueued().next();
    let (item, _) = enqueued.ok_or_else(|| Failure::new("nothing was enqueued"))?;
    for _ in 0..claims_before {
        let worker = Worker::start(WorkerId::new("earlier")?);
        let request = ClaimRequest {
            filter: WorkFilter::types([WORK_TYPE]),
            ..ClaimRequest::new(worker)
        };
        for lease in store.claim(&request)? {
            let fence = lease.fence;
            let reason = None;
            store.commit(Commit::under(fence).part(ReleaseWork { fence, reason }))?;
        }
    }
    Ok(item)
}

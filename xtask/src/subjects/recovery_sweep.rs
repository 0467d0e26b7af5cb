//! Scenario 4 as a subject. Struck is the process that takes the lost leases away, in
//! batches, and finishes what can be claimed then. Another start of it does the rest.
//!
//! Every lease that was lost before, and every one that was lost with the struck process,
//! is taken away once and on record once; what had an attempt left is done, the rest is in
//! the dead letter; and the items of a living worker are column by column what they were.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use agentos_chaos::{Aftermath, Failure, Family, Outcome, Run, Staged, Subject};
use agentos_core::{ClaimRequest, LeaseStorage, WorkFilter, Worker, WorkerId};
use agentos_store::sqlite::{Config, SqliteStore};

use super::leases::{Fallible, behind, play, sound};
use crate::canary::Canary;
use crate::scenarios::recovery_sweep::{Recovery, enqueue, judge_scans, scans};
use crate::scenarios::{fact, same};
use crate::victims::{HeldLease, Recoverer, Role, Scan, spec};
use crate::work::{Claim, Work};

/// Items of the living worker.
const KEPT: u32 = 2;
/// Workers that have died.
const DEAD: u32 = 2;
/// One item of so many has no second attempt.
const LAST_CHANCE: u32 = 3;
/// For the others none is the last: each lease may be lost once more with the struck one.
const ATTEMPTS: u32 = 3;
/// How long the dead had theirs, and how long the living one has.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(600);
/// How long the one who finishes claims: another waits that long for what it has left.
const LEASE_MS: u64 = 100;
/// Several batches are needed.
const ROWS_PER_BATCH: u32 = 2;
const NAME: &str = "recoverer";

/// The size is how many leases were lost.
pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged("recovery-sweep", move |run, size| {
        let scene = Scene::prepare(run, u32::try_from(size)?, canary)?;
        let spec = spec(NAME, &scene.role(0))?;
        Ok(Staged::new(spec, move |run, after| {
            let mut outcome = Outcome::passed();
            let result = scene.check(run, after, &mut outcome);
            outcome.after(result)
        }))
    })
    .goal("every lost lease is taken away once, whatever becomes of those who sweep")
    .size(5)
}

struct Scene {
    db: PathBuf,
    /// The leases of the dead, and of the one who lives.
    lost: Vec<Claim>,
    kept: Vec<Claim>,
    max_attempts: BTreeMap<i64, u32>,
    before: Work,
    canary: Option<Canary>,
}

impl Scene {
    fn prepare(run: &Run, items: u32, canary: Option<Canary>) -> Fallible<Scene> {
        let db = run.dir().join("work.db");
        let kept = (0..KEPT).map(|_| ("kept".to_owned(), ATTEMPTS));
        let lost = (0..items).map(|number| {
            let last_chance = number % LAST_CHANCE == LAST_CHANCE - 1;
            let most = if last_chance { 1 } else { ATTEMPTS };
            (type_of(number % DEAD), most)
        });
        let max_attempts = enqueue(&db, kept.chain(lost).collect())?;
        // The living one first: a claim takes away what has run out.
        let kept = claim(&SqliteStore::open(Config::at(&db))?, "kept", LONG)?;
        let mut lost = Vec::new();
        for number in 0..DEAD {
            lost.extend(claim(&behind(&db)?, &type_of(number), SHORT)?);
        }
        let (found, all) = (kept.len() + lost.len(), max_attempts.len());
        if found != all {
            return Err(Failure::new(format!("{found} of {all} items were claimed")));
        }
        Ok(Scene {
            before: Work::read(&db)?,
            db,
            lost,
            kept,
            max_attempts,
            canary,
        })
    }

    fn role(&self, begin_us: i64) -> Role {
        Role::Recoverer(Recoverer {
            db: self.db.clone(),
            worker: NAME.into(),
            begin_us,
            rows_per_batch: ROWS_PER_BATCH,
            lease_ms: LEASE_MS,
            canary: self.canary,
        })
    }

    fn check(&self, run: &mut Run, after: &Aftermath, outcome: &mut Outcome) -> Fallible<()> {
        sound(&self.db, "after the strike", outcome)?;
        let work = Work::read(&self.db)?;
        let acks = after.acks();
        let first: Vec<Scan> = acks
            .iter()
            .take(2)
            .map(|ack| fact(ack))
            .collect::<Result<_, _>>()?;
        // A sweep whose calls fail says so, and is content with less.
        if after.strike.family() != Family::Fail {
            let dead = self.without_attempts_left(&self.lost);
            judge_scans(&first, self.lost.len() as u64, dead, outcome);
        }
        let mut finished = heard(&acks)?;
        for HeldLease { claim, .. } in &finished {
            let status = work.items.get(&claim.item).map(|item| item.status.as_str());
            let what = format!("item {} that was acknowledged as done", claim.item);
            same(outcome, what, status, Some("succeeded"));
        }

        // What is held now: by the dead, and by the one who was struck.
        let (mut held, mut last) = (Vec::new(), 0);
        for item in work.items.values() {
            let is_kept = self.kept.iter().any(|kept| kept.item == item.id);
            if let (Some(who), Some(deadline), false) = (&item.holder, item.deadline_us, is_kept) {
                held.push(Claim {
                    item: item.id,
                    token: item.token,
                    who: who.clone(),
                });
                last = deadline.max(last);
            }
        }
        let acks = play(run, NAME, &self.role(last))?;
        let dead = self.without_attempts_left(&held);
        judge_scans(&scans(&acks)?, held.len() as u64, dead, outcome);
        finished.extend(heard(&acks)?);

        let own = held.into_iter().filter(|claim| !self.lost.contains(claim));
        let lost: Vec<Claim> = self.lost.iter().cloned().chain(own).collect();
        outcome.metric("lost", lost.len());
        outcome.metric("finished", finished.len());
        let recovery = Recovery {
            before: &self.before,
            lost: &lost,
            kept: &self.kept,
            max_attempts: &self.max_attempts,
            finished: &finished,
            all_heard: after.finished(),
        };
        recovery.look(&self.db, outcome)
    }

    /// How many of these leases were the last chance of their items.
    fn without_attempts_left(&self, leases: &[Claim]) -> u64 {
        let most = |claim: &Claim| self.max_attempts.get(&claim.item).copied();
        let last = leases.iter().filter(|claim| most(claim) == Some(1));
        last.count() as u64
    }
}

/// What was acknowledged as done, after the two sweeps.
fn heard(acks: &[String]) -> Fallible<Vec<HeldLease>> {
    acks.iter().skip(2).map(|ack| fact(ack)).collect()
}

/// Claims all that there is of a type.
fn claim(store: &SqliteStore, work_type: &str, lease: Duration) -> Fallible<Vec<Claim>> {
    let worker = Worker::start(WorkerId::new(format!("worker on {work_type}"))?);
    let leases = store.claim(&ClaimRequest {
        filter: WorkFilter::types([work_type]),
        lease,
        items: 100,
        ..ClaimRequest::new(worker)
    })?;
    let claims = leases.iter().map(|lease| HeldLease::from(lease).claim);
    Ok(claims.collect())
}

fn type_of(number: u32) -> String {
    format!("type {number}")
}

//! Scenario 8 as a subject. Struck is the zombie: a process that goes on under leases
//! which it has lost, and tries all that a holder may do. One of the items is worked on by
//! its successor; another one is completed.
//!
//! Whatever strikes it, and wherever: every row of the file is what it was, each answer
//! that it got names who has the item, and the successor finishes under its own lease.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentos_chaos::{Aftermath, Failure, Family, Outcome, Run, Staged, Subject};
use agentos_core::{Commit, Lease, Storage, WorkFilter, Worker, WorkerId};
use agentos_store::sqlite::{Config, SqliteStore};
use agentos_worker_pool::{LeaseConfig, LeaseManager};

use super::leases::{Fallible, behind, sound};
use crate::canary::Canary;
use crate::model::changes;
use crate::scenarios::zombie_worker::{FIRST, OTHER_NAME, Round, SAME_NAME, SECOND, look, prepare};
use crate::scenarios::{fact, same};
use crate::victims::{Answered, Attempted, HeldLease, Role, Zombie, last_commit, signed, spec};
use crate::work::{Claim, Rows, everything};

/// How long the zombie had its leases.
const LEASE: Duration = Duration::from_secs(1);
/// In how many ways it tries each.
const TRIES: usize = 10;

/// The size is how many leases the zombie has lost: with one, the successor still works.
pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged("zombie-worker", move |run, size| {
        let scene = Scene::prepare(run, size)?;
        let given = scene.items.iter().map(|one| {
            let task = one.round.task.as_str().to_owned();
            (task, one.lost.clone())
        });
        let zombie = Role::Zombie(Zombie {
            db: scene.db.clone(),
            worker: FIRST.into(),
            task: OTHER_NAME.into(),
            work_type: OTHER_NAME.into(),
            lease_ms: u64::try_from(LEASE.as_millis())?,
            checkpoints: 0,
            given: given.collect(),
            gates: Vec::new(),
            canary,
        });
        let spec = spec("zombie", &zombie)?;
        Ok(Staged::new(spec, move |_, after| {
            let mut outcome = Outcome::passed();
            let result = scene.check(after, &mut outcome);
            outcome.after(result)
        }))
    })
    .goal("nothing takes effect of a worker that goes on under lost leases")
    .size(2)
}

struct Scene {
    db: PathBuf,
    items: Vec<Taken>,
    /// All that there was before the zombie went on.
    before: Rows,
}

/// An item that was taken over.
struct Taken {
    round: Round,
    /// The zombie's lease, and the successor's.
    lost: Claim,
    lease: Lease,
    /// Whether the successor has completed it.
    is_done: bool,
}

impl Scene {
    fn prepare(run: &mut Run, size: u64) -> Fallible<Scene> {
        let db = run.dir().join("work.db");
        let all = [(OTHER_NAME, SECOND, false), (SAME_NAME, FIRST, true)];
        let mut items = Vec::new();
        for (name, second, is_done) in all.into_iter().take(usize::try_from(size)?) {
            let round = prepare(&db, run, name, second)?;
            let lost = lose(&db, &round)?;
            let lease = take_over(&db, &round, is_done)?;
            items.push(Taken {
                round,
                lost,
                lease,
                is_done,
            });
        }
        Ok(Scene {
            before: everything(&db)?,
            db,
            items,
        })
    }

    fn check(&self, after: &Aftermath, outcome: &mut Outcome) -> Fallible<()> {
        sound(&self.db, "after the strike", outcome)?;
        for broken in changes(&self.before, &everything(&self.db)?) {
            outcome.violate(broken);
        }
        self.judge_answers(after, outcome)?;
        let lost: Vec<Claim> = self.items.iter().map(|one| one.lost.clone()).collect();
        for one in &self.items {
            if !one.is_done {
                let (store, leases) = manager(&self.db, one.round.second)?;
                let (task, result) = (&one.round.task, &one.round.result);
                store.commit(last_commit(&leases, &one.lease, task, result))?;
            }
        }
        for one in &self.items {
            look(&self.db, &one.round, &lost, outcome)?;
        }
        Ok(())
    }

    /// What the zombie was told, as far as it could tell of it.
    fn judge_answers(&self, after: &Aftermath, outcome: &mut Outcome) -> Fallible<()> {
        let acks = after.acks();
        let mut refused = 0;
        for (number, ack) in acks.iter().enumerate() {
            let Attempted { what, answer } = fact(ack)?;
            let one = self.items.get(number / TRIES);
            let one = one.ok_or_else(|| Failure::new(format!("it tried {what} once more")))?;
            refused += usize::from(matches!(answer, Answered::Stale { .. }));
            // A failed call may be the answer, to one try and to those after it.
            if after.strike.family() == Family::Fail && matches!(answer, Answered::Failed(_)) {
                continue;
            }
            let what = format!("{}, {what}: the answer", one.round.name);
            same(outcome, what, answer, one.told());
        }
        if after.finished() {
            let all = self.items.len() * TRIES;
            same(outcome, "tries of one that ended", acks.len(), all);
        }
        outcome.metric("tried", acks.len());
        outcome.metric("refused", refused);
        Ok(())
    }
}

impl Taken {
    /// What the store must answer.
    fn told(&self) -> Answered {
        let held = HeldLease::from(&self.lease).claim;
        let since = self.lease.acquired_at.to_text();
        let status = if self.is_done {
            "succeeded"
        } else {
            "in_progress"
        };
        Answered::Stale {
            item: self.lost.item,
            token: self.lost.token,
            status: Some(status.into()),
            newest: Some(held.token),
            holder: (!self.is_done).then_some((held.who, since)),
        }
    }
}

/// The first worker claims the item, appends its checkpoints, and loses it.
fn lose(db: &Path, round: &Round) -> Fallible<Claim> {
    let store: Arc<dyn Storage> = Arc::new(behind(db)?);
    let config = LeaseConfig {
        lease: LEASE,
        ..LeaseConfig::default()
    };
    let worker = Worker::start(WorkerId::new(FIRST)?);
    let lease = claim(
        &LeaseManager::new(Arc::clone(&store), worker, config)?,
        round,
    )?;
    for number in 1..=round.checkpoints {
        let part = signed(&round.task, &format!("before, {number}"));
        store.commit(Commit::under(&lease).part(part))?;
    }
    Ok(HeldLease::from(&lease).claim)
}

/// Another one takes it over, and may complete it.
fn take_over(db: &Path, round: &Round, completes: bool) -> Fallible<Lease> {
    let (store, leases) = manager(db, round.second)?;
    let lease = claim(&leases, round)?;
    let first = Commit::under(&lease).part(signed(&round.task, "after, 1"));
    store.commit(first)?;
    if completes {
        store.commit(last_commit(&leases, &lease, &round.task, &round.result))?;
    }
    Ok(lease)
}

fn manager(db: &Path, name: &str) -> Fallible<(Arc<dyn Storage>, LeaseManager)> {
    let store: Arc<dyn Storage> = Arc::new(SqliteStore::open(Config::at(db))?);
    let worker = Worker::start(WorkerId::new(name)?);
    let leases = LeaseManager::new(Arc::clone(&store), worker, LeaseConfig::default())?;
    Ok((store, leases))
}

fn claim(leases: &LeaseManager, round: &Round) -> Fallible<Lease> {
    let lease = leases.claim(&WorkFilter::types([round.name]))?;
    lease.ok_or_else(|| Failure::new("there is nothing to claim"))
}

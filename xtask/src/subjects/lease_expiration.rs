//! Scenario 3 as a subject. Struck is the worker that claims an item, renews its lease
//! and leaves with it. Then another one takes the item over, in one of the three ways,
//! and completes it.
//!
//! What the first one had acknowledged is in the file: its claim, and the deadline of
//! each renewal, or a later one. If it was given the item, the takeover comes after that
//! deadline, under the next token, and exactly that loss is on record; if not, nothing
//! is. How soon it comes is not judged.

use std::fs::File;
use std::path::PathBuf;

use agentos_chaos::{Aftermath, Failure, Outcome, Run, Staged, Subject};
use agentos_core::WorkItemId;
use agentos_core::limits::TAKEOVER_MARGIN;

use super::leases::{Fallible, one_of, sound};
use crate::canary::Canary;
use crate::model::{Takeover, Timing};
use crate::scenarios::lease_expiration::{WORK_TYPE, heed, look, prepare};
use crate::scenarios::{fact, same};
use crate::victims::{HeldLease, Holder, Role, Taker, Way, spec};
use crate::work::{Claim, Item, Work};

/// As short as a lease can be.
const LEASE_MS: u64 = 100;
/// How often the item was claimed and given back before.
const CLAIMS_BEFORE: u32 = 1;

/// The size is how often the worker renews.
pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged("lease-expiration", move |run, size| {
        let db = run.dir().join("work.db");
        let scene = Scene {
            item: prepare(&db, 1, CLAIMS_BEFORE)?,
            gate: run.dir().join("gate"),
            renewals: u32::try_from(size)?,
            canary,
            db,
        };
        // It is open from the beginning.
        File::create(&scene.gate)?;
        let holder = Role::Holder(Holder {
            db: scene.db.clone(),
            worker: "first".into(),
            work_type: WORK_TYPE.into(),
            items: 1,
            lease_ms: LEASE_MS,
            renewals: scene.renewals,
            renewed_ms: LEASE_MS,
            gate: None,
            leaves: true,
            canary,
        });
        let spec = spec("holder", &holder)?;
        Ok(Staged::new(spec, move |run, after| {
            let mut outcome = Outcome::passed();
            let result = scene.check(run, after, &mut outcome);
            outcome.after(result)
        }))
    })
    .goal("a dead worker's item is taken over when its lease has run out, and done once")
    .size(2)
}

struct Scene {
    db: PathBuf,
    gate: PathBuf,
    item: WorkItemId,
    renewals: u32,
    canary: Option<Canary>,
}

impl Scene {
    fn check(&self, run: &mut Run, after: &Aftermath, outcome: &mut Outcome) -> Fallible<()> {
        sound(&self.db, "after the strike", outcome)?;
        let work = Work::read(&self.db)?;
        let item = work.items.get(&self.item.get());
        let item = item.ok_or_else(|| Failure::new("the item is gone"))?;
        let held = item.holder.clone().map(|who| Claim {
            item: item.id,
            token: item.token,
            who,
        });
        self.judge_acks(after, item, held.as_ref(), outcome)?;

        let ways = [Way::Claims, Way::Pool, Way::Sweeper];
        // Without a lost lease a sweeper has nothing to tell.
        let ways = &ways[..if held.is_some() { 3 } else { 2 }];
        let way = one_of(ways, &after.strike).unwrap_or(Way::Claims);
        let taker = Role::Taker(Taker {
            db: self.db.clone(),
            worker: "second".into(),
            work_type: WORK_TYPE.into(),
            way,
            gate: self.gate.clone(),
            probe: run.dir().join("probe"),
            canary: self.canary,
        });
        let mut taker = run.start(&spec("taker", &taker)?)?;
        let (taken, _) = heed(&mut taker, way, item.id, outcome)?;
        let lost: Vec<Claim> = held.into_iter().collect();
        look(&self.db, "after the takeover", &lost, &taken, outcome)?;
        match item.deadline_us {
            Some(deadline) if !lost.is_empty() => {
                let takeover = Takeover::of(deadline, taken.watched_us, taken.taken_us, &[]);
                let early = takeover.timing(TAKEOVER_MARGIN) == Timing::Early;
                outcome.check(!early, || format!("{way:?}: {takeover}"));
            }
            _ => {
                let first = i64::from(CLAIMS_BEFORE) + 1;
                same(outcome, "the token", taken.lease.claim.token, first);
            }
        }
        outcome.metric("lost", lost.len());
        Ok(())
    }

    /// What the first worker had acknowledged is so.
    fn judge_acks(
        &self,
        after: &Aftermath,
        item: &Item,
        held: Option<&Claim>,
        outcome: &mut Outcome,
    ) -> Fallible<()> {
        let acks = after.acks();
        let acks: Vec<HeldLease> = acks.iter().map(|ack| fact(ack)).collect::<Result<_, _>>()?;
        if let Some(first) = acks.first() {
            same(outcome, "the claim", held, Some(&first.claim));
        }
        let told = acks.iter().map(|one| one.deadline_us).max();
        outcome.check(told <= item.deadline_us, || {
            format!(
                "a lease was acknowledged until {told:?} and lasts until {:?}",
                item.deadline_us
            )
        });
        if after.finished() {
            let all = 1 + usize::try_from(self.renewals)?;
            same(
                outcome,
                "acknowledgements of one that ended",
                acks.len(),
                all,
            );
        }
        Ok(())
    }
}

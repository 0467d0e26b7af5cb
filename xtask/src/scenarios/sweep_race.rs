//! Scenario 12. Goal: however many sweep, renew and claim the same items at once,
//! every lost lease is taken away once, and no lease that was renewed in time.
//!
//! Method: 6 processes claim the same items under short leases, renew some in good
//! time and some as near to the deadline as they can, let them run out, and sweep all
//! the time. Each deed is acknowledged with the moments around it. At the end what
//! the processes counted, the audit, the attempts and the error boundaries must be the
//! same, and no acknowledged renewal may have been followed by a sweep of that lease
//! before its deadline.

use std::path::Path;
use std::sync::Arc;

use agentos_chaos::{Failure, Outcome, Run, Scenario};
use agentos_core::{Clock, SystemClock};
use agentos_store::sqlite::{Config, SqliteStore};

use super::rivalry::{lease_of, prepare, run_rivals, sweep_the_rest};
use super::told::{Told, count, found, lost};
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::{Call, Moment, Reply, judge_deadlines};
use crate::victims::{Jumps, Rival};
use crate::work::Work;

const PROCESSES: u64 = 6;
const ITEMS: u64 = 24;
/// Leases that each process takes.
const LEASES: u64 = 36;
const LEASES_QUICK: u64 = 12;
/// How long a lease lasts, in milliseconds; each process has its own.
const LEASE_MS: std::ops::RangeInclusive<u64> = 100..=160;

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "6 processes sweep, renew and claim the same items: every recovery is counted once";
    Scenario::new(12, "sweep-race", goal, move |run| {
        let mut outcome = Outcome::passed();
        let result = race(run, canary, &mut outcome);
        outcome.after(result)
    })
}

fn race(run: &mut Run, canary: Option<Canary>, outcome: &mut Outcome) -> Result<(), Failure> {
    let db = run.dir().join("race.db");
    let now = SystemClock.wall();
    prepare(&db, ITEMS, |_| now)?;
    let leases = if run.quick() { LEASES_QUICK } else { LEASES };
    let rivals = (1..=PROCESSES).map(|number| Rival {
        db: db.clone(),
        gate: run.dir().join("gate"),
        name: format!("rival-{number}"),
        seed: run.rng.next_u64(),
        leases,
        lease_ms: run.rng.between(*LEASE_MS.start(), *LEASE_MS.end()),
        nap_ms: 1,
        completes: 0,
        jumps: Jumps::None,
        canary,
    });
    let rivals: Vec<Rival> = rivals.collect();
    let leases = lease_of(&rivals);
    run.progress("six processes race");
    let mut told = Told::default();
    run_rivals(run, rivals, &mut told)?;
    let ended = Ended {
        db: &db,
        items: ITEMS,
        all_heard: true,
    };
    ended.judge(told, leases, outcome)
}

/// A race that has ended.
pub(crate) struct Ended<'r> {
    pub(crate) db: &'r Path,
    /// How many items there were.
    pub(crate) items: u64,
    /// Whether everybody told of all that it did, or a crash may have swallowed a word.
    pub(crate) all_heard: bool,
}

impl Ended<'_> {
    /// Lets the last leases run out, and reads the file.
    pub(crate) fn judge(
        &self,
        mut told: Told,
        leases: impl Fn(&str) -> Moment,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let (db, items) = (self.db, self.items);
        let store = Arc::new(SqliteStore::open(Config::at(db))?);
        let recovered = told.recovered + sweep_the_rest(&store)?;

        let history = told.history(found(&store)?);
        let work = Work::read(db)?;
        told.judge(&history, &work, outcome);
        for broken in judge_deadlines(&history, &told.taken, leases, |_| None) {
            outcome.violate(broken);
        }
        let (lines, expired) = (work.audited.len() as u64, lost(&work).len() as u64);
        let is_told = recovered == lines || (recovered < lines && !self.all_heard);
        outcome.check(is_told && lines == expired, || {
        format!(
            "{recovered} leases were counted as recovered, {lines} audit lines say so, and {expired} attempts are expired"
        )
    });
        outcome.check(work.items.len() as u64 == items, || {
            format!("{} items of {items} are there", work.items.len())
        });
        drop(store);
        for problem in Wreck::open(db, db.parent().unwrap_or(db))?.problems()? {
            outcome.violate(problem);
        }
        let renewals = |reply: Reply| {
            count(&history, |call, answer| {
                matches!(call, Call::Renew(_)) && *answer == reply
            })
        };
        outcome.metric("items", items);
        outcome.metric("claimed", work.tries.len());
        outcome.metric("renewed", renewals(Reply::Done));
        outcome.metric("refused", renewals(Reply::Stale));
        outcome.metric("recovered", recovered);
        outcome.metric("swept", told.taken.len());
        Ok(())
    }
}

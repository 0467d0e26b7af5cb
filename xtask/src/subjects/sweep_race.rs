//! Scenario 12 as a subject. Struck is one of those who claim, renew and sweep the same
//! items, while another one races with it; when it is gone, a third one joins in.
//!
//! Every lost lease is taken away once and on record once, no lease that was renewed ends
//! before its deadline, and the history of all leases keeps its rules. The struck one may
//! have taken away what it could not tell of any more.

use std::fs::File;
use std::path::Path;

use agentos_chaos::{Aftermath, Outcome, Run, Staged, Subject, Victim};
use agentos_core::{Clock, SystemClock};

use super::leases::{Fallible, sound};
use crate::canary::Canary;
use crate::scenarios::rivalry::{hear, lease_of, prepare, run_rivals};
use crate::scenarios::sweep_race::Ended;
use crate::scenarios::told::Told;
use crate::victims::{Jumps, Rival, Role, spec, true_now_us};

const ITEMS: u64 = 6;
/// Leases of the one who races with the struck one, and of the one who joins in.
const LEASES: u64 = 4;
const LEASE_MS: u64 = 100;
/// It looks seldom when there is nothing to do: each look is a commit that is struck.
const NAP_MS: u64 = 25;
/// The struck one's plan is the same in all runs.
const SEED: u64 = 12;

/// The size is how many leases the struck one takes.
pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged("sweep-race", move |run, size| {
        let db = run.dir().join("race.db");
        let now = SystemClock.wall();
        prepare(&db, ITEMS, |_| now)?;
        let rival = |number, leases| Rival {
            db: db.clone(),
            gate: db.with_extension("gate"),
            name: format!("rival-{number}"),
            seed: SEED + number,
            leases,
            lease_ms: LEASE_MS,
            nap_ms: NAP_MS,
            completes: 0,
            jumps: Jumps::None,
            canary,
        };
        let (first, second, third) = (rival(1, size), rival(2, LEASES), rival(3, LEASES));
        // It is open from the beginning.
        File::create(&first.gate)?;
        let all = [first.clone(), second.clone(), third.clone()];
        let mate = run.start(&spec(&second.name, &Role::Rival(second.clone()))?)?;
        let spec = spec(&all[0].name, &Role::Rival(first))?;
        Ok(Staged::new(spec, move |run, after| {
            let mut outcome = Outcome::passed();
            let mate = (second.name, mate);
            let result = check(run, after, &db, mate, third, &all, &mut outcome);
            outcome.after(result)
        }))
    })
    .goal("every lost lease is taken away once, whatever becomes of those who race")
    .size(3)
}

fn check(
    run: &mut Run,
    after: &Aftermath,
    db: &Path,
    mate: (String, Victim),
    third: Rival,
    all: &[Rival; 3],
    outcome: &mut Outcome,
) -> Fallible<()> {
    let mut told = Told::default();
    let struck = &all[0].name;
    for line in &after.transcript.lines {
        told.heed(struck, line)?;
    }
    told.died(struck, true_now_us());
    hear(vec![mate], &mut told)?;
    run_rivals(run, vec![third], &mut told)?;
    sound(db, "after the race", outcome)?;
    let ended = Ended {
        db,
        items: ITEMS,
        all_heard: after.finished(),
    };
    ended.judge(told, lease_of(all), outcome)
}

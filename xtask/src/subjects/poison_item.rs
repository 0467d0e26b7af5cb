//! Scenario 10 as a subject. Struck is a pool that works on some items, of which one is
//! poison: its handler fails each time. Another start of it does the rest.
//!
//! The poison ends in the dead letter after exactly as many attempts as it may have, some
//! of them failed and some lost with who was struck, and each is on record. All others are
//! done.

use std::path::PathBuf;

use agentos_chaos::{Aftermath, Outcome, Run, Staged, Subject};

use super::leases::{Fallible, PATIENCE, sound};
use crate::canary::Canary;
use crate::scenarios::fact;
use crate::scenarios::poison_item::{Dish, Meal, Poison, Results, WORK_TYPE, enqueue};
use crate::victims::{Pooled, Role, spec};
use crate::work::Claim;

/// How often the poison may be tried.
const ATTEMPTS: u64 = 3;
/// More than the others can lose.
const ENOUGH: u64 = 20;
const LEASE_MS: u64 = 150;
const NAME: &str = "cook";

/// The size is how many items there are beside the poison.
pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged("poison-item", move |run, size| {
        let scene = Scene::prepare(run, size, canary)?;
        let spec = spec(NAME, &scene.role)?;
        Ok(Staged::new(spec, move |run, after| {
            let mut outcome = Outcome::passed();
            let result = scene.check(run, after, &mut outcome);
            outcome.after(result)
        }))
    })
    .goal("a poison item ends in the dead letter after its last attempt, and all others finish")
    .size(2)
}

struct Scene {
    db: PathBuf,
    role: Role,
    poison: Poison,
    results: Results,
}

impl Scene {
    fn prepare(run: &Run, size: u64, canary: Option<Canary>) -> Fallible<Scene> {
        let db = run.dir().join("work.db");
        let dishes: Vec<Dish> = (0..=size)
            .map(|number| Dish {
                is_poison: number == 0,
                attempts: if number == 0 { ATTEMPTS } else { ENOUGH },
                priority: 0,
            })
            .collect();
        let (poison, results) = enqueue(&db, &dishes)?;
        let role = Role::Pooled(Pooled {
            db: db.clone(),
            worker: NAME.into(),
            work_type: WORK_TYPE.into(),
            lease_ms: LEASE_MS,
            pause_ms: (1, 2),
            threads: 1,
            aborts: false,
            canary,
        });
        Ok(Scene {
            db,
            role,
            poison,
            results,
        })
    }

    fn check(&self, run: &mut Run, after: &Aftermath, outcome: &mut Outcome) -> Fallible<()> {
        sound(&self.db, "after the strike", outcome)?;
        let mut lines = after.transcript.lines.clone();
        let mut cook = run.start(&spec(NAME, &self.role)?)?;
        let exit = cook.wait_for_exit(PATIENCE)?;
        outcome.check(exit.success(), || {
            format!("the next {NAME} ended with {exit}")
        });
        lines.extend(cook.acks().into_iter().map(|ack| format!("ack {ack}")));
        lines.extend(cook.said());
        let told = |word: &str| -> Fallible<Vec<Claim>> {
            let told = lines.iter().filter_map(|line| line.strip_prefix(word));
            told.map(fact).collect()
        };
        let (died_of, finished) = (told("poison ")?, told("ack ")?);
        let meal = Meal {
            poison: &self.poison,
            results: &self.results,
            died_of: &died_of,
            finished: &finished,
            may_fail: true,
        };
        let (dead_letters, attempts) = meal.look(&self.db, outcome)?;
        outcome.metric("dead_letters", dead_letters);
        outcome.metric("attempts", attempts);
        Ok(())
    }
}

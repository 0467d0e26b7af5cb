//! Scenario 9 as a subject. Struck is a worker of the storm: a pool with its heartbeat and
//! a sweeper, whose items have three steps each. Then it is started again, beside another
//! one, and both finish. Whether the new start gives up at once what the old one held, or
//! its leases run out, depends on the strike.
//!
//! What all of them told is one history of leases, and the rules of the storm hold of it:
//! every step that was acknowledged is committed, no committed one is done again.

use agentos_chaos::{Aftermath, Family, Run, ScenarioResult, Staged, Subject};

use super::leases::{Fallible, one_of};
use crate::canary::Canary;
use crate::scenarios::crew::Crew;
use crate::scenarios::kill_storm::Storm;
use crate::victims::{Role, spec};

/// Threads of each pool: with one, the struck one does the same in every run.
const THREADS: usize = 1;

/// The size is how many items there are.
pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged("kill-storm", move |run, size| {
        let storm = Storm::new(run.dir(), size, canary);
        storm.prepare()?;
        let worker = storm.worker(1, THREADS);
        let name = worker.name.clone();
        let spec = spec(&name, &Role::Stormer(worker))?;
        Ok(Staged::new(spec, move |run, after| {
            check(storm, run, after)
        }))
    })
    .goal("whatever strikes a worker, every item is done once and rightly")
    .size(2)
}

fn check(mut storm: Storm, run: &mut Run, after: &Aftermath) -> ScenarioResult {
    storm.may_fail = after.strike.family() == Family::Fail;
    let result = finish(&mut storm, run, after);
    storm.figures();
    storm.outcome.after(result)
}

fn finish(storm: &mut Storm, run: &mut Run, after: &Aftermath) -> Fallible<()> {
    let (mut again, other) = (storm.worker(1, THREADS), storm.worker(2, THREADS));
    storm.has_died(&again.name, &after.transcript.lines)?;
    again.gives_up = one_of(&[true, true, false], &after.strike).unwrap_or(true);
    if again.gives_up {
        storm.gives_up(&again.name);
    }
    let mut crew = Crew::start(run, vec![again, other])?;
    storm.calm(run, &mut crew)?;
    drop(crew);
    storm.judge(run)
}

//! Rows of every kind, written in every way by one process that is struck anywhere. Each
//! step ends with an audit line in its last commit: where the line is, the step is, and
//! whoever goes on does each of the others once. No scenario; each does some of this.

use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, ScenarioResult, Staged, Subject, Verdict};

use crate::canary::Canary;
use crate::checks::Wreck;
use crate::scenarios::clerks_rows::{at_the_end, look};
use crate::scenarios::fact;
use crate::victims::{Clerk, Role, clerks_steps, spec};

/// For the one who goes on; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(50);

type Fallible<T> = Result<T, Failure>;

pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    let most = clerks_steps().len();
    Subject::staged("every-row", move |run, steps| {
        let clerk = Clerk {
            db: run.dir().join("rows.db"),
            world: run.dir().join("world.log"),
            steps: usize::try_from(steps)?,
            canary,
        };
        drop(Wreck::open(&clerk.db, run.dir())?);
        let victim = spec("clerk", &Role::Clerk(clerk.clone()))?;
        Ok(Staged::new(victim, move |run, after| {
            judge(run, clerk, &after.acks())
        }))
    })
    .goal("rows of every kind are written wholly or not at all, and once")
    .size(most as u64)
}

fn judge(run: &mut Run, clerk: Clerk, acks: &[String]) -> ScenarioResult {
    let mut outcome = Outcome::passed();
    let result = all(run, clerk, acks, &mut outcome);
    outcome.after(result)
}

fn all(run: &mut Run, clerk: Clerk, acks: &[String], outcome: &mut Outcome) -> Fallible<()> {
    let acked: Vec<String> = acks.iter().map(|ack| fact(ack)).collect::<Fallible<_>>()?;
    let (db, world) = (clerk.db.clone(), clerk.world.clone());
    look(run.dir(), &db, "when it was struck", &acked, 1, outcome)?;
    if outcome.verdict != Verdict::Passed {
        return Ok(());
    }
    let steps = clerks_steps();
    let next = Clerk {
        steps: steps.len(),
        canary: None,
        ..clerk
    };
    let mut next = run.start(&spec("next", &Role::Clerk(next))?)?;
    let exit = next.wait_for_exit(PATIENCE)?;
    outcome.check(exit.success(), || format!("the next one ended with {exit}"));
    if outcome.verdict != Verdict::Passed {
        return Ok(());
    }
    let steps: Vec<String> = steps.into_iter().map(str::to_owned).collect();
    look(run.dir(), &db, "at the end", &steps, 0, outcome)?;
    at_the_end(run.dir(), &db, &world, 0, outcome)
}

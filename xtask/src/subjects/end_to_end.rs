//! The agent of `end-to-end`, struck anywhere. Its model is not struck: it counts what is
//! paid for.

use agentos_chaos::{Staged, Subject};

use crate::canary::Canary;
use crate::scenarios::end_to_end::{NAME, Story};
use crate::victims::spec;

/// Iterations of the agent.
const ITERATIONS: u64 = 2;

pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged(NAME, move |run, size| {
        let (model, role, story) = Story::to_strike(run, size, canary)?;
        let victim = spec("counter", &role)?;
        Ok(Staged::new(victim, move |run, after| {
            let _model = model;
            story.struck(run, after)
        }))
    })
    .goal("an agent struck anywhere ends with the exact answer, does and pays nothing twice")
    .size(ITERATIONS)
}

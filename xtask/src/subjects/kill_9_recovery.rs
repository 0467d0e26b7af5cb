//! The agent of `kill-9-recovery`, struck anywhere: also while it makes its database, and
//! while its command makes an artifact.

use agentos_chaos::{Staged, Subject};

use crate::canary::Canary;
use crate::scenarios::kill_9_recovery::{GOAL, NAME, Story};
use crate::victims::spec;

/// Iterations of the agent.
const ITERATIONS: u64 = 3;

pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged(NAME, move |run, size| {
        let story = Story::begin(run, size, canary)?;
        let victim = spec("agent", &story.role())?;
        Ok(Staged::new(victim, move |run, after| {
            story.struck(run, after)
        }))
    })
    .goal(GOAL)
    .size(ITERATIONS)
}

//! Calls of a tool, one of each policy in turn, by one process that is struck anywhere.
//! Where it was is read from what it left; then each call has had its effect exactly as
//! often as its policy says.

use agentos_chaos::{Staged, Subject};

use crate::canary::Canary;
use crate::scenarios::in_doubt::Struck;
use crate::victims::spec;

pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged("in-doubt", move |run, calls| {
        let struck = Struck::new(run, canary, calls)?;
        let victim = spec("caller", &struck.role())?;
        Ok(Staged::new(victim, move |run, after| {
            struck.judge(run, &after.transcript)
        }))
    })
    .goal("a call that was cut off anywhere happens as often as its policy says")
    .size(5)
}

//! Who runs commands in `tool-replay`, struck anywhere: also in the commands themselves.

use agentos_chaos::{Staged, Subject};

use crate::canary::Canary;
use crate::scenarios::tool_replay::{NAME, begin, struck};
use crate::victims::{Role, spec};

/// Commands, fewer than there are kinds of them: each makes many calls.
const COMMANDS: u64 = 3;

pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged(NAME, move |run, size| {
        let tooler = begin(run, size, canary)?;
        let victim = spec("tooler", &Role::Tooler(tooler.clone()))?;
        Ok(Staged::new(victim, move |run, after| {
            struck(run, &tooler, after)
        }))
    })
    .goal("a command has its effect once, and what came out of it is replayed")
    .size(COMMANDS)
}

//! Who asks a model in `llm-cache`, struck anywhere. The model is not struck: it counts
//! what is paid for.

use agentos_chaos::{Staged, Subject};

use crate::canary::Canary;
use crate::scenarios::llm_cache::{NAME, begin, struck};
use crate::victims::{Role, spec};

/// Requests to the model.
const REQUESTS: u64 = 3;

pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged(NAME, move |run, size| {
        let (server, prompter) = begin(run, size, canary)?;
        let victim = spec("prompter", &Role::Prompter(prompter.clone()))?;
        Ok(Staged::new(victim, move |run, after| {
            let _server = server;
            struck(run, &prompter, after)
        }))
    })
    .goal("what a model answered is kept, and nothing is paid twice but what was in flight")
    .size(REQUESTS)
}

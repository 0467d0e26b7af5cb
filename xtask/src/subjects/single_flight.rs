//! Three processes ask a model the same at once, and one of them is struck anywhere: it
//! may be asking, or waiting for one that asks. It is started again; all are answered, and
//! nothing is paid for twice but what was under way.

use agentos_chaos::{Staged, Subject};

use crate::canary::Canary;
use crate::scenarios::single_flight::Struck;

pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged("single-flight", move |run, requests| {
        let struck = Struck::new(run, canary, requests)?;
        let victim = struck.spec()?;
        Ok(Staged::new(victim, move |run, after| {
            struck.judge(run, after)
        }))
    })
    .goal("of many who ask a model the same one pays, also when one of them dies")
    .size(3)
}

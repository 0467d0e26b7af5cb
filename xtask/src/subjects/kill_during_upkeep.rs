//! Upkeep and backups in turns, by one process that is struck anywhere: nothing that must
//! stay is gone, the backup is the earlier or the later one, and the next one finishes the
//! job.

use agentos_chaos::{Staged, Subject};

use crate::canary::Canary;
use crate::scenarios::kill_during_upkeep::Struck;
use crate::victims::spec;

pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged("kill-during-upkeep", move |run, rounds| {
        let struck = Struck::new(run, canary, rounds)?;
        let victim = spec("janitor", &struck.role())?;
        Ok(Staged::new(victim, move |run, after| {
            struck.judge(run, &after.transcript)
        }))
    })
    .goal("struck anywhere in upkeep or backup, nothing is lost")
    .size(2)
}

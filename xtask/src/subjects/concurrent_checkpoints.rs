//! One of those who append to one task in `concurrent-checkpoints`, struck anywhere. The
//! others are not struck, and must not notice.

use agentos_chaos::{Staged, Subject};

use crate::canary::Canary;
use crate::scenarios::concurrent_checkpoints::{NAME, begin, struck};
use crate::victims::spec;

/// Checkpoints of the one that is struck.
const CHECKPOINTS: u64 = 3;

pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged(NAME, move |run, size| {
        let (others, writer) = begin(run, size, canary)?;
        let victim = spec("struck", &writer.role())?;
        Ok(Staged::new(victim, move |run, after| {
            struck(run, others, &writer, after)
        }))
    })
    .goal(
        "whoever else appends, every acknowledged checkpoint is kept and no number is given twice",
    )
    .size(CHECKPOINTS)
}

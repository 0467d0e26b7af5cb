//! A line of agents that work on one task, one after the other, each but the
//! last killed: what they have acknowledged, and what each left behind.
//!
//! What every such scenario must find is checked here; what the state must be
//! depends on the agent's work and is checked by the scenario.

use agentos_chaos::{Failure, Outcome};
use agentos_checkpoints::{Label, Resume, Resumed};
use agentos_core::{CheckpointType, TaskId, TaskStorage, Timestamp};

use crate::checks::Wreck;
use crate::model::{Numbered, judge};

/// What is known so far.
pub(super) struct Lineage {
    task: TaskId,
    /// What must be there: found after the last agent, or acknowledged since.
    known: Vec<Numbered>,
    pub(super) acked: usize,
    /// Found, though the kill came before the acknowledgement.
    pub(super) unacknowledged: usize,
    pub(super) found: usize,
    /// The iteration with which the next agent must begin.
    pub(super) next: u64,
    pub(super) resumed_from: Vec<u64>,
    /// When each checkpoint that was found was committed.
    pub(super) moments: Vec<Timestamp>,
}

impl Lineage {
    pub(super) fn of(task: TaskId) -> Lineage {
        Lineage {
            task,
            known: Vec::new(),
            acked: 0,
            unacknowledged: 0,
            found: 0,
            next: 1,
            resumed_from: Vec::new(),
            moments: Vec::new(),
        }
    }

    /// Takes note of acknowledgements: a number and the digest of a state.
    pub(super) fn heed<'ack>(
        &mut self,
        acks: impl Iterator<Item = &'ack str>,
    ) -> Result<(), Failure> {
        for ack in acks {
            let (number, digest) = ack
                .split_once(' ')
                .ok_or_else(|| Failure::new("a strange acknowledgement"))?;
            self.known.push((number.parse()?, digest.to_owned()));
            self.acked += 1;
        }
        Ok(())
    }

    /// Reads the wreck of one agent, which may have left `beyond` checkpoints that
    /// it did not acknowledge, and returns what the next one resumes from.
    pub(super) fn look(
        &mut self,
        wreck: &Wreck,
        outcome: &mut Outcome,
        when: &str,
        beyond: usize,
    ) -> Result<Option<Box<Resumed>>, Failure> {
        for problem in wreck.problems()? {
            outcome.violate(format!("{when}: {problem}"));
        }
        let mut boundaries = Vec::new();
        let mut found: Vec<Numbered> = Vec::new();
        self.moments.clear();
        for checkpoint in wreck.all(&self.task)? {
            let summary = &checkpoint.summary;
            if summary.checkpoint_type == CheckpointType::ErrorBoundary {
                boundaries.push(summary.sequence.get());
                continue;
            }
            let digest = checkpoint.snapshot.as_ref().map(|state| state.digest());
            let digest = digest.map(|digest| digest.to_string()).unwrap_or_default();
            // Of an agent's own: lost leases leave marks in between.
            let number = summary.sequence.get() - boundaries.len() as u64;
            self.moments.push(summary.created_at);
            found.push((number, digest));
        }
        self.found = found.len();
        for broken in judge(&self.known, &found, beyond) {
            outcome.violate(format!("{when}: {broken}"));
        }
        self.unacknowledged += found.len().saturating_sub(self.known.len());
        // What was seen once must stay, acknowledged or not.
        self.known = found;
        let newest = self.found as u64;
        if newest == 0 && wreck.store.task(&self.task)?.is_none() {
            self.resumed_from.push(0);
            return Ok(None);
        }
        match wreck.checkpoints.resume(&self.task)? {
            Resume::From(resumed) => {
                let number = resumed.checkpoint.summary.sequence.get();
                let before = boundaries.iter().filter(|boundary| **boundary < number);
                let number = number - before.count() as u64;
                self.resumed_from.push(number);
                self.next = number + 1;
                outcome.check(number == newest && resumed.label == Label::Verified, || {
                    format!(
                        "{when}: resume gives {number}, {:?}, of {newest}, passing over {:?}",
                        resumed.label, resumed.passed_over
                    )
                });
                Ok(Some(resumed))
            }
            Resume::Nowhere { passed_over } => {
                self.resumed_from.push(0);
                outcome.check(newest == 0, || {
                    let first = passed_over.first().map(ToString::to_string);
                    format!(
                        "{when}: nothing to resume from; {} were passed over, first {}",
                        passed_over.len(),
                        first.unwrap_or_default()
                    )
                });
                Ok(None)
            }
        }
    }
}

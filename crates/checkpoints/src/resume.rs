//! Resume: the newest checkpoint that holds now.
//!
//! From the newest down, the seal and the evidence of each checkpoint are
//! checked now; what was recorded about it earlier is not believed. Nothing is
//! written and nothing is deleted. No checkpoint older than the answer is
//! looked at, so the cost does not grow with their number.

use agentos_core::{
    Checkpoint, CheckpointType, EvidenceResult, FoundCheckpoint, SequenceNumber, StorageError,
    TaskId, Verification,
};

use crate::error::CheckpointError;
use crate::manager::CheckpointManager;

/// From where a task goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Resume {
    /// From this checkpoint.
    From(Box<Resumed>),
    /// From nowhere: there is no checkpoint that holds.
    Nowhere {
        /// Those that were passed over, newest first; empty when there are none.
        passed_over: Vec<PassedOver>,
    },
}

/// The checkpoint to go on from.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumed {
    /// The checkpoint; it carries state.
    pub checkpoint: Checkpoint,
    /// What it rests on.
    pub label: Label,
    /// What each item of its evidence said now, in the order of the pack.
    pub results: Vec<EvidenceResult>,
    /// Newer ones that were passed over, newest first.
    pub passed_over: Vec<PassedOver>,
}

/// What a checkpoint rests on that is resumed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Label {
    /// Its evidence was checked and holds now.
    Verified,
    /// Its seal holds. It carries no evidence, so nothing else was checked.
    Unverified,
}

/// A checkpoint that cannot be resumed from. It was left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Its number.
    pub sequence: SequenceNumber,
    /// Why.
    pub reason: PassedOverReason,
}

/// Why a checkpoint cannot be resumed from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PassedOverReason {
    /// It is not what was stored.
    Damaged {
        /// What is wrong with it.
        detail: String,
    },
    /// It carries no state. (Error boundaries never do, and are not listed.)
    NoState,
    /// Its evidence was written in a form that this build does not read.
    UnreadableEvidence {
        /// What is unknown about it.
        reason: String,
    },
    /// Its evidence does not hold now.
    EvidenceFailed {
        /// The items that failed.
        failed: Vec<EvidenceResult>,
    },
}

impl std::fmt::Display for PassedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "checkpoint {}: ", self.sequence)?;
        match &self.reason {
            PassedOverReason::Damaged { detail } => write!(f, "damaged: {detail}"),
            PassedOverReason::NoState => f.write_str("carries no state"),
            PassedOverReason::UnreadableEvidence { reason } => {
                write!(f, "its evidence cannot be read: {reason}")
            }
            PassedOverReason::EvidenceFailed { failed } => {
                f.write_str("its evidence does not hold: ")?;
                for (at, result) in failed.iter().enumerate() {
                    let separator = if at == 0 { "" } else { "; " };
                    let reason = result.reason.as_deref().unwrap_or("no reason given");
                    write!(
                        f,
                        "{separator}item {} ({}): {reason}",
                        result.item, result.kind
                    )?;
                }
                Ok(())
            }
        }
    }
}

impl CheckpointManager {
    /// Finds the newest checkpoint of `task` that carries state, whose seal
    /// holds, and whose evidence does not fail now, as its policy says; and says
    /// which newer ones
    /// were passed over, and why. Nothing is written.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`] for a task that does not exist;
    /// [`StorageError::Busy`] and other errors of the store that say nothing
    /// about a checkpoint: resume again rather than go on from an older one.
    pub fn resume(&self, task: &TaskId) -> Result<Resume, CheckpointError> {
        let mut passed_over = Vec::new();
        let mut below = None;
        while let Some(found) = self.storage().newest_checkpoint(task, below)? {
            let sequence = match &found {
                FoundCheckpoint::Sound(checkpoint) => checkpoint.summary.sequence,
                FoundCheckpoint::Damaged { sequence, .. } => *sequence,
            };
            // Going on would ask the same for ever.
            if below.is_some_and(|below| sequence >= below) {
                return Err(StorageError::Internal {
                    context: "looking for the next older checkpoint".into(),
                    cause: format!("the engine answered number {sequence} again").into(),
                }
                .into());
            }
            below = Some(sequence);
            let reason = match self.judge(found)? {
                Judgement::Holds {
                    checkpoint,
                    label,
                    results,
                } => {
                    return Ok(Resume::From(Box::new(Resumed {
                        checkpoint: *checkpoint,
                        label,
                        results,
                        passed_over,
                    })));
                }
                Judgement::Boundary => continue,
                Judgement::PassOver(reason) => reason,
            };
            let passed = PassedOver { sequence, reason };
            tracing::warn!(task = task.as_str(), %passed, "checkpoint passed over");
            passed_over.push(passed);
        }
        if below.is_none() && self.storage().task(task)?.is_none() {
            return Err(StorageError::not_found("task", task).into());
        }
        Ok(Resume::Nowhere { passed_over })
    }

    fn judge(&self, found: FoundCheckpoint) -> Result<Judgement, CheckpointError> {
        let checkpoint = match found {
            FoundCheckpoint::Sound(checkpoint) => checkpoint,
            FoundCheckpoint::Damaged { detail, .. } => {
                return Ok(Judgement::PassOver(PassedOverReason::Damaged { detail }));
            }
        };
        if checkpoint.snapshot.is_none() {
            let boundary = checkpoint.summary.checkpoint_type == CheckpointType::ErrorBoundary;
            return Ok(match boundary {
                true => Judgement::Boundary,
                false => Judgement::PassOver(PassedOverReason::NoState),
            });
        }
        let report = match self.examine(&checkpoint) {
            Ok(report) => report,
            Err(CheckpointError::UnreadableEvidence { reason }) => {
                let reason = PassedOverReason::UnreadableEvidence { reason };
                return Ok(Judgement::PassOver(reason));
            }
            Err(error) => return Err(error),
        };
        let label = match report.verification {
            Verification::Verified => Label::Verified,
            Verification::Unverified => Label::Unverified,
            Verification::Failed => {
                let failed = report.failed().cloned().collect();
                let reason = PassedOverReason::EvidenceFailed { failed };
                return Ok(Judgement::PassOver(reason));
            }
        };
        Ok(Judgement::Holds {
            checkpoint,
            label,
            results: report.results,
        })
    }
}

/// What is to be done with a checkpoint that was found.
enum Judgement {
    Holds {
        checkpoint: Box<Checkpoint>,
        label: Label,
        results: Vec<EvidenceResult>,
    },
    /// An error boundary: passed over without a word.
    Boundary,
    PassOver(PassedOverReason),
}

#[cfg(test)]
mod tests {
    use agentos_core::{EvidenceOutcome, Timestamp};

    use super::*;

    #[test]
    fn what_was_passed_over_says_why_in_one_line() {
        let failed = |item, reason: &str| EvidenceResult {
            item,
            kind: "file_digest".into(),
            outcome: EvidenceOutcome::Failed,
            reason: Some(reason.into()),
            checked_at: Timestamp::from_unix_micros(0),
        };
        let passed_over = |reason| PassedOver {
            sequence: SequenceNumber::new(7).unwrap(),
            reason,
        };
        for (reason, text) in [
            (
                PassedOverReason::Damaged {
                    detail: "the seal is broken".into(),
                },
                "checkpoint 7: damaged: the seal is broken",
            ),
            (PassedOverReason::NoState, "checkpoint 7: carries no state"),
            (
                PassedOverReason::EvidenceFailed {
                    failed: vec![failed(0, "a is gone"), failed(2, "b is gone")],
                },
                "checkpoint 7: its evidence does not hold: item 0 (file_digest): a is gone; item 2 (file_digest): b is gone",
            ),
        ] {
            assert_eq!(passed_over(reason).to_string(), text);
        }
    }
}

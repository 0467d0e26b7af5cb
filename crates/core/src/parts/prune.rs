//! Parts that remove: what was planned outside, judged again inside the
//! transaction that removes it.
//!
//! Between a plan and its transaction others append, record checks, claim and
//! prune. So a part says what it relied on, and the engine looks again.

use std::time::Duration;

use crate::error::{InvalidInput, StorageError};
use crate::ids::{SequenceNumber, TaskId};
use crate::limits::{PRUNE_ROWS_MAX, check_size};
use crate::records::checkpoint::Verification;
use crate::records::retention::{BoundedTable, RowMark};

/// Removes old checkpoints of a task, the oldest first, one bounded batch.
///
/// The engine ends a batch after [`rows`](PruneCheckpoints::rows) looked at,
/// and earlier when its budget of time or bytes is used up. It never removes
/// the newest checkpoint, nor one that an open lease works from, nor what
/// [`PruneCheckpoints::keeps`] names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneCheckpoints {
    /// Of which task.
    pub task: TaskId,
    /// From this number on; those below were looked at by earlier batches.
    pub from: SequenceNumber,
    /// Up to this number.
    pub up_to: SequenceNumber,
    /// The newest that can be resumed from by what was recorded, and whose seal
    /// held when it was planned; `None` when there was none. When it cannot be
    /// resumed from any more, nothing is removed and the answer is
    /// [`Stale`](crate::PartOutcome::PruneStale).
    ///
    /// Whatever is newer than it, carries state and is not recorded as failed
    /// stays: it was found damaged, or its record has changed since, and then it
    /// may be what resume would find.
    pub protect: Option<SequenceNumber>,
    /// The newest that carries state and whose seal held, whatever was recorded
    /// about its evidence: resume does not believe the record.
    pub spare: Option<SequenceNumber>,
    /// How many to look at.
    pub rows: u32,
}

/// A checkpoint that a rule does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneCandidate {
    /// Its number.
    pub sequence: SequenceNumber,
    /// Whether it carries state.
    pub carries_state: bool,
    /// What the last check of its evidence said.
    pub verification: Verification,
    /// Whether the holder of an open lease works from it.
    pub leased: bool,
}

/// Why a checkpoint stays that a rule does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeptFor {
    /// It is the newest that can be resumed from by what was recorded.
    Resume,
    /// It is the newest that carries state and is whole; its evidence failed
    /// when it was last checked, and may hold again.
    LastWhole,
    /// The holder of an open lease works from it.
    Lease,
    /// It carries state, is not recorded as failed, and is newer than all that
    /// was known as whole and not failed: it is damaged, or its record has
    /// changed meanwhile.
    Salvage,
}

impl PruneCheckpoints {
    /// Whether a checkpoint stays, and why; `None` when it goes.
    pub fn keeps(&self, candidate: &PruneCandidate) -> Option<KeptFor> {
        let is = |number: Option<SequenceNumber>| number == Some(candidate.sequence);
        let failed = candidate.verification == Verification::Failed;
        let is_newer = self
            .protect
            .is_none_or(|number| number < candidate.sequence);
        if is(self.protect) {
            Some(KeptFor::Resume)
        } else if is(self.spare) {
            Some(KeptFor::LastWhole)
        } else if candidate.leased {
            Some(KeptFor::Lease)
        } else if is_newer && candidate.carries_state && !failed {
            Some(KeptFor::Salvage)
        } else {
            None
        }
    }

    pub(super) fn check(&self) -> Result<(), StorageError> {
        check_rows(self.rows)
    }
}

/// Removes old rows of a table, the oldest first, one bounded batch. What may
/// go of each table stands at [`BoundedTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneRows {
    /// Of which table.
    pub table: BoundedTable,
    /// Rows that were last changed longer ago than this.
    pub max_age: Option<Duration>,
    /// Rows at or before this mark, which
    /// [`rows_beyond`](crate::RetentionStorage::rows_beyond) gave.
    pub up_to: Option<RowMark>,
    /// Rows behind this mark; those before it were looked at by earlier batches.
    pub after: RowMark,
    /// How many to look at.
    pub rows: u32,
}

impl PruneRows {
    pub(super) fn check(&self) -> Result<(), StorageError> {
        check_rows(self.rows)
    }
}

/// What a batch removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned<Place> {
    /// How many rows.
    pub removed: u64,
    /// Bytes of what users had stored in them.
    pub bytes: u64,
    /// How many rows could not be judged, since their moment or their name
    /// cannot be read. They were passed over and are there.
    pub unreadable: u64,
    /// Where to go on; `None` when nothing is left to look at.
    pub next: Option<Place>,
}

fn check_rows(rows: u32) -> Result<(), StorageError> {
    if rows == 0 {
        return Err(InvalidInput::new("rows per batch", "is zero").into());
    }
    check_size("rows per batch", rows as usize, PRUNE_ROWS_MAX as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u64) -> SequenceNumber {
        SequenceNumber::new(number).unwrap()
    }

    fn plan(protect: Option<u64>, spare: Option<u64>) -> PruneCheckpoints {
        PruneCheckpoints {
            task: TaskId::new("task").unwrap(),
            from: SequenceNumber::FIRST,
            up_to: number(9),
            protect: protect.map(number),
            spare: spare.map(number),
            rows: 10,
        }
    }

    #[test]
    fn what_stays_has_a_reason() {
        use Verification::{Failed, Unverified, Verified};
        for (protect, spare, candidate, expected) in [
            (
                Some(3),
                Some(5),
                (3, true, Verified, false),
                Some(KeptFor::Resume),
            ),
            (
                Some(3),
                Some(5),
                (5, true, Failed, false),
                Some(KeptFor::LastWhole),
            ),
            (
                Some(3),
                Some(5),
                (4, true, Failed, true),
                Some(KeptFor::Lease),
            ),
            (Some(3), Some(5), (4, true, Failed, false), None),
            (Some(3), Some(5), (2, true, Verified, false), None),
            (Some(3), Some(5), (2, false, Unverified, false), None),
            // Newer than what was known to be of use: only what is of none goes.
            (
                Some(3),
                Some(5),
                (4, true, Verified, false),
                Some(KeptFor::Salvage),
            ),
            (
                Some(3),
                None,
                (4, true, Unverified, false),
                Some(KeptFor::Salvage),
            ),
            (Some(3), Some(5), (4, false, Unverified, false), None),
            // Nothing can be resumed from: only what is known to be of no use goes.
            (
                None,
                None,
                (2, true, Verified, false),
                Some(KeptFor::Salvage),
            ),
            (
                None,
                None,
                (2, true, Unverified, false),
                Some(KeptFor::Salvage),
            ),
            (None, None, (2, true, Failed, false), None),
            (None, None, (2, false, Verified, false), None),
            (
                None,
                Some(2),
                (2, true, Failed, false),
                Some(KeptFor::LastWhole),
            ),
        ] {
            let (sequence, carries_state, verification, leased) = candidate;
            let candidate = PruneCandidate {
                sequence: number(sequence),
                carries_state,
                verification,
                leased,
            };
            assert_eq!(
                plan(protect, spare).keeps(&candidate),
                expected,
                "{candidate:?}"
            );
        }
    }

    #[test]
    fn a_batch_has_a_bound() {
        for (rows, good) in [
            (0, false),
            (1, true),
            (PRUNE_ROWS_MAX, true),
            (PRUNE_ROWS_MAX + 1, false),
        ] {
            let plan = PruneCheckpoints {
                rows,
                ..plan(None, None)
            };
            assert_eq!(plan.check().is_ok(), good, "{rows}");
        }
    }
}

//! Retention: how much of each table is kept. Rules, their defaults, and what
//! they say. No clock, no store: who asks gives the moment.
//!
//! With the defaults nothing grows for ever but tasks (with the checkpoints
//! that each keeps) and keys that never expire or are in doubt.
//!
//! Two tables have no rule here, since their schema bounds them: an item keeps
//! its newest [`ATTEMPTS_PER_ITEM_MAX`](crate::limits::ATTEMPTS_PER_ITEM_MAX)
//! attempts and takes them along when it goes, and the newest
//! [`INTEGRITY_CHECKS_MAX`](crate::limits::INTEGRITY_CHECKS_MAX) integrity
//! checks stay.

use std::time::Duration;

use crate::error::{InvalidInput, StorageError};
use crate::ids::SequenceNumber;
use crate::limits::{
    AUDIT_ROWS_DEFAULT, CACHE_BYTES_DEFAULT, CACHE_ROWS_DEFAULT, CHECKPOINTS_KEPT_DEFAULT,
    DEAD_LETTER_AGE_DEFAULT, DEAD_LETTER_ROWS_DEFAULT, FINISHED_ITEM_AGE_DEFAULT,
    FINISHED_ITEM_ROWS_DEFAULT, check_size,
};
use crate::time::Timestamp;

/// Which checkpoints of a task are kept: those that every given rule keeps.
///
/// The newest is kept in any case, and so is what can be resumed from and what
/// is worked from: see [`PruneCheckpoints`](crate::PruneCheckpoints).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointRule {
    /// At most so many, the newest; at least one.
    pub keep_last: Option<u32>,
    /// None that is older than this.
    pub max_age: Option<Duration>,
    /// At most so many bytes of state, counted from the newest down.
    pub max_bytes: Option<u64>,
}

impl Default for CheckpointRule {
    fn default() -> CheckpointRule {
        CheckpointRule {
            keep_last: Some(CHECKPOINTS_KEPT_DEFAULT),
            ..CheckpointRule::keep_all()
        }
    }
}

/// What a [`CheckpointRule`] asks about a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointAge {
    /// Its number.
    pub sequence: SequenceNumber,
    /// When it was appended; `None` when that cannot be read.
    pub created_at: Option<Timestamp>,
    /// Bytes of its state.
    pub bytes: u64,
}

/// What a [`CheckpointRule`] says of a task's checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckpointThreshold {
    /// How many the rule keeps.
    pub kept: u64,
    /// The newest that it does not keep: this one and all older ones may go.
    pub up_to: Option<SequenceNumber>,
}

impl CheckpointRule {
    /// Keeps everything.
    pub const fn keep_all() -> CheckpointRule {
        CheckpointRule {
            keep_last: None,
            max_age: None,
            max_bytes: None,
        }
    }

    /// Keeps the newest `count`.
    pub const fn keep_last(count: u32) -> CheckpointRule {
        CheckpointRule {
            keep_last: Some(count),
            ..CheckpointRule::keep_all()
        }
    }

    /// Refuses a rule that would keep nothing.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`].
    pub fn check(&self) -> Result<(), StorageError> {
        if self.keep_last == Some(0) {
            let reason = "would keep no checkpoint, and the newest stays in any case";
            return Err(InvalidInput::new("retention of checkpoints", reason).into());
        }
        Ok(())
    }

    /// Walks from the newest checkpoint down, and stops at the first that the
    /// strictest rule does not keep. Asks for no checkpoint beyond that one.
    ///
    /// # Errors
    ///
    /// The first that `newest_first` gives.
    pub fn threshold<E>(
        &self,
        now: Timestamp,
        newest_first: impl IntoIterator<Item = Result<CheckpointAge, E>>,
    ) -> Result<CheckpointThreshold, E> {
        let mut threshold = CheckpointThreshold::default();
        let mut bytes = 0_u64;
        for checkpoint in newest_first {
            let checkpoint = checkpoint?;
            bytes = bytes.saturating_add(checkpoint.bytes);
            if 0 < threshold.kept && !self.keeps(threshold.kept, bytes, &checkpoint, now) {
                threshold.up_to = Some(checkpoint.sequence);
                break;
            }
            threshold.kept += 1;
        }
        Ok(threshold)
    }

    /// Whether a checkpoint is kept that has `newer` ones above it, and `bytes`
    /// of state with them.
    fn keeps(&self, newer: u64, bytes: u64, checkpoint: &CheckpointAge, now: Timestamp) -> bool {
        let few = self.keep_last.is_none_or(|most| newer < most.into());
        let young = match (self.max_age, checkpoint.created_at) {
            (Some(age), Some(created_at)) => now.minus(age) <= created_at,
            _ => true,
        };
        let small = self.max_bytes.is_none_or(|most| bytes <= most);
        few && young && small
    }
}

/// Tables whose rows go by age and by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BoundedTable {
    /// Audit lines: all of them.
    AuditLines,
    /// Work items that succeeded or were cancelled.
    FinishedWorkItems,
    /// Work items that failed.
    DeadLetters,
    /// Entries of the model cache. The order is that of use. Pending ones are never
    /// removed.
    CacheEntries,
    /// All other idempotency keys with an outcome, those of the tool ledger among
    /// them. Pending ones are never removed: they may be in doubt.
    LedgerEntries,
    /// Tasks that succeeded or were cancelled, once no work item and no pending key
    /// speaks of them; their checkpoints go first, the oldest first, and what is recorded
    /// under their keys.
    FinishedTasks,
}

impl BoundedTable {
    /// Every table, in the order in which upkeep takes them: tasks before work
    /// items, so that what goes in one pass is what stood fast at its start.
    pub const ALL: &'static [BoundedTable] = &[
        BoundedTable::FinishedTasks,
        BoundedTable::AuditLines,
        BoundedTable::FinishedWorkItems,
        BoundedTable::DeadLetters,
        BoundedTable::CacheEntries,
        BoundedTable::LedgerEntries,
    ];
}

/// How much of a table is kept. A row goes when any rule does not keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowRule {
    /// No row that was last changed longer ago than this.
    pub max_age: Option<Duration>,
    /// At most so many rows, the newest.
    pub max_rows: Option<u64>,
    /// At most so many bytes of what users stored in them, counted from the newest
    /// down. Only for idempotency keys.
    pub max_bytes: Option<u64>,
}

impl RowRule {
    /// Keeps everything.
    pub const fn keep_all() -> RowRule {
        RowRule {
            max_age: None,
            max_rows: None,
            max_bytes: None,
        }
    }

    /// Refuses a number that no engine can count to.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`].
    pub fn check(&self) -> Result<(), StorageError> {
        let rows = usize::try_from(self.max_rows.unwrap_or(0)).unwrap_or(usize::MAX);
        check_size("rows kept", rows, i64::MAX as usize)
    }

    /// As [`RowRule::check`], and refuses a rule that the table does not know.
    ///
    /// # Errors
    ///
    /// As there, and [`StorageError::Invalid`].
    pub fn check_for(&self, table: BoundedTable) -> Result<(), StorageError> {
        let knows_bytes = matches!(
            table,
            BoundedTable::CacheEntries | BoundedTable::LedgerEntries
        );
        if self.max_bytes.is_some() && !knows_bytes {
            let reason = "is given for a table whose bytes are not counted";
            return Err(InvalidInput::new("max_bytes", reason).into());
        }
        self.check()
    }
}

/// A place in the order of age of a [`BoundedTable`]: the moment that decides,
/// and the engine's key of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowMark {
    /// The moment; the same for all where keys alone tell the age.
    pub at: Timestamp,
    /// The engine's key.
    pub key: i64,
}

impl RowMark {
    /// Before every row.
    pub const START: RowMark = RowMark {
        at: Timestamp::MIN,
        key: 0,
    };
}

/// How much of everything is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Checkpoints, task by task. The newest 100 unless changed.
    pub checkpoints: CheckpointRule,
    /// Audit lines. The newest million unless changed. Their numbers count, so
    /// lines deleted by hand count as kept.
    pub audits: RowRule,
    /// Work items that succeeded or were cancelled. 7 days and 100,000 unless
    /// changed.
    pub work_items: RowRule,
    /// Work items that failed. 180 days and 10,000 unless changed: what Sidekiq
    /// keeps of its dead jobs.
    pub dead_letters: RowRule,
    /// Entries of the model cache, those that were not used for longest first: a
    /// million, of 4 GiB together, unless changed. What has expired goes in any case.
    pub cache: RowRule,
    /// All other idempotency keys with an outcome. Those that have expired go whatever
    /// this says; this rule, off unless given, removes others too, and what was
    /// done under such a key may then be done again.
    pub ledger: RowRule,
    /// Tasks that succeeded or were cancelled. Off unless given. A task of the
    /// same name may be made after it is gone, and is numbered from 1.
    pub tasks: RowRule,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention {
            checkpoints: CheckpointRule::default(),
            audits: RowRule {
                max_rows: Some(AUDIT_ROWS_DEFAULT),
                ..RowRule::keep_all()
            },
            work_items: RowRule {
                max_age: Some(FINISHED_ITEM_AGE_DEFAULT),
                max_rows: Some(FINISHED_ITEM_ROWS_DEFAULT),
                ..RowRule::keep_all()
            },
            dead_letters: RowRule {
                max_age: Some(DEAD_LETTER_AGE_DEFAULT),
                max_rows: Some(DEAD_LETTER_ROWS_DEFAULT),
                ..RowRule::keep_all()
            },
            cache: RowRule {
                max_age: None,
                max_rows: Some(CACHE_ROWS_DEFAULT),
                max_bytes: Some(CACHE_BYTES_DEFAULT),
            },
            ledger: RowRule::keep_all(),
            tasks: RowRule::keep_all(),
        }
    }
}

impl Retention {
    /// Keeps everything but keys that have expired.
    pub const fn keep_all() -> Retention {
        Retention {
            checkpoints: CheckpointRule::keep_all(),
            audits: RowRule::keep_all(),
            work_items: RowRule::keep_all(),
            dead_letters: RowRule::keep_all(),
            cache: RowRule::keep_all(),
            ledger: RowRule::keep_all(),
            tasks: RowRule::keep_all(),
        }
    }

    /// The rule of a table.
    pub const fn rows(&self, table: BoundedTable) -> &RowRule {
        match table {
            BoundedTable::AuditLines => &self.audits,
            BoundedTable::FinishedWorkItems => &self.work_items,
            BoundedTable::DeadLetters => &self.dead_letters,
            BoundedTable::CacheEntries => &self.cache,
            BoundedTable::LedgerEntries => &self.ledger,
            BoundedTable::FinishedTasks => &self.tasks,
        }
    }

    /// Checks each rule.
    ///
    /// # Errors
    ///
    /// As [`CheckpointRule::check`] and [`RowRule::check`].
    pub fn check(&self) -> Result<(), StorageError> {
        self.checkpoints.check()?;
        BoundedTable::ALL
            .iter()
            .try_for_each(|&table| self.rows(table).check_for(table))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_micros(1_000_000_000);

    /// Checkpoints 5, 4, …, 1; each a second older than the one above, of 10 bytes.
    fn five() -> impl Iterator<Item = Result<CheckpointAge, Infallible>> {
        (1..=5).rev().map(|number| {
            Ok(CheckpointAge {
                sequence: SequenceNumber::new(number).unwrap(),
                created_at: Some(NOW.minus(Duration::from_secs(5 - number))),
                bytes: 10,
            })
        })
    }

    fn up_to(rule: CheckpointRule) -> Option<u64> {
        rule.check().unwrap();
        let Ok(threshold) = rule.threshold(NOW, five());
        if let Some(up_to) = threshold.up_to {
            assert_eq!(threshold.kept, 5 - up_to.get());
        }
        threshold.up_to.map(SequenceNumber::get)
    }

    #[test]
    fn the_strictest_rule_decides() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let rule = |keep_last, max_age, max_bytes| CheckpointRule {
            keep_last,
            max_age,
            max_bytes,
        };
        for (rule, expected) in [
            (CheckpointRule::keep_all(), None),
            (rule(Some(5), None, None), None),
            (rule(Some(4), None, None), Some(1)),
            (rule(Some(1), None, None), Some(4)),
            (rule(None, seconds(4), None), None),
            (rule(None, seconds(3), None), Some(1)),
            (rule(None, None, Some(50)), None),
            (rule(None, None, Some(49)), Some(1)),
            (rule(Some(4), seconds(2), Some(40)), Some(2)),
            (rule(Some(2), seconds(2), Some(40)), Some(3)),
            (rule(Some(4), seconds(2), Some(19)), Some(4)),
            // The newest stays, however old and large it is.
            (rule(Some(1), seconds(0), Some(0)), Some(4)),
        ] {
            assert_eq!(up_to(rule), expected, "{rule:?}");
        }
    }

    #[test]
    fn nothing_is_asked_beyond_the_first_that_goes() {
        let mut asked = 0;
        let rule = CheckpointRule::keep_last(2);
        let Ok(threshold) = rule.threshold(NOW, five().inspect(|_| asked += 1));
        assert_eq!(threshold.up_to.map(SequenceNumber::get), Some(3));
        assert_eq!(asked, 3);
    }

    #[test]
    fn a_rule_that_keeps_nothing_is_refused() {
        assert!(matches!(
            CheckpointRule::keep_last(0).check().unwrap_err(),
            StorageError::Invalid(_)
        ));
        let rule = RowRule {
            max_rows: Some(u64::MAX),
            ..RowRule::keep_all()
        };
        let retention = Retention {
            ledger: rule,
            ..Retention::default()
        };
        assert!(matches!(
            retention.check().unwrap_err(),
            StorageError::LimitExceeded(_)
        ));
        assert!(Retention::default().check().is_ok());
        assert!(Retention::keep_all().check().is_ok());
    }
}

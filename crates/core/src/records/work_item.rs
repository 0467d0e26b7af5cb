//! Work items: their states, the leases under which they are held, and the
//! attempts that were made.

use std::time::Duration;

use crate::error::{InvalidInput, LimitExceeded, StorageError};
use crate::ids::{FencingToken, SequenceNumber, TaskId, WorkItemId, Worker};
use crate::limits::{
    ID_BYTES_MAX, Limits, MAX_ATTEMPTS_DEFAULT, MAX_ATTEMPTS_MAX, PRIORITY_MAX, PRIORITY_MIN,
    check_name, check_size, check_text,
};
use crate::time::{BootTime, Timestamp};

text_enum! {
    /// State of a work item.
    pub enum WorkItemStatus {
        /// Waits to be claimed.
        Pending = "pending",
        /// Held under a lease.
        InProgress = "in_progress",
        /// Done. Final.
        Succeeded = "succeeded",
        /// No attempt is left: the dead letter. An operator can requeue it.
        Failed = "failed",
        /// No longer wanted. Final.
        Cancelled = "cancelled",
    }
}

impl WorkItemStatus {
    /// The state in which work items are made.
    pub const INITIAL: WorkItemStatus = WorkItemStatus::Pending;

    /// Whether an item in this state may change to `next`.
    pub const fn can_become(self, next: WorkItemStatus) -> bool {
        use WorkItemStatus::{Cancelled, Failed, InProgress, Pending, Succeeded};
        matches!(
            (self, next),
            (Pending, InProgress | Cancelled)
                | (InProgress, Pending | Succeeded | Failed | Cancelled)
                | (Failed, Pending)
        )
    }
}

text_enum! {
    /// How an attempt ended.
    pub enum AttemptOutcome {
        /// The holder completed the item.
        Succeeded = "succeeded",
        /// The holder reported a failure.
        Failed = "failed",
        /// Its lease ran out and was taken away.
        Expired = "expired",
        /// The holder gave the item back; it does not count as an attempt.
        Released = "released",
        /// The item was cancelled under it.
        Cancelled = "cancelled",
    }
}

/// When a new item can be claimed, by the store's wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Due {
    /// At once.
    #[default]
    Now,
    /// So long after the commit.
    After(Duration),
    /// From this moment on.
    At(Timestamp),
}

/// A work item to enqueue. It is a part of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWorkItem {
    /// What kind of work it is: handlers are registered by it.
    pub work_type: String,
    /// The task that it belongs to, which must exist.
    pub task: Option<TaskId>,
    /// Higher is more urgent: -100 to 100.
    pub priority: i32,
    /// What the handler needs to know.
    pub payload: Vec<u8>,
    /// When it can be claimed.
    pub due: Due,
    /// How often it is tried at most, the first time included.
    pub max_attempts: u32,
    /// Enqueuing the same key again gives the item that is there, whatever else
    /// was asked for, for as long as the store keeps that item.
    pub unique_key: Option<String>,
}

impl NewWorkItem {
    /// Work of a type, of priority 0, due at once, tried five times at most,
    /// without payload, task and key.
    pub fn new(work_type: impl Into<String>) -> NewWorkItem {
        NewWorkItem {
            work_type: work_type.into(),
            task: None,
            priority: 0,
            payload: Vec::new(),
            due: Due::Now,
            max_attempts: MAX_ATTEMPTS_DEFAULT,
            unique_key: None,
        }
    }

    /// It belongs to a task.
    #[must_use]
    pub fn task(mut self, task: TaskId) -> NewWorkItem {
        self.task = Some(task);
        self
    }

    /// How urgent it is.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> NewWorkItem {
        self.priority = priority;
        self
    }

    /// What the handler needs to know.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> NewWorkItem {
        self.payload = payload.into();
        self
    }

    /// It can be claimed so long after the commit.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> NewWorkItem {
        self.due = Due::After(delay);
        self
    }

    /// It can be claimed from this moment on.
    #[must_use]
    pub fn available_at(mut self, moment: Timestamp) -> NewWorkItem {
        self.due = Due::At(moment);
        self
    }

    /// How often it is tried at most.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> NewWorkItem {
        self.max_attempts = attempts;
        self
    }

    /// Enqueue it once, however often this is asked for.
    #[must_use]
    pub fn unique_key(mut self, key: impl Into<String>) -> NewWorkItem {
        self.unique_key = Some(key.into());
        self
    }

    /// Checks everything that has a bound.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] or [`StorageError::Invalid`].
    pub fn check(&self, limits: &Limits) -> Result<(), StorageError> {
        check_name("work type", &self.work_type)?;
        if !(PRIORITY_MIN..=PRIORITY_MAX).contains(&self.priority) {
            let reason = format!("is not between {PRIORITY_MIN} and {PRIORITY_MAX}");
            return Err(InvalidInput::new("priority", reason).into());
        }
        if self.max_attempts == 0 {
            return Err(InvalidInput::new("max_attempts", "is zero").into());
        }
        if MAX_ATTEMPTS_MAX < self.max_attempts {
            return Err(LimitExceeded {
                name: "max_attempts",
                limit: MAX_ATTEMPTS_MAX.into(),
                value: self.max_attempts.into(),
            }
            .into());
        }
        check_size("payload bytes", self.payload.len(), limits.payload_bytes)?;
        match &self.unique_key {
            Some(key) if key.is_empty() => Err(InvalidInput::new("unique key", "is empty").into()),
            Some(key) => check_text("unique key", "unique key bytes", key, ID_BYTES_MAX),
            None => Ok(()),
        }
    }
}

/// Which claim of which item: what every write under a lease is checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence {
    /// The item.
    pub item: WorkItemId,
    /// The token of the claim.
    pub token: FencingToken,
}

/// An item that was claimed: what is to be done, and the right to do it.
///
/// It is a plain record. Dropping it does nothing; the lease runs out by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What every write under it is checked against.
    pub fence: Fence,
    /// Who holds it.
    pub holder: Worker,
    /// What kind of work it is.
    pub work_type: String,
    /// The task that it belongs to.
    pub task: Option<TaskId>,
    /// How urgent it was.
    pub priority: i32,
    /// What was given when it was enqueued.
    pub payload: Vec<u8>,
    /// How many attempts were made, this one included, since it was enqueued or
    /// requeued from the dead letter.
    pub attempt: u32,
    /// How many there can be.
    pub max_attempts: u32,
    /// The newest checkpoint of the task that carries state and is not recorded as
    /// failed, when the item was claimed; looked for among the newest 100. Retention
    /// leaves it alone meanwhile.
    pub checkpoint: Option<SequenceNumber>,
    /// How long it was given.
    pub duration: Duration,
    /// When it was claimed, by the wall clock; for people.
    pub acquired_at: Timestamp,
    /// When it runs out, by the wall clock; for people.
    pub expires_at: Timestamp,
    /// When it runs out, by the store's boot-time clock.
    pub deadline: BootTime,
}

impl From<&Lease> for Fence {
    fn from(lease: &Lease) -> Fence {
        lease.fence
    }
}

impl From<&Fence> for Fence {
    fn from(fence: &Fence) -> Fence {
        *fence
    }
}

/// Who holds an item, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub worker: Worker,
    /// Since when, by the wall clock.
    pub since: Timestamp,
    /// Until when, by the wall clock, unless renewed.
    pub until: Timestamp,
}

/// A lease is not held any more, or never was: nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleLease {
    /// What was presented.
    pub fence: Fence,
    /// State of the item now; `None` when it is not there any more.
    pub status: Option<WorkItemStatus>,
    /// Token of its newest claim; `None` when it was never claimed.
    pub newest: Option<FencingToken>,
    /// Who holds it now, when anybody does.
    pub holder: Option<Holder>,
}

impl std::fmt::Display for StaleLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fence { item, token } = self.fence;
        write!(
            f,
            "lease {token} of work item {item} is not held any more: "
        )?;
        match (&self.holder, self.status) {
            (Some(holder), _) => write!(
                f,
                "{} holds it since {} until {}",
                holder.worker, holder.since, holder.until
            ),
            (None, Some(status)) => write!(f, "it is {status}"),
            (None, None) => f.write_str("it is gone"),
        }
    }
}

impl std::error::Error for StaleLease {}

/// A work item without its payload and result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkItemSummary {
    /// Its name.
    pub id: WorkItemId,
    /// What kind of work it is.
    pub work_type: String,
    /// The task that it belongs to.
    pub task: Option<TaskId>,
    /// Its state.
    pub status: WorkItemStatus,
    /// How urgent it is.
    pub priority: i32,
    /// The key under which it was enqueued once.
    pub unique_key: Option<String>,
    /// How many attempts were made since it was enqueued or requeued.
    pub attempts: u32,
    /// How many there can be.
    pub max_attempts: u32,
    /// How many of them were lost: their lease ran out.
    pub losses: u32,
    /// From when on it can be claimed.
    pub available_at: Timestamp,
    /// Token of its newest claim; `None` when it was never claimed.
    pub newest_token: Option<FencingToken>,
    /// Who holds it.
    pub holder: Option<Holder>,
    /// Why the newest of its attempts that did not succeed failed.
    pub last_error: Option<String>,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
}

/// A work item as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkItem {
    /// All but payload and result.
    pub summary: WorkItemSummary,
    /// What was given when it was enqueued.
    pub payload: Vec<u8>,
    /// What it was completed with. An empty result is a result.
    pub result: Option<Vec<u8>>,
}

/// One attempt at an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The token of its claim: attempts of an item are numbered 1, 2, 3, … without
    /// gaps. The newest 100 that were not released are kept, and of the released
    /// ones those among the newest 100 claims.
    pub number: FencingToken,
    /// Who made it.
    pub worker: Worker,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended, and how; `None` while it goes on.
    pub end: Option<AttemptEnd>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptEnd {
    /// When.
    pub at: Timestamp,
    /// How.
    pub outcome: AttemptOutcome,
    /// Why, when it did not succeed.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_right_is_refused() {
        let limits = Limits {
            payload_bytes: 3,
            ..Limits::default()
        };
        let good = || NewWorkItem::new("page").payload(b"abc".to_vec());
        assert!(good().check(&limits).is_ok());
        for bad in [
            NewWorkItem::new(""),
            good().payload(b"abcd".to_vec()),
            good().priority(PRIORITY_MAX + 1),
            good().priority(PRIORITY_MIN - 1),
            good().max_attempts(0),
            good().max_attempts(MAX_ATTEMPTS_MAX + 1),
            good().unique_key(""),
            good().unique_key("a\0b"),
            good().unique_key("x".repeat(ID_BYTES_MAX + 1)),
        ] {
            assert!(bad.check(&limits).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_stale_lease_says_who_holds_it() {
        let fence = Fence {
            item: WorkItemId::new(7).unwrap(),
            token: FencingToken::new(1).unwrap(),
        };
        let mut stale = StaleLease {
            fence,
            status: Some(WorkItemStatus::Succeeded),
            newest: FencingToken::new(2).ok(),
            holder: None,
        };
        let begin = "lease 1 of work item 7 is not held any more: ";
        assert_eq!(stale.to_string(), format!("{begin}it is succeeded"));
        stale.holder = Some(Holder {
            worker: Worker {
                id: crate::WorkerId::new("b").unwrap(),
                incarnation: crate::Incarnation::new("i").unwrap(),
            },
            since: Timestamp::from_unix_micros(0),
            until: Timestamp::from_unix_micros(1),
        });
        let held =
            "b (i) holds it since 1970-01-01 00:00:00.000000 until 1970-01-01 00:00:00.000001";
        assert_eq!(stale.to_string(), format!("{begin}{held}"));
    }
}

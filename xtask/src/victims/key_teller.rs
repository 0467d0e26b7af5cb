//! A store whose user tells of all that it does with idempotency keys: what each call
//! asks for, which bodies run under which permit, and what comes of them.
//!
//! The call is that of the thread: it begins with [`KeyTeller::asks`] and ends with
//! [`KeyTeller::told`]; in between the store notes what it is asked.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentos_core::{
    Attempt, BeginKey, Begun, BootTime, ClaimRequest, Commit, Cursor, Digest, Fence,
    IdempotencyKey, KeyEntry, KeyFence, KeyFilter, KeyId, KeyStorage, KeySummary, Lease,
    LeaseStorage, Limits, Outlook, Page, Part, Receipt, RecordedKey, Renewed, RenewedPermit,
    StaleLease, StalePermit, Storage, StorageError, SweepRequest, Swept, TaskId, Timestamp,
    WorkFilter, WorkItem, WorkItemId, WorkItemStatus, WorkItemSummary, WorkListener,
};

use super::jumps::true_now_us;
use super::say;
use crate::model::once::{Answer, COMMIT_UNKNOWN, Ended, Event, Execution, line};
use crate::port::{as_it_is, passes_on};

/// What stands before each line of the history.
pub(crate) const TELLS: &str = "key ";

/// A store between a program and the one that it was given.
pub(crate) struct KeyTeller {
    store: Arc<dyn Storage>,
    /// Who tells.
    process: String,
    /// How many calls were begun.
    calls: AtomicU64,
}

/// How a call of the gate came out for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// With an answer.
    Answered,
    /// Somebody else was at it all the time.
    InFlight,
    /// With an error of this name.
    Erred(&'static str),
}

impl Came {
    /// With this error of the store.
    pub(crate) fn of(error: Option<&StorageError>) -> Came {
        Came::Erred(match error {
            Some(StorageError::Busy { .. }) => "busy",
            Some(StorageError::Corrupt { .. }) => "corrupt",
            Some(StorageError::Conflict { .. }) => "conflict",
            Some(StorageError::StaleLease(_)) => "stale",
            Some(StorageError::CommitUnknown(_)) => COMMIT_UNKNOWN,
            _ => "other",
        })
    }
}

/// What the call of a thread has done so far.
struct Call {
    number: u64,
    key: String,
    started: bool,
    ended: bool,
    recorded: bool,
    /// Digest of the outcome that was seen last.
    seen: Option<String>,
}

thread_local! {
    static CALL: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// The digest by which an outcome is known.
pub(crate) fn outcome_digest(outcome: &[u8]) -> String {
    Digest::of(outcome).to_string()
}

/// Changes what is known of the thread's call, if it makes one.
fn note<T>(change: impl FnOnce(&mut Call) -> T) -> Option<T> {
    CALL.with_borrow_mut(|call| call.as_mut().map(change))
}

impl KeyTeller {
    pub(crate) fn over(store: Arc<dyn Storage>, process: String) -> Arc<KeyTeller> {
        Arc::new(KeyTeller {
            store,
            process,
            calls: AtomicU64::new(0),
        })
    }

    /// Begins a call about a key.
    pub(crate) fn asks(&self, key: &IdempotencyKey) -> io::Result<()> {
        let call = Call {
            number: self.calls.fetch_add(1, Ordering::Relaxed),
            key: key.as_str().to_owned(),
            started: false,
            ended: false,
            recorded: false,
            seen: None,
        };
        CALL.with_borrow_mut(|current| *current = Some(call));
        self.tell(&Event::Asks)
    }

    /// Ends it, as it came out.
    pub(crate) fn told(&self, came: &Came) -> io::Result<()> {
        let answer = note(|call| match (call.started, call.recorded, &call.seen) {
            (true, true, _) => Answer::Recorded,
            (true, false, _) if call.ended => Answer::Refused,
            (true, false, _) => Answer::Failed,
            (false, _, seen) => match (came, seen) {
                (Came::Answered, Some(seen)) => Answer::Replayed(seen.clone()),
                (Came::Answered, None) => Answer::Erred("unseen".into()),
                (Came::InFlight, _) => Answer::InFlight,
                (Came::Erred(why), _) => Answer::Erred((*why).into()),
            },
        });
        match answer {
            Some(answer) => self.tell(&Event::Told(answer)),
            None => Ok(()),
        }
    }

    fn tell(&self, event: &Event) -> io::Result<()> {
        let told = note(|call| line(true_now_us(), &self.process, call.number, &call.key, event));
        told.map_or(Ok(()), |told| say(&format!("{TELLS}{}", told.trim_end())))
    }

    /// The same in the midst of a call. Who cannot tell is as good as dead.
    fn tell_or_die(&self, event: &Event) {
        if self.tell(event).is_err() {
            std::process::exit(2);
        }
    }

    fn saw(entry: &KeyEntry) {
        let seen = entry.outcome.as_deref().map(outcome_digest);
        note(|call| call.seen = seen);
    }
}

/// How a commit ends an execution, if it does.
fn end_of(commit: &Commit) -> Option<Ended> {
    commit.parts().iter().find_map(|part| match part {
        Part::FinishKey(finish) => Some(Ended::Outcome(outcome_digest(&finish.outcome.bytes))),
        Part::AbandonKey(_) => Some(Ended::Abandoned),
        Part::DoubtKey(_) => Some(Ended::Unknown),
        _ => None,
    })
}

impl Storage for KeyTeller {
    fn commit(&self, commit: Commit) -> Result<Receipt, StorageError> {
        let Some(end) = end_of(&commit) else {
            return self.store.commit(commit);
        };
        // What is tried again has ended before.
        let is_first = note(|call| !std::mem::replace(&mut call.ended, true));
        if is_first == Some(true) {
            self.tell_or_die(&Event::Ends(end));
        }
        let answer = self.store.commit(commit);
        note(|call| call.recorded |= answer.is_ok());
        answer
    }

    as_it_is! {
        fn limits(&self) -> &Limits;
        fn now(&self) -> Timestamp;
        fn boot_now(&self) -> BootTime;
        fn own_files(&self) -> Vec<PathBuf>;
    }
}

impl KeyStorage for KeyTeller {
    fn begin_key(&self, begin: &BeginKey) -> Result<Begun, StorageError> {
        let begun = self.store.begin_key(begin)?;
        match &begun {
            Begun::Execute(permit) => {
                note(|call| call.started = true);
                self.tell_or_die(&Event::Starts(Execution {
                    key: permit.fence.key.get(),
                    token: permit.fence.token.get(),
                }));
            }
            Begun::Replay(entry) => KeyTeller::saw(entry),
            _ => {}
        }
        Ok(begun)
    }

    fn find_key(&self, key: &IdempotencyKey) -> Result<Option<KeyEntry>, StorageError> {
        let found = self.store.find_key(key)?;
        if let Some(entry) = &found {
            KeyTeller::saw(entry);
        }
        Ok(found)
    }

    fn find_recorded(&self, key: &IdempotencyKey) -> Result<Option<RecordedKey>, StorageError> {
        let found = self.store.find_recorded(key)?;
        if let Some(found) = &found {
            let seen = outcome_digest(&found.outcome);
            note(|call| call.seen = Some(seen));
        }
        Ok(found)
    }

    as_it_is! {
        fn newest_key(&self) -> Result<Option<KeyId>, StorageError>;
        fn renew_keys(&self, fences: &[KeyFence], lease: Duration)
            -> Result<Vec<Result<RenewedPermit, StalePermit>>, StorageError>;
        fn keys(&self, filter: &KeyFilter, after: Option<Cursor>, rows: u32)
            -> Result<Page<KeySummary>, StorageError>;
        fn keys_in_doubt(&self, after: Option<Cursor>, rows: u32)
            -> Result<Page<KeySummary>, StorageError>;
    }
}

impl LeaseStorage for KeyTeller {
    as_it_is! {
        fn claim(&self, request: &ClaimRequest) -> Result<Vec<Lease>, StorageError>;
        fn renew(&self, fences: &[Fence], lease: Duration)
            -> Result<Vec<Result<Renewed, StaleLease>>, StorageError>;
        fn sweep(&self, request: &SweepRequest) -> Result<Swept, StorageError>;
        fn work_item(&self, id: WorkItemId) -> Result<Option<WorkItem>, StorageError>;
        fn work_items(&self, status: WorkItemStatus, after: Option<Cursor>, rows: u32)
            -> Result<Page<WorkItemSummary>, StorageError>;
        fn work_items_of(&self, task: &TaskId, after: Option<Cursor>, rows: u32)
            -> Result<Page<WorkItemSummary>, StorageError>;
        fn count_work_items(&self)
            -> Result<std::collections::BTreeMap<WorkItemStatus, u64>, StorageError>;
        fn attempts(&self, item: WorkItemId) -> Result<Vec<Attempt>, StorageError>;
        fn outlook(&self, filter: &WorkFilter) -> Result<Outlook, StorageError>;
        fn listen(&self, listener: std::sync::Weak<dyn WorkListener>);
    }
}

passes_on!(KeyTeller);

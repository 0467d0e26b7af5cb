//! A store whose user tells of all that it does with leases: before each request and
//! after each answer a line, and of each lease that a sweep took away.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use agentos_core::{
    Attempt, BootTime, ClaimRequest, Commit, Cursor, Fence, Lease, LeaseStorage, Limits, Lost,
    Outlook, Page, Part, Receipt, Renewed, StaleLease, Storage, StorageError, SweepRequest, Swept,
    TaskId, Timestamp, WorkFilter, WorkItem, WorkItemId, WorkItemStatus, WorkItemSummary,
    WorkListener,
};

use super::jumps::true_now_us;
use super::say;
use crate::model::{Call, Reply, Taken, Why, begin_line, end_line};
use crate::port::{as_it_is, keys_pass_on, passes_on};

/// A store between a program and the one that it was given.
pub(crate) struct Recorded {
    store: Arc<dyn Storage>,
    /// How many calls were begun.
    begun: AtomicU64,
}

impl Recorded {
    /// Tells of what is done with leases of this store.
    pub(crate) fn over(store: Arc<dyn Storage>) -> Arc<dyn Storage> {
        Arc::new(Recorded {
            store,
            begun: AtomicU64::new(0),
        })
    }

    fn begin(&self, call: &Call) -> u64 {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        tell(&begin_line(number, true_now_us(), call));
        number
    }
}

/// Prints a line. Who cannot tell is as good as dead.
fn tell(line: &str) {
    if say(line).is_err() {
        std::process::exit(2);
    }
}

fn end(number: u64, reply: &Reply) {
    tell(&end_line(number, true_now_us(), reply));
}

/// What an error of a whole call tells; `None` when nothing.
fn reply_of(error: &StorageError) -> Option<Reply> {
    match error {
        StorageError::StaleLease(_) => Some(Reply::Stale),
        StorageError::CommitUnknown(_) => None,
        _ => Some(Reply::Refused),
    }
}

/// What a commit under a lease does: it writes checkpoints, which are known by the
/// digests of their states, and may end the lease.
fn calls_of(fence: Fence, commit: &Commit) -> Vec<Call> {
    let call = |part: &Part| match part {
        Part::AppendCheckpoint(new) => {
            let digest = new.snapshot.as_ref()?.digest().to_string();
            Some(Call::Write(fence, digest))
        }
        Part::CompleteWork(work) => {
            let result = work.result.as_deref().unwrap_or_default();
            let result = String::from_utf8_lossy(result).into_owned();
            Some(Call::Complete(fence, result))
        }
        Part::FailWork(_) => Some(Call::Fail(fence)),
        Part::ReleaseWork(_) => Some(Call::Release(fence)),
        _ => None,
    };
    commit.parts().iter().filter_map(call).collect()
}

impl Storage for Recorded {
    fn commit(&self, commit: Commit) -> Result<Receipt, StorageError> {
        let calls = commit.fence().map(|fence| calls_of(fence, &commit));
        let calls = calls.unwrap_or_default();
        let begun: Vec<u64> = calls.iter().map(|call| self.begin(call)).collect();
        let answer = self.store.commit(commit);
        let reply = match &answer {
            Ok(_) => Some(Reply::Done),
            Err(error) => reply_of(error),
        };
        if let Some(reply) = reply {
            begun.iter().for_each(|number| end(*number, &reply));
        }
        answer
    }

    as_it_is! {
        fn limits(&self) -> &Limits;
        fn now(&self) -> Timestamp;
        fn boot_now(&self) -> BootTime;
        fn own_files(&self) -> Vec<PathBuf>;
    }
}

impl LeaseStorage for Recorded {
    fn claim(&self, request: &ClaimRequest) -> Result<Vec<Lease>, StorageError> {
        let number = self.begin(&Call::Claim);
        let answer = self.store.claim(request);
        let reply = match &answer {
            Ok(leases) => Some(Reply::Claimed(leases.iter().map(Fence::from).collect())),
            Err(error) => reply_of(error),
        };
        if let Some(reply) = reply {
            end(number, &reply);
        }
        answer
    }

    fn renew(
        &self,
        fences: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Result<Renewed, StaleLease>>, StorageError> {
        let begin = |fence: &Fence| self.begin(&Call::Renew(*fence));
        let begun: Vec<u64> = fences.iter().map(begin).collect();
        let answer = self.store.renew(fences, lease);
        for (place, number) in begun.iter().enumerate() {
            let reply = match answer.as_ref().map(|answers| answers.get(place)) {
                Ok(Some(Ok(_))) => Some(Reply::Done),
                Ok(Some(Err(_))) => Some(Reply::Stale),
                Ok(None) => None,
                Err(error) => reply_of(error),
            };
            if let Some(reply) = reply {
                end(*number, &reply);
            }
        }
        answer
    }

    fn sweep(&self, request: &SweepRequest) -> Result<Swept, StorageError> {
        let began = true_now_us();
        let swept = self.store.sweep(request)?;
        let ended = true_now_us();
        let why = match request.lost {
            Lost::Expired => Why::Expired,
            Lost::EarlierStarts(_) => Why::EarlierStart,
        };
        for item in &swept.recovered {
            let taken = Taken {
                fence: item.fence,
                why,
                began,
                ended,
            };
            tell(&format!("ack {taken}"));
        }
        Ok(swept)
    }

    as_it_is! {
        fn work_item(&self, id: WorkItemId) -> Result<Option<WorkItem>, StorageError>;
        fn work_items(&self, status: WorkItemStatus, after: Option<Cursor>, rows: u32)
            -> Result<Page<WorkItemSummary>, StorageError>;
        fn work_items_of(&self, task: &TaskId, after: Option<Cursor>, rows: u32)
            -> Result<Page<WorkItemSummary>, StorageError>;
        fn count_work_items(&self) -> Result<BTreeMap<WorkItemStatus, u64>, StorageError>;
        fn attempts(&self, item: WorkItemId) -> Result<Vec<Attempt>, StorageError>;
        fn outlook(&self, filter: &WorkFilter) -> Result<Outlook, StorageError>;
        fn listen(&self, listener: Weak<dyn WorkListener>);
    }
}

passes_on!(Recorded);
keys_pass_on!(Recorded);

//! Work items and leases: what can be claimed and by whom, what follows an
//! attempt, what a lost lease can still do (nothing), and how lost leases come
//! back. Each test gets a store and the clock that the store goes by.

mod claims;
mod fences;
mod outcomes;
mod outlook;
mod queue;
mod renewals;
mod sweeps;

use std::time::Duration;

use agentos_core::limits::PAGE_ROWS_MAX;
use agentos_core::{
    Attempt, AttemptOutcome, AuditLine, ClaimRequest, Commit, CompleteWork, Fence, Incarnation,
    KeyFilter, Lease, NewWorkItem, Receipt, RetryRule, Stale, StaleLease, Storage, StorageError,
    SweepRequest, Swept, TaskStatus, WorkFilter, WorkItemId, WorkItemStatus, WorkItemSummary,
    Worker, WorkerId,
};
use agentos_tests::task_id;

pub(crate) use self::claims::*;
pub(crate) use self::fences::*;
pub(crate) use self::outcomes::*;
pub(crate) use self::outlook::*;
pub(crate) use self::queue::*;
pub(crate) use self::renewals::*;
pub(crate) use self::sweeps::*;

/// How long the leases of these tests are.
const LEASE: Duration = Duration::from_secs(10);
/// Just longer.
const PAST_LEASE: Duration = Duration::from_micros(10_000_001);

const SECOND: Duration = Duration::from_secs(1);

/// The first start of a worker.
fn worker(name: &str) -> Worker {
    start(name, 1)
}

/// A start of a worker, by its number.
fn start(name: &str, number: u32) -> Worker {
    Worker {
        id: WorkerId::new(name).unwrap(),
        incarnation: Incarnation::new(format!("{name}-{number}")).unwrap(),
    }
}

fn page() -> NewWorkItem {
    NewWorkItem::new("page")
}

fn enqueue(store: &dyn Storage, item: NewWorkItem) -> WorkItemId {
    let receipt = store.commit(Commit::new().part(item)).unwrap();
    receipt.enqueued().next().unwrap().0
}

fn request(name: &str) -> ClaimRequest {
    ClaimRequest {
        lease: LEASE,
        ..ClaimRequest::new(worker(name))
    }
}

/// Claims the most urgent item of any type.
fn claim(store: &dyn Storage, name: &str) -> Option<Lease> {
    claim_of(store, &request(name)).pop()
}

/// Claims one item, which must be this one.
#[track_caller]
fn claim_item(store: &dyn Storage, name: &str, item: WorkItemId) -> Lease {
    let lease = claim(store, name).expect("an item that is due");
    assert_eq!(lease.fence.item, item);
    lease
}

fn claim_of(store: &dyn Storage, request: &ClaimRequest) -> Vec<Lease> {
    let leases = store.claim(request).unwrap();
    assert!(leases.len() <= request.items as usize);
    leases
}

/// Items of leases, in order.
fn items(leases: &[Lease]) -> Vec<WorkItemId> {
    leases.iter().map(|lease| lease.fence.item).collect()
}

fn summary(store: &dyn Storage, item: WorkItemId) -> WorkItemSummary {
    store.work_item(item).unwrap().expect("the item").summary
}

fn status(store: &dyn Storage, item: WorkItemId) -> WorkItemStatus {
    summary(store, item).status
}

fn complete(lease: &Lease) -> CompleteWork {
    CompleteWork {
        fence: lease.fence,
        result: None,
    }
}

/// A commit that must go through.
#[track_caller]
fn done(store: &dyn Storage, commit: impl Into<Commit>) -> Receipt {
    store.commit(commit.into()).unwrap()
}

/// The refusal of something that was done under a lease that is not held.
#[track_caller]
fn stale<T: std::fmt::Debug>(answer: Result<T, StorageError>) -> StaleLease {
    match answer {
        Err(StorageError::StaleLease(Stale::Work(stale))) => *stale,
        other => panic!("a lease that is not held was taken: {other:?}"),
    }
}

/// One batch of a sweep, in which no item fails. Further losses cost half a
/// second to a second.
#[track_caller]
fn sweep(store: &dyn Storage) -> Swept {
    let rule = RetryRule {
        first: SECOND,
        factor: 1,
        most: SECOND,
    };
    let request = SweepRequest {
        after_loss: rule,
        ..SweepRequest::default()
    };
    sweep_of(store, &request)
}

#[track_caller]
fn sweep_of(store: &dyn Storage, request: &SweepRequest) -> Swept {
    let swept = store.sweep(request).unwrap();
    assert!(swept.failed.is_empty(), "{swept:?}");
    assert!(swept.recovered.len() <= swept.found as usize);
    swept
}

fn recovered(swept: &Swept) -> Vec<Fence> {
    swept.recovered.iter().map(|item| item.fence).collect()
}

/// How each attempt at an item ended; `None` for one that goes on.
fn outcomes(store: &dyn Storage, item: WorkItemId) -> Vec<Option<AttemptOutcome>> {
    let outcome = |attempt: &Attempt| attempt.end.as_ref().map(|end| end.outcome);
    store.attempts(item).unwrap().iter().map(outcome).collect()
}

/// Everything that the port shows of a store, as text: two are equal when nothing
/// was written in between.
fn everything(store: &dyn Storage) -> String {
    use std::fmt::Write as _;
    let mut all = String::new();
    for status in TaskStatus::ALL {
        for task in store.tasks(*status, None, PAGE_ROWS_MAX).unwrap().items {
            let audits = store.audits(&task.id, None, PAGE_ROWS_MAX).unwrap().items;
            let checkpoints = store.checkpoints(&task.id, None, PAGE_ROWS_MAX).unwrap();
            writeln!(all, "{task:?} {audits:?} {checkpoints:?}").unwrap();
            for checkpoint in checkpoints {
                let results = store.evidence_results(&task.id, checkpoint.sequence);
                writeln!(all, "{:?}", results.unwrap()).unwrap();
            }
        }
    }
    for status in WorkItemStatus::ALL {
        let page = store.work_items(*status, None, PAGE_ROWS_MAX).unwrap();
        for item in page.items {
            let whole = store.work_item(item.id).unwrap();
            let attempts = store.attempts(item.id).unwrap();
            writeln!(all, "{whole:?} {attempts:?}").unwrap();
        }
    }
    let keys = store.keys(&KeyFilter::default(), None, PAGE_ROWS_MAX);
    for key in keys.unwrap().items {
        // How long a permit lasts is told from now on.
        let mut entry = store.find_key(&key.key).unwrap().unwrap();
        if let Some(permit) = &mut entry.summary.view.permit {
            permit.left = permit.left.map(|_| Duration::ZERO);
        }
        writeln!(all, "{entry:?}").unwrap();
    }
    all
}

/// Until a lease runs out.
fn expires(store: &dyn Storage) -> Option<Duration> {
    store.outlook(&WorkFilter::any()).unwrap().expires
}

/// Until an item can be claimed.
fn claimable(store: &dyn Storage) -> Option<Duration> {
    store.outlook(&WorkFilter::any()).unwrap().claimable
}

fn note(task: &str) -> AuditLine {
    AuditLine::new(task_id(task), "noted")
}

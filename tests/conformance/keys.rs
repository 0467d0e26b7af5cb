//! Idempotency keys: who executes, who is told what, what a permit that is over can
//! still do (nothing), how doubt ends, and what is kept of an outcome. Each test gets
//! a store and the clock that the store goes by.

mod begin;
mod doubt;
mod fences;
mod lists;
mod outcomes;
mod permits;
mod under;

use std::time::Duration;

use agentos_core::limits::PAGE_ROWS_MAX;
use agentos_core::{
    BeginKey, Begun, ClaimRequest, Commit, Digest, DoubtKey, Execution, Fence, FinishKey,
    IdempotencyKey, Incarnation, KeyEntry, KeyFence, KeyFilter, KeyStatus, KeySummary, KeyView,
    Lease, NewOutcome, NewWorkItem, OnLost, OnRecorded, Permit, PermitHolder, Receipt, RecordedKey,
    Stale, StaleLease, StalePermit, Storage, StorageError, WorkItemId, Worker, WorkerId,
};

pub(crate) use self::begin::*;
pub(crate) use self::doubt::*;
pub(crate) use self::fences::*;
pub(crate) use self::lists::*;
pub(crate) use self::outcomes::*;
pub(crate) use self::permits::*;
pub(crate) use self::under::*;

/// How long the permits of these tests are, and the leases of work items.
const LEASE: Duration = Duration::from_secs(10);
/// Just longer.
const PAST_LEASE: Duration = Duration::from_micros(10_000_001);

const SECOND: Duration = Duration::from_secs(1);

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

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::new(name).unwrap()
}

/// What is asked for in these tests.
fn request() -> Digest {
    Digest::of(b"request")
}

/// Asks for the execution of the key `k`.
fn begin(owner: &str) -> BeginKey {
    begin_of("k", worker(owner))
}

fn begin_of(name: &str, owner: Worker) -> BeginKey {
    BeginKey {
        lease: LEASE,
        ..BeginKey::new(key(name), request(), owner)
    }
}

/// The same, where repeating is safe.
fn take_over(owner: &str) -> BeginKey {
    BeginKey {
        on_lost: OnLost::TakeOver,
        ..begin(owner)
    }
}

/// The same, whatever is recorded.
fn run_again(owner: &str) -> BeginKey {
    BeginKey {
        on_recorded: OnRecorded::RunAgain,
        ..begin(owner)
    }
}

/// The permit, which must be given.
#[track_caller]
fn executes(store: &dyn Storage, begin: &BeginKey) -> Permit {
    match store.begin_key(begin).unwrap() {
        Begun::Execute(permit) => permit,
        other => panic!("no permit: {other:?}"),
    }
}

/// The permit of the key `k`, which is there for the first time.
#[track_caller]
fn first(store: &dyn Storage, owner: &str) -> Permit {
    let permit = executes(store, &begin(owner));
    assert_eq!(permit.execution, Execution::First);
    permit
}

#[track_caller]
fn replays(store: &dyn Storage, begin: &BeginKey) -> KeyEntry {
    match store.begin_key(begin).unwrap() {
        Begun::Replay(entry) => *entry,
        other => panic!("no replay: {other:?}"),
    }
}

/// The bytes of the replay.
#[track_caller]
fn replayed(store: &dyn Storage, begin: &BeginKey) -> Vec<u8> {
    replays(store, begin).outcome.expect("an outcome")
}

#[track_caller]
fn in_flight(store: &dyn Storage, begin: &BeginKey) -> PermitHolder {
    match store.begin_key(begin).unwrap() {
        Begun::InFlight(holder) => holder,
        other => panic!("not in flight: {other:?}"),
    }
}

#[track_caller]
fn in_doubt(store: &dyn Storage, begin: &BeginKey) -> PermitHolder {
    match store.begin_key(begin).unwrap() {
        Begun::InDoubt(holder) => holder,
        other => panic!("not in doubt: {other:?}"),
    }
}

fn finish(permit: &Permit, outcome: NewOutcome) -> FinishKey {
    FinishKey {
        fence: permit.fence,
        outcome,
    }
}

/// Executes the key `k` and records an outcome.
#[track_caller]
fn record(store: &dyn Storage, owner: &str, outcome: NewOutcome) -> Permit {
    let permit = first(store, owner);
    done(store, finish(&permit, outcome));
    permit
}

fn doubt(permit: &Permit) -> DoubtKey {
    DoubtKey {
        fence: permit.fence,
    }
}

/// A commit that must go through.
#[track_caller]
fn done(store: &dyn Storage, commit: impl Into<Commit>) -> Receipt {
    store.commit(commit.into()).unwrap()
}

/// The refusal of something that was done under a permit that is over.
#[track_caller]
fn stale<T: std::fmt::Debug>(answer: Result<T, StorageError>) -> StalePermit {
    match answer {
        Err(StorageError::StaleLease(Stale::Key(stale))) => *stale,
        other => panic!("a permit that is over was taken: {other:?}"),
    }
}

/// The refusal of something that was done under a lease that is not held.
#[track_caller]
fn stale_lease<T: std::fmt::Debug>(answer: Result<T, StorageError>) -> StaleLease {
    match answer {
        Err(StorageError::StaleLease(Stale::Work(stale))) => *stale,
        other => panic!("a lease that is not held was taken: {other:?}"),
    }
}

#[track_caller]
fn entry(store: &dyn Storage, name: &str) -> Option<KeyEntry> {
    found(store, &key(name)).unwrap()
}

/// What is there under a key. The hot look must say of it what the whole one says.
fn found(store: &dyn Storage, key: &IdempotencyKey) -> Result<Option<KeyEntry>, StorageError> {
    let whole = store.find_key(key)?;
    let hot = store.find_recorded(key)?;
    assert_eq!(
        hot,
        whole.clone().and_then(RecordedKey::of),
        "two looks at one key"
    );
    Ok(whole)
}

/// What is there under the key `k`, which must be something.
#[track_caller]
fn view(store: &dyn Storage) -> KeyView {
    entry(store, "k").expect("the key").summary.view
}

#[track_caller]
fn status(store: &dyn Storage) -> KeyStatus {
    view(store).status
}

/// The next token of the same key.
#[track_caller]
fn follows(permit: &Permit, earlier: &Permit) {
    assert_eq!(permit.fence.key, earlier.fence.key);
    assert_eq!(
        permit.fence.token.get(),
        earlier.fence.token.get() + 1,
        "the token grows by one"
    );
}

fn all_keys(store: &dyn Storage) -> Vec<KeySummary> {
    keys_of(store, &KeyFilter::default())
}

/// The keys that a filter fits, in one page.
fn keys_of(store: &dyn Storage, filter: &KeyFilter) -> Vec<KeySummary> {
    store.keys(filter, None, PAGE_ROWS_MAX).unwrap().items
}

fn doubts(store: &dyn Storage) -> Vec<KeyFence> {
    let mut doubts = Vec::new();
    let mut after = None;
    loop {
        let page = store.keys_in_doubt(after, PAGE_ROWS_MAX).unwrap();
        doubts.extend(page.items.into_iter().map(|summary| KeyFence {
            key: summary.id,
            token: summary.token,
        }));
        match page.next {
            Some(next) => after = Some(next),
            None => return doubts,
        }
    }
}

/// Everything that the port shows of keys, and of what is committed with them, as
/// text: two are equal when nothing was written in between and the clock stood still.
fn everything(store: &dyn Storage) -> String {
    use std::fmt::Write as _;
    let mut all = String::new();
    for summary in all_keys(store) {
        let entry = found(store, &summary.key).unwrap();
        writeln!(all, "{summary:?} {entry:?}").unwrap();
    }
    for task in ["a", "b"] {
        let task = agentos_tests::task_id(task);
        let audits = store.audits(&task, None, PAGE_ROWS_MAX).unwrap().items;
        let checkpoints = store.checkpoints(&task, None, PAGE_ROWS_MAX).unwrap();
        writeln!(all, "{audits:?} {checkpoints:?}").unwrap();
    }
    for status in agentos_core::WorkItemStatus::ALL {
        let page = store.work_items(*status, None, PAGE_ROWS_MAX).unwrap();
        writeln!(all, "{:?}", page.items).unwrap();
    }
    all
}

/// An item of work, claimed for ten seconds.
#[track_caller]
fn leased(store: &dyn Storage, owner: &str) -> Lease {
    enqueue(store);
    claim(store, owner)
}

fn enqueue(store: &dyn Storage) -> WorkItemId {
    let item = NewWorkItem::new("page");
    let receipt = done(store, Commit::new().part(item));
    receipt.enqueued().next().unwrap().0
}

#[track_caller]
fn claim(store: &dyn Storage, owner: &str) -> Lease {
    let request = ClaimRequest {
        lease: LEASE,
        ..ClaimRequest::new(worker(owner))
    };
    store.claim(&request).unwrap().pop().expect("a due item")
}

/// Asks for the execution of the key `k` under a lease.
fn begin_under(lease: &Lease, owner: &str) -> BeginKey {
    BeginKey {
        under: Some(Fence::from(lease)),
        // Without meaning: the permit must not last as long.
        lease: 100 * LEASE,
        ..begin(owner)
    }
}

//! The store takes longer than a permit lasts: nothing is executed under a permit that
//! is over.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use agentos_core::{
    BeginKey, Begun, BootTime, Commit, Cursor, Execution, IdempotencyKey, KeyEntry, KeyFence,
    KeyFilter, KeyId, KeyStatus, KeyStorage, KeySummary, Limits, ManualClock, NewOutcome,
    NewWorkItem, OnLost, OnRecorded, Page, Receipt, RecordedKey, RenewedPermit, Stale, StalePermit,
    Storage, StorageError, Timestamp,
};
use agentos_idempotency::{
    Begin, CacheConfig, CacheError, GateConfig, IdempotencyError, IdempotencyStore, LedgerConfig,
    LlmAnswer, LlmOutputCache, LlmRequest, Request, Role, ToolCall, ToolError, ToolLedger,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{Work, as_it_is, new_worker, passes_on};
use serde_json::json;

use super::{LEASE, clocked, fill, gate, in_doubt, key, permitted, replay, request};

/// How long a call of the store takes, and what happens to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// So long, after it was made.
    Long(Duration),
    /// So long, before it is made: it waits for the writer.
    Waits(Duration),
    /// So long, and it is not made.
    Refuses(Duration),
    /// No time; but so long after the next look at the clock of this thread.
    LaterLong(Duration),
}

/// The store, of which the next calls that begin or renew keys take as long as is said.
struct Slow {
    store: Arc<SqliteStore>,
    clock: Arc<ManualClock>,
    begins: Mutex<VecDeque<Takes>>,
    renews: Mutex<VecDeque<Takes>>,
    /// Done once, after the next key was begun.
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Whose next look at the clock is followed by so long.
    later: Mutex<Option<(ThreadId, Duration)>>,
}

impl Slow {
    fn takes<T>(
        &self,
        next: &Mutex<VecDeque<Takes>>,
        call: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let takes = next.lock().unwrap().pop_front();
        match takes {
            None => call(),
            Some(Takes::Long(long)) => {
                let answer = call();
                self.clock.advance(long);
                answer
            }
            Some(Takes::Waits(long)) => {
                self.clock.advance(long);
                call()
            }
            Some(Takes::Refuses(waited)) => {
                self.clock.advance(waited);
                Err(StorageError::Busy { waited })
            }
            Some(Takes::LaterLong(long)) => {
                let answer = call();
                *self.later.lock().unwrap() = Some((thread::current().id(), long));
                answer
            }
        }
    }
}

impl Storage for Slow {
    as_it_is! {
        fn commit(&self, commit: Commit) -> Result<Receipt, StorageError>;
        fn limits(&self) -> &Limits;
        fn now(&self) -> Timestamp;
        fn own_files(&self) -> Vec<PathBuf>;
    }

    fn boot_now(&self) -> BootTime {
        let now = self.store.boot_now();
        let this = thread::current().id();
        let mut later = self.later.lock().unwrap();
        if let Some((_, long)) = later.take_if(|(thread, _)| *thread == this) {
            self.clock.advance(long);
        }
        now
    }
}

impl KeyStorage for Slow {
    fn begin_key(&self, begin: &BeginKey) -> Result<Begun, StorageError> {
        let begun = self.takes(&self.begins, || self.store.begin_key(begin));
        if let Some(then) = self.then.lock().unwrap().take() {
            then();
        }
        begun
    }

    fn renew_keys(
        &self,
        fences: &[KeyFence],
        lease: Duration,
    ) -> Result<Vec<Result<RenewedPermit, StalePermit>>, StorageError> {
        self.takes(&self.renews, || self.store.renew_keys(fences, lease))
    }

    as_it_is! {
        fn find_key(&self, key: &IdempotencyKey) -> Result<Option<KeyEntry>, StorageError>;
        fn find_recorded(&self, key: &IdempotencyKey)
            -> Result<Option<RecordedKey>, StorageError>;
        fn newest_key(&self) -> Result<Option<KeyId>, StorageError>;
        fn keys(&self, filter: &KeyFilter, after: Option<Cursor>, rows: u32)
            -> Result<Page<KeySummary>, StorageError>;
        fn keys_in_doubt(&self, after: Option<Cursor>, rows: u32)
            -> Result<Page<KeySummary>, StorageError>;
    }
}

passes_on!(Slow);

/// The next begins and renewals take so long.
fn slow(work: &Work, clock: &Arc<ManualClock>, begins: &[Takes], renews: &[Takes]) -> Arc<Slow> {
    Arc::new(Slow {
        store: Arc::clone(&work.store),
        clock: Arc::clone(clock),
        begins: Mutex::new(begins.iter().copied().collect()),
        renews: Mutex::new(renews.iter().copied().collect()),
        then: Mutex::default(),
        later: Mutex::default(),
    })
}

fn slow_gate(slow: &Arc<Slow>) -> IdempotencyStore {
    let config = GateConfig::new(new_worker("slow")).permit_lease(LEASE);
    IdempotencyStore::new(Arc::clone(slow) as Arc<dyn Storage>, config).unwrap()
}

#[track_caller]
fn is_busy(answer: Result<Begin, IdempotencyError>) {
    match answer {
        Err(IdempotencyError::Storage(StorageError::Busy { waited })) => assert!(LEASE <= waited),
        other => panic!("{other:?}"),
    }
}

fn is_busy_error(error: &IdempotencyError) -> bool {
    matches!(error.storage(), Some(StorageError::Busy { .. }))
}

/// A renewal that comes too late, or not at all.
const LATE: [Takes; 2] = [Takes::Long(LEASE), Takes::Refuses(LEASE)];

/// Goal: who gets a permit has it. Method: the store takes as long as the permit lasts,
/// before or after its transaction; the renewal that follows is quick.
#[test]
fn a_permit_that_comes_late_is_renewed_before_it_is_given() {
    for takes in [Takes::Long(LEASE), Takes::Waits(LEASE)] {
        let (work, clock) = clocked();
        let store = slow(&work, &clock, &[takes], &[]);
        let (slow, other) = (slow_gate(&store), gate(&work, "other"));
        let taken_over = request("a").on_lost(OnLost::TakeOver);
        let held = permitted(slow.begin(&taken_over).unwrap());
        assert!(!held.is_lost(), "{takes:?}");
        let left = store.boot_now().until(&held.permit().deadline);
        assert_eq!(left, LEASE, "{takes:?}");
        super::in_flight(other.begin(&taken_over).unwrap());
        slow.finish(held, NewOutcome::success("x")).unwrap();
        assert_eq!(slow.stats().late, 0);
    }
}

/// Goal: a permit that is over is given to nobody, and leaves the key as it was: absent,
/// recorded with the same failure or success, or in doubt.
#[test]
fn a_permit_that_comes_too_late_twice_is_given_back_as_it_was() {
    type Before = fn(&IdempotencyStore, &Request);
    let cases: [(Before, OnRecorded, Execution); 5] = [
        (|_, _| {}, OnRecorded::RunAgain, Execution::First),
        (
            |gate, asked| {
                let held = super::execute(gate, asked);
                let outcome = NewOutcome::success("old").ttl(Some(Duration::from_micros(1)));
                gate.finish(held, outcome).unwrap();
            },
            OnRecorded::Replay,
            Execution::AfterExpiry,
        ),
        (
            |gate, asked| {
                let held = super::execute(gate, asked);
                let outcome = NewOutcome::failure("no").ttl(Some(100 * LEASE));
                gate.finish(held, outcome).unwrap();
            },
            OnRecorded::RunFailedAgain,
            Execution::AfterFailure,
        ),
        (
            |gate, asked| fill(gate, asked, "yes"),
            OnRecorded::RunAgain,
            Execution::Again,
        ),
        (
            |gate, asked| drop(super::execute(gate, asked)),
            OnRecorded::Replay,
            Execution::TakenOver,
        ),
    ];
    for (before, on_recorded, execution) in cases {
        for renews in LATE {
            let (work, clock) = clocked();
            let other = gate(&work, "other");
            before(&other, &request("a"));
            let recorded = other.lookup(&key("a")).unwrap();
            let expires_at = recorded.and_then(|recorded| recorded.summary.expires_at);
            clock.advance(LEASE);
            let store = slow(&work, &clock, &[Takes::Long(LEASE)], &[renews]);
            let slow = slow_gate(&store);
            let asked = request("a")
                .on_recorded(on_recorded)
                .on_lost(OnLost::TakeOver);
            is_busy(slow.begin(&asked));
            let stats = slow.stats();
            assert_eq!((stats.late, stats.executions, stats.held), (1, 0, 0));
            let found = other.lookup(&key("a")).unwrap();
            match execution {
                Execution::First | Execution::AfterExpiry => assert_eq!(found, None),
                Execution::AfterFailure => {
                    let found = found.unwrap();
                    assert_eq!(found.summary.view.status, KeyStatus::Failed);
                    assert_eq!(found.outcome.as_deref(), Some(&b"no"[..]));
                    // It expires when it would have.
                    assert_eq!(found.summary.expires_at, expires_at);
                }
                Execution::Again => assert_eq!(replay(&other, &request("a")), b"yes"),
                _ => drop(in_doubt(other.begin(&request("a")).unwrap())),
            }
        }
    }
}

/// Goal: what somebody else took over meanwhile is his. Method: he does so after the late
/// permit was given, and is still at it, or has ended.
#[test]
fn a_permit_that_was_taken_over_while_it_was_late_is_answered_as_it_is() {
    for ends in [false, true] {
        let (work, clock) = clocked();
        let taken_over = request("a").on_lost(OnLost::TakeOver);
        let store = slow(&work, &clock, &[Takes::Long(LEASE)], &[]);
        let (other, asked) = (gate(&work, "other"), taken_over.clone());
        let his = other.clone();
        let between = move || {
            let held = permitted(his.begin(&asked).unwrap());
            if ends {
                his.finish(held, NewOutcome::success("his")).unwrap();
            }
        };
        *store.then.lock().unwrap() = Some(Box::new(between));
        match (ends, slow_gate(&store).begin(&taken_over).unwrap()) {
            (false, Begin::InFlight(holder)) => assert_eq!(&holder.owner, other.owner()),
            (true, Begin::Replay(entry)) => {
                assert_eq!(entry.outcome.as_deref(), Some(&b"his"[..]));
            }
            (_, answer) => panic!("{answer:?}"),
        }
    }
}

/// Goal: under the lease of a work item the same holds, by that lease.
#[test]
fn under_a_lease_that_ran_out_meanwhile_nothing_begins() {
    let (work, clock) = clocked();
    let leases = work.leases("worker", LEASE);
    work.queue.enqueue(NewWorkItem::new("page")).unwrap();
    let lease = work.claim(&leases);
    let store = slow(&work, &clock, &[Takes::Long(LEASE)], &[]);
    let slow = slow_gate(&store);
    let error = slow.begin(&request("a").under(lease.fence)).unwrap_err();
    assert!(
        matches!(
            error,
            IdempotencyError::Storage(StorageError::StaleLease(Stale::Key(_)))
        ),
        "{error:?}"
    );
    assert_eq!(slow.lookup(&key("a")).unwrap(), None);
}

/// Goal: no model is asked and no tool is run under a permit that is over.
#[test]
fn no_model_and_no_tool_is_run_under_a_permit_that_is_over() {
    let (work, clock) = clocked();
    let late = [Takes::Long(LEASE)];
    let store = slow(&work, &clock, &late, &late);
    let cache = LlmOutputCache::new(slow_gate(&store), CacheConfig::default()).unwrap();
    let ask = LlmRequest::chat("openai", "m").message(Role::User, "x");
    let never = || -> Result<LlmAnswer<String>, Infallible> { panic!("the model is asked") };
    let error = cache.get_or_generate(&ask, never).unwrap_err();
    assert!(
        matches!(&error, CacheError::Gate(error) if is_busy_error(error)),
        "{error:?}"
    );

    let store = slow(&work, &clock, &late, &late);
    let ledger = ToolLedger::new(slow_gate(&store), LedgerConfig::new());
    let call = ToolCall::new("pay", json!(1)).shared();
    let error = ledger
        .execute_or_replay(&call, |_| panic!("the tool is run"))
        .unwrap_err();
    let storage = error.storage();
    assert!(
        matches!(storage, Some(StorageError::Busy { .. })),
        "{error:?}"
    );
    // Nothing happened: the next one runs it for the first time.
    let ran = ledger.execute_or_replay(&call, |context| {
        assert_eq!(context.execution(), Execution::First);
        Ok("done".into())
    });
    assert!(ran.unwrap().is_success());
}

/// Goal: the same where it runs out between the gate and the body. Method: the clock goes
/// on after the gate has looked at it for the last time.
#[test]
fn no_model_and_no_tool_is_run_under_a_permit_that_ran_out_on_the_way() {
    let (work, clock) = clocked();
    let store = slow(&work, &clock, &[Takes::LaterLong(LEASE)], &[]);
    let cache = LlmOutputCache::new(slow_gate(&store), CacheConfig::default()).unwrap();
    let ask = LlmRequest::chat("openai", "m").message(Role::User, "x");
    let never = || -> Result<LlmAnswer<String>, Infallible> { panic!("the model is asked") };
    let error = cache.get_or_generate(&ask, never).unwrap_err();
    assert!(
        matches!(&error, CacheError::Gate(error) if is_busy_error(error)),
        "{error:?}"
    );

    let store = slow(&work, &clock, &[Takes::LaterLong(LEASE)], &[]);
    let ledger = ToolLedger::new(slow_gate(&store), LedgerConfig::new());
    let call = ToolCall::new("pay", json!(1)).shared();
    let error = ledger
        .execute_or_replay(&call, |_| panic!("the tool is run"))
        .unwrap_err();
    assert!(matches!(error, ToolError::NotDone { .. }), "{error:?}");
    let key = call.key().unwrap();
    assert_eq!(ledger.gate().lookup(&key).unwrap(), None);
}

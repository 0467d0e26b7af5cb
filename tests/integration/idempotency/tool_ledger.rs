//! The ledger of tool calls on the real store: what runs, what is replayed, what is
//! recorded when.
//!
//! A process that dies is a call that is begun and forgotten; time is moved until its
//! permit is over.

mod damage;
mod doubt;
mod others;
mod recording;
mod steps;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agentos_core::{
    Commit, Execution, FinishKey, IdempotencyKey, KeyStatus, KeyStorage, Limits, ManualClock,
    NewOutcome, Storage, StorageError, TaskId, Worker, WorkerId,
};
use agentos_idempotency::{
    CallContext, GateConfig, IdempotencyStore, LedgerConfig, LedgerStats, OnFailure, Started,
    TooLarge, ToolAnswer, ToolCall, ToolError, ToolFailure, ToolLedger, ToolOutcome, ToolOutput,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{config, manual_clock, task_id, wait_until};
use serde_json::json;
use tempfile::TempDir;

/// Longer than a permit lasts.
const LONGER: Duration = Duration::from_secs(31);

/// A file, the clock that stores on it go by, and one store.
pub(crate) struct Ground {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) path: PathBuf,
    limits: Limits,
    busy: Duration,
    directory: TempDir,
}

impl Ground {
    pub(crate) fn new() -> Ground {
        Ground::with(Limits::default(), Duration::from_secs(30))
    }

    fn with(limits: Limits, busy: Duration) -> Ground {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.db");
        let clock = manual_clock();
        let config = config(&path).clock(Arc::clone(&clock)).limits(limits);
        Ground {
            store: Arc::new(SqliteStore::open(config.busy_timeout(busy)).unwrap()),
            clock,
            path,
            limits,
            busy,
            directory,
        }
    }

    /// Another store on the same file, as another process has.
    pub(crate) fn another(&self) -> Arc<SqliteStore> {
        let config = config(&self.path).clock(Arc::clone(&self.clock));
        let config = config.limits(self.limits).busy_timeout(self.busy);
        Arc::new(SqliteStore::open(config).unwrap())
    }

    /// The ledger of a new process on the same file.
    pub(crate) fn ledger(&self) -> ToolLedger {
        self.ledger_with(LedgerConfig::new())
    }

    fn ledger_with(&self, config: LedgerConfig) -> ToolLedger {
        ledger(self.another(), config)
    }
}

fn ledger(store: Arc<SqliteStore>, config: LedgerConfig) -> ToolLedger {
    let owner = Worker::start(WorkerId::new("agent").unwrap());
    let gate = IdempotencyStore::new(store, GateConfig::new(owner)).unwrap();
    ToolLedger::new(gate, config)
}

fn task() -> TaskId {
    task_id("task")
}

/// A call of the task, outside of any step.
fn call() -> ToolCall {
    ToolCall::new("charge", json!({"order": 42})).of_task(&task())
}

/// Counts how often a body ran.
#[derive(Default)]
struct Effects(AtomicU32);

impl Effects {
    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    fn happen(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// A body with one effect and this output.
    fn body(
        &self,
        output: impl Into<ToolOutput>,
    ) -> impl FnOnce(&CallContext<'_>) -> Result<ToolOutput, ToolFailure> {
        |_| {
            self.happen();
            Ok(output.into())
        }
    }
}

fn never(_: &CallContext<'_>) -> Result<ToolOutput, ToolFailure> {
    panic!("the body of a call ran that must not")
}

fn output(answer: &ToolAnswer) -> &[u8] {
    assert!(answer.is_success(), "{answer:?}");
    answer.output().unwrap().as_bytes()
}

/// Begins a call and dies.
fn die_in(ledger: &ToolLedger, call: &ToolCall) {
    let Ok(Started::Run(running)) = ledger.begin(call) else {
        panic!("the call was not to be run");
    };
    std::mem::forget(running);
}

/// Begins a call, dies, and is known to be gone.
fn lose(ground: &Ground, call: &ToolCall) {
    die_in(&ground.ledger(), call);
    ground.clock.advance(LONGER);
}

fn status(ground: &Ground, key: &IdempotencyKey) -> Option<KeyStatus> {
    let entry = ground.another().find_key(key).unwrap();
    entry.map(|entry| entry.summary.view.status)
}

#[test]
fn a_call_runs_once_and_is_replayed_byte_for_byte_in_another_process() {
    let ground = Ground::new();
    let large: Vec<u8> = (0..5 << 20).map(|at: u32| (at % 251) as u8).collect();
    for (tool, bytes) in [
        ("empty", Vec::new()),
        ("binary", vec![0xff, 0, 0xfe, b'\n', 0x80]),
        ("large", large),
    ] {
        let call = ToolCall::new(tool, json!(null)).of_task(&task());
        let (effects, first) = (Effects::default(), ground.ledger());
        let answer = first.execute_or_replay(&call, effects.body(bytes.clone()));
        let answer = answer.unwrap();
        assert!(!answer.replayed);
        assert_eq!(output(&answer), bytes);
        for ledger in [&first, &ground.ledger()] {
            let again = ledger.execute_or_replay(&call, never).unwrap();
            assert!(again.replayed);
            assert_eq!((output(&again), again.executions), (&bytes[..], 1));
        }
        assert_eq!(effects.count(), 1);
        assert_eq!(
            first.stats(),
            LedgerStats {
                executions: 1,
                replays: 1,
                ..LedgerStats::default()
            }
        );
        assert_eq!(first.stats().replay_rate().to_bits(), 0.5_f64.to_bits());
    }
}

#[test]
fn the_intent_is_durable_before_the_body_and_the_outcome_before_the_answer() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    let answer = ledger.execute_or_replay(&call(), |context| {
        let key = IdempotencyKey::new(context.idempotency_key()).unwrap();
        assert_eq!(key, call().key().unwrap());
        assert_eq!(status(&ground, &key), Some(KeyStatus::Pending));
        assert_eq!(context.execution(), Execution::First);
        assert!(!context.is_lost());
        Ok("paid".into())
    });
    let key = answer.unwrap().key;
    assert_eq!(status(&ground, &key), Some(KeyStatus::Succeeded));
}

#[test]
fn the_same_call_twice_in_a_step_runs_twice_and_is_replayed_as_two() {
    let ground = Ground::new();
    let tick = ToolCall::new("tick", json!({"by": 1}));
    let effects = Effects::default();
    let run = |name: &str| {
        let step = ground.ledger().step(&task(), name);
        let answer = |_| {
            let count = || {
                effects.happen();
                Ok(effects.count().to_string().into())
            };
            let answer = step.execute_or_replay(&tick, |_| count()).unwrap();
            (
                String::from_utf8(output(&answer).to_vec()).unwrap(),
                answer.replayed,
            )
        };
        [1, 2, 3].map(answer)
    };
    let said = |words: [&str; 3], replayed| words.map(|word| (word.to_owned(), replayed));
    assert_eq!(run("step-1"), said(["1", "2", "3"], false));
    assert_eq!(run("step-1"), said(["1", "2", "3"], true));
    // Another step has calls of its own.
    assert_eq!(run("step-2"), said(["4", "5", "6"], false));
    assert_eq!(effects.count(), 6);
}

#[test]
fn a_call_that_was_not_made_is_the_next_one_of_its_step() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    let step = ledger.step(&task(), "step");
    let call = ToolCall::new("tick", json!(null));
    let refused = step.execute_or_replay(&call, |_| Err(ToolFailure::not_done("no network")));
    let Err(ToolError::NotDone { reason }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(reason, "no network");
    let effects = Effects::default();
    let first = step.execute_or_replay(&call, effects.body("1")).unwrap();
    let second = step.execute_or_replay(&call, effects.body("2")).unwrap();
    assert_ne!(first.key, second.key);
    let occurrence = |answer: &ToolAnswer| {
        let found = ledger.find(&answer.key).unwrap().unwrap();
        found.summary.occurrence()
    };
    assert_eq!(
        (occurrence(&first), occurrence(&second)),
        (Some(1), Some(2))
    );
    // The first one was begun anew, as if it had never been.
    assert_eq!((first.executions, effects.count()), (1, 2));
    assert_eq!(ledger.stats().not_done, 1);
}

#[test]
fn a_shared_call_is_one_for_all_tasks_and_steps() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    let call = ToolCall::new("fetch", json!("page")).shared();
    let first = ledger.step(&task(), "step-1");
    let second = ledger.step(&task_id("another"), "step-2");
    let effects = Effects::default();
    first
        .execute_or_replay(&call, effects.body("page"))
        .unwrap();
    // However often, also in the step that ran it.
    for step in [&first, &second, &second] {
        let again = step.execute_or_replay(&call, never).unwrap();
        assert!(again.replayed);
    }
    assert_eq!(effects.count(), 1);
    let own = ToolCall::new("fetch", json!("page"));
    assert!(
        !first
            .execute_or_replay(&own, effects.body(""))
            .unwrap()
            .replayed
    );
    assert!(
        !second
            .execute_or_replay(&own, effects.body(""))
            .unwrap()
            .replayed
    );
}

#[test]
fn a_failure_is_kept_and_run_again_or_replayed_as_the_call_says() {
    let ground = Ground::new();
    let effects = Effects::default();
    let fail = |said: &'static str| {
        let effects = &effects;
        move |_: &CallContext<'_>| {
            effects.happen();
            Err(ToolFailure::failed(said, b"\xffpartly".to_vec()))
        }
    };
    let failed = |said: &str| ToolOutcome::failed(said, b"\xffpartly".to_vec());
    let ledger = ground.ledger();
    let first = ledger.execute_or_replay(&call(), fail("one")).unwrap();
    assert_eq!((first.outcome, first.replayed), (failed("one"), false));
    let key = first.key;
    assert_eq!(status(&ground, &key), Some(KeyStatus::Failed));

    let replaying = call().on_failure(OnFailure::Replay);
    let replayed = ground
        .ledger()
        .execute_or_replay(&replaying, never)
        .unwrap();
    assert_eq!((replayed.outcome, replayed.replayed), (failed("one"), true));

    let second = ledger.execute_or_replay(&call(), fail("two")).unwrap();
    assert_eq!((second.outcome, second.executions), (failed("two"), 2));
    let third = ledger.execute_or_replay(&call(), |context| {
        assert_eq!(context.execution(), Execution::AfterFailure);
        assert_eq!(context.executions(), 3);
        assert_eq!(context.idempotency_key(), key.as_str());
        effects.happen();
        Ok("done".into())
    });
    assert_eq!(output(&third.unwrap()), b"done");
    assert_eq!(
        output(&ledger.execute_or_replay(&call(), never).unwrap()),
        b"done"
    );
    assert_eq!(effects.count(), 3);
    assert_eq!(
        ledger.stats(),
        LedgerStats {
            executions: 3,
            replays: 1,
            rerun_failures: 2,
            failures: 2,
            ..LedgerStats::default()
        }
    );
    let replay_all = LedgerConfig::new().on_failure(OnFailure::Replay);
    let other = call().occurrence(2);
    let ledger = ground.ledger_with(replay_all);
    ledger.execute_or_replay(&other, fail("three")).unwrap();
    assert!(ledger.execute_or_replay(&other, never).unwrap().replayed);
}

#[test]
fn an_output_beyond_the_limit_is_handed_back_and_never_run_again() {
    let limits = Limits {
        outcome_bytes: 102,
        ..Limits::default()
    };
    let ground = Ground::with(limits, Duration::from_secs(30));
    let ledger = ground.ledger();
    let effects = Effects::default();
    let fits = ledger.execute_or_replay(&call(), effects.body(vec![1; 100]));
    assert_eq!(output(&fits.unwrap()), [1; 100]);

    let step = ledger.step(&task(), "step");
    let tool = ToolCall::new("dump", json!(null));
    let bytes = vec![0xfe; 101];
    let expected = TooLarge {
        bytes: 101,
        digest: agentos_core::Digest::of(&bytes),
        failure: None,
    };
    let error = step.execute_or_replay(&tool, effects.body(bytes.clone()));
    let Err(ToolError::TooLarge { large, output }) = error else {
        panic!("{error:?}");
    };
    assert_eq!((large, output), (expected.clone(), Some(bytes.into())));
    // It happened: after a restart it is replayed as what it is.
    let step = ground.ledger().step(&task(), "step");
    for occurrence in [1, 2] {
        match (
            occurrence,
            step.execute_or_replay(&tool, effects.body("small")),
        ) {
            (
                1,
                Err(ToolError::TooLarge {
                    large,
                    output: None,
                }),
            ) => assert_eq!(large, expected),
            (2, Ok(answer)) => assert!(!answer.replayed),
            (_, other) => panic!("{other:?}"),
        }
    }
    // A failure that is too large is a failure.
    let other = call().occurrence(2).on_failure(OnFailure::Replay);
    for _ in 0..2 {
        let error = ledger.execute_or_replay(&other, |_| {
            effects.happen();
            Err(ToolFailure::failed("why", vec![0; 101]))
        });
        let Err(ToolError::TooLarge { large, .. }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(large.failure.as_deref(), Some("why"));
    }
    assert_eq!(effects.count(), 4);
    assert_eq!(ledger.stats().too_large, 2);
}

#[test]
fn the_same_own_key_for_another_call_is_a_conflict() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    let pay = |amount: u32| ToolCall::new("pay", json!({"amount": amount})).own_key("order-42");
    let step = ledger.step(&task(), "step-1");
    let effects = Effects::default();
    step.execute_or_replay(&pay(1), effects.body("paid"))
        .unwrap();
    // The key says which call it is, in every step and however often.
    let again = ledger.step(&task(), "step-2");
    for _ in 0..2 {
        assert!(again.execute_or_replay(&pay(1), never).unwrap().replayed);
    }
    let key = pay(1).of_task(&task()).key().unwrap();
    for other in [
        pay(2),
        ToolCall::new("refund", json!({"amount": 1})).own_key("order-42"),
    ] {
        let error = step.execute_or_replay(&other, never);
        let Err(ToolError::Conflict { key: named }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(named, key);
    }
    assert_eq!(effects.count(), 1);
}

#[test]
fn what_is_recorded_and_is_no_outcome_of_a_tool_is_an_error() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    for (occurrence, outcome) in [
        (1, NewOutcome::success("free text")),
        (2, NewOutcome::failure(b"\x01\x00done".to_vec())),
    ] {
        let call = call().occurrence(occurrence);
        let Ok(Started::Run(running)) = ledger.begin(&call) else {
            panic!("the call was not to be run");
        };
        let key = call.key().unwrap();
        let entry = ground.store.find_key(&key).unwrap().unwrap();
        let fence = entry.summary.view.permit.unwrap().fence;
        ground
            .store
            .commit(Commit::new().part(FinishKey { fence, outcome }))
            .unwrap();
        drop(running);
        for error in [
            ledger.execute_or_replay(&call, never).unwrap_err(),
            ledger.find(&key).unwrap_err(),
        ] {
            assert!(matches!(error, ToolError::Malformed { .. }), "{error:?}");
        }
    }
}

#[test]
fn what_can_never_be_a_call_is_refused_before_anything_runs() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    for wrong in [
        ToolCall::new("tool", json!(null)),
        ToolCall::new("", json!(null)).shared(),
        ToolCall::new("t".repeat(129), json!(null)).shared(),
        ToolCall::new("tool", json!(null)).shared().occurrence(0),
    ] {
        let error = ledger.execute_or_replay(&wrong, never).unwrap_err();
        let cause = error.storage();
        assert!(
            matches!(
                cause,
                Some(StorageError::Invalid(_) | StorageError::LimitExceeded(_))
            ),
            "{error:?}"
        );
    }
}

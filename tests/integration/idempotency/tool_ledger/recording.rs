//! How outcomes are recorded: alone, in one commit with a checkpoint, under a lease, and
//! when that fails; and what operators see of it.

use std::fs::File;

use agentos_checkpoints::{CheckpointConfig, CheckpointManager, NewCheckpoint};
use agentos_core::{
    CheckpointType, ClaimRequest, CompleteWork, Finding, Lease, LeaseStorage, NewWorkItem,
    SweepRequest, WorkItemStatus,
};
use agentos_idempotency::{DoubtfulCall, Effect, OnDoubt, Prepared};
use agentos_tests::new_task;
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use super::*;

impl Ground {
    /// Enqueues an item of a task.
    pub(crate) fn enqueue(&self) {
        let item = NewWorkItem::new("work").task(task());
        let commit = Commit::new().part(new_task("task")).part(item);
        self.store.commit(commit).unwrap();
    }

    pub(crate) fn claim(&self) -> Lease {
        let owner = Worker::start(WorkerId::new("agent").unwrap());
        self.store
            .claim(&ClaimRequest::new(owner))
            .unwrap()
            .remove(0)
    }

    fn item_status(&self, lease: &Lease) -> WorkItemStatus {
        let item = self.store.work_item(lease.fence.item).unwrap().unwrap();
        item.summary.status
    }
}

fn checkpoints(store: &Arc<SqliteStore>) -> CheckpointManager {
    let config = CheckpointConfig::new(std::env::temp_dir());
    CheckpointManager::new(Arc::clone(store) as Arc<dyn Storage>, config).unwrap()
}

fn checkpoint() -> NewCheckpoint {
    NewCheckpoint::new(task(), CheckpointType::ToolExecuted)
        .state(&vec![1_u32, 2, 3])
        .unwrap()
}

fn complete(lease: &Lease) -> CompleteWork {
    CompleteWork {
        fence: lease.fence,
        result: None,
    }
}

/// Goal: a whole step costs three syncs when outcome, checkpoint and completion share a
/// commit, and four when they do not. Each group of commits is one transaction and one
/// sync.
#[test]
fn a_whole_step_is_three_commits_or_four() {
    for (together, commits) in [(true, 3), (false, 4)] {
        let ground = Ground::new();
        ground.enqueue();
        let ledger = ledger(Arc::clone(&ground.store), LedgerConfig::new());
        let manager = checkpoints(&ground.store);
        let before = ground.store.counters().groups;

        let lease = ground.claim();
        let step = ledger.step(&task(), "step-1").under(&lease);
        let tool = ToolCall::new("charge", json!({"order": 42}));
        let prepared = step.prepare(&tool, |_| Ok("paid".into())).unwrap();
        let with_the_rest = |commit: Commit| {
            let checkpoint = manager.prepare(checkpoint()).unwrap();
            let commit = commit.part(checkpoint).part(complete(&lease));
            ground.store.commit(commit).unwrap();
        };
        let answer = if together {
            with_the_rest(Commit::under(&lease).part(prepared.part().unwrap()));
            prepared.committed()
        } else {
            let answer = prepared.record().unwrap();
            with_the_rest(Commit::under(&lease));
            answer
        };
        assert_eq!(ground.store.counters().groups - before, commits);
        assert_eq!(output(&answer), b"paid");
        let again = ground.ledger().step(&task(), "step-1");
        assert!(again.execute_or_replay(&tool, never).unwrap().replayed);
        assert_eq!(ground.item_status(&lease), WorkItemStatus::Succeeded);
        assert_eq!(agentos_tests::numbers(&*ground.store, "task"), [1]);
    }
}

#[test]
fn an_outcome_and_a_checkpoint_are_recorded_together_or_not_at_all() {
    let ground = Ground::new();
    ground.enqueue();
    let ledger = ledger(Arc::clone(&ground.store), LedgerConfig::new());
    let manager = checkpoints(&ground.store);
    let step = ledger.step(&task(), "step-1");
    let tool = ToolCall::new("charge", json!(null));
    let prepared = step.prepare(&tool, |_| Ok("paid".into())).unwrap();
    let Prepared::Executed(pending) = &prepared else {
        panic!("{prepared:?}");
    };
    assert!(!pending.is_lost());
    // A part that is refused takes all of them away.
    let refused = Commit::new()
        .part(pending.part())
        .part(manager.prepare(checkpoint()).unwrap())
        .part(agentos_tests::append("nobody", "state"));
    assert!(ground.store.commit(refused).is_err());
    let key = tool
        .clone()
        .of_task(&task())
        .in_step("step-1")
        .key()
        .unwrap();
    assert_eq!(status(&ground, &key), Some(KeyStatus::Pending));
    // The commit can be made again.
    let commit = Commit::new()
        .part(pending.part())
        .part(manager.prepare(checkpoint()).unwrap());
    ground.store.commit(commit).unwrap();
    let answer = prepared.committed();
    assert_eq!((answer.key, answer.replayed), (key.clone(), false));
    assert_eq!(status(&ground, &key), Some(KeyStatus::Succeeded));
    assert_eq!(agentos_tests::numbers(&*ground.store, "task"), [1]);
    // The next identical call is another one.
    assert!(
        !step
            .execute_or_replay(&tool, |_| Ok("2".into()))
            .unwrap()
            .replayed
    );
    assert_eq!(ledger.stats().unknown, 0);
}

#[test]
fn an_outcome_that_nobody_records_leaves_the_call_in_doubt_at_once() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    let step = ledger.step(&task(), "step");
    let tool = ToolCall::new("charge", json!(null));
    drop(step.prepare(&tool, |_| Ok("paid".into())).unwrap());
    let error = step.execute_or_replay(&tool, never).unwrap_err();
    assert!(matches!(error, ToolError::InDoubt { .. }), "{error:?}");
    assert_eq!(ledger.in_doubt(None, 10).unwrap().items.len(), 1);
}

/// Goal: an outcome is recorded only while the lease is held. Method: the lease is taken
/// away while the body runs.
#[test]
fn under_a_lease_that_was_lost_nothing_is_recorded() {
    let ground = Ground::new();
    ground.enqueue();
    let ledger = ground.ledger();
    let lease = ground.claim();
    let step = ledger.step(&task(), "step-1").under(&lease);
    let tool = ToolCall::new("charge", json!(null));
    let error = step.execute_or_replay(&tool, |_| {
        ground.clock.advance(LONGER);
        let swept = ground.store.sweep(&SweepRequest::default()).unwrap();
        assert_eq!(swept.recovered.len(), 1);
        Ok("paid".into())
    });
    let Err(ToolError::Lost { outcome, cause }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(*outcome, ToolOutcome::Done("paid".into()));
    assert!(matches!(cause, StorageError::StaleLease(_)), "{cause:?}");
    let key = tool
        .clone()
        .of_task(&task())
        .in_step("step-1")
        .key()
        .unwrap();
    assert_eq!(status(&ground, &key), Some(KeyStatus::Pending));
    // Under a lease that is gone nothing begins either.
    let other = ToolCall::new("refund", json!(null));
    let error = step.execute_or_replay(&other, never).unwrap_err();
    assert!(
        matches!(error.storage(), Some(StorageError::StaleLease(_))),
        "{error:?}"
    );
    // The next one to have the item finds the call in doubt.
    let step = ground
        .ledger()
        .step(&task(), "step-1")
        .under(&ground.claim());
    let error = step.execute_or_replay(&tool, never).unwrap_err();
    assert!(matches!(error, ToolError::InDoubt { .. }), "{error:?}");
    let effects = Effects::default();
    let retried = step.execute_or_replay(&tool.read_only(), effects.body("paid"));
    assert_eq!(retried.unwrap().executions, 2);
}

/// Goal: what cannot be recorded is handed back, and can be recorded later. Method:
/// somebody else holds the write lock for longer than the store waits.
#[test]
fn an_outcome_that_cannot_be_recorded_is_handed_back_whole() {
    let ground = Ground::with(Limits::default(), Duration::from_millis(100));
    let ledger = ground.ledger();
    let lock = || {
        let file = File::open(ground.directory.path().join("agent.db.wlock")).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        file
    };
    let step = ledger.step(&task(), "step");
    let tool = ToolCall::new("charge", json!(null));
    let mut held = None;
    let error = step.execute_or_replay(&tool, |_| {
        held = Some(lock());
        Ok(b"\xffpaid".to_vec().into())
    });
    let Err(ToolError::Unrecorded(unrecorded)) = error else {
        panic!("{error:?}");
    };
    let paid = ToolOutcome::Done(b"\xffpaid".to_vec().into());
    assert_eq!(unrecorded.outcome(), &paid);
    let cause = unrecorded.cause().storage();
    assert!(
        matches!(cause, Some(StorageError::Busy { .. })),
        "{cause:?}"
    );
    let Err(ToolError::Unrecorded(unrecorded)) = unrecorded.record_again() else {
        panic!("it was recorded past the lock");
    };
    drop(held);
    let answer = unrecorded.record_again().unwrap();
    assert_eq!((&answer.outcome, answer.replayed), (&paid, false));
    let again = ground.ledger().step(&task(), "step");
    assert_eq!(again.execute_or_replay(&tool, never).unwrap().outcome, paid);
    assert_eq!(ledger.stats().unrecorded, 2);

    // Dropped, it is in doubt, and the same call of its step.
    let mut held = None;
    let error = step.execute_or_replay(&tool, |_| {
        held = Some(lock());
        Ok("paid".into())
    });
    drop(held);
    drop(error.unwrap_err());
    let error = step.execute_or_replay(&tool, never).unwrap_err();
    assert!(matches!(error, ToolError::InDoubt { .. }), "{error:?}");
}

#[test]
fn the_history_of_a_task_is_paged_and_says_what_was_run() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    let step = ledger.step(&task(), "step-1");
    let tool = ToolCall::new("tick", json!(null)).effect(Effect::Additive);
    for _ in 0..3 {
        step.execute_or_replay(&tool, |_| Ok("1".into())).unwrap();
    }
    let fail = |_: &CallContext<'_>| Err(ToolFailure::failed("why", ""));
    ledger.execute_or_replay(&call(), fail).unwrap();
    ledger.execute_or_replay(&call(), fail).unwrap();
    let named = ToolCall::new("pay", json!(null)).own_key("order");
    die_in(&ledger, &named.of_task(&task()));
    let other = call().of_task(&task_id("another"));
    ledger.execute_or_replay(&other, |_| Ok("".into())).unwrap();

    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = ledger.history(&task(), after, 2).unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let rows: Vec<_> = seen
        .iter()
        .map(|call| {
            let counts = (call.occurrence(), call.executions());
            (
                call.tool(),
                call.step(),
                counts,
                call.status(),
                call.effect(),
            )
        })
        .collect();
    let step = Some("step-1");
    let adds = Some(Effect::Additive);
    use KeyStatus::{Failed, Pending, Succeeded};
    assert_eq!(
        rows,
        [
            ("tick", step, (Some(1), 1), Succeeded, adds),
            ("tick", step, (Some(2), 1), Succeeded, adds),
            ("tick", step, (Some(3), 1), Succeeded, adds),
            ("charge", None, (Some(1), 2), Failed, None),
            ("pay", None, (None, 1), Pending, None),
        ]
    );
    assert!(seen[4].holder().is_some() && !seen[4].is_in_doubt());
    assert_eq!(seen[0].recorded_bytes(), Some(3));
    assert_eq!(seen[0].begun_at(), seen[0].changed_at());
}

#[test]
fn arguments_are_kept_for_operators_unless_they_are_not_to_be() {
    let ground = Ground::new();
    let secret = json!({"user": "ann", "token": "s3cret"});
    let login = ToolCall::new("login", secret.clone()).of_task(&task());
    let kept = |ledger: &ToolLedger, call: &ToolCall| {
        let answer = ledger.execute_or_replay(call, |_| Ok("".into())).unwrap();
        ledger.find(&answer.key).unwrap().unwrap().arguments
    };
    let ledger = ground.ledger();
    assert_eq!(kept(&ledger, &login), Some(secret));
    let silent = login.clone().occurrence(2).keep_arguments(false);
    assert_eq!(kept(&ledger, &silent), None);
    // Too long to be kept, and recorded nevertheless.
    let long = ToolCall::new("login", json!("x".repeat(1 << 20))).of_task(&task());
    assert_eq!(kept(&ledger, &long), None);
    assert!(ledger.execute_or_replay(&long, never).unwrap().replayed);

    let redact = LedgerConfig::new().redact(|tool, arguments: &mut Value| {
        assert_eq!(tool, "login");
        arguments["token"] = json!("***");
    });
    let ledger = ground.ledger_with(redact);
    assert_eq!(
        kept(&ledger, &login.clone().occurrence(3)),
        Some(json!({"user": "ann", "token": "***"}))
    );
    // What is kept changes nothing about which call it is.
    assert!(ledger.execute_or_replay(&login, never).unwrap().replayed);
    let none = ground.ledger_with(LedgerConfig::new().keep_arguments(false));
    assert_eq!(kept(&none, &login.occurrence(4)), None);
}

/// Goal: who has lost its lease ends no doubt. Method: the next holder of the item dies in
/// the call; then the one who held it before comes to it, late, with a policy that would
/// end the doubt.
#[test]
fn under_a_lease_that_was_lost_no_doubt_is_ended() {
    for policy in [
        OnDoubt::Fail,
        OnDoubt::verify(|_: &DoubtfulCall| Finding::Happened(ToolOutcome::Done("seen".into()))),
        OnDoubt::verify(|_: &DoubtfulCall| Finding::<ToolOutcome>::DidNotHappen),
    ] {
        let ground = Ground::new();
        ground.enqueue();
        let late = ground.claim();
        ground.clock.advance(LONGER);
        let next = ground.claim();
        let tool = ToolCall::new("charge", json!(null)).on_doubt(policy);
        let step = |lease| ground.ledger().step(&task(), "step-1").under(lease);
        let Ok(Started::Run(running)) = step(&next).begin(&tool) else {
            panic!("the call was not to be run");
        };
        std::mem::forget(running);
        ground.clock.advance(LONGER);
        let key = tool.clone().of_task(&task()).in_step("step-1").key();
        let key = key.unwrap();
        let before = ground.store.find_key(&key).unwrap();
        let error = step(&late).execute_or_replay(&tool, never).unwrap_err();
        assert!(
            matches!(error.storage(), Some(StorageError::StaleLease(_))),
            "{error:?}"
        );
        assert_eq!(ground.store.find_key(&key).unwrap(), before);
    }
}

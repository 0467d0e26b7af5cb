//! Exactly one of execute, replay, in flight, in doubt and conflict.

use std::time::Duration;

use agentos_core::{
    Digest, Execution, FencingToken, KeyStatus, NewOutcome, OnDamaged, OnLost, OnRecorded,
    StorageError,
};
use agentos_idempotency::{GateConfig, GateStats, IdempotencyError, IdempotencyStore, Request};
use agentos_tests::{Work, new_worker, task_id};
use rusqlite::Connection;
use serde_json::json;

use super::{
    LEASE, begun_by, clocked, execute, fill, gate, gate_of, in_doubt, in_flight, key, permitted,
    replay, replayed, request,
};
use crate::group_commit::hold_write_lock;

/// Goal: what is there decides the answer, and a replay is what was recorded, with all
/// that was kept.
#[test]
fn each_state_of_a_key_has_one_answer() {
    let (work, clock) = clocked();
    let (first, second) = (gate(&work, "first"), gate(&work, "second"));
    let asked = request("a")
        .task(task_id("no such task"))
        .operation("tool")
        .model("m")
        .keep_request("what was asked")
        .detail(json!({"n": 1}));
    let held = execute(&first, &asked);
    assert_eq!(held.permit().execution, Execution::First);
    assert_eq!(held.permit().owner, *first.owner());
    assert!(!held.is_lost());

    let holder = in_flight(second.begin(&asked).unwrap());
    assert_eq!(holder.owner, *first.owner());
    assert_eq!(holder.fence, held.fence());
    assert_eq!(holder.left, Some(LEASE));
    // The one who executes it is no exception.
    in_flight(first.begin(&asked).unwrap());

    first.finish(held, NewOutcome::success("done")).unwrap();
    let entry = replayed(second.begin(&request("a")).unwrap());
    assert_eq!(entry.outcome.as_deref(), Some(b"done".as_slice()));
    assert_eq!(
        entry.kept_request.as_deref(),
        Some(b"what was asked".as_slice())
    );
    assert_eq!(entry.summary.task, Some(task_id("no such task")));
    assert_eq!(entry.summary.operation.as_deref(), Some("tool"));
    assert_eq!(entry.summary.model.as_deref(), Some("m"));
    assert_eq!(entry.summary.detail, json!({"n": 1}));
    assert_eq!(entry.summary.view.status, KeyStatus::Succeeded);

    // Whatever the state, another request under the same key is a conflict.
    let other = Request::new(key("a"), Digest::of(b"something else"));
    for _ in 0..2 {
        let conflict = second.begin(&other).unwrap_err();
        assert!(
            matches!(
                conflict,
                IdempotencyError::Storage(StorageError::Conflict { .. })
            ),
            "{conflict:?}"
        );
    }

    let gone = new_worker("gone");
    begun_by(&work, &gone, &request("b"));
    in_flight(second.begin(&request("b")).unwrap());
    clock.advance(LEASE);
    let holder = in_doubt(second.begin(&request("b")).unwrap());
    assert_eq!(holder.owner, gone);
    assert_eq!(holder.left, None);
    let again = request("b").on_lost(OnLost::TakeOver);
    let held = execute(&second, &again);
    assert_eq!(held.permit().execution, Execution::TakenOver);
    assert_eq!(held.fence().token, FencingToken::new(2).unwrap());

    let expected = GateStats {
        executions: 1,
        takeovers: 1,
        replays: 1,
        in_flight: 2,
        in_doubt: 1,
        conflicts: 2,
        held: 1,
        ..GateStats::default()
    };
    assert_eq!(second.stats(), expected);
    drop(held);
    assert_eq!(second.stats().held, 0);
}

#[test]
fn a_recorded_outcome_is_made_again_if_asked_for() {
    let (work, _clock) = clocked();
    let gate = gate(&work, "w");
    fill(&gate, &request("a"), "old");
    let again = request("a").on_recorded(OnRecorded::RunAgain);
    let held = execute(&gate, &again);
    assert_eq!(held.permit().execution, Execution::Again);
    // What was recorded is gone with that.
    in_flight(gate.begin(&request("a")).unwrap());
    gate.finish(held, NewOutcome::success("new")).unwrap();
    assert_eq!(replay(&gate, &request("a")), b"new");
}

/// Goal: who only reads waits for no writer. Method: another process, as far as the
/// file knows, holds the write lock all the time, and the store gives up soon.
#[test]
fn what_is_there_is_read_while_somebody_else_writes() {
    let work = Work::configured(|config| config.busy_timeout(Duration::from_millis(50)));
    let gate = gate(&work, "w");
    fill(&gate, &request("recorded"), "done");
    let held = execute(&gate, &request("pending"));
    let doubtful = execute(&gate, &request("doubtful"));
    gate.leave_in_doubt(doubtful).unwrap();

    let lock = hold_write_lock(work.directory());
    assert_eq!(replay(&gate, &request("recorded")), b"done");
    in_flight(gate.begin(&request("pending")).unwrap());
    in_doubt(gate.begin(&request("doubtful")).unwrap());
    let other = Request::new(key("recorded"), Digest::of(b"something else"));
    let conflict = gate.begin(&other).unwrap_err();
    assert!(
        matches!(
            conflict,
            IdempotencyError::Storage(StorageError::Conflict { .. })
        ),
        "{conflict:?}"
    );
    assert!(gate.lookup(&key("recorded")).unwrap().is_some());
    assert_eq!(gate.in_doubt(None, 10).unwrap().items.len(), 1);
    // What must write says that it could not, and nothing was begun.
    let busy = gate.begin(&request("absent")).unwrap_err();
    assert!(
        matches!(busy, IdempotencyError::Storage(StorageError::Busy { .. })),
        "{busy:?}"
    );
    drop(lock);
    assert_eq!(gate.lookup(&key("absent")).unwrap(), None);
    gate.finish(held, NewOutcome::success("late")).unwrap();
}

/// Goal: an earlier start of a worker that runs once at a time is gone, whatever its
/// permit says; of any other nobody knows.
#[test]
fn what_an_earlier_start_left_is_over_at_once_where_only_one_runs() {
    let (work, _clock) = clocked();
    let earlier = new_worker("only");
    let later = new_worker("only");
    assert!(earlier.incarnation < later.incarnation);
    begun_by(&work, &earlier, &request("a"));
    begun_by(&work, &later, &request("b"));

    in_flight(gate_of(&work, later.clone()).begin(&request("a")).unwrap());
    let config = |owner| GateConfig::new(owner).sole_start(true);
    let only = |owner| IdempotencyStore::new(work.storage(), config(owner)).unwrap();
    in_doubt(only(later.clone()).begin(&request("a")).unwrap());
    in_flight(only(new_worker("other")).begin(&request("a")).unwrap());
    in_flight(only(earlier).begin(&request("b")).unwrap());
    in_flight(only(later.clone()).begin(&request("b")).unwrap());
    let taken = request("a").on_lost(OnLost::TakeOver);
    permitted(only(later).begin(&taken).unwrap());
}

#[test]
fn damage_is_refused_or_executed_again_as_asked() {
    let work = Work::fresh();
    let gate = gate(&work, "w");
    fill(&gate, &request("a"), "paid 100");
    let raw = Connection::open(work.store.path()).unwrap();
    let changed = raw
        .execute(
            "UPDATE idempotency_keys SET outcome = CAST('paid 900' AS BLOB)",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    drop(raw);
    let corrupt = gate.begin(&request("a")).unwrap_err();
    assert!(
        matches!(
            corrupt,
            IdempotencyError::Storage(StorageError::Corrupt { .. })
        ),
        "{corrupt:?}"
    );
    let again = request("a").on_damaged(OnDamaged::RunAgain);
    let held = execute(&gate, &again);
    assert_eq!(held.permit().execution, Execution::AfterDamage);
    gate.finish(held, NewOutcome::success("paid 100")).unwrap();
    assert_eq!(replay(&gate, &request("a")), b"paid 100");
    assert_eq!(gate.stats().damaged, 2);
}

#[test]
fn a_configuration_that_can_never_be_right_is_refused() {
    let work = Work::fresh();
    let config = || GateConfig::new(new_worker("w"));
    for bad in [
        config().permit_lease(Duration::from_millis(99)),
        config().permit_lease(Duration::MAX),
        config().poll(Duration::ZERO),
        config().poll(Duration::from_secs(2)),
    ] {
        let error = IdempotencyStore::new(work.storage(), bad.clone()).unwrap_err();
        assert!(
            matches!(error, IdempotencyError::Storage(StorageError::Invalid(_))),
            "{bad:?}: {error:?}"
        );
    }
}

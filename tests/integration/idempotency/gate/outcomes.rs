//! What is recorded, for how long, and what is removed.

use std::thread;
use std::time::Duration;

use agentos_core::Storage as _;
use agentos_core::limits::{TTL_MAX, USED_AT_RESOLUTION};
use agentos_core::{
    Clock as _, Commit, Execution, FencingToken, KeyFilter, KeyStatus, NewOutcome, NewTask,
    OnRecorded, StorageError, TaskStorage as _,
};
use agentos_idempotency::IdempotencyError;
use agentos_tests::{task_id, wait_until};

use super::{clocked, execute, fill, gate, in_flight, key, replay, replayed, request};

const TTL: Duration = Duration::from_secs(10);

/// Goal: an outcome counts until its time to live is over, and not a microsecond
/// longer, with no clean-up in between; then the key can be filled again.
#[test]
fn an_expired_outcome_counts_as_absent_at_once() {
    let (work, clock) = clocked();
    let gate = gate(&work, "w");
    let held = execute(&gate, &request("a"));
    let outcome = |bytes: &str| NewOutcome::success(bytes).ttl(Some(TTL));
    gate.finish(held, outcome("first")).unwrap();
    clock.advance(TTL - Duration::from_micros(1));
    assert_eq!(replay(&gate, &request("a")), b"first");
    clock.advance(Duration::from_micros(1));
    let held = execute(&gate, &request("a"));
    assert_eq!(held.permit().execution, Execution::AfterExpiry);
    assert_eq!(held.fence().token, FencingToken::new(2).unwrap());
    gate.finish(held, outcome("second")).unwrap();
    assert_eq!(replay(&gate, &request("a")), b"second");
    clock.advance(TTL);
    execute(&gate, &request("a"));
}

#[test]
fn an_outcome_without_a_time_to_live_counts_for_ever() {
    let (work, clock) = clocked();
    let gate = gate(&work, "w");
    fill(&gate, &request("a"), "for ever");
    clock.advance(Duration::from_secs(50 * 366 * 86_400));
    assert_eq!(replay(&gate, &request("a")), b"for ever");
}

#[test]
fn a_time_to_live_of_zero_is_an_error_and_the_permit_is_still_held() {
    let (work, _clock) = clocked();
    let gate = gate(&work, "w");
    let held = execute(&gate, &request("a"));
    for ttl in [Duration::ZERO, Duration::from_nanos(999), TTL_MAX * 2] {
        let outcome = NewOutcome::success("x").ttl(Some(ttl));
        let error = gate.record(&held, outcome).unwrap_err();
        assert!(
            matches!(error, IdempotencyError::Storage(StorageError::Invalid(_))),
            "{error:?}"
        );
    }
    in_flight(gate.begin(&request("a")).unwrap());
    gate.finish(held, NewOutcome::success("x")).unwrap();
    assert_eq!(replay(&gate, &request("a")), b"x");
}

#[test]
fn what_is_too_large_is_refused_with_its_size_and_the_permit_is_still_held() {
    let (work, _clock) = clocked();
    let gate = gate(&work, "w");
    let held = execute(&gate, &request("a"));
    let limit = work.storage().limits().outcome_bytes;
    let error = gate.record(&held, NewOutcome::success(vec![7; limit + 1]));
    let IdempotencyError::Storage(StorageError::LimitExceeded(exceeded)) = error.unwrap_err()
    else {
        panic!("it was taken");
    };
    assert_eq!(exceeded.value, limit as u64 + 1);
    gate.finish(held, NewOutcome::success(vec![7; limit]))
        .unwrap();
    assert_eq!(replay(&gate, &request("a")), vec![7; limit]);
}

#[test]
fn an_empty_outcome_is_an_outcome() {
    let (work, _clock) = clocked();
    let gate = gate(&work, "w");
    fill(&gate, &request("empty"), "");
    let entry = replayed(gate.begin(&request("empty")).unwrap());
    assert_eq!(entry.outcome, Some(Vec::new()));
    assert_eq!(entry.summary.outcome_bytes, Some(0));
    let held = execute(&gate, &request("failed"));
    gate.finish(held, NewOutcome::failure("")).unwrap();
    let asked = request("failed").on_recorded(OnRecorded::Replay);
    assert_eq!(replay(&gate, &asked), b"");
}

#[test]
fn a_failure_is_kept_as_one_and_replayed_only_if_asked_for() {
    let (work, _clock) = clocked();
    let gate = gate(&work, "w");
    let held = execute(&gate, &request("a"));
    gate.finish(held, NewOutcome::failure("exit 1")).unwrap();
    let asked = request("a").on_recorded(OnRecorded::Replay);
    let entry = replayed(gate.begin(&asked).unwrap());
    assert_eq!(entry.summary.view.status, KeyStatus::Failed);
    assert_eq!(entry.outcome.as_deref(), Some(b"exit 1".as_slice()));
    let held = execute(&gate, &request("a"));
    assert_eq!(held.permit().execution, Execution::AfterFailure);
    gate.finish(held, NewOutcome::success("0")).unwrap();
    assert_eq!(replay(&gate, &asked), b"0");
}

/// Goal: an outcome and whatever else belongs to a step are one commit.
#[test]
fn an_outcome_is_recorded_with_the_commit_of_its_step_or_not_at_all() {
    let (work, _clock) = clocked();
    let gate = gate(&work, "w");
    let held = execute(&gate, &request("a"));
    let step = |task: &str| {
        Commit::new()
            .part(NewTask::new(task_id(task), "test"))
            .part(gate.prepare_finish(&held, NewOutcome::success("done")))
    };
    let other = NewTask::new(task_id("taken"), "other");
    work.store.create_task(other).unwrap();
    let error = work.store.commit(step("taken")).unwrap_err();
    assert!(matches!(error, StorageError::Conflict { .. }), "{error:?}");
    in_flight(gate.begin(&request("a")).unwrap());
    work.store.commit(step("free")).unwrap();
    assert!(work.store.task(&task_id("free")).unwrap().is_some());
    assert_eq!(replay(&gate, &request("a")), b"done");
    // It is recorded once.
    work.store.commit(step("free")).unwrap_err();
}

#[test]
fn what_did_nothing_is_as_if_it_had_never_been_begun() {
    let (work, _clock) = clocked();
    let gate = gate(&work, "w");
    let held = execute(&gate, &request("a"));
    gate.abandon(held).unwrap();
    assert_eq!(gate.lookup(&key("a")).unwrap(), None);
    let held = execute(&gate, &request("a"));
    assert_eq!(held.permit().execution, Execution::First);
}

/// Goal: what is removed is what fits and has an outcome, in any number, and a late
/// finisher of a removed key does not make it again.
#[test]
fn finished_keys_are_removed_and_pending_ones_stay() {
    let (work, clock) = clocked();
    let gate = gate(&work, "w");
    thread::scope(|scope| {
        for thread in 0..8 {
            let gate = &gate;
            scope.spawn(move || {
                for number in (0..1200).filter(|number| number % 8 == thread) {
                    let operation = if number % 2 == 0 { "even" } else { "odd" };
                    let asked = request(&format!("key {number}")).operation(operation);
                    fill(gate, &asked, "x");
                }
            });
        }
    });
    let pending = execute(&gate, &request("pending").operation("even"));
    let doubtful = execute(&gate, &request("doubtful").operation("even"));
    gate.leave_in_doubt(doubtful).unwrap();

    let before = KeyFilter {
        changed_before: Some(clock.wall()),
        ..KeyFilter::default()
    };
    assert_eq!(gate.remove(&before).unwrap(), 0);
    let even = KeyFilter {
        operation: Some("even".into()),
        ..KeyFilter::default()
    };
    assert_eq!(gate.remove(&even).unwrap(), 600);
    assert_eq!(gate.remove(&even).unwrap(), 0);
    assert_eq!(gate.lookup(&key("key 0")).unwrap(), None);
    assert!(gate.lookup(&key("key 1")).unwrap().is_some());
    in_flight(gate.begin(&request("pending")).unwrap());
    assert_eq!(gate.in_doubt(None, 10).unwrap().items.len(), 1);
    gate.finish(pending, NewOutcome::success("x")).unwrap();
    assert_eq!(gate.remove(&KeyFilter::default()).unwrap(), 601);
}

/// Goal: recency costs no write of its own, and is as exact as it promises.
#[test]
fn uses_are_noted_when_the_last_known_one_is_old_and_written_with_others() {
    let (work, clock) = clocked();
    let gate = gate(&work, "w");
    for name in ["a", "b", "c"] {
        fill(&gate, &request(name), "x");
    }
    let recorded = clock.wall();
    let used = |name| {
        let entry = gate.lookup(&key(name)).unwrap().unwrap();
        entry.summary.used_at
    };
    let touch = |name| {
        let entry = replayed(gate.begin(&request(name)).unwrap());
        gate.touch(entry.summary.id, entry.summary.used_at);
    };
    clock.advance(USED_AT_RESOLUTION - Duration::from_micros(1));
    touch("a");
    clock.advance(Duration::from_micros(1));
    touch("b");
    let groups = work.store.counters().groups;
    // It is kept until something is written anyway.
    assert_eq!(used("b"), recorded);
    fill(&gate, &request("d"), "x");
    assert_eq!(work.store.counters().groups, groups + 2);
    assert_eq!((used("a"), used("b")), (recorded, clock.wall()));
    // Or until the gate ends.
    touch("c");
    assert_eq!(used("c"), recorded);
    drop(gate);
    let gate = super::gate(&work, "w");
    let entry = gate.lookup(&key("c")).unwrap().unwrap();
    assert_eq!(entry.summary.used_at, clock.wall());
}

#[test]
fn many_uses_are_written_together_by_a_thread() {
    let (work, clock) = clocked();
    let gate = gate(&work, "w");
    for number in 0..256 {
        fill(&gate, &request(&format!("key {number}")), "x");
    }
    clock.advance(USED_AT_RESOLUTION);
    let groups = work.store.counters().groups;
    for number in 0..256 {
        let entry = replayed(gate.begin(&request(&format!("key {number}"))).unwrap());
        gate.touch(entry.summary.id, entry.summary.used_at);
    }
    wait_until("the uses are written", || {
        work.store.counters().groups == groups + 1
    });
    let entry = gate.lookup(&key("key 255")).unwrap().unwrap();
    assert_eq!(entry.summary.used_at, clock.wall());
}

#[test]
fn the_history_of_a_task_is_read_in_pages() {
    let (work, _clock) = clocked();
    let gate = gate(&work, "w");
    for number in 0..5 {
        let task = task_id(if number == 2 { "other" } else { "mine" });
        let asked = request(&format!("{number}")).task(task);
        fill(&gate, &asked, "x");
    }
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = gate.history(&task_id("mine"), after, 3).unwrap();
        keys.extend(page.items.iter().map(|key| key.key.to_string()));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(keys, ["0", "1", "3", "4"]);
}

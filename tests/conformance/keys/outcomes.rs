//! What is recorded, for how long it counts, and what it is committed with.

use agentos_core::limits::TTL_MAX;
use agentos_core::{
    AuditLine, CompleteWork, ManualClock, PartOutcome, RemoveKeys, SetTaskStatus, TaskStatus,
    TouchKeys, WorkItemStatus,
};
use agentos_tests::{append, new_task, numbers, task_id};

use super::*;

const MICROSECOND: Duration = Duration::from_micros(1);

pub(crate) fn an_empty_outcome_is_an_outcome(store: &dyn Storage, _: &ManualClock) {
    record(store, "one", NewOutcome::success(""));
    let found = replays(store, &begin("two"));
    assert_eq!(found.outcome, Some(Vec::new()));
    assert_eq!(found.summary.outcome_bytes, Some(0));
    let permit = executes(store, &run_again("two"));
    done(store, finish(&permit, NewOutcome::failure("")));
    assert_eq!(status(store), KeyStatus::Failed);
    assert_eq!(entry(store, "k").unwrap().outcome, Some(Vec::new()));
}

/// Goal: the largest outcome is kept to the last byte; one beyond it is refused by
/// its name, and the execution goes on.
pub(crate) fn an_outcome_has_a_bound(store: &dyn Storage, _: &ManualClock) {
    let limit = store.limits().outcome_bytes;
    let permit = first(store, "one");
    let before = everything(store);
    let too_much = store.commit(finish(&permit, NewOutcome::success(vec![7; limit + 1])).into());
    let Err(StorageError::LimitExceeded(exceeded)) = too_much else {
        panic!("{too_much:?}")
    };
    assert_eq!(exceeded.name, "outcome bytes");
    assert_eq!(
        (exceeded.limit, exceeded.value),
        (limit as u64, limit as u64 + 1)
    );
    assert_eq!(everything(store), before);
    let mut bytes = vec![7; limit];
    bytes[limit - 1] = 8;
    done(store, finish(&permit, NewOutcome::success(bytes.clone())));
    // Not by `assert_eq`, which would print them.
    assert!(replayed(store, &begin("two")) == bytes);
}

pub(crate) fn an_expired_outcome_counts_as_absent_at_once(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let recorded = store.now();
    let one = first(store, "one");
    let outcome = NewOutcome::success("old").ttl(Some(LEASE));
    done(store, finish(&one, outcome));
    let found = entry(store, "k").unwrap();
    assert_eq!(found.summary.expires_at, Some(recorded.plus(LEASE)));
    // One microsecond before the end it is there, at the end it is not.
    clock.advance(LEASE - MICROSECOND);
    assert_eq!(replayed(store, &begin("two")), b"old");
    assert!(!view(store).expired);
    clock.advance(MICROSECOND);
    assert!(view(store).expired);
    let two = executes(store, &begin("two"));
    assert_eq!(two.execution, Execution::AfterExpiry);
    follows(&two, &one);
    let pending = view(store);
    assert_eq!(
        (pending.status, pending.expired),
        (KeyStatus::Pending, false)
    );
    in_flight(store, &begin("three"));
    done(store, finish(&two, NewOutcome::success("new")));
    assert_eq!(entry(store, "k").unwrap().summary.expires_at, None);
    clock.advance(1000 * LEASE);
    assert_eq!(replayed(store, &begin("three")), b"new");
}

/// A time to live outlasts a reboot, and follows no other clock than people's.
pub(crate) fn expiry_goes_by_the_wall_clock(store: &dyn Storage, clock: &ManualClock) {
    let recorded = store.now();
    record(store, "one", NewOutcome::failure("x").ttl(Some(LEASE)));
    let asked = BeginKey {
        on_recorded: OnRecorded::Replay,
        ..begin("two")
    };
    clock.advance_boot(100 * LEASE);
    assert_eq!(replayed(store, &asked), b"x");
    clock.reboot();
    assert_eq!(replayed(store, &asked), b"x");
    clock.set(recorded.plus(LEASE));
    assert!(view(store).expired);
    // A clock that goes back finds it again, as long as nobody ran it anew.
    clock.set(recorded);
    assert_eq!(replayed(store, &asked), b"x");
    clock.set(recorded.plus(PAST_LEASE));
    assert_eq!(executes(store, &asked).execution, Execution::AfterExpiry);
}

pub(crate) fn a_time_to_live_of_zero_is_refused(store: &dyn Storage, _: &ManualClock) {
    let permit = first(store, "one");
    let before = everything(store);
    for ttl in [
        Duration::ZERO,
        Duration::from_nanos(999),
        TTL_MAX + MICROSECOND,
        Duration::MAX,
    ] {
        let outcome = NewOutcome::success("x").ttl(Some(ttl));
        let answer = store.commit(finish(&permit, outcome).into());
        assert!(
            matches!(answer, Err(StorageError::Invalid(_))),
            "{answer:?}"
        );
        assert_eq!(everything(store), before);
    }
    let outcome = NewOutcome::success("x").ttl(Some(TTL_MAX));
    done(store, finish(&permit, outcome));
    assert_eq!(replayed(store, &begin("two")), b"x");
}

/// Goal: a step's outcomes, its checkpoint and its completion are one commit.
/// Method: one that is whole, and the same with a last part that fails.
pub(crate) fn outcomes_checkpoint_and_completion_are_one_commit(
    store: &dyn Storage,
    _: &ManualClock,
) {
    done(store, new_task("a"));
    let lease = leased(store, "w");
    let permits = ["k", "another"].map(|name| {
        let asked = BeginKey {
            key: key(name),
            ..begin_under(&lease, "w")
        };
        executes(store, &asked)
    });
    let step = || {
        Commit::under(&lease)
            .part(finish(&permits[0], NewOutcome::success("answer")))
            .part(finish(&permits[1], NewOutcome::failure("exit code 1")))
            .part(append("a", "done"))
            .part(CompleteWork {
                fence: lease.fence,
                result: None,
            })
            .part(SetTaskStatus::new(task_id("a"), TaskStatus::Running))
    };
    let before = everything(store);
    let broken = step().part(AuditLine::new(task_id("absent"), "noted"));
    assert!(matches!(
        store.commit(broken),
        Err(StorageError::NotFound { what: "task", .. })
    ));
    assert_eq!(everything(store), before);
    // Also when the part that fails is that of a key.
    let unknown = KeyFence {
        key: agentos_core::KeyId::new(4096).unwrap(),
        ..permits[0].fence
    };
    let outcome = NewOutcome::success("x");
    let broken = step().part(FinishKey {
        fence: unknown,
        outcome,
    });
    assert_eq!(stale(store.commit(broken)).fence, unknown);
    assert_eq!(everything(store), before);
    let receipt = done(store, step());
    assert_eq!(receipt.outcomes[0], PartOutcome::KeyFinished);
    assert_eq!(receipt.outcomes[1], PartOutcome::KeyFinished);
    assert_eq!(receipt.outcomes[3], PartOutcome::WorkCompleted);
    assert_eq!(numbers(store, "a"), [1]);
    assert_eq!(status(store), KeyStatus::Succeeded);
    assert_eq!(
        entry(store, "another").unwrap().summary.view.status,
        KeyStatus::Failed
    );
    let item = store.work_item(lease.fence.item).unwrap().unwrap();
    assert_eq!(item.summary.status, WorkItemStatus::Succeeded);
    assert_eq!(replayed(store, &begin("two")), b"answer");
}

/// A later part sees what an earlier one did.
pub(crate) fn parts_of_keys_see_each_other(store: &dyn Storage, _: &ManualClock) {
    let permit = first(store, "one");
    let remove = RemoveKeys {
        keys: vec![permit.fence],
    };
    let touch = TouchKeys {
        keys: vec![permit.fence.key],
    };
    let receipt = done(
        store,
        Commit::new()
            .part(finish(&permit, NewOutcome::success("x")))
            .part(touch)
            .part(remove),
    );
    let expected = [
        PartOutcome::KeyFinished,
        PartOutcome::KeysTouched,
        PartOutcome::KeysRemoved(1),
    ];
    assert_eq!(receipt.outcomes, expected);
    assert_eq!(entry(store, "k"), None);
    // Twice in one commit is once too often.
    let permit = first(store, "one");
    let twice = Commit::new()
        .part(finish(&permit, NewOutcome::success("x")))
        .part(finish(&permit, NewOutcome::success("y")));
    stale(store.commit(twice));
    assert_eq!(status(store), KeyStatus::Pending);
}

//! Calls that others make at the same time, took over, or keep beside those of the ledger.

use agentos_core::{BeginKey, Begun};

use super::*;

/// Goal: who waited takes what the other one recorded, also a failure, and runs nothing.
#[test]
fn who_waits_for_another_gets_what_that_one_recorded() {
    let ground = Ground::new();
    for fails in [false, true] {
        let call = call().occurrence(1 + u64::from(fails));
        let (first, second) = (ground.ledger(), ground.ledger());
        let not_waiting = call.clone().wait(Duration::ZERO);
        let answer = std::thread::scope(|scope| {
            let mut waiter = None;
            let answer = first.execute_or_replay(&call, |_| {
                let refused = second.execute_or_replay(&not_waiting, never);
                assert!(
                    matches!(refused, Err(ToolError::InFlight { .. })),
                    "{refused:?}"
                );
                waiter = Some(scope.spawn(|| second.execute_or_replay(&call, never)));
                wait_until("another one waits", || second.gate().stats().waits == 1);
                match fails {
                    false => Ok("done".into()),
                    true => Err(ToolFailure::failed("why", "")),
                }
            });
            let waited = waiter.unwrap().join().unwrap().unwrap();
            assert!(waited.replayed);
            assert_eq!(waited.outcome, answer.unwrap().outcome);
            waited
        });
        assert_eq!(answer.is_success(), !fails);
        assert_eq!(second.stats().in_flight, 1);
    }
}

#[test]
fn of_many_callers_in_many_stores_one_runs_the_call() {
    let ground = Ground::new();
    let effects = Effects::default();
    let ledgers: Vec<ToolLedger> = (0..4).map(|_| ground.ledger()).collect();
    std::thread::scope(|scope| {
        for ledger in ledgers.iter().flat_map(|ledger| [ledger; 4]) {
            scope.spawn(|| {
                for occurrence in 1..=10 {
                    let call = call().occurrence(occurrence);
                    let answer = ledger.execute_or_replay(&call, effects.body("once"));
                    assert_eq!(output(&answer.unwrap()), b"once");
                }
            });
        }
    });
    assert_eq!(effects.count(), 10);
    let sum = |count: fn(LedgerStats) -> u64| -> u64 {
        ledgers.iter().map(|ledger| count(ledger.stats())).sum()
    };
    assert_eq!(sum(|stats| stats.executions), 10);
    assert_eq!(sum(|stats| stats.replays), 150);
}

/// Goal: who holds an old token, and what it may not do.
#[test]
fn a_late_finisher_is_refused_and_keeps_its_output() {
    let ground = Ground::new();
    let late = ground.ledger();
    let prepared = late.prepare(&call(), |_| Ok("late".into())).unwrap();
    ground.clock.advance(LONGER);
    // Somebody who says that repeating it is safe takes it over.
    let effects = Effects::default();
    let taken = ground
        .ledger()
        .execute_or_replay(&call().idempotent(), effects.body("new"));
    assert_eq!(taken.unwrap().executions, 2);
    let error = prepared.record().unwrap_err();
    let ToolError::Lost { outcome, cause } = error else {
        panic!("{error:?}");
    };
    assert_eq!(*outcome, ToolOutcome::Done("late".into()));
    assert!(matches!(cause, StorageError::StaleLease(_)), "{cause:?}");
    assert_eq!(late.stats().lost, 1);
    let replayed = late.execute_or_replay(&call(), never).unwrap();
    assert_eq!(output(&replayed), b"new");
}

/// The ledger's keys are its own: what the gate begins otherwise is not in its lists.
#[test]
fn keys_of_others_are_not_in_the_lists_of_the_ledger() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    let key = IdempotencyKey::new("another").unwrap();
    let owner = Worker::start(WorkerId::new("other").unwrap());
    let begin = BeginKey {
        task: Some(task()),
        ..BeginKey::new(key.clone(), agentos_core::Digest::of(b"x"), owner)
    };
    assert!(matches!(
        ground.store.begin_key(&begin).unwrap(),
        Begun::Execute(_)
    ));
    lose(&ground, &call());
    assert_eq!(ledger.gate().in_doubt(None, 10).unwrap().items.len(), 2);
    assert_eq!(ledger.in_doubt(None, 10).unwrap().items.len(), 1);
    assert_eq!(ledger.history(&task(), None, 10).unwrap().items.len(), 1);
    assert_eq!(ledger.find(&key).unwrap(), None);
}

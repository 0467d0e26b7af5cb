//! The fence of a permit: what is done under one that is over is not done at all,
//! and is told how things stand.

use agentos_core::{
    AbandonKey, AuditLine, FencingToken, KeyId, ManualClock, Part, PartOutcome, RemoveKeys,
    Resolution, ResolveKey,
};
use agentos_tests::{new_task, task_id};

use super::*;

/// A permit that was lost in each way that there is, and what is said of it. The
/// loser's key is `k`.
type Loss = (
    &'static str,
    fn(&dyn Storage, &ManualClock, &Permit),
    // State of the key afterwards, and who executes it.
    Option<KeyStatus>,
    Option<&'static str>,
);

const LOSSES: [Loss; 9] = [
    (
        "taken over",
        |store, clock, _| {
            clock.advance(PAST_LEASE);
            let permit = executes(store, &take_over("successor"));
            assert_eq!(permit.execution, Execution::TakenOver);
        },
        Some(KeyStatus::Pending),
        Some("successor"),
    ),
    (
        "taken over after a reboot",
        |store, clock, _| {
            clock.reboot();
            executes(store, &take_over("successor"));
        },
        Some(KeyStatus::Pending),
        Some("successor"),
    ),
    (
        "taken over by itself",
        |store, clock, _| {
            clock.advance(PAST_LEASE);
            executes(store, &take_over("loser"));
        },
        Some(KeyStatus::Pending),
        Some("loser"),
    ),
    (
        "taken over and finished",
        |store, clock, _| {
            clock.advance(PAST_LEASE);
            let permit = executes(store, &take_over("successor"));
            done(store, finish(&permit, NewOutcome::success("theirs")));
        },
        Some(KeyStatus::Succeeded),
        None,
    ),
    (
        "finished by itself",
        |store, _, permit| drop(done(store, finish(permit, NewOutcome::failure("mine")))),
        Some(KeyStatus::Failed),
        None,
    ),
    (
        "abandoned",
        |store, _, permit| {
            let fence = permit.fence;
            done(store, AbandonKey { fence });
        },
        None,
        None,
    ),
    (
        "abandoned, and begun anew by another",
        |store, _, permit| {
            let fence = permit.fence;
            done(store, AbandonKey { fence });
            first(store, "successor");
        },
        None,
        None,
    ),
    (
        "removed, and begun anew by itself",
        |store, _, permit| {
            done(store, finish(permit, NewOutcome::success("mine")));
            let keys = vec![permit.fence];
            done(store, RemoveKeys { keys });
            first(store, "loser");
        },
        None,
        None,
    ),
    (
        "resolved",
        |store, _, permit| {
            done(store, doubt(permit));
            done(
                store,
                ResolveKey {
                    key: permit.key.clone(),
                    fence: permit.fence,
                    resolution: Resolution::Happened(NewOutcome::success("found out")),
                    reason: "looked".into(),
                    sole_start: None,
                },
            );
        },
        Some(KeyStatus::Succeeded),
        None,
    ),
];

/// What a holder does with its permit.
fn deeds(permit: &Permit) -> [Part; 4] {
    [
        finish(permit, NewOutcome::success("late")).into(),
        finish(permit, NewOutcome::failure("")).into(),
        AbandonKey {
            fence: permit.fence,
        }
        .into(),
        doubt(permit).into(),
    ]
}

fn clear(store: &dyn Storage, clock: &ManualClock) {
    clock.advance(PAST_LEASE);
    let asked = BeginKey {
        on_recorded: OnRecorded::RunAgain,
        ..take_over("clearer")
    };
    let fence = executes(store, &asked).fence;
    done(store, AbandonKey { fence });
    assert_eq!(all_keys(store), []);
}

/// Goal: who lost its permit, in whatever way, can change nothing under it. Method:
/// for each way and each deed, alone and among other parts; what the store shows is
/// the same before and after.
pub(crate) fn a_late_finisher_changes_nothing(store: &dyn Storage, clock: &ManualClock) {
    done(store, new_task("a"));
    for (how, lose, status, owner) in LOSSES {
        let permit = first(store, "loser");
        lose(store, clock, &permit);
        let before = everything(store);
        for deed in deeds(&permit) {
            let refusal = stale(store.commit(deed.clone().into()));
            assert_eq!(refusal.fence, permit.fence, "{how}");
            assert_eq!(refusal.status, status, "{how}");
            assert_eq!(refusal.owner, owner.map(worker), "{how}");
            let newest = status.map(|_| {
                let newest = permit.fence.token.get();
                newest + i64::from(how.starts_with("taken over"))
            });
            assert_eq!(refusal.newest.map(FencingToken::get), newest, "{how}");
            let among_others = Commit::new()
                .part(AuditLine::new(task_id("a"), "noted"))
                .part(deed)
                .part(NewWorkItem::new("page"));
            assert_eq!(stale(store.commit(among_others)), refusal, "{how}");
        }
        let renewed = store.renew_keys(&[permit.fence], LEASE).unwrap();
        assert_eq!(renewed.len(), 1);
        let refusal = renewed[0].clone().unwrap_err();
        assert_eq!(
            (refusal.fence, refusal.status),
            (permit.fence, status),
            "{how}"
        );
        assert_eq!(everything(store), before, "{how}");
        clear(store, clock);
    }
}

/// Each deed goes through for who has the permit.
pub(crate) fn who_has_the_permit_may(store: &dyn Storage, clock: &ManualClock) {
    for (deed, outcome) in [
        (0, PartOutcome::KeyFinished),
        (1, PartOutcome::KeyFinished),
        (2, PartOutcome::KeyAbandoned),
        (3, PartOutcome::KeyInDoubt),
    ] {
        let permit = first(store, "one");
        let [part, ..] = &mut deeds(&permit)[deed..] else {
            unreachable!()
        };
        assert_eq!(done(store, part.clone()).outcomes, [outcome]);
        if deed == 2 {
            assert_eq!(entry(store, "k"), None);
        } else {
            clear(store, clock);
        }
    }
}

/// Nobody else executes it: there is nothing to protect.
pub(crate) fn a_permit_that_ran_out_and_was_not_taken_may_still_finish(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let permit = first(store, "one");
    clock.advance(100 * LEASE);
    in_doubt(store, &begin("two"));
    done(store, finish(&permit, NewOutcome::success("late")));
    assert_eq!(replayed(store, &begin("two")), b"late");
    assert_eq!(doubts(store), []);
}

/// Goal: a token of a key is never given again, whatever becomes of the key, and the
/// number of a key that was removed never fits another one.
pub(crate) fn tokens_grow_and_numbers_are_given_once(store: &dyn Storage, clock: &ManualClock) {
    let mut seen = std::collections::BTreeSet::new();
    let mut last: Option<Permit> = None;
    let mut given = |permit: Permit, anew: bool| {
        assert!(
            seen.insert(permit.fence),
            "{:?} was given twice",
            permit.fence
        );
        if let (Some(last), false) = (&last, anew) {
            follows(&permit, last);
        } else if let Some(last) = &last {
            assert_ne!(permit.fence.key, last.fence.key);
            assert_eq!(permit.fence.token.get(), 1);
        }
        last = Some(permit.clone());
        permit
    };
    for _ in 0..3 {
        let permit = given(first(store, "one"), true);
        done(store, finish(&permit, NewOutcome::failure("")));
        let permit = given(executes(store, &begin("two")), false);
        clock.advance(PAST_LEASE);
        let permit_again = given(executes(store, &take_over("one")), false);
        stale(store.commit(finish(&permit, NewOutcome::success("")).into()));
        let outcome = NewOutcome::success("").ttl(Some(SECOND));
        done(store, finish(&permit_again, outcome));
        clock.advance(SECOND);
        let permit = given(executes(store, &begin("two")), false);
        done(store, finish(&permit, NewOutcome::success("")));
        let permit = given(executes(store, &run_again("two")), false);
        // Gone in either of the ways that there are.
        let fence = permit.fence;
        done(store, AbandonKey { fence });
        let permit = given(first(store, "three"), true);
        done(store, finish(&permit, NewOutcome::success("")));
        let keys = vec![permit.fence];
        let receipt = done(store, RemoveKeys { keys });
        assert_eq!(receipt.outcomes, [PartOutcome::KeysRemoved(1)]);
    }
    let other = executes(store, &begin_of("another", worker("one")));
    given(other, true);
}

pub(crate) fn an_abandoned_key_was_never_begun(store: &dyn Storage, _: &ManualClock) {
    let permit = record(store, "one", NewOutcome::failure("no"));
    let again = executes(store, &begin("two"));
    follows(&again, &permit);
    let receipt = done(store, AbandonKey { fence: again.fence });
    assert_eq!(receipt.outcomes, [PartOutcome::KeyAbandoned]);
    assert_eq!(entry(store, "k"), None, "what was recorded before is gone");
    assert_eq!(all_keys(store), []);
    let other = BeginKey {
        request: Digest::of(b"another"),
        ..begin("two")
    };
    assert_eq!(executes(store, &other).execution, Execution::First);
}

/// A fence of a key that is not there, and of a token that was not given yet.
pub(crate) fn a_permit_that_never_was_is_none(store: &dyn Storage, _: &ManualClock) {
    let permit = first(store, "one");
    let never = |key: KeyId, token: i64| Permit {
        fence: KeyFence {
            key,
            token: FencingToken::new(token).unwrap(),
        },
        ..permit.clone()
    };
    let before = everything(store);
    let unknown = never(KeyId::new(4096).unwrap(), 1);
    let early = never(permit.fence.key, 2);
    for deed in deeds(&unknown) {
        let expected = StalePermit {
            fence: unknown.fence,
            status: None,
            newest: None,
            owner: None,
        };
        assert_eq!(stale(store.commit(deed.into())), expected);
    }
    for deed in deeds(&early) {
        let expected = StalePermit {
            fence: early.fence,
            status: Some(KeyStatus::Pending),
            newest: Some(permit.fence.token),
            owner: Some(worker("one")),
        };
        assert_eq!(stale(store.commit(deed.into())), expected);
    }
    assert_eq!(everything(store), before);
}

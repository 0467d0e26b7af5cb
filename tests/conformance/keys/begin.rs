//! What is answered when an execution is asked for.

use std::sync::Mutex;

use agentos_core::limits::{KEPT_REQUEST_BYTES_MAX, LEASE_MAX, LEASE_MIN, NAME_BYTES_MAX};
use agentos_core::{FencingToken, ManualClock, OnDamaged};
use agentos_tests::task_id;
use serde_json::json;

use super::*;

pub(crate) fn a_first_execution_is_pending_under_a_permit(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    assert_eq!(entry(store, "k"), None);
    let begin = BeginKey {
        task: Some(task_id("no such task")),
        operation: Some("search".into()),
        model: Some("m-1".into()),
        kept_request: Some(b"\0\xffwhat was asked".to_vec()),
        detail: json!({"why": [1, "é"]}),
        ..begin("one")
    };
    let now = store.now();
    let permit = executes(store, &begin);
    assert_eq!(permit.key, key("k"));
    assert_eq!(permit.owner, worker("one"));
    assert_eq!(permit.under, None);
    assert_eq!(permit.execution, Execution::First);
    assert_eq!(permit.fence.token, FencingToken::new(1).unwrap());
    assert_eq!(permit.deadline, store.boot_now().plus(LEASE));
    assert_eq!(permit.expires_at, now.plus(LEASE));
    clock.advance(SECOND);
    let holder = PermitHolder {
        fence: permit.fence,
        owner: worker("one"),
        under: None,
        since: now,
        until: now.plus(LEASE),
        left: Some(LEASE - SECOND),
    };
    let expected = KeySummary {
        id: permit.fence.key,
        key: key("k"),
        view: KeyView {
            status: KeyStatus::Pending,
            token: permit.fence.token,
            request: request(),
            expired: false,
            permit: Some(holder),
        },
        task: Some(task_id("no such task")),
        operation: Some("search".into()),
        model: Some("m-1".into()),
        detail: json!({"why": [1, "é"]}),
        token: permit.fence.token,
        created_at: now,
        updated_at: now,
        used_at: now,
        expires_at: None,
        outcome_bytes: None,
    };
    assert_eq!(all_keys(store), std::slice::from_ref(&expected));
    let entry = entry(store, "k").unwrap();
    assert_eq!(entry.summary, expected);
    assert_eq!(entry.kept_request.as_deref(), begin.kept_request.as_deref());
    assert_eq!(entry.outcome, None);
}

pub(crate) fn who_comes_second_is_told_that_it_is_in_flight(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let since = store.now();
    let permit = first(store, "one");
    clock.advance(3 * SECOND);
    let expected = PermitHolder {
        fence: permit.fence,
        owner: worker("one"),
        under: None,
        since,
        until: since.plus(LEASE),
        left: Some(LEASE - 3 * SECOND),
    };
    let before = everything(store);
    // Also who has it itself, and who would repeat anything.
    for asked in [
        begin("two"),
        begin("one"),
        take_over("two"),
        run_again("two"),
    ] {
        assert_eq!(in_flight(store, &asked), expected);
    }
    assert_eq!(everything(store), before);
}

pub(crate) fn what_is_recorded_is_replayed_as_it_was(store: &dyn Storage, clock: &ManualClock) {
    let asked = BeginKey {
        kept_request: Some(Vec::new()),
        detail: json!("kept"),
        ..begin("one")
    };
    let permit = executes(store, &asked);
    clock.advance(SECOND);
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let recorded = store.now();
    done(store, finish(&permit, NewOutcome::success(bytes.clone())));
    clock.advance(1000 * LEASE);
    let before = everything(store);
    let entry = replays(store, &begin("two"));
    assert_eq!(entry.outcome.as_deref(), Some(&bytes[..]));
    assert_eq!(entry.kept_request, Some(Vec::new()));
    assert_eq!(entry.summary.detail, json!("kept"));
    assert_eq!(entry.summary.outcome_bytes, Some(70_000));
    assert_eq!(entry.summary.token, permit.fence.token);
    assert_eq!(entry.summary.updated_at, recorded);
    let view = KeyView {
        status: KeyStatus::Succeeded,
        token: permit.fence.token,
        request: request(),
        expired: false,
        permit: None,
    };
    assert_eq!(entry.summary.view, view);
    assert_eq!(found(store, &key("k")).unwrap(), Some(entry));
    assert_eq!(everything(store), before, "a replay writes nothing");
}

pub(crate) fn another_request_of_the_same_key_is_a_conflict(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let other = |asked: BeginKey| BeginKey {
        request: Digest::of(b"another"),
        ..asked
    };
    let conflicts = |asked: BeginKey| {
        let before = everything(store);
        match store.begin_key(&asked) {
            Err(StorageError::Conflict { id, .. }) => assert_eq!(id, "k"),
            answer => panic!("{answer:?}"),
        }
        assert_eq!(everything(store), before);
    };
    let permit = first(store, "one");
    conflicts(other(begin("two")));
    conflicts(other(run_again("two")));
    clock.advance(PAST_LEASE);
    conflicts(other(begin("two")));
    conflicts(other(take_over("two")));
    let ttl = Some(LEASE);
    done(store, finish(&permit, NewOutcome::failure("no").ttl(ttl)));
    conflicts(other(begin("two")));
    conflicts(other(run_again("two")));
    // Once it has expired nothing is there, and the key can stand for another.
    clock.advance(LEASE);
    let permit = executes(store, &other(begin("two")));
    assert_eq!(permit.execution, Execution::AfterExpiry);
    done(store, finish(&permit, NewOutcome::success("other")));
    assert_eq!(view(store).request, Digest::of(b"another"));
    assert!(matches!(
        store.begin_key(&begin("one")),
        Err(StorageError::Conflict { .. })
    ));
    assert_eq!(replayed(store, &other(begin("one"))), b"other");
}

/// Goal: of any number of callers at once one executes. Method: 16 threads ask for
/// 20 keys in the same order; who is told that it is in flight asks again.
pub(crate) fn of_callers_at_once_one_executes(store: &dyn Storage, _: &ManualClock) {
    const THREADS: usize = 16;
    const KEYS: usize = 20;
    let executed = Mutex::new(vec![Vec::new(); KEYS]);
    std::thread::scope(|scope| {
        for index in 0..THREADS {
            let executed = &executed;
            scope.spawn(move || {
                let owner = format!("owner-{index}");
                for number in 0..KEYS {
                    let asked = begin_of(&format!("key {number}"), worker(&owner));
                    loop {
                        match store.begin_key(&asked).unwrap() {
                            Begun::Execute(permit) => {
                                executed.lock().unwrap()[number].push(owner.clone());
                                done(store, finish(&permit, NewOutcome::success(owner.clone())));
                            }
                            Begun::Replay(entry) => {
                                let executed = executed.lock().unwrap()[number].clone();
                                let recorded = entry.outcome.unwrap();
                                assert_eq!(executed, [String::from_utf8(recorded).unwrap()]);
                                break;
                            }
                            Begun::InFlight(holder) => {
                                assert!(holder.left.is_some(), "{holder:?}");
                            }
                            other @ Begun::InDoubt(_) => panic!("{other:?}"),
                        }
                    }
                }
            });
        }
    });
    for (number, executed) in executed.into_inner().unwrap().iter().enumerate() {
        assert_eq!(
            executed.len(),
            1,
            "key {number} was executed by {executed:?}"
        );
    }
}

pub(crate) fn a_recorded_outcome_is_made_again_only_when_asked_for(
    store: &dyn Storage,
    _: &ManualClock,
) {
    let replay = |owner| BeginKey {
        on_recorded: OnRecorded::Replay,
        ..begin(owner)
    };
    // A failure: replayed if asked for, else executed again.
    let one = record(store, "one", NewOutcome::failure("broken"));
    assert_eq!(status(store), KeyStatus::Failed);
    assert_eq!(replayed(store, &replay("two")), b"broken");
    let two = executes(store, &begin("two"));
    assert_eq!(two.execution, Execution::AfterFailure);
    follows(&two, &one);
    assert_eq!(status(store), KeyStatus::Pending);
    assert_eq!(entry(store, "k").unwrap().outcome, None, "it is gone");
    done(store, finish(&two, NewOutcome::success("whole")));
    // A success: whatever is not told otherwise replays it.
    assert_eq!(replayed(store, &begin("one")), b"whole");
    assert_eq!(replayed(store, &replay("one")), b"whole");
    let three = executes(store, &run_again("one"));
    assert_eq!(three.execution, Execution::Again);
    follows(&three, &two);
    done(store, finish(&three, NewOutcome::failure("worse")));
    let four = executes(store, &run_again("one"));
    assert_eq!(four.execution, Execution::Again);
    follows(&four, &three);
}

/// Goal: each execution keeps what it was begun with, not what an earlier one was.
pub(crate) fn an_execution_anew_keeps_what_it_was_begun_with(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let created = store.now();
    let one = BeginKey {
        task: Some(task_id("a")),
        operation: Some("first".into()),
        model: Some("m-1".into()),
        kept_request: Some(b"first".to_vec()),
        detail: json!(1),
        ..begin("one")
    };
    let permit = executes(store, &one);
    done(store, finish(&permit, NewOutcome::success("first")));
    clock.advance(SECOND);
    let again = store.now();
    let two = BeginKey {
        task: Some(task_id("b")),
        operation: Some("second".into()),
        model: None,
        kept_request: None,
        detail: json!(2),
        ..run_again("two")
    };
    let permit = executes(store, &two);
    done(store, finish(&permit, NewOutcome::success("second")));
    let entry = entry(store, "k").unwrap();
    assert_eq!(entry.outcome.as_deref(), Some(&b"second"[..]));
    assert_eq!(entry.kept_request, None);
    let summary = entry.summary;
    assert_eq!(summary.task, Some(task_id("b")));
    assert_eq!(summary.operation.as_deref(), Some("second"));
    assert_eq!((summary.model, summary.detail), (None, json!(2)));
    assert_eq!((summary.created_at, summary.updated_at), (created, again));
    assert_eq!(keys_of(store, &task_filter("a")), []);
    assert_eq!(keys_of(store, &task_filter("b")).len(), 1);
}

fn task_filter(task: &str) -> KeyFilter {
    KeyFilter {
        task: Some(task_id(task)),
        ..KeyFilter::default()
    }
}

pub(crate) fn keys_keep_every_letter(store: &dyn Storage, _: &ManualClock) {
    let names = [
        "a",
        "A",
        "it's \"quoted\"",
        "ключ 🦀",
        "a:b;--",
        "\n\t",
        "a ",
        "%",
        "_",
    ];
    for name in names {
        let permit = executes(store, &begin_of(name, worker("one")));
        assert_eq!(permit.execution, Execution::First, "{name:?}");
        done(store, finish(&permit, NewOutcome::success(name)));
    }
    for name in names {
        let outcome = replayed(store, &begin_of(name, worker("two")));
        assert_eq!(outcome, name.as_bytes());
    }
    let found: Vec<_> = all_keys(store)
        .into_iter()
        .map(|summary| summary.key)
        .collect();
    assert_eq!(found, names.map(key));
}

pub(crate) fn what_can_never_be_begun_is_refused(store: &dyn Storage, _: &ManualClock) {
    let refused = |asked: BeginKey| {
        let answer = store.begin_key(&asked);
        assert!(
            matches!(
                answer,
                Err(StorageError::Invalid(_) | StorageError::LimitExceeded(_))
            ),
            "{answer:?}"
        );
    };
    for lease in [
        Duration::ZERO,
        LEASE_MIN - Duration::from_micros(1),
        LEASE_MAX + SECOND,
    ] {
        refused(BeginKey {
            lease,
            ..begin("one")
        });
    }
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    refused(BeginKey {
        operation: Some(long.clone()),
        ..begin("one")
    });
    refused(BeginKey {
        model: Some(long),
        ..begin("one")
    });
    refused(BeginKey {
        kept_request: Some(vec![7; KEPT_REQUEST_BYTES_MAX + 1]),
        ..begin("one")
    });
    refused(BeginKey {
        detail: json!("x".repeat(store.limits().metadata_bytes)),
        ..begin("one")
    });
    assert_eq!(all_keys(store), []);
    // At the bounds it is taken, and comes back.
    let asked = BeginKey {
        lease: LEASE_MAX,
        operation: Some("x".repeat(NAME_BYTES_MAX)),
        kept_request: Some(vec![7; KEPT_REQUEST_BYTES_MAX]),
        on_damaged: OnDamaged::RunAgain,
        ..begin("one")
    };
    executes(store, &asked);
    let entry = entry(store, "k").unwrap();
    assert_eq!(entry.kept_request, asked.kept_request);
    assert_eq!(entry.summary.operation, asked.operation);
}

//! A file with keys of every kind, and the actions that processes die in. The clock
//! stands still, as for leases.

use std::path::Path;
use std::time::Duration;

use agentos_core::{
    AbandonKey, BeginKey, Begun, ClaimRequest, Commit, CompleteWork, Digest, DoubtKey, FinishKey,
    IdempotencyKey, KeyFence, KeyStorage, LeaseStorage, NewOutcome, NewWorkItem, OnLost,
    OnRecorded, RemoveKeys, Resolution, ResolveKey, Storage, TouchKeys,
};
use agentos_store::sqlite::SqliteStore;

use crate::{append, fence, manual_clock, new_task, open_leased, task_id, worker};

/// What can be done to a file of [`keyed_file`].
pub const KEY_ACTIONS: [&str; 11] = [
    "begin",
    "begin-again",
    "take-over",
    "renew",
    "finish",
    "finish-step",
    "abandon",
    "doubt",
    "resolve",
    "remove",
    "touch",
];

/// Permit of the keys that were lost when the actions happen.
const SHORT: Duration = Duration::from_secs(1);
/// Permit of those that are held.
const LONG: Duration = Duration::from_secs(3600);

/// Asks for the execution of a key.
///
/// # Panics
///
/// When it is no name.
pub fn begin_key(key: &str, owner: &str) -> BeginKey {
    let key = IdempotencyKey::new(key).expect("a key");
    BeginKey {
        task: Some(task_id("a")),
        operation: Some("search".into()),
        lease: LONG,
        ..BeginKey::new(key, Digest::of(b"request"), worker(owner, "first"))
    }
}

/// The fence of a key, as the file has it.
fn newest(store: &SqliteStore, key: &str) -> KeyFence {
    let key = IdempotencyKey::new(key).expect("a key");
    let entry = store.find_key(&key).expect("a read").expect("an entry");
    KeyFence {
        key: entry.summary.id,
        token: entry.summary.token,
    }
}

fn executes(store: &SqliteStore, begin: &BeginKey) -> KeyFence {
    match store.begin_key(begin).expect("an answer") {
        Begun::Execute(permit) => permit.fence,
        other => panic!("no permit: {other:?}"),
    }
}

fn finish(fence: KeyFence, outcome: NewOutcome) -> FinishKey {
    FinishKey { fence, outcome }
}

/// Makes the file, closed, with its log in it: of the keys `lost` is in doubt when the
/// actions happen, `held` and `under` are executed, the latter under the lease of item
/// 1, and `failed` and `recorded` have outcomes.
///
/// # Panics
///
/// When it cannot be made.
pub fn keyed_file(path: &Path) {
    let store = open_leased(path, &manual_clock());
    let commit = Commit::new()
        .part(new_task("a"))
        .part(NewWorkItem::new("work").task(task_id("a")));
    store.commit(commit).expect("a task with work");
    let request = ClaimRequest {
        lease: LONG,
        ..ClaimRequest::new(worker("holder", "first"))
    };
    assert_eq!(store.claim(&request).expect("leases").len(), 1);
    let lost = BeginKey {
        lease: SHORT,
        ..begin_key("lost", "old")
    };
    executes(&store, &lost);
    executes(&store, &begin_key("held", "holder"));
    let under = BeginKey {
        under: Some(fence(1, 1)),
        ..begin_key("under", "holder")
    };
    executes(&store, &under);
    for (key, outcome) in [
        ("failed", NewOutcome::failure("no")),
        ("recorded", NewOutcome::success("yes")),
    ] {
        let fence = executes(&store, &begin_key(key, "holder"));
        let finish = finish(fence, outcome);
        store.commit(finish.into()).expect("an outcome");
    }
}

/// Does one of [`KEY_ACTIONS`], in one commit. Gives what can be said once it has been
/// acknowledged.
///
/// # Panics
///
/// When it is refused, and when there is no such action.
pub fn key_action(store: &SqliteStore, action: &str) -> String {
    let commit = |commit: Commit| {
        let receipt = store.commit(commit).expect("a commit");
        format!("{action}: {:?}", receipt.outcomes)
    };
    let begun = |begin: &BeginKey| {
        let fence = executes(store, begin);
        format!("{action}: {}/{}", fence.key, fence.token)
    };
    let fence_of = |key| newest(store, key);
    let answer = NewOutcome::success("answer");
    match action {
        "begin" => begun(&begin_key("new", "new")),
        "begin-again" => begun(&BeginKey {
            on_recorded: OnRecorded::RunAgain,
            ..begin_key("recorded", "new")
        }),
        "take-over" => begun(&BeginKey {
            on_lost: OnLost::TakeOver,
            ..begin_key("lost", "new")
        }),
        "renew" => {
            let answers = store.renew_keys(&[fence_of("lost"), fence_of("held")], LONG);
            let answers = answers.expect("answers");
            let held = answers.iter().filter(|answer| answer.is_ok()).count();
            format!("renew: {held} of {}", answers.len())
        }
        "finish" => commit(finish(fence_of("held"), answer).into()),
        "finish-step" => commit(
            Commit::under(fence(1, 1))
                .part(finish(fence_of("under"), answer))
                .part(append("a", "done"))
                .part(CompleteWork {
                    fence: fence(1, 1),
                    result: None,
                }),
        ),
        "abandon" => commit(
            AbandonKey {
                fence: fence_of("held"),
            }
            .into(),
        ),
        "doubt" => commit(
            DoubtKey {
                fence: fence_of("held"),
            }
            .into(),
        ),
        "resolve" => commit(
            ResolveKey {
                key: IdempotencyKey::new("lost").expect("a key"),
                fence: fence_of("lost"),
                resolution: Resolution::Happened(answer),
                reason: "looked".into(),
                sole_start: None,
            }
            .into(),
        ),
        "remove" => commit(
            RemoveKeys {
                keys: vec![fence_of("failed"), fence_of("held"), fence_of("recorded")],
            }
            .into(),
        ),
        "touch" => commit(
            TouchKeys {
                keys: vec![fence_of("recorded").key],
            }
            .into(),
        ),
        _ => panic!("no such action: {action}"),
    }
}

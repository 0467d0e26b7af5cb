//! Doubt: who is in it, and how it ends.

use agentos_core::limits::REASON_BYTES_MAX;
use agentos_core::records::audit::KEY_RESOLVED;
use agentos_core::{Audit, FencingToken, ManualClock, PartOutcome, Resolution, ResolveKey};
use agentos_tests::task_id;

use super::*;

fn happened(bytes: &str) -> Resolution {
    Resolution::Happened(NewOutcome::success(bytes))
}

fn resolve(fence: KeyFence, resolution: Resolution) -> ResolveKey {
    ResolveKey {
        key: key("k"),
        fence,
        resolution,
        reason: "asked the outside world".into(),
        sole_start: None,
    }
}

fn resolutions(store: &dyn Storage) -> Vec<Audit> {
    let task = task_id("a");
    let mut lines = store.audits(&task, None, PAGE_ROWS_MAX).unwrap().items;
    lines.retain(|line| line.event == KEY_RESOLVED);
    lines
}

/// The permit of an execution for a task.
fn first_of_task(store: &dyn Storage, owner: &str) -> Permit {
    let asked = BeginKey {
        task: Some(task_id("a")),
        ..begin(owner)
    };
    executes(store, &asked)
}

pub(crate) fn who_does_not_know_leaves_it_in_doubt_at_once(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let permit = first(store, "one");
    clock.advance(SECOND);
    let receipt = done(store, doubt(&permit));
    assert_eq!(receipt.outcomes, [PartOutcome::KeyInDoubt]);
    assert_eq!(doubts(store), [permit.fence]);
    let holder = in_doubt(store, &begin("two"));
    assert_eq!((holder.fence, holder.owner), (permit.fence, worker("one")));
    assert_eq!(holder.left, None);
    in_doubt(store, &begin("one"));
    let successor = executes(store, &take_over("two"));
    follows(&successor, &permit);
    stale(store.commit(finish(&permit, NewOutcome::success("late")).into()));
}

/// Goal: to leave it in doubt is the end of the execution: from then on only a finding
/// or a successor says how it went, also where the lease under which it was begun is
/// lost meanwhile.
pub(crate) fn who_left_it_in_doubt_does_not_go_on(store: &dyn Storage, clock: &ManualClock) {
    let lease = leased(store, "one");
    let under = executes(
        store,
        &BeginKey {
            key: key("under"),
            ..begin_under(&lease, "one")
        },
    );
    let alone = first(store, "one");
    done(store, Commit::new().part(doubt(&under)).part(doubt(&alone)));
    let refuses = || {
        let before = everything(store);
        for permit in [&under, &alone] {
            let renewed = store.renew_keys(&[permit.fence], LEASE).unwrap();
            assert!(renewed[0].is_err(), "{renewed:?}");
            for outcome in [NewOutcome::success("late"), NewOutcome::failure("late")] {
                stale(store.commit(finish(permit, outcome).into()));
            }
            stale(store.commit(doubt(permit).into()));
        }
        assert_eq!(everything(store), before);
        assert_eq!(doubts(store), [under.fence, alone.fence]);
    };
    refuses();
    clock.advance(PAST_LEASE);
    claim(store, "two");
    refuses();
}

/// Also where it was begun under a lease that goes on.
pub(crate) fn doubt_under_a_lease_does_not_wait_for_its_end(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let lease = leased(store, "one");
    let permit = executes(store, &begin_under(&lease, "one"));
    done(store, Commit::under(&lease).part(doubt(&permit)));
    assert_eq!(doubts(store), [permit.fence]);
    in_doubt(store, &begin("two"));
    clock.advance(SECOND);
    store.renew(&[lease.fence], LEASE).unwrap()[0]
        .as_ref()
        .unwrap();
    in_doubt(store, &begin_under(&lease, "one"));
    assert_eq!(doubts(store), [permit.fence]);
    let again = BeginKey {
        on_lost: OnLost::TakeOver,
        ..begin_under(&lease, "one")
    };
    follows(&executes(store, &again), &permit);
}

/// Goal: who finds out ends the doubt: with an outcome that is replayed from then on,
/// or so that it is executed anew; and the task's history says how and why.
pub(crate) fn what_is_found_out_ends_the_doubt(store: &dyn Storage, clock: &ManualClock) {
    let permit = first_of_task(store, "one");
    clock.advance(PAST_LEASE);
    let found = NewOutcome::success("found").ttl(Some(LEASE));
    let at = store.now();
    let part = resolve(permit.fence, Resolution::Happened(found));
    assert_eq!(done(store, part).outcomes, [PartOutcome::KeyResolved]);
    assert_eq!(doubts(store), []);
    let entry_now = replays(store, &begin("two"));
    assert_eq!(entry_now.outcome.as_deref(), Some(&b"found"[..]));
    assert_eq!(entry_now.summary.expires_at, Some(at.plus(LEASE)));
    let [line] = &resolutions(store)[..] else {
        panic!("{:?}", resolutions(store))
    };
    assert_eq!(line.reason.as_deref(), Some("asked the outside world"));
    assert_eq!(line.from.as_deref(), Some("pending"));
    assert_eq!(line.to.as_deref(), Some("succeeded"));
    assert_eq!((&line.task, line.created_at), (&task_id("a"), at));
    assert!(line.detail.to_string().contains("\"k\""), "{line:?}");
    // It failed.
    let permit = executes(
        store,
        &BeginKey {
            task: Some(task_id("a")),
            ..run_again("one")
        },
    );
    done(store, doubt(&permit));
    let failed = Resolution::Happened(NewOutcome::failure("no"));
    done(store, resolve(permit.fence, failed));
    assert_eq!(status(store), KeyStatus::Failed);
    // It did not happen.
    let permit = executes(
        store,
        &BeginKey {
            task: Some(task_id("a")),
            ..begin("one")
        },
    );
    done(store, doubt(&permit));
    let receipt = done(store, resolve(permit.fence, Resolution::DidNotHappen));
    assert_eq!(receipt.outcomes, [PartOutcome::KeyResolved]);
    assert_eq!(entry(store, "k"), None);
    assert_eq!(doubts(store), []);
    let to: Vec<_> = resolutions(store).into_iter().map(|line| line.to).collect();
    assert_eq!(to[..2], [Some("succeeded".into()), Some("failed".into())]);
    assert_eq!(to.len(), 3);
    assert_ne!(to[2].as_deref(), Some("pending"));
    assert_eq!(first(store, "two").execution, Execution::First);
}

/// Without a task there is nowhere to look for the line, and it is resolved as well.
pub(crate) fn doubt_without_a_task_ends_as_well(store: &dyn Storage, _: &ManualClock) {
    let permit = first(store, "one");
    done(store, doubt(&permit));
    done(store, resolve(permit.fence, happened("x")));
    assert_eq!(replayed(store, &begin("two")), b"x");
    assert_eq!(resolutions(store), []);
}

/// Goal: a finding is about one execution that is in doubt, and about nothing else.
/// Method: a permit that is held, another execution, a recorded outcome, a key that is
/// not there, another key.
pub(crate) fn only_the_execution_in_doubt_is_resolved(store: &dyn Storage, clock: &ManualClock) {
    let refused = |part: ResolveKey, what: &str| {
        for resolution in [happened("wrong"), Resolution::DidNotHappen] {
            let before = everything(store);
            let part = ResolveKey {
                resolution,
                ..part.clone()
            };
            let answer = store.commit(part.into());
            assert!(
                matches!(
                    answer,
                    Err(StorageError::StaleLease(Stale::Key(_))
                        | StorageError::IllegalTransition { .. }
                        | StorageError::NotFound { .. }
                        | StorageError::Conflict { .. })
                ),
                "{what}: {answer:?}"
            );
            assert_eq!(everything(store), before, "{what}");
        }
    };
    let permit = first_of_task(store, "one");
    refused(resolve(permit.fence, happened("")), "it is executed");
    let other_start = ResolveKey {
        sole_start: Some(start("two", 2)),
        ..resolve(permit.fence, happened(""))
    };
    refused(other_start, "another worker's start says nothing of it");
    let same_start = ResolveKey {
        sole_start: Some(worker("one")),
        ..resolve(permit.fence, happened(""))
    };
    refused(same_start, "its own start is not an earlier one");
    clock.advance(PAST_LEASE);
    let token = |number| KeyFence {
        token: FencingToken::new(number).unwrap(),
        ..permit.fence
    };
    refused(
        resolve(token(2), happened("")),
        "a token that was not given",
    );
    let other = executes(store, &begin_of("another", worker("one")));
    done(store, doubt(&other));
    refused(
        resolve(other.fence, happened("")),
        "the fence of another key",
    );
    let renamed = ResolveKey {
        key: key("another"),
        ..resolve(permit.fence, happened(""))
    };
    refused(renamed, "the name of another key");
    let second = executes(store, &take_over("two"));
    done(store, doubt(&second));
    refused(resolve(permit.fence, happened("")), "an earlier execution");
    done(store, resolve(second.fence, happened("right")));
    refused(resolve(second.fence, happened("")), "it is recorded");
    assert_eq!(replayed(store, &begin("three")), b"right");
    let absent = ResolveKey {
        key: key("absent"),
        ..resolve(second.fence, happened(""))
    };
    refused(absent, "a key that is not there");
    assert_eq!(doubts(store), [other.fence]);
}

/// A later start of a worker whose name runs once at a time need not wait.
pub(crate) fn a_sole_start_resolves_what_its_earlier_start_left(
    store: &dyn Storage,
    _: &ManualClock,
) {
    let permit = first(store, "one");
    let part = ResolveKey {
        sole_start: Some(start("one", 2)),
        ..resolve(permit.fence, happened("found"))
    };
    done(store, part);
    assert_eq!(replayed(store, &begin("two")), b"found");
}

pub(crate) fn a_resolution_says_why_and_has_bounds(store: &dyn Storage, _: &ManualClock) {
    let permit = first_of_task(store, "one");
    done(store, doubt(&permit));
    let good = resolve(permit.fence, happened("x"));
    for bad in [
        ResolveKey {
            reason: String::new(),
            ..good.clone()
        },
        ResolveKey {
            reason: "x".repeat(REASON_BYTES_MAX + 1),
            ..good.clone()
        },
        ResolveKey {
            resolution: Resolution::Happened(NewOutcome::success("x").ttl(Some(Duration::ZERO))),
            ..good.clone()
        },
        ResolveKey {
            resolution: Resolution::Happened(NewOutcome::success(vec![
                7;
                store.limits().outcome_bytes
                    + 1
            ])),
            ..good.clone()
        },
    ] {
        let before = everything(store);
        let answer = store.commit(bad.into());
        assert!(
            matches!(
                answer,
                Err(StorageError::Invalid(_) | StorageError::LimitExceeded(_))
            ),
            "{answer:?}"
        );
        assert_eq!(everything(store), before);
    }
    done(store, good);
}

/// A resolution is a part: with one that fails it does not happen either.
pub(crate) fn a_resolution_and_what_goes_with_it_are_one_commit(
    store: &dyn Storage,
    _: &ManualClock,
) {
    let permit = first_of_task(store, "one");
    done(store, doubt(&permit));
    let before = everything(store);
    let broken = Commit::new()
        .part(resolve(permit.fence, happened("x")))
        .part(agentos_core::AuditLine::new(task_id("absent"), "noted"));
    assert!(store.commit(broken).is_err());
    assert_eq!(everything(store), before);
    assert_eq!(resolutions(store), []);
    assert_eq!(doubts(store), [permit.fence]);
}

/// Goal: whoever is in doubt is listed, page by page, the oldest first, and nobody
/// else is.
pub(crate) fn doubts_are_listed_in_pages(store: &dyn Storage, clock: &ManualClock) {
    let mut expected = Vec::new();
    for number in 0..30 {
        let asked = begin_of(&format!("key {number:02}"), worker("one"));
        let permit = executes(store, &asked);
        match number % 3 {
            // It will have run out.
            0 => expected.push(permit.fence),
            1 => {
                done(store, doubt(&permit));
                expected.push(permit.fence);
            }
            _ => drop(done(store, finish(&permit, NewOutcome::success("x")))),
        }
    }
    clock.advance(PAST_LEASE);
    executes(store, &begin_of("held", worker("one")));
    for rows in [1, 7, 30, PAGE_ROWS_MAX] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.keys_in_doubt(after, rows).unwrap();
            assert!(page.items.len() <= rows as usize);
            for summary in page.items {
                assert_eq!(summary.view.status, KeyStatus::Pending);
                assert_eq!(summary.view.permit.as_ref().unwrap().left, None);
                found.push(summary.view.permit.unwrap().fence);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(found, expected, "{rows} rows a page");
    }
    assert!(matches!(
        store.keys_in_doubt(None, PAGE_ROWS_MAX + 1),
        Err(StorageError::LimitExceeded(_))
    ));
}

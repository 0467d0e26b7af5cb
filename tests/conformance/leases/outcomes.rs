//! How attempts end, and what follows: done, another attempt, the dead letter,
//! given back, cancelled, requeued. Each attempt leaves a row.

use agentos_core::limits::ATTEMPTS_PER_ITEM_MAX;
use agentos_core::records::audit::{WORK_CANCELLED, WORK_DEAD, WORK_REQUEUED};
use agentos_core::{
    AttemptEnd, CancelWork, FailWork, ManualClock, Next, PartOutcome, ReleaseWork, RequeueWork,
    Retry,
};
use agentos_tests::new_task;

use super::*;

fn fail(lease: &Lease, reason: &str, retry: Retry) -> FailWork {
    FailWork {
        fence: lease.fence,
        reason: reason.into(),
        retry,
    }
}

fn release(lease: &Lease, reason: Option<&str>) -> ReleaseWork {
    ReleaseWork {
        fence: lease.fence,
        reason: reason.map(str::to_owned),
    }
}

fn cancel(item: WorkItemId) -> CancelWork {
    CancelWork {
        item,
        reason: Some("not wanted".into()),
    }
}

fn requeue(item: WorkItemId) -> RequeueWork {
    RequeueWork {
        item,
        reason: Some("mended".into()),
    }
}

/// What followed a failure that was reported.
#[track_caller]
fn failed(store: &dyn Storage, work: FailWork) -> Next {
    match done(store, work).outcomes[..] {
        [PartOutcome::WorkFailed(next)] => next,
        ref other => panic!("{other:?}"),
    }
}

/// Event and states of a task's lines about work.
fn audits(store: &dyn Storage, task: &str) -> Vec<(String, String, String, String)> {
    let lines = store.audits(&task_id(task), None, PAGE_ROWS_MAX).unwrap();
    let words = |text: Option<String>| text.unwrap_or_default();
    let lines = lines.items.into_iter().skip(1); // the task's own
    lines
        .map(|line| {
            (
                line.event,
                words(line.from),
                words(line.to),
                words(line.reason),
            )
        })
        .collect()
}

fn line(event: &str, from: &str, to: &str, reason: &str) -> (String, String, String, String) {
    (event.into(), from.into(), to.into(), reason.into())
}

/// A predecessor took an empty result for none.
pub(crate) fn an_empty_result_is_a_result(store: &dyn Storage, _: &ManualClock) {
    for result in [None, Some(vec![]), Some(b"{}".to_vec()), Some(vec![0, 255])] {
        let item = enqueue(store, page());
        let fence = claim_item(store, "w", item).fence;
        let complete = CompleteWork {
            fence,
            result: result.clone(),
        };
        let receipt = done(store, Commit::under(fence).part(complete));
        assert_eq!(receipt.outcomes, [PartOutcome::WorkCompleted]);
        let found = store.work_item(item).unwrap().unwrap();
        assert_eq!(found.result, result);
        assert_eq!(found.summary.status, WorkItemStatus::Succeeded);
        assert_eq!((found.summary.holder, found.summary.attempts), (None, 1));
    }
    let item = enqueue(store, page());
    let fence = claim_item(store, "w", item).fence;
    let result = Some(vec![0; store.limits().payload_bytes + 1]);
    let answer = store.commit(CompleteWork { fence, result }.into());
    assert!(matches!(answer, Err(StorageError::LimitExceeded(_))));
    assert_eq!(status(store, item), WorkItemStatus::InProgress);
}

pub(crate) fn a_failure_is_tried_again_after_a_pause(store: &dyn Storage, clock: &ManualClock) {
    let item = enqueue(store, page().max_attempts(10));
    let rule = RetryRule {
        first: 2 * SECOND,
        factor: 3,
        most: 10 * SECOND,
    };
    for whole in [2 * SECOND, 6 * SECOND, 10 * SECOND, 10 * SECOND] {
        let lease = claim_item(store, "w", item);
        let next = failed(store, fail(&lease, "timeout", Retry::Backoff(rule)));
        let Next::Requeue { pause } = next else {
            panic!("{next:?}")
        };
        assert!(whole / 2 <= pause && pause <= whole, "{pause:?}");
        let found = summary(store, item);
        assert_eq!(found.status, WorkItemStatus::Pending);
        assert_eq!(found.available_at, store.now().plus(pause));
        assert_eq!(found.last_error.as_deref(), Some("timeout"));
        assert_eq!((found.holder, found.losses), (None, 0));
        assert_eq!(claim(store, "w"), None, "it is not due yet");
        clock.advance(pause);
    }
    let lease = claim_item(store, "w", item);
    assert_eq!((lease.attempt, lease.fence.token.get()), (5, 5));
    let next = failed(store, fail(&lease, "busy", Retry::After(3 * SECOND)));
    assert_eq!(next, Next::Requeue { pause: 3 * SECOND });
    assert_eq!(claimable(store), Some(3 * SECOND));
}

pub(crate) fn a_failure_that_shall_not_be_tried_again_is_a_dead_letter(
    store: &dyn Storage,
    _: &ManualClock,
) {
    done(store, new_task("a"));
    let item = enqueue(store, page().task(task_id("a")));
    let lease = claim_item(store, "w", item);
    let next = failed(store, fail(&lease, "it is no PDF", Retry::Never));
    assert_eq!(next, Next::DeadLetter);
    let found = summary(store, item);
    assert_eq!((found.status, found.attempts), (WorkItemStatus::Failed, 1));
    assert_eq!(found.last_error.as_deref(), Some("it is no PDF"));
    assert_eq!((claim(store, "w"), claimable(store)), (None, None));
    let expected = line(WORK_DEAD, "in_progress", "failed", "it is no PDF");
    assert_eq!(audits(store, "a"), [expected]);
}

pub(crate) fn the_last_attempt_ends_in_the_dead_letter(store: &dyn Storage, _: &ManualClock) {
    let item = enqueue(store, page().max_attempts(3));
    for attempt in 1..=3 {
        let lease = claim_item(store, "w", item);
        assert_eq!((lease.attempt, lease.max_attempts), (attempt, 3));
        let next = failed(
            store,
            fail(&lease, "no", Retry::Backoff(RetryRule::AT_ONCE)),
        );
        let again = Next::Requeue {
            pause: Duration::ZERO,
        };
        assert_eq!(next, if attempt < 3 { again } else { Next::DeadLetter });
    }
    assert_eq!(status(store, item), WorkItemStatus::Failed);
    assert_eq!(outcomes(store, item), [Some(AttemptOutcome::Failed); 3]);
    assert_eq!(claim(store, "w"), None);
}

pub(crate) fn giving_an_item_back_is_no_attempt(store: &dyn Storage, _: &ManualClock) {
    let item = enqueue(store, page().max_attempts(1));
    for token in 1..=5 {
        let lease = claim_item(store, "w", item);
        assert_eq!((lease.attempt, lease.fence.token.get()), (1, token));
        let receipt = done(store, release(&lease, Some("shutting down")));
        assert_eq!(receipt.outcomes, [PartOutcome::WorkReleased]);
        let found = summary(store, item);
        assert_eq!((found.status, found.attempts), (WorkItemStatus::Pending, 0));
        assert_eq!((found.holder, found.losses), (None, 0));
        // A predecessor called it success when nothing was held any more.
        let before = everything(store);
        stale(store.commit(release(&lease, None).into()));
        assert_eq!(everything(store), before);
    }
    assert_eq!(outcomes(store, item), [Some(AttemptOutcome::Released); 5]);
}

pub(crate) fn pending_and_held_work_can_be_cancelled(store: &dyn Storage, _: &ManualClock) {
    done(store, new_task("a"));
    let pending = enqueue(store, page().task(task_id("a")));
    done(store, cancel(pending));
    let held = enqueue(store, page().task(task_id("a")));
    let lease = claim_item(store, "w", held);
    done(store, cancel(held));
    for item in [pending, held] {
        let found = summary(store, item);
        assert_eq!(
            (found.status, found.holder),
            (WorkItemStatus::Cancelled, None)
        );
    }
    assert_eq!(outcomes(store, pending), []);
    assert_eq!(outcomes(store, held), [Some(AttemptOutcome::Cancelled)]);
    let refusal = stale(store.commit(complete(&lease).into()));
    assert_eq!(refusal.status, Some(WorkItemStatus::Cancelled));
    assert_eq!(claim(store, "w"), None);
    let cancelled = |from| line(WORK_CANCELLED, from, "cancelled", "not wanted");
    assert_eq!(
        audits(store, "a"),
        [cancelled("pending"), cancelled("in_progress")]
    );
}

/// Goal: only the transitions of the state machine are made. Method: an item of
/// each state, and cancelling and requeuing it.
pub(crate) fn what_is_finished_stays_finished(store: &dyn Storage, _: &ManualClock) {
    let made = |to: WorkItemStatus| {
        let item = enqueue(store, page());
        if to == WorkItemStatus::Pending {
            return item;
        }
        let lease = claim_item(store, "w", item);
        match to {
            WorkItemStatus::Succeeded => drop(done(store, complete(&lease))),
            WorkItemStatus::Failed => drop(done(store, fail(&lease, "no", Retry::Never))),
            WorkItemStatus::Cancelled => drop(done(store, cancel(item))),
            WorkItemStatus::Pending | WorkItemStatus::InProgress => {}
        }
        item
    };
    let states = WorkItemStatus::ALL.iter().rev(); // the pending one last: it is claimable
    for (from, item) in states
        .map(|status| (*status, made(*status)))
        .collect::<Vec<_>>()
    {
        assert_eq!(status(store, item), from);
        let before = everything(store);
        // To pending by a requeue alone: only a holder gives back what it holds.
        if from != WorkItemStatus::Failed {
            let answer = store.commit(requeue(item).into());
            let refused = matches!(answer, Err(StorageError::IllegalTransition { .. }));
            assert!(refused, "requeue of {from}: {answer:?}");
        }
        let answer = store.commit(cancel(item).into());
        let refused = matches!(answer, Err(StorageError::IllegalTransition { .. }));
        let cancels = from.can_become(WorkItemStatus::Cancelled);
        assert_eq!(refused, !cancels, "cancelling {from}: {answer:?}");
        assert_eq!(everything(store) == before, !cancels);
    }
    let absent = WorkItemId::new(4096).unwrap();
    for answer in [
        store.commit(cancel(absent).into()),
        store.commit(requeue(absent).into()),
    ] {
        let Err(StorageError::NotFound { what, id }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!((what, id.as_str()), ("work item", "4096"));
    }
}

/// Goal: an operator's requeue gives all attempts again, and loses neither the
/// history nor the token.
pub(crate) fn a_requeued_dead_letter_keeps_its_history(store: &dyn Storage, clock: &ManualClock) {
    done(store, new_task("a"));
    let item = enqueue(store, page().task(task_id("a")).max_attempts(2));
    claim_item(store, "w", item);
    clock.advance(PAST_LEASE);
    let lease = claim_item(store, "w", item);
    assert_eq!((lease.attempt, summary(store, item).losses), (2, 1));
    failed(store, fail(&lease, "no", Retry::default()));
    assert_eq!(status(store, item), WorkItemStatus::Failed);
    let history = store.attempts(item).unwrap();
    clock.advance(SECOND);
    let receipt = done(store, requeue(item));
    assert_eq!(receipt.outcomes, [PartOutcome::WorkRequeued]);
    let found = summary(store, item);
    assert_eq!(found.status, WorkItemStatus::Pending);
    assert_eq!((found.attempts, found.losses), (0, 0));
    assert_eq!(found.newest_token, Some(lease.fence.token));
    assert_eq!(store.attempts(item).unwrap(), history);
    let third = claim_item(store, "w", item);
    assert_eq!((third.attempt, third.max_attempts), (1, 2));
    assert_eq!(third.fence.token.get(), 3);
    assert_eq!(store.attempts(item).unwrap()[..2], history);
    let last = audits(store, "a").pop().unwrap();
    assert_eq!(last, line(WORK_REQUEUED, "failed", "pending", "mended"));
}

/// Goal: the dead letter tells the whole story. Method: every way in which an
/// attempt ends, at moments that differ.
pub(crate) fn every_attempt_leaves_a_row(store: &dyn Storage, clock: &ManualClock) {
    let item = enqueue(store, page().max_attempts(5));
    let mut expected = Vec::new();
    let mut attempt = |number: u32, end: &dyn Fn(&Lease) -> Option<Commit>, outcome, error| {
        clock.advance(SECOND);
        let started_at = store.now();
        let claimed = ClaimRequest {
            worker: start("w", number),
            ..request("w")
        };
        let lease = claim_of(store, &claimed).pop().unwrap();
        assert_eq!(lease.fence.token.get(), i64::from(number));
        let open = store.attempts(item).unwrap().pop().unwrap();
        assert_eq!((open.started_at, open.end), (started_at, None));
        clock.advance(SECOND);
        match end(&lease) {
            Some(commit) => drop(done(store, commit)),
            None => {
                clock.advance(LEASE);
                sweep(store);
            }
        }
        let end = AttemptEnd {
            at: store.now(),
            outcome,
            error,
        };
        expected.push(Attempt {
            number: lease.fence.token,
            worker: start("w", number),
            started_at,
            end: Some(end),
        });
    };
    let words = |text: &str| Some(text.to_owned());
    let back = |lease: &Lease| Some(release(lease, Some("later")).into());
    attempt(1, &back, AttemptOutcome::Released, words("later"));
    let again = Retry::After(Duration::ZERO);
    let no = |lease: &Lease| Some(fail(lease, "no", again).into());
    attempt(2, &no, AttemptOutcome::Failed, words("no"));
    attempt(3, &|_| None, AttemptOutcome::Expired, None);
    let good = |lease: &Lease| Some(complete(lease).into());
    attempt(4, &good, AttemptOutcome::Succeeded, None);
    let mut found = store.attempts(item).unwrap();
    // Of a lost attempt the store says in its own words who had it.
    let lost = found[2].end.as_mut().unwrap().error.take().unwrap();
    assert!(lost.contains("w (w-3)"), "{lost}");
    assert_eq!(found, expected);
}

pub(crate) fn the_newest_hundred_attempts_are_kept(store: &dyn Storage, _: &ManualClock) {
    let item = enqueue(store, page());
    for _ in 0..ATTEMPTS_PER_ITEM_MAX + 3 {
        let lease = claim_item(store, "w", item);
        done(store, release(&lease, None));
    }
    let kept = store.attempts(item).unwrap();
    assert_eq!(kept.len(), ATTEMPTS_PER_ITEM_MAX as usize);
    assert_eq!(kept[0].number.get(), 4);
    assert!(kept.is_sorted_by_key(|attempt| attempt.number));
}

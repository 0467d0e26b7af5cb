//! The loop against every kind of answer; what a store makes of a sweep is tested
//! with real ones.

use std::collections::VecDeque;
use std::time::Duration;

use agentos_core::{Fence, FencingToken, Holder, RecoveredItem, StorageError, Timestamp, WorkerId};

use super::*;

fn item(number: u32) -> WorkItemId {
    WorkItemId::new(number.into()).unwrap()
}

fn recovered(number: u32, next: Next) -> RecoveredItem {
    RecoveredItem {
        fence: Fence {
            item: item(number),
            token: FencingToken::new(1).unwrap(),
        },
        holder: Some(Holder {
            worker: Worker::start(WorkerId::new("w").unwrap()),
            since: Timestamp::from_unix_micros(0),
            until: Timestamp::from_unix_micros(1),
        }),
        task: None,
        next,
    }
}

const AT_ONCE: Next = Next::Requeue {
    pause: Duration::ZERO,
};

fn damaged() -> StorageError {
    StorageError::corrupt("a work item", "it is a test")
}

/// A batch that recovered and failed to recover so many.
fn swept(recovered_items: &[u32], failed: &[u32], more: bool) -> Swept {
    Swept {
        found: u32::try_from(recovered_items.len() + failed.len()).unwrap(),
        recovered: recovered_items
            .iter()
            .map(|number| recovered(*number, AT_ONCE))
            .collect(),
        failed: failed
            .iter()
            .map(|number| (item(*number), damaged()))
            .collect(),
        more,
    }
}

/// Scans a store that gives these answers, and then the last of them for ever;
/// gives the `skip` of each batch too.
fn scan_of(
    mut answers: VecDeque<Result<Swept, StorageError>>,
    mut last: impl FnMut() -> Result<Swept, StorageError>,
) -> (Result<SweepStatistics, StorageError>, Vec<u32>) {
    let mut skips = Vec::new();
    let mut sweep = |batch: &SweepRequest| {
        skips.push(batch.skip);
        answers.pop_front().unwrap_or_else(&mut last)
    };
    let config = SweepConfig::default();
    let answer = scan(&config, Lost::Expired, &mut sweep, &mut || true);
    (answer, skips)
}

#[test]
fn batches_are_asked_for_until_nothing_is_left() {
    let dead = Swept {
        recovered: vec![recovered(4, Next::DeadLetter)],
        ..swept(&[4], &[], false)
    };
    let answers = [swept(&[1, 2], &[], true), swept(&[3], &[], true), dead];
    let (answer, skips) = scan_of(answers.map(Ok).into(), || panic!("it was done"));
    let found = answer.unwrap();
    assert_eq!(
        (found.expired_found, found.recovered, found.batches),
        (4, 4, 3)
    );
    assert_eq!((found.requeued, found.dead_lettered), (3, 1));
    assert!(found.is_complete() && 0.0 <= found.scan_duration_ms);
    assert_eq!(skips, [0, 0, 0]);
}

#[test]
fn items_that_fail_are_passed_over_and_kept_with_their_error() {
    let answers = [
        swept(&[1], &[2, 3], true),
        swept(&[], &[4], true),
        swept(&[5], &[], false),
    ];
    let (answer, skips) = scan_of(answers.map(Ok).into(), || panic!("it was done"));
    let found = answer.unwrap();
    assert_eq!(
        (found.expired_found, found.recovered, found.failed),
        (5, 2, 3)
    );
    assert_eq!((found.errors, found.unfinished), (0, false));
    assert!(!found.is_complete());
    assert_eq!(skips, [0, 2, 3]);
    let items: Vec<_> = found.failures.iter().map(|failure| failure.item).collect();
    assert_eq!(items, [Some(item(2)), Some(item(3)), Some(item(4))]);
    for failure in &found.failures {
        assert!(matches!(*failure.error, StorageError::Corrupt { .. }));
    }
}

#[test]
fn an_error_of_the_first_batch_is_the_answer_and_a_later_one_is_counted() {
    let busy = || StorageError::Busy {
        waited: Duration::from_secs(5),
    };
    let (answer, skips) = scan_of([Err(busy())].into(), || panic!("it went on"));
    assert!(matches!(answer, Err(StorageError::Busy { .. })));
    assert_eq!(skips.len(), 1);
    let answers = [Ok(swept(&[1], &[], true)), Err(busy())];
    let (answer, skips) = scan_of(answers.into(), || panic!("it went on"));
    let found = answer.unwrap();
    assert_eq!((found.recovered, found.errors, found.failed), (1, 1, 0));
    assert_eq!((found.batches, skips.len()), (1, 2));
    assert!(found.unfinished);
    assert!(found.failures[0].item.is_none());
    assert!(matches!(
        *found.failures[0].error,
        StorageError::Busy { .. }
    ));
}

#[test]
fn a_store_that_says_more_for_ever_does_not_hold_the_scan() {
    // Nothing found, but more; the same item fails for ever; found, but neither.
    let nothing = || Ok(swept(&[], &[], true));
    let same = || Ok(swept(&[], &[7], true));
    let vanishing = || {
        Ok(Swept {
            found: 3,
            ..swept(&[], &[], true)
        })
    };
    type Answer = fn() -> Result<Swept, StorageError>;
    for (last, batches) in [(nothing as Answer, 1), (same, 2), (vanishing, 1)] {
        let (answer, skips) = scan_of(VecDeque::new(), last);
        let found = answer.unwrap();
        assert_eq!(skips.len(), batches);
        assert!(found.unfinished);
        assert!(found.failed <= 1, "counted once: {found:?}");
    }
    // Every batch brings something new: there is a most all the same.
    let (answer, skips) = scan_of(VecDeque::new(), || Ok(swept(&[1], &[], true)));
    let found = answer.unwrap();
    assert!(found.unfinished);
    assert_eq!(found.batches, SWEEP_BATCHES_MAX);
    assert_eq!(skips.len() as u64, SWEEP_BATCHES_MAX);
}

#[test]
fn a_scan_stops_between_two_batches() {
    let mut asked = 0;
    let mut sweep = |_: &SweepRequest| Ok(swept(&[1], &[], true));
    let mut go_on = || {
        asked += 1;
        asked < 3
    };
    let config = SweepConfig::default();
    let found = scan(&config, Lost::Expired, &mut sweep, &mut go_on).unwrap();
    assert_eq!((found.batches, found.unfinished), (3, true));
}

#[test]
fn what_can_never_be_right_reaches_no_store() {
    let config = SweepConfig {
        rows_per_batch: 0,
        ..SweepConfig::default()
    };
    let mut sweep = |_: &SweepRequest| panic!("it was asked");
    let answer = scan(&config, Lost::Expired, &mut sweep, &mut || true);
    assert!(matches!(answer, Err(StorageError::Invalid(_))));
}

#[test]
fn sums_keep_the_newest_failures() {
    let mut sum = SweepStatistics::default();
    for number in 1..=40 {
        let mut one = SweepStatistics {
            recovered: 2,
            scan_duration_ms: 0.5,
            ..SweepStatistics::default()
        };
        one.fail(Some(item(number)), damaged());
        sum.add(&one);
    }
    assert_eq!((sum.recovered, sum.failed), (80, 40));
    assert_eq!(sum.scan_duration_ms, 20.0);
    assert_eq!(sum.failures.len(), SweepStatistics::FAILURES_MAX);
    assert_eq!(sum.failures.last().unwrap().item, Some(item(40)));
}

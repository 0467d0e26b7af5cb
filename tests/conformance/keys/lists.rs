//! Lists of keys, what removes them, and what is noted of their use.

use agentos_core::limits::KEYS_PER_PART_MAX;
use agentos_core::{KeyId, ManualClock, PartOutcome, RemoveKeys, TouchKeys};
use agentos_tests::task_id;

use super::*;

/// Names of keys that a filter fits.
fn names(store: &dyn Storage, filter: &KeyFilter) -> Vec<String> {
    let summaries = keys_of(store, filter).into_iter();
    summaries.map(|summary| summary.key.to_string()).collect()
}

/// Two of each kind: a task or none, two operations, two models.
fn various(store: &dyn Storage, clock: &ManualClock) -> Vec<String> {
    let mut all = Vec::new();
    for task in [None, Some("a"), Some("b")] {
        for operation in ["chat", "search"] {
            for model in [None, Some("m-1")] {
                let name = format!(
                    "{}:{operation}:{}",
                    task.unwrap_or("-"),
                    model.unwrap_or("-")
                );
                let asked = BeginKey {
                    task: task.map(task_id),
                    operation: Some(operation.into()),
                    model: model.map(Into::into),
                    ..begin_of(&name, worker("one"))
                };
                let permit = executes(store, &asked);
                if all.len() % 2 == 0 {
                    done(store, finish(&permit, NewOutcome::success("x")));
                }
                all.push(name);
                clock.advance(SECOND);
            }
        }
    }
    all
}

pub(crate) fn lists_show_what_the_filter_fits(store: &dyn Storage, clock: &ManualClock) {
    let begun = store.now();
    let all = various(store, clock);
    assert_eq!(all.len(), 12);
    let expect = |filter: KeyFilter, fits: &dyn Fn(usize, &str) -> bool| {
        let expected: Vec<_> = all
            .iter()
            .enumerate()
            .filter(|(place, name)| fits(*place, name))
            .map(|(_, name)| name.clone())
            .collect();
        assert_eq!(names(store, &filter), expected, "{filter:?}");
        assert!(expected.len() < 12 || filter == KeyFilter::default());
    };
    let any = KeyFilter::default;
    expect(any(), &|_, _| true);
    let prefix = |prefix: &str| KeyFilter {
        prefix: Some(prefix.into()),
        ..any()
    };
    expect(prefix("a:"), &|_, name| name.starts_with("a:"));
    expect(prefix("a:s"), &|_, name| name.starts_with("a:s"));
    expect(prefix("A"), &|_, _| false);
    // A prefix is no pattern.
    for strange in ["%", "_:", "*", "a?", "[ab]", "'", "\u{10FFFF}"] {
        expect(prefix(strange), &|_, _| false);
    }
    let of_task = |task: &str| KeyFilter {
        task: Some(task_id(task)),
        ..any()
    };
    expect(of_task("b"), &|_, name| name.starts_with("b:"));
    expect(of_task("c"), &|_, _| false);
    let of_operation = KeyFilter {
        operation: Some("search".into()),
        ..any()
    };
    expect(of_operation.clone(), &|_, name| name.contains("search"));
    let of_model = KeyFilter {
        model: Some("m-1".into()),
        ..any()
    };
    expect(of_model.clone(), &|_, name| name.ends_with("m-1"));
    let changed_before = |seconds: u32| KeyFilter {
        changed_before: Some(begun.plus(seconds * SECOND)),
        ..any()
    };
    expect(changed_before(0), &|_, _| false);
    expect(changed_before(5), &|place, _| place < 5);
    let together = KeyFilter {
        prefix: Some("b".into()),
        task: Some(task_id("b")),
        changed_before: Some(begun.plus(11 * SECOND)),
        model: of_model.model,
        ..of_operation
    };
    expect(together.clone(), &|_, _| false);
    let together = KeyFilter {
        changed_before: Some(begun.plus(12 * SECOND)),
        ..together
    };
    expect(together, &|place, _| place == 11);
}

/// Goal: each row once and in order, whatever comes and goes in between. Method: pages
/// of several sizes, with each filter; a row goes and one comes between two pages.
pub(crate) fn lists_show_each_key_once(store: &dyn Storage, clock: &ManualClock) {
    various(store, clock);
    for filter in [
        KeyFilter::default(),
        KeyFilter {
            task: Some(task_id("a")),
            ..KeyFilter::default()
        },
        KeyFilter {
            prefix: Some("b".into()),
            ..KeyFilter::default()
        },
        KeyFilter {
            task: Some(task_id("b")),
            model: Some("m-1".into()),
            ..KeyFilter::default()
        },
        KeyFilter {
            operation: Some("chat".into()),
            ..KeyFilter::default()
        },
    ] {
        let expected = names(store, &filter);
        assert!(!expected.is_empty());
        for rows in [1, 2, 5, 12, PAGE_ROWS_MAX] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = store.keys(&filter, after, rows).unwrap();
                assert!(page.items.len() <= rows as usize);
                found.extend(page.items.iter().map(|summary| summary.key.to_string()));
                assert!(found.len() <= expected.len(), "the list does not end");
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            assert_eq!(found, expected, "{filter:?}, {rows} rows a page");
        }
    }
    let any = KeyFilter::default();
    let page = store.keys(&any, None, 5).unwrap();
    let gone = &page.items[4];
    assert_eq!(gone.view.status, KeyStatus::Succeeded);
    let fence = KeyFence {
        key: gone.id,
        token: gone.token,
    };
    done(store, RemoveKeys { keys: vec![fence] });
    executes(store, &begin_of("newcomer", worker("two")));
    let rest = store.keys(&any, page.next, PAGE_ROWS_MAX).unwrap();
    assert_eq!(rest.items.len(), 7 + 1);
    assert_eq!(rest.items[7].key, key("newcomer"));
    assert!(matches!(
        store.keys(&any, None, PAGE_ROWS_MAX + 1),
        Err(StorageError::LimitExceeded(_))
    ));
}

/// Goal: only an outcome goes, and only the one that was seen. Method: what is
/// pending, in doubt, executed again or gone, beside one that may go.
/// Goal: a walk over all keys can end at those that were there when it began.
pub(crate) fn the_newest_key_has_the_greatest_number(store: &dyn Storage, _: &ManualClock) {
    assert_eq!(store.newest_key().unwrap(), None);
    let one = executes(store, &begin_of("one", worker("w")));
    assert_eq!(store.newest_key().unwrap(), Some(one.fence.key));
    let two = executes(store, &begin_of("two", worker("w")));
    assert_eq!(store.newest_key().unwrap(), Some(two.fence.key));
    done(store, finish(&two, NewOutcome::success("x")));
    let remove = RemoveKeys {
        keys: vec![two.fence],
    };
    done(store, remove);
    let three = executes(store, &begin_of("three", worker("w")));
    assert!(two.fence.key < three.fence.key);
    assert_eq!(store.newest_key().unwrap(), Some(three.fence.key));
}

pub(crate) fn only_recorded_outcomes_are_removed(store: &dyn Storage, clock: &ManualClock) {
    let asked = |name: &str| begin_of(name, worker("one"));
    let lost = executes(store, &asked("lost"));
    let doubted = executes(store, &asked("doubted"));
    done(store, doubt(&doubted));
    clock.advance(PAST_LEASE);
    let held = executes(store, &asked("held"));
    let finished = |name: &str, outcome: NewOutcome| {
        let permit = executes(store, &asked(name));
        done(store, finish(&permit, outcome));
        permit.fence
    };
    let succeeded = finished("succeeded", NewOutcome::success("x"));
    let failed = finished("failed", NewOutcome::failure("x"));
    let expired = finished("expired", NewOutcome::success("x").ttl(Some(SECOND)));
    let again = finished("again", NewOutcome::failure("x"));
    let second = executes(store, &asked("again"));
    let third = finished("third", NewOutcome::failure("x"));
    let anew = executes(store, &asked("third"));
    done(store, finish(&anew, NewOutcome::success("y")));
    clock.advance(SECOND);
    let absent = KeyFence {
        key: KeyId::new(4096).unwrap(),
        ..succeeded
    };
    let all = [
        lost.fence,
        doubted.fence,
        held.fence,
        succeeded,
        failed,
        succeeded,
        expired,
        again,
        second.fence,
        third,
        absent,
    ];
    let remove = RemoveKeys { keys: all.to_vec() };
    let receipt = done(store, remove);
    assert_eq!(receipt.outcomes, [PartOutcome::KeysRemoved(3)]);
    let left = names(store, &KeyFilter::default());
    assert_eq!(left, ["lost", "doubted", "held", "again", "third"]);
    assert_eq!(entry(store, "succeeded"), None);
    assert_eq!(replayed(store, &asked("third")), b"y");
    let keys = Vec::new();
    let receipt = done(store, RemoveKeys { keys });
    assert_eq!(receipt.outcomes, [PartOutcome::KeysRemoved(0)]);
}

/// A use is noted, changes nothing else, and is not needed to be exact.
pub(crate) fn a_use_is_noted(store: &dyn Storage, clock: &ManualClock) {
    let permit = record(store, "one", NewOutcome::success("x"));
    let other = executes(store, &begin_of("pending", worker("one")));
    clock.advance(3600 * SECOND);
    let before = entry(store, "k").unwrap();
    let untouched = entry(store, "pending").unwrap();
    let touch = TouchKeys {
        keys: vec![
            permit.fence.key,
            KeyId::new(4096).unwrap(),
            permit.fence.key,
            other.fence.key,
        ],
    };
    let receipt = done(store, touch);
    assert_eq!(receipt.outcomes, [PartOutcome::KeysTouched]);
    let mut expected = before;
    expected.summary.used_at = store.now();
    assert_eq!(entry(store, "k").unwrap(), expected);
    let pending = entry(store, "pending").unwrap();
    assert_eq!(pending.summary.view, untouched.summary.view);
    let touch = TouchKeys { keys: Vec::new() };
    done(store, touch);
    // A use by a clock that went back does not make it older.
    clock.set(store.now().minus(1800 * SECOND));
    let touch = TouchKeys {
        keys: vec![permit.fence.key],
    };
    done(store, touch);
    let used_at = entry(store, "k").unwrap().summary.used_at;
    assert!(used_at <= expected.summary.used_at);
}

pub(crate) fn parts_of_keys_have_bounds(store: &dyn Storage, _: &ManualClock) {
    let permit = record(store, "one", NewOutcome::success("x"));
    let before = everything(store);
    let touch = TouchKeys {
        keys: vec![permit.fence.key; KEYS_PER_PART_MAX + 1],
    };
    let remove = RemoveKeys {
        keys: vec![permit.fence; KEYS_PER_PART_MAX + 1],
    };
    for commit in [Commit::from(touch), Commit::from(remove)] {
        let answer = store.commit(commit);
        assert!(
            matches!(answer, Err(StorageError::LimitExceeded(_))),
            "{answer:?}"
        );
    }
    assert_eq!(everything(store), before);
    let touch = TouchKeys {
        keys: vec![permit.fence.key; KEYS_PER_PART_MAX],
    };
    done(store, touch);
    let remove = RemoveKeys {
        keys: vec![permit.fence; KEYS_PER_PART_MAX],
    };
    let receipt = done(store, remove);
    assert_eq!(receipt.outcomes, [PartOutcome::KeysRemoved(1)]);
}

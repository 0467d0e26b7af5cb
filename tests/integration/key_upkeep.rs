//! Upkeep of keys: what has expired goes, then what was not used for longest, and
//! never what is pending; and what operators see of them.

use std::sync::Arc;
use std::time::Duration;

use agentos_core::{
    BeginKey, Begun, BoundedTable, Clock, Digest, FinishKey, IdempotencyKey, KeyFence, KeyFilter,
    KeyStorage, ManualClock, NewOutcome, OnRecorded, Retention, RowRule, SetTaskStatus, Storage,
    StorageError, SystemClock, TaskStatus, TaskStorage, TouchKeys,
};
use agentos_recovery::{Mode, run_upkeep};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{Open, config, new_task, sqlite_with_clock, task_id, worker};
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::monitoring::{rows, statement};

const HOUR: Duration = Duration::from_secs(3600);

fn begin(store: &SqliteStore, key: &str) -> KeyFence {
    let key = IdempotencyKey::new(key).unwrap();
    let begin = BeginKey {
        on_recorded: OnRecorded::RunAgain,
        ..BeginKey::new(key, Digest::of(b"request"), worker("one", "first"))
    };
    match store.begin_key(&begin).unwrap() {
        Begun::Execute(permit) => permit.fence,
        other => panic!("{other:?}"),
    }
}

fn record(store: &SqliteStore, key: &str, outcome: NewOutcome) -> KeyFence {
    let fence = begin(store, key);
    store.commit(FinishKey { fence, outcome }.into()).unwrap();
    fence
}

fn left(store: &SqliteStore) -> Vec<String> {
    let page = store.keys(&KeyFilter::default(), None, 1000).unwrap();
    let keys = page.items.into_iter();
    keys.map(|summary| summary.key.to_string()).collect()
}

fn touch(store: &SqliteStore, keys: &[KeyFence]) {
    let keys = keys.iter().map(|fence| fence.key).collect();
    store.commit(TouchKeys { keys }.into()).unwrap();
}

/// One pass; a dry run counts the same before. Gives the rows that went of each table.
fn pass(store: &SqliteStore, cache: RowRule, ledger: RowRule) -> (u64, u64) {
    let retention = Retention {
        cache,
        ledger,
        ..Retention::keep_all()
    };
    let removed = |mode| {
        let report = run_upkeep(store, &retention, mode).unwrap();
        assert!(report.is_complete(), "{report:?}");
        let of = |table| {
            let removed = report.rows.get(&table).copied().unwrap_or_default();
            (removed.rows, removed.bytes)
        };
        (
            of(BoundedTable::CacheEntries),
            of(BoundedTable::LedgerEntries),
        )
    };
    let would = removed(Mode::DryRun);
    let did = removed(Mode::Apply);
    assert_eq!(would, did, "a dry run counts what goes");
    assert_eq!(
        removed(Mode::Apply),
        Default::default(),
        "nothing is left to do"
    );
    (did.0.0, did.1.0)
}

fn rule(change: impl FnOnce(&mut RowRule)) -> RowRule {
    let mut rule = RowRule::keep_all();
    change(&mut rule);
    rule
}

const KEEP: RowRule = RowRule::keep_all();

#[test]
fn what_has_expired_goes_whatever_the_rules_say() {
    let (store, clock) = sqlite_with_clock();
    for prefix in ["llm-cache:", "tool-ledger:", "own:"] {
        for (name, ttl) in [
            ("hour", Some(HOUR)),
            ("day", Some(24 * HOUR)),
            ("ever", None),
        ] {
            let outcome = NewOutcome::success("x").ttl(ttl);
            record(&store, &format!("{prefix}{name}"), outcome);
        }
        begin(&store, &format!("{prefix}pending"));
    }
    assert_eq!(pass(&store, KEEP, KEEP), (0, 0));
    clock.advance(HOUR);
    assert_eq!(pass(&store, KEEP, KEEP), (1, 2));
    assert_eq!(
        left(&store),
        [
            "llm-cache:day",
            "llm-cache:ever",
            "llm-cache:pending",
            "tool-ledger:day",
            "tool-ledger:ever",
            "tool-ledger:pending",
            "own:day",
            "own:ever",
            "own:pending",
        ]
    );
    clock.advance(10_000 * HOUR);
    assert_eq!(pass(&store, KEEP, KEEP), (1, 2));
    assert_eq!(left(&store).len(), 6);
}

/// Goal: age counts from the last use that was noted, and each table has its own rule.
#[test]
fn what_was_not_used_for_long_goes() {
    let (store, clock) = sqlite_with_clock();
    let mut fences = Vec::new();
    for number in 0..6 {
        for prefix in ["llm-cache", "tool-ledger"] {
            let key = format!("{prefix}:{number}");
            fences.push(record(&store, &key, NewOutcome::success("x")));
        }
        clock.advance(HOUR);
    }
    let aged = rule(|rule| rule.max_age = Some(4 * HOUR - Duration::from_secs(1)));
    // 0 is of six hours, 5 of one; 1 was used just now.
    touch(&store, &fences[2..3]);
    assert_eq!(pass(&store, aged, KEEP), (2, 0));
    let cached: Vec<_> = left(&store)
        .into_iter()
        .filter(|key| key.starts_with("llm-cache:"))
        .collect();
    assert_eq!(
        cached,
        ["llm-cache:1", "llm-cache:3", "llm-cache:4", "llm-cache:5"]
    );
    assert_eq!(pass(&store, KEEP, aged), (0, 3));
    assert_eq!(left(&store).len(), 4 + 3);
}

/// Ten entries of the cache, an hour apart, of ten bytes each.
fn ten() -> (Open, Arc<ManualClock>, Vec<KeyFence>) {
    let (store, clock) = sqlite_with_clock();
    let fences = (0..10)
        .map(|number| {
            let outcome = NewOutcome::success(vec![7; 10]);
            let fence = record(&store, &format!("llm-cache:{number}"), outcome);
            clock.advance(HOUR);
            fence
        })
        .collect();
    (store, clock, fences)
}

fn numbers(store: &SqliteStore) -> Vec<u32> {
    let keys = left(store).into_iter();
    keys.filter_map(|key| key.rsplit_once(':')?.1.parse().ok())
        .collect()
}

#[test]
fn beyond_a_number_what_was_used_least_recently_goes_first() {
    let (store, _, fences) = ten();
    touch(&store, &[fences[0], fences[4]]);
    let at_most = |rows| rule(|rule| rule.max_rows = Some(rows));
    assert_eq!(pass(&store, at_most(10), KEEP), (0, 0));
    assert_eq!(pass(&store, at_most(4), KEEP), (6, 0));
    assert_eq!(numbers(&store), [0, 4, 8, 9]);
    assert_eq!(pass(&store, KEEP, at_most(0)), (0, 0), "of the other table");
    assert_eq!(pass(&store, at_most(0), KEEP), (4, 0));
}

#[test]
fn beyond_a_number_of_bytes_what_was_used_least_recently_goes_first() {
    let (store, clock, fences) = ten();
    let at_most = |bytes| rule(|rule| rule.max_bytes = Some(bytes));
    assert_eq!(pass(&store, at_most(100), KEEP), (0, 0));
    touch(&store, &fences[..1]);
    clock.advance(HOUR);
    // Empty ones count as none.
    record(&store, "llm-cache:10", NewOutcome::success(""));
    assert_eq!(pass(&store, at_most(39), KEEP), (7, 0));
    assert_eq!(numbers(&store), [0, 8, 9, 10]);
    clock.advance(HOUR);
    record(&store, "llm-cache:11", NewOutcome::success(vec![7; 40]));
    // One that is larger than all that may be kept goes as well.
    pass(&store, at_most(39), KEEP);
    assert!(!numbers(&store).contains(&9), "{:?}", numbers(&store));
    let together = rule(|rule| {
        rule.max_rows = Some(1);
        rule.max_bytes = Some(1000);
    });
    pass(&store, together, KEEP);
    assert!(left(&store).len() <= 1);
}

/// Goal: no rule touches what is pending, in doubt, or was just recorded under a key
/// that had been old. Method: the tightest rules.
#[test]
fn what_is_pending_or_in_doubt_never_goes() {
    let (store, clock) = sqlite_with_clock();
    for prefix in ["llm-cache", "tool-ledger"] {
        for name in ["pending", "again"] {
            let key = format!("{prefix}:{name}");
            if name == "again" {
                record(&store, &key, NewOutcome::failure("x").ttl(Some(HOUR)));
            }
            clock.advance(10 * HOUR);
            begin(&store, &key);
        }
        record(
            &store,
            &format!("{prefix}:recorded"),
            NewOutcome::success("x"),
        );
        clock.advance(10_000 * HOUR);
        begin(&store, &format!("{prefix}:held"));
    }
    let tight = RowRule {
        max_age: Some(Duration::from_secs(1)),
        max_rows: Some(0),
        max_bytes: Some(0),
    };
    assert_eq!(pass(&store, tight, tight), (1, 1));
    let doubts = store.keys_in_doubt(None, 100).unwrap().items;
    let doubts: Vec<String> = doubts.iter().map(|key| key.key.to_string()).collect();
    assert_eq!(
        doubts,
        ["tool-ledger:pending", "tool-ledger:again"],
        "not the last that was begun, and none of the cache"
    );
    assert_eq!(left(&store).len(), 6);
    clock.reboot();
    assert_eq!(pass(&store, tight, tight), (0, 0));
    assert_eq!(left(&store).len(), 6);
}

#[test]
fn bytes_are_counted_of_keys_alone() {
    let (store, _) = sqlite_with_clock();
    let retention = Retention {
        audits: rule(|rule| rule.max_bytes = Some(1)),
        ..Retention::keep_all()
    };
    let answer = run_upkeep(&*store, &retention, Mode::Apply);
    assert!(
        matches!(answer, Err(StorageError::Invalid(_))),
        "{answer:?}"
    );
}

/// Goal: what operators ask about keys is answered truly, of rows that the library
/// made. Method: a clock that comes from the past to the present.
#[test]
fn operators_are_told_the_truth_about_keys() {
    use Value::Integer;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    let clock = Arc::new(ManualClock::at(SystemClock.wall().minus(90 * 24 * HOUR)));
    let store = SqliteStore::open(config(&path).clock(Arc::clone(&clock))).unwrap();
    let digest = |name: &str| Digest::of(name.as_bytes());
    let cached = |name: &str| IdempotencyKey::of_cache(&digest(name)).to_string();
    let ledger = |name: &str| IdempotencyKey::of_ledger(&digest(name)).to_string();
    record(&store, &ledger("a"), NewOutcome::success("x"));
    clock.advance(80 * 24 * HOUR);
    record(&store, &cached("a"), NewOutcome::success("x"));
    clock.advance(7 * 24 * HOUR);
    record(&store, &cached("b"), NewOutcome::failure("x"));
    record(&store, &cached("c"), NewOutcome::success(""));
    clock.advance(3 * 24 * HOUR - HOUR);
    begin(&store, &cached("d"));
    begin(&store, &ledger("b"));
    // Executed again: it is as old as it was.
    record(&store, &cached("a"), NewOutcome::success("y"));
    let copy = directory.path().join("copy.db");
    store.backup(&copy).unwrap();
    let connection = Connection::open(&copy).unwrap();
    let ask = |number| rows(&connection, &statement(number));
    assert_eq!(ask(5), [[Integer(4), Integer(2), Integer(1)]]);
    let mut ages = ask(6);
    ages.sort_by_key(|row| format!("{row:?}"));
    let text = |text: &str| Value::Text(text.into());
    assert_eq!(
        ages,
        [
            [text("1-7 days"), Integer(2)],
            [text("7-30 days"), Integer(1)],
            [text("< 1 day"), Integer(2)],
            [text("> 30 days"), Integer(1)],
        ]
    );
}

/// Goal: a task of the name of one that is gone is not told what that one did. Method:
/// two tasks end; one has a call that is in doubt, and stays with all it has.
#[test]
fn what_a_task_did_goes_with_it_unless_a_call_of_it_is_in_doubt() {
    let (store, clock) = sqlite_with_clock();
    for name in ["done", "doubtful"] {
        let task = task_id(name);
        store.create_task(new_task(name)).unwrap();
        for call in ["first", "second"] {
            let key = IdempotencyKey::new(format!("tool-ledger:{name}:{call}")).unwrap();
            let begin = BeginKey {
                task: Some(task.clone()),
                ..BeginKey::new(key, Digest::of(b"request"), worker("one", "first"))
            };
            let Begun::Execute(permit) = store.begin_key(&begin).unwrap() else {
                panic!("it is there already");
            };
            if (name, call) != ("doubtful", "second") {
                let outcome = NewOutcome::success("x");
                let fence = permit.fence;
                store.commit(FinishKey { fence, outcome }.into()).unwrap();
            }
        }
        for to in [TaskStatus::Running, TaskStatus::Succeeded] {
            store
                .commit(SetTaskStatus::new(task.clone(), to).into())
                .unwrap();
        }
    }
    clock.advance(HOUR);
    let retention = Retention {
        tasks: rule(|rule| rule.max_rows = Some(0)),
        ..Retention::keep_all()
    };
    for mode in [Mode::DryRun, Mode::Apply] {
        let report = run_upkeep(&*store, &retention, mode).unwrap();
        assert_eq!(report.rows[&BoundedTable::FinishedTasks].rows, 1);
    }
    assert_eq!(store.task(&task_id("done")).unwrap(), None);
    assert!(store.task(&task_id("doubtful")).unwrap().is_some());
    assert_eq!(
        left(&store),
        ["tool-ledger:doubtful:first", "tool-ledger:doubtful:second"]
    );
}

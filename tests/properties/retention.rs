//! Pruning, for any history of types, recorded checks and damage, and any rule:
//! resume gives the same answer before and after, a dry run counts what goes,
//! and what the rule keeps is there.

use std::sync::Arc;
use std::time::Duration;

use agentos_checkpoints::{
    Check, CheckpointConfig, CheckpointManager, Evidence, NewCheckpoint, OnFailure, Pack, Resume,
    prune,
};
use agentos_core::{
    AppendCheckpoint, CheckpointRule, CheckpointType, Commit, FoundCheckpoint, RecordVerification,
    SequenceNumber, Storage, StorageError, Verification,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{append, config, fresh, manual_clock, new_task, numbers, task_id};
use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::cases;

/// A checkpoint of a history.
#[derive(Debug, Clone)]
struct Made {
    /// Bytes of its state; `None` for an error boundary.
    state: Option<usize>,
    /// What its evidence says, then and ever after; `None` for no evidence.
    evidence: Option<bool>,
    /// Whether its row is damaged afterwards.
    damaged: bool,
    /// Seconds until the next.
    pause: u64,
}

fn made() -> impl Strategy<Value = Made> {
    (
        prop_oneof![1 => Just(None), 4 => (1..2000_usize).prop_map(Some)],
        prop_oneof![1 => Just(None), 1 => Just(Some(true)), 2 => Just(Some(false))],
        prop::bool::weighted(0.2),
        0..3_u64,
    )
        .prop_map(|(state, evidence, damaged, pause)| Made {
            state,
            evidence,
            damaged,
            pause,
        })
}

fn rule() -> impl Strategy<Value = CheckpointRule> {
    (
        prop::option::weighted(0.7, 1..8_u32),
        prop::option::weighted(0.3, (0..30_u64).prop_map(Duration::from_secs)),
        prop::option::weighted(0.3, 0..10_000_u64),
    )
        .prop_map(|(keep_last, max_age, max_bytes)| CheckpointRule {
            keep_last,
            max_age,
            max_bytes,
        })
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn resume_answers_the_same_before_and_after(
        history in proptest::collection::vec(made(), 1..24),
        rule in rule(),
        leased in proptest::collection::vec(1..24_u64, 0..2),
        forgotten in any::<bool>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.db");
        let clock = manual_clock();
        let store = SqliteStore::open(config(&path).clock(clock.clone())).unwrap();
        let store: Arc<dyn Storage> = Arc::new(store);
        let says = |detail: &Value, _: &agentos_checkpoints::CheckContext<'_>| {
            if detail == &json!(true) { Check::Passed } else { Check::failed("it says so") }
        };
        let checkpoints = CheckpointConfig::new(directory.path())
            .on_failure(OnFailure::StoreAsFailed)
            .kind("says", says);
        let manager = CheckpointManager::new(Arc::clone(&store), checkpoints).unwrap();
        let task = task_id("a");
        store.create_task(new_task("a")).unwrap();
        for made in &history {
            let new = match made.state {
                None => NewCheckpoint::new(task.clone(), CheckpointType::ErrorBoundary),
                Some(bytes) => NewCheckpoint::new(task.clone(), CheckpointType::IterationEnd)
                    .raw(1, vec![7; bytes]),
            };
            let pack = made.evidence.map(|holds| {
                Pack::all([Evidence::custom("says", json!(holds))])
            });
            let new = match pack {
                Some(pack) => new.evidence(pack),
                None => new,
            };
            manager.append(new).unwrap();
            clock.advance(Duration::from_secs(made.pause));
        }
        // A record that says less than the truth: resume does not believe it, and
        // pruning must not lose by it.
        if forgotten {
            let forget = (1..=history.len() as u64).fold(Commit::new(), |commit, number| {
                commit.part(RecordVerification {
                    task: task.clone(),
                    sequence: SequenceNumber::new(number).unwrap(),
                    verification: Verification::Unverified,
                    results: Vec::new(),
                })
            });
            // Only where no evidence failed: else the record would say more.
            if history.iter().all(|made| made.evidence != Some(false)) {
                store.commit(forget).unwrap();
            }
        }
        let connection = Connection::open(&path).unwrap();
        for (number, made) in (1_i64..).zip(&history) {
            if made.damaged {
                connection
                    .execute(
                        "UPDATE checkpoints SET seal = zeroblob(32) WHERE sequence_number = ?1",
                        [number],
                    )
                    .unwrap();
            }
        }
        for number in &leased {
            connection
                .execute_batch(&format!(
                    "INSERT INTO work_items (task_id, work_type, status, max_attempts, available_at,
                         created_at, updated_at, checkpoint_sequence)
                     SELECT task_id, 'test', 'pending', 3, created_at, created_at, created_at,
                         {number} FROM tasks;
                     UPDATE work_items SET status = 'in_progress', lease_holder = 'w',
                         lease_incarnation = 'i', lease_token = 1, lease_boot_id = 'b', lease_deadline_us = 1,
                         lease_acquired_at = created_at, lease_expires_at = created_at;"
                ))
                .unwrap();
        }

        let answer = |resume: Resume| match resume {
            Resume::From(resumed) => Some(resumed.checkpoint.summary.sequence.get()),
            Resume::Nowhere { .. } => None,
        };
        let all = numbers(store.as_ref(), "a");
        let before = answer(manager.resume(&task).unwrap());
        let plan = manager.plan_pruning(&task, &rule).unwrap();
        prop_assert_eq!(numbers(store.as_ref(), "a"), all.clone());
        let did = manager.prune(&task, &rule).unwrap();
        let left = numbers(store.as_ref(), "a");

        prop_assert_eq!(answer(manager.resume(&task).unwrap()), before);
        prop_assert_eq!((did.removed, did.bytes), (plan.removed, plan.bytes));
        prop_assert_eq!(left.len() as u64, plan.kept);
        prop_assert!(!did.unfinished);
        prop_assert_eq!(left.last(), all.last());
        prop_assert!(leased.iter().all(|number| left.contains(number) == all.contains(number)));
        // Whatever is left of what the rule does not keep has its reason.
        let by_rule = left.iter().rev().take(left.len() - plan.kept_for.len());
        prop_assert!(by_rule.eq(all.iter().rev().take(left.len() - plan.kept_for.len())));
        if let Some(keep) = rule.keep_last {
            prop_assert!(left.len() - plan.kept_for.len() <= keep as usize);
            if rule == CheckpointRule::keep_last(keep) {
                let newest: Vec<_> = all.iter().rev().take(keep as usize).collect();
                prop_assert!(newest.iter().all(|number| left.contains(number)));
            }
        }
        // Nothing is left to do, and numbers go on.
        prop_assert_eq!(manager.plan_pruning(&task, &rule).unwrap().removed, 0);
        let next = NewCheckpoint::new(task.clone(), CheckpointType::IterationEnd).raw(1, vec![1]);
        prop_assert_eq!(manager.append(next).unwrap().sequence.get(), all.len() as u64 + 1);
    }
}

/// The newest whole one that is not recorded as failed.
fn resumable(store: &dyn Storage) -> Option<SequenceNumber> {
    let mut below = None;
    loop {
        match store.newest_checkpoint(&task_id("a"), below).unwrap()? {
            FoundCheckpoint::Damaged { sequence, .. } => below = Some(sequence),
            FoundCheckpoint::Sound(found) => {
                let failed = found.summary.verification == Verification::Failed;
                if found.snapshot.is_some() && !failed {
                    return Some(found.summary.sequence);
                }
                below = Some(found.summary.sequence);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(64))]

    /// Goal: whatever others record and append between two batches, the next
    /// batch leaves the newest that can be resumed from at its moment. Method:
    /// most are recorded as failed at first; between two batches a few records
    /// change, and checkpoints are appended.
    #[test]
    fn each_batch_leaves_what_can_be_resumed_from(
        history in proptest::collection::vec(
            (prop::bool::weighted(0.9), prop::bool::weighted(0.9), prop::bool::weighted(0.1)),
            12..32,
        ),
        keep in 1..5_u32,
        rows in 1..4_u32,
        meanwhile in proptest::collection::vec(
            prop::option::weighted(0.9, (6..32_u64, prop::bool::weighted(0.2))),
            1..24,
        ),
    ) {
        let store = fresh();
        store.create_task(new_task("a")).unwrap();
        let record = |number: u64, failed: bool| {
            let record = RecordVerification {
                task: task_id("a"),
                sequence: SequenceNumber::new(number).unwrap(),
                verification: if failed { Verification::Failed } else { Verification::Verified },
                results: Vec::new(),
            };
            match store.commit(record.into()) {
                Ok(_) | Err(StorageError::NotFound { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        };
        let boundary = || AppendCheckpoint::new(task_id("a"), CheckpointType::ErrorBoundary);
        let connection = Connection::open(store.path()).unwrap();
        for (number, (state, failed, damaged)) in (1_u64..).zip(&history) {
            let new = if *state { append("a", "state") } else { boundary() };
            store.commit(new.into()).unwrap();
            if *failed {
                record(number, true);
            }
            if *damaged {
                let sql = "UPDATE checkpoints SET seal = zeroblob(32) WHERE sequence_number = ?1";
                connection.execute(sql, [number.cast_signed()]).unwrap();
            }
        }
        let mut meanwhile = meanwhile.into_iter();
        let must = std::cell::Cell::new(resumable(&*store));
        let rule = CheckpointRule::keep_last(keep);
        let mut lost = None;
        let pruning = prune(&*store, &task_id("a"), &rule, rows, &mut |_| {
            if must.get() != resumable(&*store) {
                lost = must.get();
            }
            match meanwhile.next() {
                None => {}
                Some(None) => drop(store.commit(boundary().into()).unwrap()),
                Some(Some((number, failed))) => record(number, failed),
            }
            must.set(resumable(&*store));
            true
        });
        pruning.unwrap();
        prop_assert_eq!(lost, None);
    }
}

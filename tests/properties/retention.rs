//! Pruning, for any history of types, recorded checks and damage, and any rule:
//! resume gives the same answer before and after, a dry run counts what goes,
//! and what the rule keeps is there.

use std::sync::Arc;
use std::time::Duration;

use agentos_checkpoints::{
    Check, CheckpointConfig, CheckpointManager, Evidence, NewCheckpoint, OnFailure, Pack, Resume,
};
use agentos_core::{
    CheckpointRule, CheckpointType, Commit, RecordVerification, SequenceNumber, Storage,
    Verification,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{config, manual_clock, new_task, numbers, task_id};
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
                         lease_incarnation = 'i', lease_boot_id = 'b', lease_deadline_us = 1,
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

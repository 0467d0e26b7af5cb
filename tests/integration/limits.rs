//! Values beyond their bounds: refused by the name of the bound, the bound and
//! the value, before anything of their commit is written. At the bound they are
//! taken, and what was taken can be read again.

use agentos_core::{
    AppendCheckpoint, AuditLine, Commit, EvidenceOutcome, EvidenceResult, Limits, NewTask, Part,
    RecordVerification, SequenceNumber, Storage, StorageError, TaskId, TaskStorage, Verification,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{append, config, fresh, new_task, numbers, task_id};
use serde_json::{Value, json};

/// Goal: a value beyond its bound is refused by name, bound and value, and
/// nothing of its commit is written. At the bound it is taken.
#[test]
fn values_beyond_their_bounds_are_refused_and_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    let limits = Limits {
        snapshot_bytes: 1000,
        metadata_bytes: 100,
        ..Limits::default()
    };
    let store = SqliteStore::open(config(&path).limits(limits)).unwrap();
    store.create_task(new_task("a")).unwrap();
    let text = |bytes: usize| Value::String("x".repeat(bytes - 2)); // with its quotes
    let task = |metadata| NewTask::new(task_id("b"), "test").metadata(metadata);
    let line = |detail| AuditLine::new(task_id("a"), "event").detail(detail);
    let with_metadata = |metadata| AppendCheckpoint {
        metadata,
        ..append("a", "state")
    };
    let refusals: Vec<(Part, &str, u64, u64)> = vec![
        (
            append("a", vec![0; 1001]).into(),
            "snapshot bytes",
            1000,
            1001,
        ),
        (task(text(101)).into(), "metadata bytes", 100, 101),
        (line(text(101)).into(), "metadata bytes", 100, 101),
        (with_metadata(text(101)).into(), "metadata bytes", 100, 101),
        (
            AuditLine::new(task_id("a"), "e".repeat(129)).into(),
            "name bytes",
            128,
            129,
        ),
        (
            line(Value::Null).reason("r".repeat(4097)).into(),
            "reason bytes",
            4096,
            4097,
        ),
    ];
    for (part, name, limit, value) in refusals {
        let good = AuditLine::new(task_id("a"), "must not stay");
        let answer = store.commit(Commit::new().part(good).part(part));
        let Err(StorageError::LimitExceeded(exceeded)) = answer else {
            panic!("{name}: {answer:?}")
        };
        assert_eq!(
            (exceeded.name, exceeded.limit, exceeded.value),
            (name, limit, value)
        );
    }
    assert_eq!(
        store.audits(&task_id("a"), None, 10).unwrap().items.len(),
        1
    );
    assert_eq!(numbers(&store, "a"), [0_u64; 0]);
    store.commit(append("a", vec![0; 1000]).into()).unwrap();
    store.create_task(task(text(100))).unwrap();
    store.commit(with_metadata(text(100)).into()).unwrap();
    assert_eq!(numbers(&store, "a"), [1, 2]);
    assert!(matches!(
        store.commit(Commit::new()),
        Err(StorageError::Invalid(_))
    ));
}

#[test]
fn ids_that_are_empty_too_long_or_hold_nul_are_refused() {
    let Err(StorageError::LimitExceeded(exceeded)) = TaskId::new("x".repeat(10_000)) else {
        panic!("an id of 10,000 characters was taken")
    };
    assert_eq!((exceeded.name, exceeded.value), ("task id bytes", 10_000));
    for id in ["", "a\0b", "\0"] {
        assert!(matches!(TaskId::new(id), Err(StorageError::Invalid(_))));
    }
    let store = fresh();
    let longest = "é".repeat(256);
    store.create_task(new_task(&longest)).unwrap();
    assert!(store.task(&task_id(&longest)).unwrap().is_some());
}

#[test]
fn the_same_item_of_evidence_twice_is_invalid_input() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    store.commit(append("a", "state").into()).unwrap();
    let result = EvidenceResult {
        item: 0,
        kind: "artifact_exists".into(),
        outcome: EvidenceOutcome::Passed,
        reason: None,
        checked_at: store.now(),
    };
    let answer = store.commit(
        RecordVerification {
            task: task_id("a"),
            sequence: SequenceNumber::FIRST,
            verification: Verification::Verified,
            results: vec![result.clone(), result],
        }
        .into(),
    );
    assert!(
        matches!(answer, Err(StorageError::Invalid(_))),
        "{answer:?}"
    );
}

/// Goal: what is acknowledged can be read again. Method: metadata so deep that
/// a reader of JSON refuses it must be refused before it is stored.
#[test]
fn metadata_too_deep_to_be_read_again_is_refused() {
    let store = fresh();
    let nested = |depth| (0..depth).fold(json!(1), |inner, _| Value::Array(vec![inner]));
    for depth in [100, 127, 128, 200, 1200] {
        let id = format!("deep {depth}");
        let task = NewTask::new(task_id(&id), "test").metadata(nested(depth));
        match store.create_task(task.clone()) {
            Ok(_) => {
                let found = store.task(&task_id(&id)).unwrap().unwrap();
                assert!(task.is_same_as(&found), "{depth}");
            }
            Err(error) => {
                let typed = matches!(
                    error,
                    StorageError::LimitExceeded(_) | StorageError::Invalid(_)
                );
                assert!(typed, "{depth}: {error:?}");
            }
        }
    }
}

//! Checkpoints: gapless numbers, content bit for bit, newest first, and what a
//! check of their evidence said.

use agentos_core::{
    AppendCheckpoint, CheckpointType, Codec, Digest, EvidenceOutcome, EvidenceResult,
    FoundCheckpoint, RecordVerification, SequenceNumber, Snapshot, Storage, StorageError, TaskId,
    Verification,
};
use agentos_tests::{append, new_task, numbers, task_id};
use serde_json::json;

fn number(number: u64) -> SequenceNumber {
    SequenceNumber::new(number).unwrap()
}

fn filled(store: &dyn Storage, task: &str, count: u64) -> TaskId {
    store.create_task(new_task(task)).unwrap();
    for index in 1..=count {
        store
            .commit(append(task, format!("{task} {index}")).into())
            .unwrap();
    }
    task_id(task)
}

pub(crate) fn numbers_begin_at_one_and_have_no_gap(store: &dyn Storage) {
    store.create_task(new_task("a")).unwrap();
    for expected in 1..=30 {
        let receipt = store.commit(append("a", "state").into()).unwrap();
        let appended = receipt.appended().next().unwrap();
        assert_eq!(appended.sequence.get(), expected);
    }
    assert_eq!(numbers(store, "a"), (1..=30).collect::<Vec<_>>());
}

pub(crate) fn tasks_are_numbered_apart(store: &dyn Storage) {
    filled(store, "a", 3);
    filled(store, "b", 2);
    assert_eq!(
        (numbers(store, "a"), numbers(store, "b")),
        (vec![1, 2, 3], vec![1, 2])
    );
}

pub(crate) fn what_is_loaded_is_what_was_stored(store: &dyn Storage) {
    store.create_task(new_task("a")).unwrap();
    let states: [Option<Snapshot>; 5] = [
        None,
        Some(Snapshot::new(Codec::Raw, 0, Vec::new())),
        Some(Snapshot::new(Codec::Bincode, u32::MAX, vec![0, 255, 0])),
        Some(Snapshot::new(
            Codec::Json,
            7,
            br#"{"a": "\u00e9"}"#.to_vec(),
        )),
        Some(Snapshot::new(
            Codec::Raw,
            1,
            (0..=255).cycle().take(1 << 20).collect(),
        )),
    ];
    let kinds = CheckpointType::ALL
        .iter()
        .filter(|kind| **kind != CheckpointType::ErrorBoundary);
    for (snapshot, kind) in states.into_iter().zip(kinds) {
        let new = AppendCheckpoint {
            snapshot: snapshot.clone(),
            evidence: Some(format!("{{\"kind\": \"{kind}\"}}")),
            metadata: json!({"kind": kind.as_str(), "x": 0.1}),
            ..AppendCheckpoint::new(task_id("a"), *kind)
        };
        let receipt = store.commit(new.clone().into()).unwrap();
        let appended = *receipt.appended().next().unwrap();
        let found = store
            .checkpoint(&task_id("a"), appended.sequence)
            .unwrap()
            .unwrap();
        assert_eq!(found.snapshot, snapshot);
        assert_eq!(found.evidence, new.evidence);
        assert_eq!(found.metadata, new.metadata);
        let summary = &found.summary;
        assert_eq!(summary.checkpoint_type, *kind);
        assert_eq!(
            (summary.seal, summary.created_at),
            (appended.seal, appended.created_at)
        );
        assert_eq!(summary.verification, Verification::Unverified);
        let digest = summary.snapshot.map(|stored| stored.digest);
        assert_eq!(
            digest,
            snapshot.as_ref().map(|state| Digest::of(state.bytes()))
        );
        let listed = store.checkpoints(&task_id("a"), None, 1).unwrap();
        assert_eq!(listed[0], found.summary);
    }
}

pub(crate) fn the_newest_is_found_and_the_walk_down_ends(store: &dyn Storage) {
    let task = filled(store, "a", 5);
    let (mut below, mut walked) = (None, Vec::new());
    while let Some(found) = store.newest_checkpoint(&task, below).unwrap() {
        let FoundCheckpoint::Sound(checkpoint) = found else {
            panic!("{found:?}")
        };
        below = Some(checkpoint.summary.sequence);
        walked.push(checkpoint.summary.sequence.get());
    }
    assert_eq!(walked, [5, 4, 3, 2, 1]);
    assert_eq!(
        store.newest_checkpoint(&task_id("absent"), None).unwrap(),
        None
    );
    assert_eq!(store.checkpoint(&task, number(6)).unwrap(), None);
}

pub(crate) fn lists_show_the_newest_first_and_are_paged(store: &dyn Storage) {
    let task = filled(store, "a", 10);
    let page = |below, rows| -> Vec<u64> {
        let found = store.checkpoints(&task, below, rows).unwrap();
        found.iter().map(|summary| summary.sequence.get()).collect()
    };
    assert_eq!(page(None, 4), [10, 9, 8, 7]);
    assert_eq!(page(Some(number(7)), 4), [6, 5, 4, 3]);
    assert_eq!(page(Some(number(3)), 4), [2, 1]);
    assert_eq!(page(Some(number(1)), 4), [0_u64; 0]);
}

pub(crate) fn a_checkpoint_without_a_task_is_refused(store: &dyn Storage) {
    let answer = store.commit(append("absent", "state").into());
    let Err(StorageError::NotFound { what, id }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((what, id.as_str()), ("task", "absent"));
}

pub(crate) fn an_error_boundary_carries_no_state(store: &dyn Storage) {
    store.create_task(new_task("a")).unwrap();
    let bare = AppendCheckpoint::new(task_id("a"), CheckpointType::ErrorBoundary);
    let with_state = AppendCheckpoint {
        snapshot: append("a", "state").snapshot,
        ..bare.clone()
    };
    assert!(matches!(
        store.commit(with_state.into()),
        Err(StorageError::Invalid(_))
    ));
    store.commit(bare.into()).unwrap();
    let found = store.checkpoint(&task_id("a"), number(1)).unwrap().unwrap();
    assert_eq!(found.snapshot, None);
}

fn result(store: &dyn Storage, item: u32, outcome: EvidenceOutcome) -> EvidenceResult {
    EvidenceResult {
        item,
        kind: "file_digest".into(),
        outcome,
        reason: Some(format!("because of {item} 'é'")),
        checked_at: store.now(),
    }
}

pub(crate) fn a_verification_replaces_the_one_before(store: &dyn Storage) {
    use EvidenceOutcome::{Failed, Passed};
    store.create_task(new_task("a")).unwrap();
    let task = task_id("a");
    let first = vec![result(store, 0, Passed), result(store, 1, Failed)];
    let new = AppendCheckpoint {
        evidence: Some("{}".into()),
        verification: Verification::Failed,
        results: first.clone(),
        ..append("a", "state")
    };
    store.commit(new.into()).unwrap();
    assert_eq!(store.evidence_results(&task, number(1)).unwrap(), first);
    let second = vec![result(store, 1, Passed), result(store, 3, Passed)];
    let record = |verification, results| RecordVerification {
        task: task.clone(),
        sequence: number(1),
        verification,
        results,
    };
    store
        .commit(record(Verification::Verified, second.clone()).into())
        .unwrap();
    assert_eq!(store.evidence_results(&task, number(1)).unwrap(), second);
    let found = store.checkpoint(&task, number(1)).unwrap().unwrap();
    assert_eq!(found.summary.verification, Verification::Verified);
    store
        .commit(record(Verification::Unverified, Vec::new()).into())
        .unwrap();
    assert_eq!(store.evidence_results(&task, number(1)).unwrap(), []);
    let twice = vec![result(store, 2, Passed), result(store, 2, Failed)];
    let answer = store.commit(record(Verification::Failed, twice).into());
    assert!(
        matches!(answer, Err(StorageError::Invalid(_))),
        "{answer:?}"
    );
}

pub(crate) fn a_verification_of_nothing_is_refused(store: &dyn Storage) {
    filled(store, "a", 1);
    for (task, sequence) in [("a", 2), ("absent", 1)] {
        let record = RecordVerification {
            task: task_id(task),
            sequence: number(sequence),
            verification: Verification::Verified,
            results: Vec::new(),
        };
        let answer = store.commit(record.into());
        let refused = matches!(
            answer,
            Err(StorageError::NotFound {
                what: "checkpoint",
                ..
            })
        );
        assert!(refused, "{answer:?}");
    }
}

pub(crate) fn threads_append_without_gaps(store: &dyn Storage) {
    const THREADS: u64 = 8;
    const EACH: u64 = 25;
    store.create_task(new_task("a")).unwrap();
    let mut given: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || -> Vec<u64> {
                    (0..EACH)
                        .map(|step| {
                            let state = format!("{thread} {step}");
                            let receipt = store.commit(append("a", state).into()).unwrap();
                            receipt.appended().next().unwrap().sequence.get()
                        })
                        .collect()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    given.sort_unstable();
    let all: Vec<u64> = (1..=THREADS * EACH).collect();
    assert_eq!((&given, &numbers(store, "a")), (&all, &all));
}

//! Appending alone and with other parts, listing, and limits.

use super::*;

#[test]
fn a_prepared_checkpoint_is_stored_only_with_its_commit() {
    let ground = ground();
    let checkpoints = ground.manager();
    let part = checkpoints.prepare(ground.step(1)).unwrap();
    assert_eq!(ground.count(&checkpoints), 0);
    let status = |to| SetTaskStatus::new(ground.task.clone(), to);
    // A part that fails takes the checkpoint with it.
    let illegal = Commit::new()
        .part(part.clone())
        .part(status(TaskStatus::Succeeded));
    assert!(matches!(
        ground.store.commit(illegal).unwrap_err(),
        StorageError::IllegalTransition { .. }
    ));
    assert_eq!(ground.count(&checkpoints), 0);
    let legal = Commit::new().part(part).part(status(TaskStatus::Running));
    ground.store.commit(legal).unwrap();
    assert_eq!(ground.count(&checkpoints), 1);
    let task = ground.store.task(&ground.task).unwrap().unwrap();
    assert_eq!(task.status, TaskStatus::Running);
}

#[test]
fn lists_are_newest_first_and_paged() {
    let ground = ground();
    let checkpoints = ground.manager();
    for step in 1..=5 {
        let appended = checkpoints.append(ground.step(step)).unwrap();
        assert_eq!(appended.sequence, seq(step));
        assert_eq!(ground.get(&checkpoints, step).summary.seal, appended.seal);
    }
    let page = |below: Option<u64>| -> Vec<u64> {
        checkpoints
            .list(&ground.task, below.map(seq), 2)
            .unwrap()
            .iter()
            .map(|summary| summary.sequence.get())
            .collect()
    };
    assert_eq!(page(None), [5, 4]);
    assert_eq!(page(Some(4)), [3, 2]);
    assert_eq!(page(Some(2)), [1]);
    assert_eq!(page(Some(1)), [0_u64; 0]);
    let latest = checkpoints.latest(&ground.task).unwrap().unwrap();
    assert_eq!(latest.summary.sequence, seq(5));
    assert_eq!(checkpoints.get(&ground.task, seq(6)).unwrap(), None);
}

/// Goal: limits speak before anything outside is touched.
/// Method: evidence that counts how often it is asked.
#[test]
fn what_is_over_a_limit_is_refused_before_evidence_is_looked_at() {
    let ground = ground_with(Limits {
        snapshot_bytes: 100,
        metadata_bytes: 100,
        ..Limits::default()
    });
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let checkpoints = ground.manager_with(|config| {
        config.kind("count", move |_: &Value, _: &CheckContext<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
            Check::Passed
        })
    });
    let item = || Evidence::custom("count", Value::Null);
    let new = || ground.blank().evidence(Pack::all([item()]));
    for (new, name) in [
        (new().raw(1, vec![0; 101]), "snapshot bytes"),
        (new().metadata(json!("x".repeat(100))), "metadata bytes"),
        (
            new().evidence(Pack::all(vec![item(); 257])),
            "evidence items",
        ),
    ] {
        match checkpoints.append(new).unwrap_err() {
            CheckpointError::Storage(StorageError::LimitExceeded(LimitExceeded {
                name: found,
                ..
            })) => assert_eq!(found, name),
            other => panic!("{other:?}"),
        }
    }
    let too_many = new().evidence(at_least(2, [item()]));
    assert!(matches!(
        checkpoints.append(too_many).unwrap_err(),
        CheckpointError::Storage(StorageError::Invalid(InvalidInput {
            what: "evidence",
            ..
        }))
    ));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    checkpoints.append(new().raw(1, vec![0; 100])).unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

//! Commits: parts in order, all of them or none, one answer a part, one moment.

use agentos_core::limits::PARTS_PER_COMMIT_MAX;
use agentos_core::{
    AuditLine, Commit, NewTask, PartOutcome, SequenceNumber, SetTaskStatus, Storage, StorageError,
    TaskStatus,
};
use agentos_tests::{append, new_task, numbers, task_id};

pub(crate) fn parts_see_what_earlier_parts_did(store: &dyn Storage) {
    let commit = Commit::new()
        .part(new_task("a"))
        .part(SetTaskStatus::new(task_id("a"), TaskStatus::Running))
        .part(append("a", "one"))
        .part(append("a", "two"))
        .part(SetTaskStatus::new(task_id("a"), TaskStatus::Succeeded));
    store.commit(commit).unwrap();
    let task = store.task(&task_id("a")).unwrap().unwrap();
    assert_eq!(task.status, TaskStatus::Succeeded);
    assert_eq!(numbers(store, "a"), [1, 2]);
}

/// Goal: whatever came before the part that fails is undone. Method: each kind
/// of failure, after a task, a checkpoint and a line that would have been good.
pub(crate) fn a_failing_part_undoes_the_whole_commit(store: &dyn Storage) {
    store.create_task(new_task("old")).unwrap();
    let good = || {
        Commit::new()
            .part(new_task("new"))
            .part(append("old", "state"))
            .part(SetTaskStatus::new(task_id("old"), TaskStatus::Running))
            .part(AuditLine::new(task_id("old"), "must not stay"))
    };
    for commit in [
        good().part(append("absent", "state")),
        good().part(SetTaskStatus::new(task_id("old"), TaskStatus::Created)),
        good().part(NewTask::new(task_id("old"), "other")),
        good().part(NewTask::new(task_id("new"), "other")),
        good().part(AuditLine::new(task_id("old"), "")),
        good().part(AuditLine::new(task_id("absent"), "event")),
    ] {
        store.commit(commit).unwrap_err();
        assert_eq!(store.task(&task_id("new")).unwrap(), None);
        let old = store.task(&task_id("old")).unwrap().unwrap();
        assert_eq!(old.status, TaskStatus::Created);
        assert_eq!(numbers(store, "old"), [0_u64; 0]);
        assert_eq!(store.audits(&old.id, None, 10).unwrap().items.len(), 1);
    }
    store.commit(good()).unwrap();
    assert_eq!(numbers(store, "old"), [1]);
}

pub(crate) fn a_number_of_a_failed_commit_is_given_again(store: &dyn Storage) {
    store.create_task(new_task("a")).unwrap();
    let failing = Commit::new()
        .part(append("a", "lost"))
        .part(append("absent", "x"));
    store.commit(failing).unwrap_err();
    let receipt = store.commit(append("a", "kept").into()).unwrap();
    assert_eq!(
        receipt.appended().next().unwrap().sequence,
        SequenceNumber::FIRST
    );
}

pub(crate) fn a_receipt_answers_every_part(store: &dyn Storage) {
    let first = store.create_task(new_task("a")).unwrap();
    let commit = Commit::new()
        .part(new_task("a"))
        .part(new_task("b"))
        .part(append("b", "state"))
        .part(SetTaskStatus::new(task_id("a"), TaskStatus::Failed))
        .part(AuditLine::new(task_id("b"), "noted"));
    let outcomes = store.commit(commit).unwrap().outcomes;
    let second = store.task(&task_id("b")).unwrap().unwrap();
    let found = store.checkpoints(&second.id, None, 10).unwrap();
    let PartOutcome::CheckpointAppended(appended) = outcomes[2] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(
        (appended.sequence, appended.seal),
        (found[0].sequence, found[0].seal)
    );
    assert_eq!(
        outcomes,
        [
            PartOutcome::TaskCreated {
                task: first,
                existed: true
            },
            PartOutcome::TaskCreated {
                task: second,
                existed: false
            },
            outcomes[2].clone(),
            PartOutcome::TaskStatusSet {
                from: TaskStatus::Created,
                to: TaskStatus::Failed
            },
            PartOutcome::Audited,
        ]
    );
}

pub(crate) fn a_commit_without_parts_is_refused(store: &dyn Storage) {
    assert!(matches!(
        store.commit(Commit::new()),
        Err(StorageError::Invalid(_))
    ));
}

pub(crate) fn limits_name_themselves(store: &dyn Storage) {
    store.create_task(new_task("a")).unwrap();
    let many = (0..=PARTS_PER_COMMIT_MAX).fold(Commit::new(), |commit, _| {
        commit.part(AuditLine::new(task_id("a"), "event"))
    });
    let long = Commit::from(AuditLine::new(task_id("a"), "e".repeat(129)));
    let large = vec![0; store.limits().snapshot_bytes + 1];
    let large = Commit::from(append("a", large));
    for (commit, name) in [
        (many, "parts per commit"),
        (long, "name bytes"),
        (large, "snapshot bytes"),
    ] {
        let Err(StorageError::LimitExceeded(exceeded)) = store.commit(commit) else {
            panic!("{name} was taken")
        };
        assert_eq!((exceeded.name, exceeded.value), (name, exceeded.limit + 1));
    }
    assert_eq!(
        store.audits(&task_id("a"), None, 10).unwrap().items.len(),
        1
    );
}

pub(crate) fn all_rows_of_a_commit_carry_one_moment(store: &dyn Storage) {
    let commit = Commit::new()
        .part(new_task("a"))
        .part(append("a", "one"))
        .part(append("a", "two"))
        .part(SetTaskStatus::new(task_id("a"), TaskStatus::Running));
    store.commit(commit).unwrap();
    let task = store.task(&task_id("a")).unwrap().unwrap();
    let mut moments = vec![task.updated_at];
    let checkpoints = store.checkpoints(&task.id, None, 10).unwrap();
    moments.extend(checkpoints.iter().map(|summary| summary.created_at));
    let audits = store.audits(&task.id, None, 10).unwrap().items;
    moments.extend(audits.iter().map(|line| line.created_at));
    assert_eq!(moments, [task.created_at; 5]);
}

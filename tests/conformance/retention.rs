//! Pruning: the oldest goes first, what a plan protects stays, a plan that is
//! out of date removes nothing, and a batch ends where the next begins.

use agentos_core::limits::{PAGE_ROWS_MAX, PRUNE_ROWS_MAX};
use agentos_core::{
    AppendCheckpoint, AuditLine, BoundedTable, CheckpointType, Commit, KeptFor, PartOutcome,
    PruneCheckpoints, PruneRows, Pruned, RecordVerification, RowMark, RowRule, SequenceNumber,
    SetTaskStatus, Storage, StorageError, TaskStatus, Verification,
};
use agentos_tests::{append, new_task, numbers, task_id};

fn number(number: u64) -> SequenceNumber {
    SequenceNumber::new(number).unwrap()
}

/// A task with checkpoints 1 to `count`, all with state.
fn filled(store: &dyn Storage, task: &str, count: u64) {
    let commit = (0..count).fold(Commit::new().part(new_task(task)), |commit, _| {
        commit.part(append(task, "state"))
    });
    store.commit(commit).unwrap();
}

fn plan(task: &str, up_to: u64, protect: Option<u64>) -> PruneCheckpoints {
    PruneCheckpoints {
        task: task_id(task),
        from: SequenceNumber::FIRST,
        up_to: number(up_to),
        protect: protect.map(number),
        spare: None,
        rows: PRUNE_ROWS_MAX,
    }
}

fn record(store: &dyn Storage, task: &str, sequence: u64, verification: Verification) {
    let record = RecordVerification {
        task: task_id(task),
        sequence: number(sequence),
        verification,
        results: Vec::new(),
    };
    store.commit(record.into()).unwrap();
}

/// All batches of a plan; gives what they removed.
fn prune(store: &dyn Storage, mut plan: PruneCheckpoints) -> u64 {
    let mut removed = 0;
    loop {
        let pruned = batch(store, plan.clone());
        removed += pruned.removed;
        match pruned.next {
            Some(next) => plan.from = next,
            None => return removed,
        }
    }
}

#[track_caller]
fn batch(store: &dyn Storage, plan: PruneCheckpoints) -> Pruned<SequenceNumber> {
    match store.commit(plan.into()).unwrap().outcomes[..] {
        [PartOutcome::CheckpointsPruned(pruned)] => pruned,
        ref other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_stale(store: &dyn Storage, plan: PruneCheckpoints) {
    let before = numbers(store, plan.task.as_str());
    let outcomes = store.commit(plan.clone().into()).unwrap().outcomes;
    assert_eq!(outcomes, [PartOutcome::PruneStale]);
    assert_eq!(numbers(store, plan.task.as_str()), before);
}

pub(crate) fn the_oldest_go_and_no_number_is_given_again(store: &dyn Storage) {
    filled(store, "a", 10);
    filled(store, "b", 3);
    assert_eq!(prune(store, plan("a", 7, Some(10))), 7);
    assert_eq!(numbers(store, "a"), [8, 9, 10]);
    assert_eq!(numbers(store, "b"), [1, 2, 3], "another task");
    let receipt = store.commit(append("a", "state").into()).unwrap();
    assert_eq!(receipt.appended().next().unwrap().sequence.get(), 11);
}

pub(crate) fn what_is_protected_stays(store: &dyn Storage) {
    filled(store, "a", 9);
    for failed in [6, 7, 8, 9] {
        record(store, "a", failed, Verification::Failed);
    }
    let plan = PruneCheckpoints {
        spare: Some(number(7)),
        ..plan("a", 8, Some(5))
    };
    let found = store.prunable_checkpoints(&plan).unwrap();
    assert_eq!((found.rows, found.bytes), (6, 6 * 5));
    assert_eq!(
        found.kept,
        [
            (number(5), KeptFor::Resume),
            (number(7), KeptFor::LastWhole)
        ]
    );
    assert_eq!(prune(store, plan), found.rows);
    assert_eq!(numbers(store, "a"), [5, 7, 9]);
}

/// Goal: a plan that was right when it was made never removes what can be
/// resumed from. Method: each change that others can make in between.
pub(crate) fn a_plan_that_is_out_of_date_removes_nothing(store: &dyn Storage) {
    filled(store, "a", 6);
    // What it protects has failed since, is not there, or carries no state.
    record(store, "a", 3, Verification::Failed);
    is_stale(store, plan("a", 5, Some(3)));
    is_stale(store, plan("a", 5, Some(7)));
    let boundary = AppendCheckpoint::new(task_id("a"), CheckpointType::ErrorBoundary);
    store.commit(boundary.into()).unwrap();
    is_stale(store, plan("a", 5, Some(7)));
    // It would remove the newest.
    is_stale(store, plan("a", 7, Some(6)));
    is_stale(store, plan("a", 8, Some(6)));
    is_stale(store, plan("absent", 5, None));
    assert_eq!(prune(store, plan("a", 5, Some(6))), 5);
    assert_eq!(numbers(store, "a"), [6, 7]);
}

/// Goal: where nothing could be resumed from, only what is of no use goes.
/// Method: a plan made when all had failed; one has been verified since.
pub(crate) fn without_anything_to_protect_what_may_hold_stays(store: &dyn Storage) {
    filled(store, "a", 6);
    for failed in [1, 2, 4, 5, 6] {
        record(store, "a", failed, Verification::Failed);
    }
    let plan = plan("a", 5, None);
    let found = store.prunable_checkpoints(&plan).unwrap();
    assert_eq!(found.kept, [(number(3), KeptFor::Salvage)]);
    assert_eq!(prune(store, plan), 4);
    assert_eq!(numbers(store, "a"), [3, 6]);
}

/// Goal: what others made the newest to resume from stays, also when the plan
/// knew it as failed. Method: its check is recorded between plan and batch, and
/// between two batches.
pub(crate) fn what_is_newer_than_the_protected_and_may_hold_stays(store: &dyn Storage) {
    filled(store, "a", 12);
    for failed in 4..=12 {
        record(store, "a", failed, Verification::Failed);
    }
    let mut plan = PruneCheckpoints {
        rows: 3,
        ..plan("a", 11, Some(3))
    };
    record(store, "a", 5, Verification::Verified);
    let pruned = batch(store, plan.clone());
    record(store, "a", 9, Verification::Unverified);
    plan.from = pruned.next.unwrap();
    let mut found = store.prunable_checkpoints(&plan).unwrap();
    // A batch ends by time as well: the protected one may be yet to come.
    found.kept.retain(|(_, reason)| *reason != KeptFor::Resume);
    assert_eq!(
        found.kept,
        [(number(5), KeptFor::Salvage), (number(9), KeptFor::Salvage)]
    );
    assert_eq!(prune(store, plan), found.rows);
    assert_eq!(numbers(store, "a"), [3, 5, 9, 12]);
    // A plan made now protects the newest of them, and the others go.
    assert_eq!(prune(store, self::plan("a", 11, Some(9))), 2);
    assert_eq!(numbers(store, "a"), [9, 12]);
}

pub(crate) fn a_batch_ends_where_the_next_begins(store: &dyn Storage) {
    filled(store, "a", 9);
    for failed in 4..=9 {
        record(store, "a", failed, Verification::Failed);
    }
    let mut plan = PruneCheckpoints {
        rows: 2,
        ..plan("a", 7, Some(3))
    };
    let mut batches = 0;
    loop {
        let pruned = batch(store, plan.clone());
        assert!(pruned.removed <= 2, "{pruned:?}");
        batches += 1;
        match pruned.next {
            Some(next) => plan.from = next,
            None => break,
        }
    }
    assert!(4 <= batches, "{batches}");
    assert_eq!(numbers(store, "a"), [3, 8, 9]);
}

pub(crate) fn the_ends_of_a_history_are_found(store: &dyn Storage) {
    assert_eq!(store.checkpoint_span(&task_id("absent")).unwrap(), None);
    store.commit(new_task("empty").into()).unwrap();
    assert_eq!(store.checkpoint_span(&task_id("empty")).unwrap(), None);
    filled(store, "a", 5);
    prune(store, plan("a", 2, Some(5)));
    let span = store.checkpoint_span(&task_id("a")).unwrap().unwrap();
    assert_eq!((span.oldest, span.newest), (number(3), number(5)));
    let oldest = store
        .checkpoints(&task_id("a"), Some(number(4)), 1)
        .unwrap();
    assert_eq!(span.oldest_created_at, Some(oldest[0].created_at));
}

pub(crate) fn every_task_is_named_once(store: &dyn Storage) {
    assert!(store.task_ids(None, 9).unwrap().items.is_empty());
    let names = ["e", "d", "c", "b", "a"];
    for (name, to) in names.iter().zip(TaskStatus::ALL) {
        store.create_task(new_task(name)).unwrap();
        if *to == TaskStatus::Cancelled {
            store
                .commit(SetTaskStatus::new(task_id(name), *to).into())
                .unwrap();
        }
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.task_ids(after, 2).unwrap();
        found.extend(page.items.into_iter().map(Result::unwrap));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, names.map(task_id));
    assert!(matches!(
        store.task_ids(None, PAGE_ROWS_MAX + 1),
        Err(StorageError::LimitExceeded(_))
    ));
}

fn rows(table: BoundedTable, up_to: Option<RowMark>) -> PruneRows {
    PruneRows {
        table,
        max_age: None,
        up_to,
        after: RowMark::START,
        rows: PRUNE_ROWS_MAX,
    }
}

/// All batches; what they removed is what was counted before.
#[track_caller]
fn prune_rows(store: &dyn Storage, mut plan: PruneRows) -> u64 {
    let counted = store.prunable_rows(&plan).unwrap();
    let (mut removed, mut bytes) = (0, 0);
    loop {
        let receipt = store.commit(plan.into()).unwrap();
        let [PartOutcome::RowsPruned(pruned)] = receipt.outcomes[..] else {
            panic!("{:?}", receipt.outcomes)
        };
        assert!(pruned.removed <= plan.rows.into());
        removed += pruned.removed;
        bytes += pruned.bytes;
        match pruned.next {
            Some(next) => plan.after = next,
            None => break,
        }
    }
    assert_eq!((removed, bytes), (counted.rows, counted.bytes));
    removed
}

fn most(rows: u64) -> RowRule {
    RowRule {
        max_rows: Some(rows),
        ..RowRule::keep_all()
    }
}

pub(crate) fn audit_lines_beyond_a_number_go(store: &dyn Storage) {
    store.create_task(new_task("a")).unwrap();
    for event in 0..9 {
        let line = AuditLine::new(task_id("a"), format!("event {event}")).reason("é");
        store.commit(line.into()).unwrap();
    }
    let table = BoundedTable::AuditLines;
    assert_eq!(store.rows_beyond(table, &most(10)).unwrap(), None);
    let beyond = store.rows_beyond(table, &most(4)).unwrap();
    let plan = PruneRows {
        rows: 4,
        ..rows(table, beyond)
    };
    assert_eq!(prune_rows(store, plan), 6);
    let left = store.audits(&task_id("a"), None, 100).unwrap().items;
    assert_eq!(left.len(), 4);
    assert_eq!(left[0].event, "event 5");
    assert_eq!(
        prune_rows(store, rows(table, None)),
        0,
        "no rule, nothing goes"
    );
}

pub(crate) fn finished_tasks_go_with_their_checkpoints(store: &dyn Storage) {
    for (task, ends) in [
        ("running", &[TaskStatus::Running][..]),
        ("old", &[TaskStatus::Running, TaskStatus::Succeeded]),
        ("failed", &[TaskStatus::Failed]),
        ("cancelled", &[TaskStatus::Cancelled]),
        ("new", &[TaskStatus::Running, TaskStatus::Succeeded]),
    ] {
        filled(store, task, 5);
        for to in ends {
            store
                .commit(SetTaskStatus::new(task_id(task), *to).into())
                .unwrap();
        }
    }
    let table = BoundedTable::FinishedTasks;
    assert_eq!(store.rows_beyond(table, &most(3)).unwrap(), None);
    let plan = PruneRows {
        rows: 2,
        ..rows(table, store.rows_beyond(table, &most(1)).unwrap())
    };
    assert_eq!(prune_rows(store, plan), 2);
    for (task, stays) in [
        ("running", true),
        ("old", false),
        ("failed", true),
        ("cancelled", false),
        ("new", true),
    ] {
        assert_eq!(
            store.task(&task_id(task)).unwrap().is_some(),
            stays,
            "{task}"
        );
        assert_eq!(numbers(store, task).len(), if stays { 5 } else { 0 });
    }
    // Another task may have the name; it begins anew.
    filled(store, "old", 1);
    assert_eq!(numbers(store, "old"), [1]);
}

/// Goal: batches end, however small they are. Method: one row a batch; each
/// must remove one, and the last may find that nothing is left.
pub(crate) fn every_batch_makes_progress(store: &dyn Storage) {
    for task in ["a", "b", "c"] {
        filled(store, task, 4);
        store
            .commit(SetTaskStatus::new(task_id(task), TaskStatus::Cancelled).into())
            .unwrap();
    }
    filled(store, "d", 9);
    for failed in 4..=9 {
        record(store, "d", failed, Verification::Failed);
    }
    let table = BoundedTable::FinishedTasks;
    let mut plan = PruneRows {
        rows: 1,
        ..rows(table, store.rows_beyond(table, &most(0)).unwrap())
    };
    let mut batches = 0;
    while let [
        PartOutcome::RowsPruned(Pruned {
            next: Some(next), ..
        }),
    ] = store.commit(plan.into()).unwrap().outcomes[..]
    {
        plan.after = next;
        batches += 1;
        assert!(batches <= 3 * (4 + 1), "batches without end");
    }
    for task in ["a", "b", "c"] {
        assert_eq!(store.task(&task_id(task)).unwrap(), None);
        assert_eq!(numbers(store, task), [0; 0]);
    }
    let mut plan = PruneCheckpoints {
        rows: 1,
        ..self::plan("d", 8, Some(3))
    };
    let mut batches = 1;
    while let Some(next) = batch(store, plan.clone()).next {
        plan.from = next;
        batches += 1;
        assert!(batches <= 8, "batches without end");
    }
    assert_eq!(numbers(store, "d"), [3, 9]);
}

pub(crate) fn a_commit_prunes_once_and_within_its_bound(store: &dyn Storage) {
    filled(store, "a", 5);
    let twice = Commit::new()
        .part(plan("a", 1, Some(5)))
        .part(rows(BoundedTable::AuditLines, None));
    assert!(matches!(store.commit(twice), Err(StorageError::Invalid(_))));
    for rows in [0, PRUNE_ROWS_MAX + 1] {
        let plan = PruneCheckpoints {
            rows,
            ..plan("a", 1, Some(5))
        };
        store.commit(plan.into()).unwrap_err();
    }
    // With others it shares a fate.
    let failing = Commit::new()
        .part(plan("a", 3, Some(5)))
        .part(append("absent", "state"));
    store.commit(failing).unwrap_err();
    assert_eq!(numbers(store, "a"), [1, 2, 3, 4, 5]);
}

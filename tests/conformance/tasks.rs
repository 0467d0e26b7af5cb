//! Tasks: created once, moved only as the state machine says, audited in order.

use agentos_core::records::audit::{TASK_CREATED, TASK_STATUS};
use agentos_core::{
    AuditLine, Commit, NewTask, SetTaskStatus, Storage, StorageError, TaskId, TaskStatus,
};
use agentos_tests::{new_task, task_id};
use serde_json::{Value, json};

pub(crate) fn a_created_task_is_read_back(store: &dyn Storage) {
    let metadata = json!({"owner": "é", "n": [1, -2.5, null, true], "big": u64::MAX});
    let before = store.now();
    let task = store
        .create_task(NewTask::new(task_id("a"), "bookkeeping").metadata(metadata.clone()))
        .unwrap();
    assert_eq!(task.status, TaskStatus::Created);
    assert_eq!(
        (task.task_type.as_str(), &task.metadata),
        ("bookkeeping", &metadata)
    );
    assert_eq!(task.created_at, task.updated_at);
    assert!(before <= task.created_at && task.created_at <= store.now());
    assert_eq!(store.task(&task_id("a")).unwrap(), Some(task));
}

pub(crate) fn a_task_that_is_not_there_is_none(store: &dyn Storage) {
    assert_eq!(store.task(&task_id("absent")).unwrap(), None);
    assert!(
        store
            .audits(&task_id("absent"), None, 10)
            .unwrap()
            .items
            .is_empty()
    );
    for status in TaskStatus::ALL {
        let page = store.tasks(*status, None, 10).unwrap();
        assert_eq!((page.items.len(), page.next), (0, None));
    }
}

pub(crate) fn creating_the_same_task_again_gives_the_one_that_is_there(store: &dyn Storage) {
    let task = NewTask::new(task_id("a"), "test").metadata(json!({"x": 0.1}));
    let first = store.create_task(task.clone()).unwrap();
    assert_eq!(store.create_task(task).unwrap(), first);
    assert_eq!(
        store.audits(&task_id("a"), None, 10).unwrap().items.len(),
        1
    );
}

pub(crate) fn another_task_of_the_same_id_is_a_conflict(store: &dyn Storage) {
    let first = store.create_task(new_task("a")).unwrap();
    for other in [
        NewTask::new(task_id("a"), "other"),
        new_task("a").metadata(json!({})),
    ] {
        let answer = store.create_task(other);
        let Err(StorageError::Conflict { what, id }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!((what, id.as_str()), ("task", "a"));
    }
    assert_eq!(store.task(&task_id("a")).unwrap(), Some(first));
}

pub(crate) fn ids_keep_every_letter(store: &dyn Storage) {
    let ids = [
        "it's \"quoted\"",
        "задача 🦀",
        "e\u{301}", // not the same as the next, though it looks alike
        "\u{e9}",
        " a ",
        "a",
        "A",
        "%_*?[a]",
        "'; DROP TABLE tasks; --",
        "\u{202e}\u{feff}\n",
    ];
    for id in ids {
        store.create_task(new_task(id)).unwrap();
    }
    for id in ids {
        assert_eq!(store.task(&task_id(id)).unwrap().unwrap().id.as_str(), id);
    }
    assert_eq!(
        store
            .tasks(TaskStatus::Created, None, 100)
            .unwrap()
            .items
            .len(),
        ids.len()
    );
}

pub(crate) fn legal_transitions_are_made_and_others_refused(store: &dyn Storage) {
    // A task of each state, made by legal steps.
    let ways: [(&str, &[TaskStatus]); 5] = [
        ("created", &[]),
        ("running", &[TaskStatus::Running]),
        ("succeeded", &[TaskStatus::Running, TaskStatus::Succeeded]),
        ("failed", &[TaskStatus::Failed]),
        ("cancelled", &[TaskStatus::Cancelled]),
    ];
    for (from, way) in ways {
        for to in TaskStatus::ALL {
            let task = task_id(&format!("{from} to {to}"));
            store
                .create_task(NewTask::new(task.clone(), "test"))
                .unwrap();
            for step in way {
                store
                    .commit(SetTaskStatus::new(task.clone(), *step).into())
                    .unwrap();
            }
            let state = TaskStatus::parse(from).unwrap();
            let answer = store.commit(SetTaskStatus::new(task.clone(), *to).into());
            let now = store.task(&task).unwrap().unwrap().status;
            if state.can_become(*to) {
                assert!(answer.is_ok(), "{task}: {answer:?}");
                assert_eq!(now, *to);
            } else {
                let refused = matches!(answer, Err(StorageError::IllegalTransition { .. }));
                assert!(refused, "{task}: {answer:?}");
                assert_eq!(now, state);
            }
        }
    }
    let answer = store.commit(SetTaskStatus::new(task_id("absent"), TaskStatus::Running).into());
    assert!(matches!(
        answer,
        Err(StorageError::NotFound { what: "task", .. })
    ));
}

pub(crate) fn every_step_has_an_audit_line_in_order(store: &dyn Storage) {
    let task = task_id("a");
    store.create_task(new_task("a")).unwrap();
    let detail = json!({"by": ["operator", 7]});
    store
        .commit(
            Commit::new()
                .part(SetTaskStatus::new(task.clone(), TaskStatus::Running).reason("picked up"))
                .part(
                    AuditLine::new(task.clone(), "noted")
                        .reason("why")
                        .detail(detail.clone()),
                )
                .part(SetTaskStatus::new(task.clone(), TaskStatus::Succeeded)),
        )
        .unwrap();
    let lines = store.audits(&task, None, 10).unwrap().items;
    let words = |text: &Option<String>| text.clone().unwrap_or_default();
    let found: Vec<_> = lines
        .iter()
        .map(|line| {
            let (from, to, reason) = (words(&line.from), words(&line.to), words(&line.reason));
            (line.event.clone(), from, to, reason, line.detail.clone())
        })
        .collect();
    let line = |event: &str, from: &str, to: &str, reason: &str, detail: Value| {
        (event.into(), from.into(), to.into(), reason.into(), detail)
    };
    assert_eq!(
        found,
        [
            line(TASK_CREATED, "", "created", "", Value::Null),
            line(TASK_STATUS, "created", "running", "picked up", Value::Null),
            line("noted", "", "", "why", detail),
            line(TASK_STATUS, "running", "succeeded", "", Value::Null),
        ]
    );
    assert!(lines.iter().all(|line| line.task == task));
    let answer = store.commit(AuditLine::new(task_id("absent"), "noted").into());
    assert!(matches!(
        answer,
        Err(StorageError::NotFound { what: "task", .. })
    ));
}

pub(crate) fn lists_show_each_task_of_a_state_once(store: &dyn Storage) {
    let ids: Vec<TaskId> = (0..23)
        .map(|number| task_id(&format!("task-{number}")))
        .collect();
    for id in &ids {
        store.create_task(NewTask::new(id.clone(), "test")).unwrap();
    }
    let running = ids[11].clone();
    store
        .commit(SetTaskStatus::new(running.clone(), TaskStatus::Running).into())
        .unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.tasks(TaskStatus::Created, after, 5).unwrap();
        seen.extend(page.items.into_iter().map(|task| task.id));
        assert!(seen.len() <= ids.len(), "the list does not end");
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<TaskId> = ids.into_iter().filter(|id| *id != running).collect();
    assert_eq!(seen, expected, "oldest first");
    let page = store.tasks(TaskStatus::Running, None, 5).unwrap();
    assert_eq!(page.items[0].id, running);
    assert_eq!(page.items.len(), 1);
}

pub(crate) fn audit_lines_are_paged_in_order(store: &dyn Storage) {
    let task = task_id("a");
    store.create_task(new_task("a")).unwrap();
    store.create_task(new_task("b")).unwrap();
    for number in 0..12 {
        for id in ["a", "b"] {
            store
                .commit(AuditLine::new(task_id(id), format!("{id}-{number}")).into())
                .unwrap();
        }
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.audits(&task, after, 4).unwrap();
        seen.extend(page.items.into_iter().map(|line| line.event));
        assert!(seen.len() <= 13, "the list does not end");
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut expected = vec![TASK_CREATED.to_string()];
    expected.extend((0..12).map(|number| format!("a-{number}")));
    assert_eq!(seen, expected);
}

pub(crate) fn a_page_has_a_bound(store: &dyn Storage) {
    let rows = agentos_core::limits::PAGE_ROWS_MAX;
    assert!(store.tasks(TaskStatus::Created, None, rows).is_ok());
    for answer in [
        store.tasks(TaskStatus::Created, None, rows + 1).map(drop),
        store.audits(&task_id("a"), None, rows + 1).map(drop),
        store.checkpoints(&task_id("a"), None, rows + 1).map(drop),
    ] {
        let Err(StorageError::LimitExceeded(exceeded)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(
            (exceeded.limit, exceeded.value),
            (rows.into(), u64::from(rows) + 1)
        );
    }
}

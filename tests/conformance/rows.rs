//! Questions about rows: answered exactly, and never read as language.

use agentos_core::{RowAnswer, RowQuestion, RowSource, RowValue, Storage, TaskStatus};
use agentos_tests::{new_task, task_id};
use serde_json::json;

type Pairs<'a> = &'a [(&'a str, RowValue)];

fn ask(store: &dyn Storage, table: &str, key: Pairs<'_>, expected: Pairs<'_>) -> RowAnswer {
    let own = |pairs: Pairs<'_>| {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_string(), value.clone()))
            .collect()
    };
    let question = RowQuestion {
        source: RowSource::Store,
        table: table.into(),
        key: own(key),
        expected: own(expected),
    };
    store.ask_row(&question).unwrap()
}

fn text(text: &str) -> RowValue {
    RowValue::Text(text.into())
}

pub(crate) fn a_row_is_matched_told_apart_and_missed(store: &dyn Storage) {
    store.create_task(new_task("it's")).unwrap();
    store.create_task(new_task("b").metadata(json!(1))).unwrap();
    let its = [("task_id", text("it's"))];
    assert_eq!(ask(store, "tasks", &its, &[]), RowAnswer::Matches);
    let status = TaskStatus::Created.as_str();
    let expected = [("status", text(status)), ("metadata", RowValue::Null)];
    assert_eq!(ask(store, "tasks", &its, &expected), RowAnswer::Matches);
    let wrong = [("status", text(status)), ("task_type", text("other"))];
    let differs = RowAnswer::Differs {
        column: "task_type".into(),
    };
    assert_eq!(ask(store, "tasks", &its, &wrong), differs);
    let absent = [("task_id", text("absent"))];
    assert_eq!(ask(store, "tasks", &absent, &[]), RowAnswer::Absent);
    let both = [("status", text(status))];
    assert_eq!(ask(store, "tasks", &both, &[]), RowAnswer::Ambiguous);
    let null = [("metadata", RowValue::Null)];
    assert_eq!(
        ask(store, "tasks", &null, &[("task_id", text("it's"))]),
        RowAnswer::Matches
    );
}

pub(crate) fn a_question_that_cannot_be_asked_is_an_answer(store: &dyn Storage) {
    store.create_task(new_task("a")).unwrap();
    let key = [("task_id", text("a"))];
    for answer in [
        ask(store, "no_such_table", &key, &[]),
        ask(
            store,
            "tasks",
            &[("no_such_column", text("no_such_column"))],
            &[],
        ),
        ask(
            store,
            "tasks",
            &key,
            &[("no_such_column", text("no_such_column"))],
        ),
        ask(store, "tasks", &[], &[]),
        ask(store, "", &key, &[]),
        ask(store, "a\0b", &key, &[]),
    ] {
        assert!(matches!(answer, RowAnswer::CannotAsk { .. }), "{answer:?}");
    }
}

pub(crate) fn names_are_never_read_as_language(store: &dyn Storage) {
    store.create_task(new_task("a")).unwrap();
    for name in [
        "tasks; DROP TABLE tasks",
        "tasks\" AS asked; DROP TABLE tasks; --",
        "tasks AS asked, tasks",
        "(SELECT 1)",
    ] {
        let key = [("task_id", text("a"))];
        let as_table = ask(store, name, &key, &[]);
        assert!(
            matches!(as_table, RowAnswer::CannotAsk { .. }),
            "{as_table:?}"
        );
        let as_column = ask(store, "tasks", &[(name, text("a"))], &[]);
        assert!(
            matches!(as_column, RowAnswer::CannotAsk { .. }),
            "{as_column:?}"
        );
        let as_value = ask(store, "tasks", &[("task_id", text(name))], &[]);
        assert_eq!(as_value, RowAnswer::Absent);
    }
    assert!(store.task(&task_id("a")).unwrap().is_some());
}

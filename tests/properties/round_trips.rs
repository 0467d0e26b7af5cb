//! Round trips: ids, metadata, audit lines and states of any content come back
//! as they were given, also after the file was closed and opened.

use agentos_core::limits::{ID_BYTES_MAX, NAME_BYTES_MAX};
use agentos_core::{
    AuditLine, CheckpointStorage, Commit, NewTask, SequenceNumber, Snapshot, Storage, StorageError,
    TaskId, TaskStorage,
};
use agentos_core::{Codec, Timestamp};
use agentos_tests::{append, fresh};
use proptest::prelude::*;
use serde_json::{Map, Number, Value};

use crate::cases;

fn text(bytes_max: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 1..bytes_max / 4)
        .prop_map(|letters| {
            letters
                .into_iter()
                .filter(|letter| *letter != '\0')
                .collect()
        })
        .prop_filter("not empty", |text: &String| !text.is_empty())
}

/// Any JSON, with every kind of number and any Unicode, NUL among it.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|real| Number::from_f64(real).map_or(Value::Null, Value::Number)),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            proptest::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|pairs| Value::Object(Map::from_iter(pairs))),
        ]
    })
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn whatever_is_attached_comes_back(
        id in text(ID_BYTES_MAX),
        task_type in text(NAME_BYTES_MAX),
        metadata in json(),
        detail in json(),
        event in text(NAME_BYTES_MAX),
        reason in text(400),
        state in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut store = fresh();
        let id = TaskId::new(id).unwrap();
        let task = NewTask::new(id.clone(), task_type).metadata(metadata.clone());
        let mut checkpoint = append(id.as_str(), state.clone());
        checkpoint.metadata = metadata;
        checkpoint.evidence = Some(reason.clone());
        let line = AuditLine::new(id.clone(), event.clone()).reason(reason.clone());
        store.commit(
            Commit::new()
                .part(task.clone())
                .part(checkpoint.clone())
                .part(line.detail(detail.clone())),
        ).unwrap();
        for _ in 0..2 {
            let found = store.task(&id).unwrap().unwrap();
            prop_assert!(task.is_same_as(&found), "{:?}", found);
            // Creating the same again is no conflict.
            prop_assert_eq!(store.create_task(task.clone()).unwrap(), found);
            let found = store.checkpoint(&id, SequenceNumber::FIRST).unwrap().unwrap();
            prop_assert_eq!(found.snapshot, Some(Snapshot::new(Codec::Raw, 1, state.clone())));
            prop_assert_eq!(&found.metadata, &checkpoint.metadata);
            prop_assert_eq!(&found.evidence, &checkpoint.evidence);
            let lines = store.audits(&id, None, 10).unwrap().items;
            prop_assert_eq!(&lines[1].event, &event);
            prop_assert_eq!(lines[1].reason.as_ref(), Some(&reason));
            prop_assert_eq!(&lines[1].detail, &detail);
            store.reopen();
        }
    }

    #[test]
    fn an_id_is_taken_as_it_is_or_refused_by_type(id in any::<String>(), repeat in 0..40_usize) {
        let id = id.repeat(repeat);
        match TaskId::new(&id) {
            Ok(taken) => {
                prop_assert_eq!(taken.as_str(), id.as_str());
                prop_assert!(!id.is_empty() && id.len() <= ID_BYTES_MAX && !id.contains('\0'));
            }
            Err(StorageError::LimitExceeded(_)) => prop_assert!(id.len() > ID_BYTES_MAX),
            Err(StorageError::Invalid(_)) => {
                prop_assert!(id.is_empty() || id.contains('\0'));
            }
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn timestamps_sort_as_their_text_and_come_back(one in any::<i64>(), other in any::<i64>()) {
        let (one, other) = (Timestamp::from_unix_micros(one), Timestamp::from_unix_micros(other));
        prop_assert_eq!(Timestamp::parse(&one.to_text()), Some(one));
        prop_assert_eq!(one.cmp(&other), one.to_text().cmp(&other.to_text()));
    }
}

//! The real store and the model take the same steps; after each, whatever can
//! be read of the store is what the model says.

use agentos_core::{
    CheckpointStorage, Commit, SequenceNumber, Storage, StorageError, TaskStatus, TaskStorage,
};
use agentos_tests::{Open, fresh, task_id};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use crate::cases;
use crate::model::{Line, Model, Step, TASKS, name, results, word};

struct Reference;

impl ReferenceStateMachine for Reference {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::default()).boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Step> {
        prop_oneof![
            12 => proptest::collection::vec(word(model), 0..5).prop_map(Step::Commit),
            1 => Just(Step::Reopen),
        ]
        .boxed()
    }

    fn apply(model: Model, step: &Step) -> Model {
        match step {
            Step::Commit(words) => model.commit(words),
            Step::Reopen => model,
        }
    }
}

struct RealStore;

impl StateMachineTest for RealStore {
    type SystemUnderTest = Open;
    type Reference = Reference;

    fn init_test(_: &Model) -> Open {
        fresh()
    }

    fn apply(mut store: Open, model: &Model, step: Step) -> Open {
        match step {
            Step::Reopen => store.reopen(),
            Step::Commit(words) => {
                let commit = words
                    .iter()
                    .fold(Commit::new(), |commit, word| word.add_to(commit));
                let answer = store.commit(commit).map(|receipt| {
                    let appended = receipt.appended();
                    appended.map(|appended| appended.sequence.get()).collect()
                });
                let answer: Result<Vec<u64>, &str> = answer.map_err(|error| kind(&error));
                assert_eq!(answer, model.answer);
            }
        }
        store
    }

    fn check_invariants(store: &Open, model: &Model) {
        for index in 0..TASKS {
            if !model.tasks.iter().any(|task| task.index == index) {
                assert_eq!(store.task(&task_id(&name(index))).unwrap(), None);
            }
        }
        for status in TaskStatus::ALL {
            let listed = store.tasks(*status, None, 100).unwrap().items;
            let listed: Vec<String> = listed.iter().map(|task| task.id.to_string()).collect();
            let expected = model.tasks.iter().filter(|task| task.status == *status);
            let expected: Vec<String> = expected.map(|task| name(task.index)).collect();
            assert_eq!(listed, expected, "in the order of creation");
        }
        for task in &model.tasks {
            let id = task_id(&name(task.index));
            let stored = store.task(&id).unwrap().unwrap();
            assert_eq!(stored.metadata["variant"], task.variant);
            let numbers: Vec<u64> = (1..=task.checkpoints.len() as u64).collect();
            assert_eq!(store.numbers(id.as_str()), numbers);
            for (number, expected) in numbers.iter().zip(&task.checkpoints) {
                let sequence = SequenceNumber::new(*number).unwrap();
                let found = store.checkpoint(&id, sequence).unwrap().unwrap();
                assert_eq!(found.snapshot.unwrap().bytes(), expected.state);
                assert_eq!(found.summary.verification, expected.verification);
                let recorded = store.evidence_results(&id, sequence).unwrap();
                assert_eq!(recorded, results(expected.results));
            }
            let audits = store.audits(&id, None, 1000).unwrap().items;
            let lines: Vec<Line> = audits
                .into_iter()
                .map(|line| Line {
                    event: line.event,
                    from: line.from,
                    to: line.to,
                })
                .collect();
            assert_eq!(lines, task.audits);
        }
    }

    fn teardown(store: Open, _: Model) {
        assert!(store.check_integrity().unwrap().is_sound());
    }
}

fn kind(error: &StorageError) -> &'static str {
    match error {
        StorageError::NotFound { .. } => "NotFound",
        StorageError::Conflict { .. } => "Conflict",
        StorageError::IllegalTransition { .. } => "IllegalTransition",
        StorageError::Invalid(_) => "Invalid",
        StorageError::LimitExceeded(_) => "LimitExceeded",
        _ => "unexpected",
    }
}

prop_state_machine! {
    #![proptest_config(cases(96))]

    /// Goal: the store does what the model does, for any history of commits,
    /// failing ones and reopenings among them.
    #[test]
    fn the_store_is_what_the_model_says(sequential 1..40 => RealStore);
}

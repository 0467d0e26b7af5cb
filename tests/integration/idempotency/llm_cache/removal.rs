//! Answers are removed by key, model, operation, task and age; nothing else goes.

use std::time::Duration;

use agentos_core::{IdempotencyKey, KeyFilter, TaskId};
use agentos_idempotency::{Invalidation, LlmRequest, Role, Scope};
use agentos_tests::Work;
use rusqlite::Connection;

use super::{Model, ask, cache, clocked};

fn of_model(model: &str) -> LlmRequest {
    LlmRequest::chat("openai", model).message(Role::User, "a")
}

#[test]
fn one_answer_is_removed_by_its_request_or_its_key() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    assert!(!cache.invalidate(&ask("a")).unwrap());
    for prompt in ["a", "b", "c"] {
        model.asked(&cache, &ask(prompt));
    }
    assert!(cache.invalidate(&ask("a")).unwrap());
    assert!(!cache.invalidate(&ask("a")).unwrap());
    assert!(cache.invalidate_key(ask("b").key().unwrap()).unwrap());
    assert_eq!(model.asked(&cache, &ask("c")).body, "answer 3");
    assert_eq!(model.asked(&cache, &ask("a")).body, "answer 4");
    assert_eq!(model.asked(&cache, &ask("b")).body, "answer 5");
    assert_eq!(cache.stats().invalidated, 2);
    let others = IdempotencyKey::new("tool-ledger:something").unwrap();
    assert!(cache.invalidate_key(&others).is_err());
}

#[test]
fn a_damaged_answer_is_removed_as_well() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    for prompt in ["a", "b"] {
        model.asked(&cache, &ask(prompt));
    }
    let connection = Connection::open(work.directory().join("agent.db")).unwrap();
    let key = ask("a").key().unwrap().to_string();
    let changed = "UPDATE idempotency_keys SET seal = zeroblob(32) WHERE idempotency_key = ?1";
    assert_eq!(connection.execute(changed, [key]).unwrap(), 1);
    assert!(cache.invalidate(&ask("a")).unwrap());
    assert!(!cache.invalidate(&ask("a")).unwrap());
    assert_eq!(model.asked(&cache, &ask("b")).body, "answer 2");
}

/// Goal: what is removed is what is there, whatever the wall clock says of it. Method:
/// the clock is set back after the answers were recorded.
#[test]
fn answers_of_a_clock_that_was_set_back_are_removed_as_well() {
    let (work, clock) = clocked();
    let (cache, model) = (cache(&work), Model::default());
    let start = cache.gate().storage().now();
    for prompt in ["a", "b", "c"] {
        model.asked(&cache, &ask(prompt));
    }
    clock.set(start.minus(Duration::from_secs(60)));
    let connection = Connection::open(work.directory().join("agent.db")).unwrap();
    let key = ask("a").key().unwrap().to_string();
    let changed = "UPDATE idempotency_keys SET seal = zeroblob(32) WHERE idempotency_key = ?1";
    assert_eq!(connection.execute(changed, [key]).unwrap(), 1);
    assert!(cache.invalidate_key(ask("a").key().unwrap()).unwrap());
    assert_eq!(cache.invalidate_all(&Invalidation::all()).unwrap(), 2);
    assert_eq!(model.asked(&cache, &ask("b")).body, "answer 4");
    let gate = cache.gate();
    clock.set(start.minus(Duration::from_secs(120)));
    assert_eq!(gate.remove(&KeyFilter::default()).unwrap(), 1);
    assert_eq!(gate.remove(&KeyFilter::default()).unwrap(), 0);
}

#[test]
fn answers_are_removed_by_model_operation_and_task() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let task = TaskId::new("task").unwrap();
    let requests = [
        of_model("x"),
        of_model("y"),
        of_model("y").operation("plan"),
        of_model("x").operation("plan"),
        of_model("x").scope(Scope::Task(task.clone())),
    ];
    let fill = || {
        let hits = requests
            .iter()
            .map(|request| model.asked(&cache, request).is_hit());
        hits.collect::<Vec<_>>()
    };
    assert_eq!(fill(), [false; 5]);
    assert_eq!(fill(), [true; 5]);
    let remove = |meant: Invalidation| cache.invalidate_all(&meant).unwrap();
    assert_eq!(remove(Invalidation::all().model("x")), 3);
    assert_eq!(fill(), [false, true, true, false, false]);
    assert_eq!(remove(Invalidation::all().operation("plan")), 2);
    assert_eq!(fill(), [true, true, false, false, true]);
    assert_eq!(remove(Invalidation::all().operation("plan").model("y")), 1);
    assert_eq!(fill(), [true, true, false, true, true]);
    assert_eq!(remove(Invalidation::all().task(task)), 1);
    assert_eq!(fill(), [true, true, true, true, false]);
    assert_eq!(remove(Invalidation::all().model("z")), 0);
    assert_eq!(remove(Invalidation::all()), 5);
    assert_eq!(fill(), [false; 5]);
    assert_eq!(cache.stats().invalidated, 12);
}

#[test]
fn answers_are_removed_by_age() {
    let (work, clock) = clocked();
    let (cache, model) = (cache(&work), Model::default());
    let hour = Duration::from_secs(3600);
    model.asked(&cache, &ask("old"));
    clock.advance(hour);
    model.asked(&cache, &ask("new"));
    clock.advance(hour);
    // A use makes nothing younger.
    assert!(model.asked(&cache, &ask("old")).is_hit());
    let older = |age| cache.invalidate_all(&Invalidation::all().older_than(age));
    assert_eq!(older(2 * hour).unwrap(), 0);
    assert_eq!(older(2 * hour - Duration::from_micros(1)).unwrap(), 1);
    assert!(model.asked(&cache, &ask("new")).is_hit());
    assert!(!model.asked(&cache, &ask("old")).is_hit());
}

#[test]
fn an_answer_that_is_under_way_is_not_removed() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let given = cache.get_or_generate(&ask("a"), || {
        assert!(!cache.invalidate(&ask("a")).unwrap());
        assert_eq!(cache.invalidate_all(&Invalidation::all()).unwrap(), 0);
        model.answer()
    });
    assert!(given.unwrap().stored());
    assert!(model.asked(&cache, &ask("a")).is_hit());
}

#[test]
fn thousands_are_removed_in_bounded_commits() {
    let work =
        Work::configured(|config| config.durability(agentos_store::sqlite::Durability::Relaxed));
    let (cache, model) = (cache(&work), Model::default());
    for number in 0..1100 {
        model.asked(&cache, &ask(&number.to_string()));
    }
    assert_eq!(cache.invalidate_all(&Invalidation::all()).unwrap(), 1100);
    assert_eq!(cache.invalidate_all(&Invalidation::all()).unwrap(), 0);
}

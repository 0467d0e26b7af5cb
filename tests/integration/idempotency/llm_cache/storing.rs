//! What is stored and what is not: refusals, what is too large, what cannot be read
//! again, and what is damaged.

use std::sync::{Arc, Mutex};

use agentos_core::{Limits, StorageError};
use agentos_idempotency::{
    CacheConfig, CacheError, CallOptions, Finish, Json, LlmAnswer, LlmOutputCache, NotStored,
    Origin, Ttl,
};
use agentos_tests::Work;
use rusqlite::Connection;
use serde_json::Value;

use super::{Model, ask, cache, cache_of, never};

/// Asks without waiting for anybody.
fn at_once(cache: &LlmOutputCache, model: &Model, finish: Finish) -> super::Cached<String> {
    let options = CallOptions::new().wait(std::time::Duration::ZERO);
    let give = || model.answer().map(|answer| answer.finish(finish));
    cache.call(&ask("a"), &options, give).unwrap()
}

#[test]
fn refusals_and_what_is_cut_off_are_given_and_not_stored() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let kept_out = [Finish::Truncated, Finish::Refused, Finish::Other];
    for (number, finish) in (1..).zip(kept_out) {
        let given = at_once(&cache, &model, finish);
        assert_eq!(given.body, format!("answer {number}"));
        assert_eq!((given.finish, given.stored()), (finish, false));
        assert!(matches!(given.not_stored, Some(NotStored::NotKept)));
    }
    assert!(at_once(&cache, &model, Finish::Complete).stored());
    assert_eq!(at_once(&cache, &model, Finish::Truncated).body, "answer 4");
    assert_eq!(cache.stats().not_kept, 3);
}

#[test]
fn the_predicate_is_the_callers_own_and_sees_the_answer() {
    let work = Work::fresh();
    let config = CacheConfig::default().keep(|answer| {
        answer.finish == Finish::Truncated
            && answer.request.model() == Some("gpt-5")
            && answer.usage == Some(super::USAGE)
            && answer.bytes == b"answer 2"
    });
    let (cache, model) = (cache_of(&work, config), Model::default());
    assert!(!at_once(&cache, &model, Finish::Truncated).stored());
    assert!(at_once(&cache, &model, Finish::Truncated).stored());
    let hit = at_once(&cache, &model, Finish::Complete);
    assert_eq!(
        (hit.body.as_str(), hit.finish),
        ("answer 2", Finish::Truncated)
    );
}

#[test]
fn who_gives_an_answer_can_keep_it_out() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let give = || model.answer().map(|answer| answer.keep(false));
    let given = cache.get_or_generate(&ask("a"), give).unwrap();
    assert!(matches!(given.not_stored, Some(NotStored::NotKept)));
    assert_eq!(model.asked(&cache, &ask("a")).body, "answer 2");
}

#[test]
fn what_is_too_large_is_given_all_the_same() {
    let limits = Limits {
        outcome_bytes: 1000,
        ..Limits::default()
    };
    let work = Work::configured(|config| config.limits(limits));
    let cache = cache(&work);
    // Four bytes describe the answer.
    for (size, fits) in [(997, false), (996, true)] {
        let options = CallOptions::new().wait(std::time::Duration::ZERO);
        let give = || Ok::<_, ()>(LlmAnswer::new(vec![7_u8; size]));
        let given = cache.call(&ask("a"), &options, give).unwrap();
        assert_eq!((given.body.len(), given.stored()), (size, fits));
        if let Some(why) = given.not_stored {
            let NotStored::Refused(error) = why else {
                panic!("{why:?}");
            };
            assert!(matches!(
                error.storage(),
                Some(StorageError::LimitExceeded(_))
            ));
        }
    }
}

#[test]
fn what_would_not_come_back_is_given_and_not_stored() {
    let work = Work::fresh();
    let cache = cache(&work);
    let give = || Ok::<_, ()>(LlmAnswer::new(Json(f64::NAN)));
    let given = cache.get_or_generate(&ask("a"), give).unwrap();
    assert!(given.body.0.is_nan());
    assert!(matches!(given.not_stored, Some(NotStored::NotRoundTrip(_))));
    let next = cache.get_or_generate(&ask("a"), || Ok::<_, ()>(LlmAnswer::new(Json(0.5))));
    assert_eq!(next.unwrap().origin, Origin::Generated);
}

/// What a test hears: the messages of warnings.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Ear {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Ear {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Runs something, and gives what was warned of.
fn heard(run: impl FnOnce()) -> Vec<String> {
    let ear = Ear::default();
    tracing::subscriber::with_default(ear.clone(), run);
    ear.0.lock().unwrap().clone()
}

/// Changes something about the one key of a store behind its back.
fn damage(work: &Work, change: &str) {
    let connection = Connection::open(work.directory().join("agent.db")).unwrap();
    let changed = connection.execute(&format!("UPDATE idempotency_keys SET {change}"), []);
    assert_eq!(changed.unwrap(), 1);
}

#[test]
fn a_damaged_answer_is_a_logged_miss_and_is_made_again() {
    let damages = [
        "outcome = CAST('answer 7' || substr(outcome, 9) AS BLOB)",
        "outcome = x''",
        "model = 'gpt-6'",
        "expires_at = '2999-01-01 00:00:00.000000'",
        "seal = zeroblob(32)",
        "detail = '{'",
        "used_at = '2026-13-32 25:61:61.000000'",
    ];
    for change in damages {
        let work = Work::fresh();
        let (cache, model) = (cache(&work), Model::default());
        assert_eq!(model.asked(&cache, &ask("a")).body, "answer 1");
        damage(&work, change);
        let heard = heard(|| {
            let again = model.asked(&cache, &ask("a"));
            assert_eq!(
                (again.body.as_str(), again.stored()),
                ("answer 2", true),
                "{change}"
            );
        });
        let said = "a cached answer is damaged and is made again";
        assert!(heard.iter().any(|line| line == said), "{change}: {heard:?}");
        assert_eq!(model.asked(&cache, &ask("a")).body, "answer 2", "{change}");
        assert_eq!(cache.stats().unreadable, 1, "{change}");
    }
}

#[test]
fn an_answer_in_another_form_is_replaced_once() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    assert_eq!(model.asked(&cache, &ask("a")).body, "answer 1");
    let give = || Ok::<_, ()>(LlmAnswer::new(Value::from("json now")));
    let heard = heard(|| {
        let replaced = cache.get_or_generate(&ask("a"), give).unwrap();
        assert_eq!(
            (replaced.origin, replaced.stored()),
            (Origin::Generated, true)
        );
    });
    assert_eq!(heard, ["a cached answer cannot be read and is removed"]);
    let hit = cache.get_or_generate(&ask("a"), never::<Value>).unwrap();
    assert_eq!(hit.body, Value::from("json now"));
    // A type that the JSON does not fit is another form as well.
    let typed = cache.get_or_generate(&ask("a"), || Ok::<_, ()>(LlmAnswer::new(Json(5_u8))));
    assert_eq!(typed.unwrap().origin, Origin::Generated);
    assert_eq!(cache.stats().unreadable, 2);
}

#[test]
fn when_the_store_refuses_to_begin_nobody_is_paid() {
    let work = Work::fresh();
    let cache = cache(&work);
    work.store.close();
    let refused = cache.get_or_generate(&ask("a"), never::<String>);
    let Err(CacheError::Gate(error)) = refused else {
        panic!("{refused:?}");
    };
    assert!(matches!(error.storage(), Some(StorageError::Closed)));
}

#[test]
fn when_the_store_refuses_the_answer_its_caller_has_it() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let given = cache.get_or_generate(&ask("a"), || {
        work.store.close();
        model.answer()
    });
    let given = given.unwrap();
    assert_eq!(
        (given.body.as_str(), given.usage),
        ("answer 1", Some(super::USAGE))
    );
    assert!(
        matches!(&given.not_stored, Some(NotStored::Refused(error))
            if matches!(error.storage(), Some(StorageError::Closed))),
        "{:?}",
        given.not_stored
    );
    assert_eq!(cache.stats().not_stored, 1);
}

#[test]
fn a_time_to_live_that_cannot_be_is_no_lost_answer() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let ttl = Ttl::For(std::time::Duration::MAX);
    let given = cache.get_or_generate(&ask("a"), || model.answer().map(|answer| answer.ttl(ttl)));
    let given = given.unwrap();
    assert_eq!(given.body, "answer 1");
    assert!(matches!(given.not_stored, Some(NotStored::Refused(_))));
}

//! The cache of model outputs on a real store.

mod once;
mod privacy;
mod removal;
mod storing;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentos_core::{ManualClock, TaskId};
use agentos_idempotency::{
    AnswerBody, CacheConfig, CacheError, CacheStats, Cached, Finish, GateConfig, IdempotencyError,
    IdempotencyStore, Json, LlmAnswer, LlmOutputCache, LlmRequest, Origin, Role, Scope, Ttl, Usage,
};
use agentos_tests::{Work, manual_clock, new_worker};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What every answer costs here.
const USAGE: Usage = Usage {
    prompt_tokens: 10,
    completion_tokens: 4,
    cost_micros: 250,
};

fn gate(work: &Work, name: &str) -> IdempotencyStore {
    IdempotencyStore::new(work.storage(), GateConfig::new(new_worker(name))).unwrap()
}

fn cache_of(work: &Work, config: CacheConfig) -> LlmOutputCache {
    LlmOutputCache::new(gate(work, "asker"), config).unwrap()
}

fn cache(work: &Work) -> LlmOutputCache {
    cache_of(work, CacheConfig::default())
}

fn ask(prompt: &str) -> LlmRequest {
    LlmRequest::chat("openai", "gpt-5").message(Role::User, prompt)
}

/// A store whose clock stands until it is moved.
fn clocked() -> (Work, Arc<ManualClock>) {
    let clock = manual_clock();
    let work = Work::configured(|config| config.clock(Arc::clone(&clock)));
    (work, clock)
}

/// A model that counts its calls, and answers each with its number.
#[derive(Default)]
struct Model(AtomicU64);

impl Model {
    fn answer(&self) -> Result<LlmAnswer<String>, Infallible> {
        let call = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(LlmAnswer::new(format!("answer {call}")).usage(USAGE))
    }

    fn calls(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn asked(&self, cache: &LlmOutputCache, request: &LlmRequest) -> Cached<String> {
        cache.get_or_generate(request, || self.answer()).unwrap()
    }
}

/// A generator of which this test is sure that it does not run.
fn never<A>() -> Result<LlmAnswer<A>, Infallible> {
    panic!("the model is asked");
}

#[test]
fn what_was_paid_for_is_replayed_also_after_a_restart() {
    let work = Work::fresh();
    let model = Model::default();
    let first = cache(&work);
    let paid = model.asked(&first, &ask("a"));
    assert_eq!(paid.origin, Origin::Generated);
    assert!(paid.stored() && !paid.is_hit());
    let cached = model.asked(&first, &ask("a"));
    assert_eq!(cached.origin, Origin::Recorded);
    assert!(cached.stored() && cached.is_hit());

    let second = cache(&work);
    let replayed = model.asked(&second, &ask("a"));
    assert_eq!(
        (replayed.body, replayed.usage, replayed.finish),
        ("answer 1".to_string(), Some(USAGE), Finish::Unsaid)
    );
    assert_eq!(replayed.key, *ask("a").key().unwrap());
    assert_eq!(model.calls(), 1);
}

#[test]
fn every_kind_of_answer_is_the_same_as_a_hit() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Plan {
        steps: Vec<String>,
        budget: Option<f64>,
    }
    fn both<A: AnswerBody + Clone + PartialEq + std::fmt::Debug>(
        cache: &LlmOutputCache,
        prompt: &str,
        body: &A,
    ) {
        let give = || Ok::<_, Infallible>(LlmAnswer::new(body.clone()).finish(Finish::Complete));
        let paid = cache.get_or_generate(&ask(prompt), give).unwrap();
        assert!(paid.stored(), "{:?}", paid.not_stored);
        let hit = cache.get_or_generate(&ask(prompt), never::<A>).unwrap();
        assert_eq!((&hit.body, hit.finish), (body, Finish::Complete));
    }
    let work = Work::fresh();
    let cache = cache(&work);
    both(&cache, "bytes", &vec![0_u8, 159, 255]);
    both(&cache, "no bytes", &Vec::<u8>::new());
    both(&cache, "text", &"naïve ☃".to_string());
    both(&cache, "no text", &String::new());
    both(&cache, "null", &Value::Null);
    both(&cache, "json", &json!({"b": [1, 2.5, u64::MAX], "a": {}}));
    let plan = Plan {
        steps: vec!["one".into()],
        budget: None,
    };
    both(&cache, "typed", &Json(plan));
    both(&cache, "unit", &Json(()));
    assert_eq!(cache.stats().cache_misses, 8);
}

#[test]
fn whatever_differs_is_asked_anew_and_the_order_of_members_is_not() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let task = Scope::Task(TaskId::new("there is no such task").unwrap());
    let requests = [
        ask("a"),
        ask("a").temperature(0.0),
        ask("a").temperature(0.1),
        ask("a").tool(tool("x")),
        ask("a").tool(tool("y")),
        ask("a").parameter("a field of tomorrow", 1),
        ask("a").parameter("a field of tomorrow", 2),
        ask("a").response_format(json!({"type": "json_object"})),
        ask("a").operation("plan"),
        ask("a").scope(task),
        LlmRequest::json("azure", ask("a").body().clone()),
    ];
    for request in &requests {
        assert!(!model.asked(&cache, request).is_hit(), "{request:?}");
    }
    for (number, request) in (1..).zip(&requests) {
        assert_eq!(
            model.asked(&cache, request).body,
            format!("answer {number}")
        );
    }
    let turned = r#"{"messages": [ {"content": "a", "role": "user"} ], "model": "gpt-5"}"#;
    let turned = LlmRequest::text("openai", turned).unwrap();
    assert_eq!(model.asked(&cache, &turned).body, "answer 1");
    assert_eq!(model.calls(), requests.len() as u64);
}

#[test]
fn a_task_has_answers_of_its_own() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let of = |task: &str| ask("a").scope(Scope::Task(TaskId::new(task).unwrap()));
    assert_eq!(model.asked(&cache, &of("one")).body, "answer 1");
    assert_eq!(model.asked(&cache, &of("two")).body, "answer 2");
    assert_eq!(model.asked(&cache, &ask("a")).body, "answer 3");
    assert_eq!(model.asked(&cache, &of("one")).body, "answer 1");
    assert_eq!(model.asked(&cache, &ask("a")).body, "answer 3");
}

#[test]
fn an_answer_counts_as_long_as_it_was_said() {
    let (work, clock) = clocked();
    let day = Duration::from_secs(86_400);
    let (cache, model) = (cache(&work), Model::default());
    let with = |ttl| {
        let request = ask("own").parameter("ttl", format!("{ttl:?}"));
        let give = || model.answer().map(|answer| answer.ttl(ttl));
        cache.get_or_generate(&request, give).unwrap()
    };
    let own = Ttl::For(day);
    assert_eq!(model.asked(&cache, &ask("a")).body, "answer 1");
    assert_eq!(with(own).body, "answer 2");
    assert_eq!(with(Ttl::Never).body, "answer 3");
    clock.advance(day - Duration::from_micros(1));
    assert_eq!(with(own).body, "answer 2");
    clock.advance(Duration::from_micros(1));
    assert_eq!(with(own).body, "answer 4");
    clock.advance(6 * day - Duration::from_micros(1));
    assert_eq!(model.asked(&cache, &ask("a")).body, "answer 1");
    clock.advance(Duration::from_micros(1));
    assert_eq!(model.asked(&cache, &ask("a")).body, "answer 5");
    clock.advance(36_500 * day);
    assert_eq!(with(Ttl::Never).body, "answer 3");
    assert_eq!(cache.stats().expired, 2);

    let zero = with(Ttl::For(Duration::ZERO));
    assert_eq!((zero.body.as_str(), zero.stored()), ("answer 6", false));
    let never_ends = cache_of(&work, CacheConfig::default().ttl(None));
    assert_eq!(model.asked(&never_ends, &ask("b")).body, "answer 7");
    clock.advance(36_500 * day);
    assert_eq!(model.asked(&never_ends, &ask("b")).body, "answer 7");
}

#[test]
fn a_time_to_live_of_zero_is_an_error() {
    let work = Work::fresh();
    let config = CacheConfig::default().ttl(Some(Duration::ZERO));
    let refused = LlmOutputCache::new(gate(&work, "asker"), config).unwrap_err();
    assert_eq!(refused.to_string(), "invalid input");
}

#[test]
fn the_numbers_are_exact() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    for _ in 0..2 {
        for number in 0..5 {
            model.asked(&cache, &ask(&number.to_string()));
        }
    }
    let refreshed = cache.refresh(&ask("0"), || model.answer()).unwrap();
    assert_eq!(refreshed.body, "answer 6");
    let failed = cache.get_or_generate::<String, _>(&ask("z"), || Err("no"));
    assert!(matches!(failed, Err(CacheError::Generate("no"))));
    let kept_out = cache.get_or_generate(&ask("z"), || {
        model
            .answer()
            .map(|answer| answer.finish(Finish::Truncated))
    });
    assert!(!kept_out.unwrap().stored());
    let expected = CacheStats {
        cache_hits: 5,
        cache_misses: 8,
        hit_rate: 5.0 / 13.0,
        bytes_saved: 5 * "answer 1".len() as u64,
        tokens_saved: 5 * 14,
        cost_saved_micros: 5 * 250,
        refreshes: 1,
        failures: 1,
        not_stored: 1,
        not_kept: 1,
        ..CacheStats::default()
    };
    assert_eq!(cache.stats(), expected);
}

#[test]
fn a_request_that_can_never_be_right_asks_nobody() {
    let work = Work::fresh();
    let cache = cache(&work);
    let refused = cache.get_or_generate(&ask("a").temperature(f64::NAN), never::<String>);
    assert!(matches!(
        refused,
        Err(CacheError::Gate(IdempotencyError::Storage(
            agentos_core::StorageError::Invalid(_)
        )))
    ));
    assert_eq!(cache.stats(), CacheStats::default());
}

#[test]
fn looking_asks_nobody_and_counts_nothing() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    assert!(cache.peek::<String>(&ask("a")).unwrap().is_none());
    model.asked(&cache, &ask("a"));
    let before = cache.stats();
    let found = cache.peek::<String>(&ask("a")).unwrap().unwrap();
    assert_eq!(found.body, "answer 1");
    assert!(cache.peek::<Value>(&ask("a")).unwrap().is_none());
    assert_eq!(cache.stats(), before);
}

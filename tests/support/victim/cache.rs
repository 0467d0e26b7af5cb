//! Roles about the cache of model outputs: who asks, and who hangs while it asks.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentos_idempotency::{
    CacheConfig, GateConfig, IdempotencyStore, LlmAnswer, LlmOutputCache, LlmRequest, Role,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{config, new_worker, pass};

use super::say;

fn cache(database: &str, name: &str, lease: Duration) -> LlmOutputCache {
    let store = Arc::new(SqliteStore::open(config(database)).expect("an open store"));
    let config = GateConfig::new(new_worker(name)).permit_lease(lease);
    let gate = IdempotencyStore::new(store, config).expect("a gate");
    LlmOutputCache::new(gate, CacheConfig::default()).expect("a cache")
}

fn request(prompt: &str) -> LlmRequest {
    LlmRequest::chat("openai", "gpt-5").message(Role::User, prompt)
}

/// Four threads ask five questions; each call of the model is a line of `calls`, and
/// each answer is said.
pub(crate) fn ask(database: &str, gate: &str, calls: &str, name: &str) {
    let cache = cache(database, name, Duration::from_secs(30));
    say(format_args!("ready"));
    pass(gate);
    thread::scope(|scope| {
        for asker in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                for question in 0..5 {
                    let generate = || {
                        let answer = format!("{question} answered by {name}.{asker}");
                        let file = OpenOptions::new().create(true).append(true).open(calls);
                        let mut file = file.expect("a file of calls");
                        // One write: lines of several processes do not mix.
                        file.write_all(format!("{answer}\n").as_bytes())
                            .expect("a line");
                        Ok::<_, Infallible>(LlmAnswer::new(answer))
                    };
                    let request = request(&question.to_string());
                    let cached = cache.get_or_generate(&request, generate);
                    say(format_args!("{}", cached.expect("an answer").body));
                }
            });
        }
    });
}

/// Begins to ask the model, says so, and gets no answer until it is killed. Its permit
/// is short, and long enough to be renewed on a machine that is busy.
pub(crate) fn hang(database: &str) {
    let cache = cache(database, "hanging", Duration::from_secs(3));
    let _ = cache.get_or_generate(&request("hang"), || {
        say(format_args!("asking"));
        loop {
            thread::park();
        }
        #[expect(unreachable_code, reason = "says what it would have been")]
        Ok::<_, Infallible>(LlmAnswer::new(String::new()))
    });
}

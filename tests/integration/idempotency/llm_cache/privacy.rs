//! What reaches the disk: digests of prompts, and nothing else of them unless asked
//! for; and what the redaction hook leaves of it.

use std::fs;

use agentos_idempotency::{
    CacheConfig, LlmAnswer, LlmOutputCache, LlmRequest, NotStored, Origin, Role, ToStore,
};
use agentos_tests::{Work, names};
use serde_json::{Value, json};

use super::{Model, cache_of, gate, never};

/// Words that stand in the request of these tests and nowhere else.
const PROMPT: &str = "my secret is xyzzy-4711";
const TOOL: &str = "tool-plugh-0815";

fn request() -> LlmRequest {
    LlmRequest::chat("openai", "gpt-5")
        .message(Role::User, PROMPT)
        .tool(json!({"name": TOOL}))
}

/// Whether a word stands in any file of a directory. The files are read by a process
/// of its own, since this one has them open.
fn stands(work: &Work, word: &str) -> bool {
    assert!(
        names(work.directory())
            .iter()
            .any(|name| name == "agent.db-wal")
    );
    let spec = agentos_process::CommandSpec::new("grep")
        .args(["-r", "-a", "-q", "-F", "-e", word])
        .arg(work.directory().as_os_str().to_owned());
    let finished = agentos_process::run(&spec).unwrap();
    finished.success()
}

#[test]
fn nothing_of_a_prompt_reaches_the_disk() {
    let work = Work::fresh();
    let cache = cache_of(&work, CacheConfig::default());
    let model = Model::default();
    let failed = cache.get_or_generate::<String, _>(&request(), || Err(()));
    assert!(failed.is_err());
    model.asked(&cache, &request());
    // The answer is there, so it is looked for in the right place.
    assert!(stands(&work, "answer 1"));
    for word in [PROMPT, "xyzzy", TOOL] {
        assert!(!stands(&work, word), "{word}");
    }
}

#[test]
fn requests_are_kept_when_asked_for() {
    let work = Work::fresh();
    let cache = cache_of(&work, CacheConfig::default().keep_requests(true));
    Model::default().asked(&cache, &request());
    assert!(stands(&work, PROMPT));
    let entry = cache
        .gate()
        .lookup(request().key().unwrap())
        .unwrap()
        .unwrap();
    let kept: Value = serde_json::from_slice(&entry.kept_request.unwrap()).unwrap();
    assert_eq!(
        kept,
        json!({"provider": "openai", "request": request().body()})
    );
}

#[test]
fn a_request_that_is_too_large_to_keep_is_asked_all_the_same() {
    let work = Work::fresh();
    let cache = cache_of(&work, CacheConfig::default().keep_requests(true));
    let large = request().message(Role::User, "x".repeat(1 << 20));
    assert!(Model::default().asked(&cache, &large).stored());
    let entry = cache.gate().lookup(large.key().unwrap()).unwrap().unwrap();
    assert_eq!(entry.kept_request, None);
}

/// Blackens the secret wherever it stands.
fn blacken(_: &LlmRequest, what: ToStore<'_>) -> Result<(), agentos_core::BoxError> {
    match what {
        ToStore::Request(body) => {
            let text = body.to_string().replace("xyzzy", "[gone]");
            *body = serde_json::from_str(&text)?;
        }
        ToStore::Answer { bytes, .. } => {
            *bytes = String::from_utf8(bytes.clone())?
                .replace("xyzzy", "[gone]")
                .into_bytes();
        }
    }
    Ok(())
}

#[test]
fn the_hook_sees_request_and_answer_before_the_disk_does() {
    let work = Work::fresh();
    let config = CacheConfig::default().keep_requests(true).redact(blacken);
    let cache = cache_of(&work, config);
    let give = || Ok::<_, ()>(LlmAnswer::new("you said xyzzy-4711".to_string()));
    let paid = cache.get_or_generate(&request(), give).unwrap();
    // Who pays has what the model said.
    assert_eq!(
        (paid.body.as_str(), paid.stored()),
        ("you said xyzzy-4711", true)
    );
    assert!(!stands(&work, "xyzzy"));
    assert!(stands(&work, "my secret is [gone]-4711"));
    // The key is that of the request as it was, and a hit is what was stored.
    let hit = cache.get_or_generate(&request(), never::<String>).unwrap();
    assert_eq!(
        (hit.body.as_str(), hit.origin),
        ("you said [gone]-4711", Origin::Recorded)
    );
}

#[test]
fn a_hook_that_fails_keeps_everything_from_the_disk() {
    let work = Work::fresh();
    let config = CacheConfig::default()
        .keep_requests(true)
        .redact(|_, _| Err("cannot tell".into()));
    let cache = cache_of(&work, config);
    let give = || Ok::<_, ()>(LlmAnswer::new("you said xyzzy-4711".to_string()));
    let paid = cache.get_or_generate(&request(), give).unwrap();
    assert_eq!(paid.body, "you said xyzzy-4711");
    assert!(matches!(paid.not_stored, Some(NotStored::Withheld(_))));
    assert!(!stands(&work, "xyzzy"));
}

#[test]
fn a_hook_that_leaves_what_cannot_be_read_stores_nothing() {
    let work = Work::fresh();
    let config = CacheConfig::default().redact(|_, what| {
        if let ToStore::Answer { bytes, .. } = what {
            bytes.truncate(3);
        }
        Ok(())
    });
    let cache = LlmOutputCache::new(gate(&work, "asker"), config).unwrap();
    let give = || Ok::<_, ()>(LlmAnswer::new(json!({"a": 1})));
    let paid = cache.get_or_generate(&request(), give).unwrap();
    assert!(matches!(paid.not_stored, Some(NotStored::Withheld(_))));
    assert_eq!(
        cache.get_or_generate(&request(), give).unwrap().origin,
        Origin::Generated
    );
}

#[test]
fn the_files_hold_no_prompt_after_a_clean_end_either() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    let store: std::sync::Arc<dyn agentos_core::Storage> =
        std::sync::Arc::new(agentos_tests::at(&path));
    let config = agentos_idempotency::GateConfig::new(agentos_tests::new_worker("asker"));
    let gate = agentos_idempotency::IdempotencyStore::new(store, config).unwrap();
    let cache = LlmOutputCache::new(gate, CacheConfig::default()).unwrap();
    Model::default().asked(&cache, &request());
    drop(cache);
    let bytes = fs::read(&path).unwrap();
    let stands = |word: &str| {
        bytes
            .windows(word.len())
            .any(|part| part == word.as_bytes())
    };
    assert!(stands("answer 1") && !stands("xyzzy") && !stands(TOOL));
}

//! What is part of a call and its key, and what is refused.

use std::collections::HashSet;

use serde_json::json;

use super::*;
use crate::error::IdempotencyError;
use crate::llm_cache::LlmRequest;

fn task(id: &str) -> TaskId {
    TaskId::new(id).unwrap()
}

fn call() -> ToolCall {
    ToolCall::new("bash", json!({"b": 1, "a": [1, 2]})).of_task(&task("t"))
}

fn key(call: &ToolCall) -> IdempotencyKey {
    call.identity().unwrap().key
}

#[test]
fn each_part_of_a_call_is_part_of_its_key() {
    let calls = [
        call(),
        call().of_task(&task("t2")),
        call().shared(),
        call().in_step(""),
        call().in_step("s"),
        call().in_step("s").of_task(&task("t2")),
        call().occurrence(2),
        call().in_step("s").occurrence(2),
        call().own_key("k"),
        call().own_key("k").of_task(&task("t2")),
        call().own_key("k").shared(),
        ToolCall::new("bash2", json!({"b": 1, "a": [1, 2]})).of_task(&task("t")),
        ToolCall::new("bash", json!({"b": 1, "a": [2, 1]})).of_task(&task("t")),
        ToolCall::new("bash", json!({"b": 1.0, "a": [1, 2]})).of_task(&task("t")),
        // The border between parts counts.
        ToolCall::new("ba", json!("sh")).of_task(&task("t")),
        ToolCall::new("b", json!("ash")).of_task(&task("t")),
    ];
    let keys: HashSet<_> = calls.iter().map(key).collect();
    assert_eq!(keys.len(), calls.len());
    for key in keys {
        assert!(key.as_str().starts_with(IdempotencyKey::TOOL_LEDGER));
    }
}

#[test]
fn what_is_no_part_of_a_call_changes_no_key() {
    let text = ToolCall::from_text("bash", " { \"a\":[1,2] , \"b\" : 1 }").unwrap();
    for same in [
        text.of_task(&task("t")),
        call().read_only().wait(Duration::ZERO),
        call().on_doubt(OnDoubt::Fail).keep_arguments(false),
        call().on_failure(OnFailure::Replay),
    ] {
        assert_eq!(same.identity().unwrap(), call().identity().unwrap());
    }
    assert_eq!(
        key(&call().own_key("k").in_step("s").occurrence(3)),
        key(&call().own_key("k"))
    );
    assert_eq!(
        key(&call().shared().in_step("s")),
        key(&call().shared().in_step("another"))
    );
}

#[test]
fn integers_beyond_64_bits_are_exact_as_text() {
    let of = |text| key(&ToolCall::from_text("t", text).unwrap().shared());
    assert_ne!(
        of("[123456789012345678901234567890]"),
        of("[123456789012345678901234567891]")
    );
}

#[test]
fn what_a_probe_could_not_be_told_is_no_call() {
    let deep = format!(
        "{{\"order\":42,\"d\":{}1{}}}",
        "[".repeat(127),
        "]".repeat(127)
    );
    for text in [r#"{"order":42,"limit":1e400}"#, &deep] {
        let error = ToolCall::from_text("charge", text).unwrap_err();
        assert!(matches!(error, JsonError::NotJson(_)), "{error:?}");
        let error = LlmRequest::text("openai", text).unwrap_err();
        assert!(matches!(error, JsonError::NotJson(_)), "{error:?}");
    }
    let text = r#"{"order":123456789012345678901}"#;
    let call = ToolCall::from_text("charge", text).unwrap();
    assert_eq!(call.arguments_text().unwrap(), text);
    assert_eq!(
        call.arguments()["order"].as_f64(),
        Some(123_456_789_012_345_678_901.0)
    );
}

#[test]
fn integers_that_a_value_has_rounded_are_refused() {
    for number in ["18446744073709551616", "-9223372036854775809", "1e20"] {
        let value: Value = serde_json::from_str(number).unwrap();
        let error = ToolCall::new("pay", value.clone()).shared().key();
        let Err(ToolError::Arguments(JsonError::Inexact { .. })) = error else {
            panic!("{error:?}");
        };
        let request = LlmRequest::chat("openai", "m").parameter("seed", value);
        let error = request.key().unwrap_err();
        let IdempotencyError::Json(JsonError::Inexact { .. }) = error else {
            panic!("{error:?}");
        };
    }
}

#[test]
fn only_a_trusted_server_says_what_its_tools_do() {
    let annotations = ToolAnnotations {
        read_only_hint: Some(true),
        ..ToolAnnotations::default()
    };
    let policy = |call: ToolCall| format!("{:?}", call.policy_in_doubt());
    assert_eq!(policy(call()), "Ask");
    assert_eq!(
        policy(call().annotated(&annotations, Trust::Trusted)),
        "Retry"
    );
    assert_eq!(
        policy(call().annotated(&annotations, Trust::Untrusted)),
        "Ask"
    );
    // What the caller says itself counts more.
    assert_eq!(policy(call().on_doubt(OnDoubt::Fail).read_only()), "Fail");
}

#[test]
fn what_can_never_be_a_call_is_refused_by_type() {
    for (wrong, what) in [
        (ToolCall::new("t", json!(null)), "scope of a tool call"),
        (call().occurrence(0), "occurrence of a tool call"),
        (call().own_key(""), "own key of a tool call"),
        (call().in_step("a\0"), "step of a tool call"),
    ] {
        match wrong.check().unwrap_err() {
            StorageError::Invalid(invalid) => assert_eq!(invalid.what, what),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        call().own_key("k".repeat(513)).check().unwrap_err(),
        StorageError::LimitExceeded(LimitExceeded {
            name: "own key bytes",
            ..
        })
    ));
    assert!(call().own_key("k".repeat(512)).check().is_ok());
}

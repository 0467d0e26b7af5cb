//! The keys of tool calls are stored, and are idempotency keys of services: what they are
//! made of never changes. Whoever sees one of these tests fail has changed it.

use agentos_core::TaskId;
use agentos_idempotency::{CommandCall, ToolCall};
use serde_json::json;

fn task() -> TaskId {
    TaskId::new("task-1").unwrap()
}

fn mail() -> ToolCall {
    ToolCall::new("send_mail", json!({"to": "ann", "copies": [1, 2.5]}))
}

#[test]
fn the_keys_of_calls_are_exactly_these() {
    let of_task = || mail().of_task(&task());
    let command = CommandCall::bash("make report")
        .cwd("/srv/agent")
        .env("LANG", "C")
        .stdin("in");
    let text = r#"{"copies":[1,25e-1],"to":"ann"}"#;
    let calls = [
        of_task(),
        ToolCall::from_text("send_mail", text)
            .unwrap()
            .of_task(&task()),
        of_task().in_step("step-3").occurrence(2),
        mail().shared(),
        of_task().own_key("order-42"),
        mail().shared().own_key("order-42"),
        command.to_call().unwrap().of_task(&task()),
    ];
    let keys = calls.map(|call| call.key().unwrap().as_str().to_owned());
    assert_eq!(
        keys,
        [
            // A task's.
            "tool-ledger:186ea6961fa333c23a05c3ffe300c6670c58b6de93214e674ba4ff90799ebb9d",
            // The same, as text.
            "tool-ledger:186ea6961fa333c23a05c3ffe300c6670c58b6de93214e674ba4ff90799ebb9d",
            // Of a step, the second.
            "tool-ledger:40ec9240275fff474966a4f6238195199ee7effb8ccfcee9604daeff1fce8e74",
            // Shared.
            "tool-ledger:450061a9ab561c1c3b37cbe14d2718b1582139a974ebdd7073ae16daf73d6100",
            // Under a key of its own.
            "tool-ledger:a976ef8cd67832f0c12e86917da254d8be228f4dd15d36da63f24dc692e12aee",
            // The same, shared.
            "tool-ledger:a25267b58d33a90c9115def593aab35b4497f380be003e05cd06f19b8ee3e201",
            // A command.
            "tool-ledger:1308268551a0144adc32ad3b48507c340aef351f64003a60c77abf8780b56a70",
        ]
    );
}

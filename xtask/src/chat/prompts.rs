//! Requests for the model: any number of them, no two alike, and some so nearly alike
//! that only one thing tells them apart.

use serde_json::{Value, json};

/// Requests about the same question. Each but the first has one thing that the first has
/// not, or has otherwise.
const VARIANTS: u64 = 8;

/// The `number`-th request of a run with this seed.
pub(crate) fn prompt(seed: u64, number: u64) -> Value {
    let question = number / VARIANTS;
    let text = format!("Question {question} of run {seed}: who holds item {question}, and why?");
    let user = json!({"role": "user", "content": text});
    let mut request = json!({
        "model": "agentos-1",
        "messages": [user],
        "temperature": 0.25,
    });
    match number % VARIANTS {
        0 => {}
        1 => request["temperature"] = json!(0.75),
        2 => request["model"] = json!("agentos-1-mini"),
        3 => request["seed"] = json!(7),
        4 => {
            let system = json!({"role": "system", "content": "You are brief."});
            request["messages"] = json!([system, user]);
        }
        5 => request["max_completion_tokens"] = json!(64),
        6 => {
            request["tools"] = json!([{
                "type": "function",
                "function": {"name": "look_up", "parameters": {"type": "object"}},
            }]);
        }
        _ => request["response_format"] = json!({"type": "json_object"}),
    }
    request
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use async_openai::types::chat::CreateChatCompletionRequest;

    use super::*;

    #[test]
    fn no_two_requests_are_alike() {
        let text = |number| prompt(8141, number).to_string();
        let all: BTreeSet<String> = (0..1000).map(text).collect();
        assert_eq!(all.len(), 1000);
        assert!(!all.contains(&prompt(8142, 0).to_string()));
    }

    /// What the server counts is what was meant, only if the client adds and drops
    /// nothing.
    #[test]
    fn the_client_sends_them_as_they_are() {
        for number in 0..VARIANTS {
            let request = prompt(1, number);
            let typed: CreateChatCompletionRequest =
                serde_json::from_value(request.clone()).unwrap();
            let sent = serde_json::to_string(&typed).unwrap();
            let sent: Value = serde_json::from_str(&sent).unwrap();
            assert_eq!(sent, request);
        }
    }
}

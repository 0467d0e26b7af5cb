//! The answers of the model: a function of the request.

use agentos_core::{Digest, DigestBuilder};
use serde_json::{Value, json};

/// When every answer was made, in seconds: it must not depend on a clock.
const CREATED: u64 = 1_767_225_600;
/// Words of an answer, of which its digest chooses. Not all of them are ASCII, and one
/// has what JSON escapes.
const WORDS: [&str; 16] = [
    "lease",
    "token",
    "fence",
    "ledger",
    "crash",
    "naïve",
    "résumé",
    "日誌",
    "\"quoted\"",
    "line\nbreak",
    "🔒",
    "back\\slash",
    "commit",
    "tab\tbed",
    "écrit",
    "doubt",
];
/// Bytes of the digest that choose a word each.
const WORDS_PER_ANSWER: usize = 24;
/// Bytes that count as a token.
const BYTES_PER_TOKEN: usize = 4;

/// Why a request has no answer, as the protocol says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status of HTTP.
    pub(super) status: u16,
    pub(super) message: String,
    pub(super) param: Option<&'static str>,
    pub(super) code: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            message: message.into(),
            param: None,
            code: None,
        }
    }

    fn of(param: &'static str, message: &str) -> Refusal {
        Refusal {
            param: Some(param),
            ..Refusal::new(400, message)
        }
    }

    /// The body that goes over the wire.
    pub(super) fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": "invalid_request_error",
            "param": self.param,
            "code": self.code,
        }})
    }
}

/// What tells requests apart: everything in them. The order of members and spacing are
/// not in them.
pub(crate) fn digest(request: &Value) -> Digest {
    DigestBuilder::new("chat request")
        .bytes(request.to_string().as_bytes())
        .finish()
}

/// The answer to a request, as it goes over the wire.
///
/// # Errors
///
/// A [`Refusal`] of what is no request, or of one that wants what this model does not
/// do: more than one choice, or its answer in pieces.
pub(crate) fn answer(request: &Value) -> Result<Value, Refusal> {
    let Some(model) = request.get("model").and_then(Value::as_str) else {
        return Err(Refusal::of("model", "you must provide a model parameter"));
    };
    let messages = request.get("messages").and_then(Value::as_array);
    let Some(messages) = messages.filter(|messages| !messages.is_empty()) else {
        let message = "messages must be an array of at least one";
        return Err(Refusal::of("messages", message));
    };
    if let Some(odd) = messages.iter().find(|one| !one["role"].is_string()) {
        let message = format!("a message has no role: {odd}");
        return Err(Refusal::of("messages", &message));
    }
    if request["stream"] == true {
        return Err(Refusal::of("stream", "this model does not stream"));
    }
    if !matches!(request["n"].as_u64(), None | Some(1)) {
        return Err(Refusal::of("n", "this model gives one choice"));
    }
    let digest = digest(request);
    let words = digest.as_bytes().iter().take(WORDS_PER_ANSWER);
    let words: Vec<&str> = words
        .map(|byte| WORDS[usize::from(*byte) % WORDS.len()])
        .collect();
    let content = format!("{digest} {}", words.join(" "));
    let prompt_tokens: usize = messages.iter().map(|one| tokens(&one.to_string())).sum();
    let completion_tokens = tokens(&content);
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    let call = request["tools"].as_array();
    let call = call.filter(|_| request["tool_choice"] == "required");
    let call = call.and_then(|tools| tool_call(tools, digest));
    let finish_reason = if call.is_some() { "tool_calls" } else { "stop" };
    if let Some(call) = call {
        message["tool_calls"] = json!([call]);
    }
    let total_tokens = prompt_tokens + completion_tokens;
    Ok(json!({
        "id": format!("chatcmpl-{}", &digest.to_string()[..29]),
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": finish_reason,
        }],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": total_tokens,
        },
    }))
}

/// A call of one of the tools that a request offers. Where a parameter has a list of
/// values it is one of these, and else a text.
fn tool_call(tools: &[Value], digest: Digest) -> Option<Value> {
    let mut choices = digest
        .as_bytes()
        .iter()
        .rev()
        .map(|byte| usize::from(*byte));
    let mut choose = |of: usize| choices.next().unwrap_or(0).checked_rem(of);
    let function = &tools[choose(tools.len())?]["function"];
    let mut arguments = serde_json::Map::new();
    let parameters = function["parameters"]["properties"].as_object();
    for (name, parameter) in parameters.into_iter().flatten() {
        let value = match parameter["enum"].as_array() {
            Some(values) => values[choose(values.len())?].clone(),
            None => WORDS[choose(WORDS.len())?].into(),
        };
        arguments.insert(name.clone(), value);
    }
    Some(json!({
        "id": format!("call_{}", &digest.to_string()[..24]),
        "type": "function",
        "function": {
            "name": function["name"],
            "arguments": Value::Object(arguments).to_string(),
        },
    }))
}

fn tokens(text: &str) -> usize {
    text.len().div_ceil(BYTES_PER_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Value {
        json!({
            "model": "m",
            "messages": [{"role": "user", "content": "Why?"}],
            "temperature": 0.5,
        })
    }

    #[test]
    fn an_answer_follows_from_the_whole_request_and_from_nothing_else() {
        let first = answer(&request()).unwrap();
        assert_eq!(answer(&request()).unwrap(), first);
        let reordered = r#"{ "temperature": 0.5, "messages":
            [{"content": "Why?", "role": "user"}], "model": "m" }"#;
        let reordered: Value = serde_json::from_str(reordered).unwrap();
        assert_eq!(answer(&reordered).unwrap(), first);
        for (member, value) in [
            ("temperature", json!(0.6)),
            ("seed", json!(1)),
            ("model", json!("m2")),
            ("unheard_of", json!(null)),
        ] {
            let mut other = request();
            other[member] = value;
            let content = |answer: &Value| answer["choices"][0]["message"]["content"].clone();
            assert_ne!(
                content(&answer(&other).unwrap()),
                content(&first),
                "{member}"
            );
        }
    }

    #[test]
    fn a_request_that_requires_a_tool_is_answered_with_a_call_of_one_of_them() {
        let mut offers = request();
        let shelves = json!({"type": "string", "enum": ["red", "blue"]});
        let parameters = json!({"properties": {"shelf": shelves, "title": {"type": "string"}}});
        let tool = |name| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
        offers["tools"] = json!([tool("announce"), tool("archive")]);
        let plain = answer(&offers).unwrap();
        assert_eq!(plain["choices"][0]["finish_reason"], "stop");
        offers["tool_choice"] = "required".into();
        let mut called = std::collections::BTreeSet::new();
        for seed in 0..50 {
            offers["seed"] = seed.into();
            let choice = &answer(&offers).unwrap()["choices"][0];
            assert_eq!(choice["finish_reason"], "tool_calls");
            let function = &choice["message"]["tool_calls"][0]["function"];
            let arguments = function["arguments"].as_str().unwrap();
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            assert!(WORDS.contains(&arguments["title"].as_str().unwrap()));
            called.insert((
                function["name"].clone().to_string(),
                arguments["shelf"].to_string(),
            ));
        }
        assert_eq!(called.len(), 4, "{called:?}");
    }

    #[test]
    fn tokens_add_up() {
        let usage = &answer(&request()).unwrap()["usage"];
        let number = |name: &str| usage[name].as_u64().unwrap();
        // {"content":"Why?","role":"user"} has 32 bytes.
        assert_eq!(number("prompt_tokens"), 8);
        let sum = number("prompt_tokens") + number("completion_tokens");
        assert_eq!(number("total_tokens"), sum);
    }

    #[test]
    fn what_is_no_request_is_refused_and_names_the_parameter() {
        for (member, value) in [
            ("model", json!(null)),
            ("messages", json!([])),
            ("messages", json!([{"content": "?"}])),
            ("stream", json!(true)),
            ("n", json!(2)),
        ] {
            let mut wrong = request();
            wrong[member] = value;
            let refusal = answer(&wrong).unwrap_err();
            assert_eq!((refusal.status, refusal.param), (400, Some(member)));
        }
        assert_eq!(answer(&json!([])).unwrap_err().param, Some("model"));
    }
}

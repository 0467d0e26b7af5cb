//! Requests to models, and the keys that they have.
//!
//! The whole request is the key: whatever differs in the provider, the body, the
//! operation or the scope makes another key, also a field that this crate does not
//! know. Only the order of members and spaces between them do not matter. The text
//! of a request stands in no log: its debug form names its key and nothing of its body.

use std::fmt;
use std::sync::OnceLock;

use agentos_core::limits::check_name;
use agentos_core::{Digest, DigestBuilder, IdempotencyKey, InvalidInput, TaskId};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{IdempotencyError, JsonError};
use crate::key::{CanonicalJson, cache_key};

/// The operation of a request that names no other one.
const OPERATION_DEFAULT: &str = "chat";

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The rules of the conversation.
    System,
    /// The same, as newer models call it.
    Developer,
    /// A person.
    User,
    /// The model.
    Assistant,
    /// A tool.
    Tool,
}

impl Role {
    /// As it stands in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// Who shares an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Scope {
    /// Everybody who asks the same.
    #[default]
    Shared,
    /// Those who ask the same for this task, which need not exist.
    Task(TaskId),
}

/// A request to a model.
///
/// Its body is what goes over the wire: made by hand with [`LlmRequest::chat`], or
/// taken from anywhere with [`LlmRequest::json`] and [`LlmRequest::of`]. Both ways
/// give the same key for the same body.
///
/// ```
/// use agentos_idempotency::{LlmRequest, Role};
/// use serde_json::json;
///
/// let typed = LlmRequest::chat("openai", "gpt-5")
///     .message(Role::User, "What is a lease?")
///     .temperature(0.2)
///     .parameter("seed", 7);
/// let body = json!({
///     "seed": 7,
///     "temperature": 0.2,
///     "messages": [{"role": "user", "content": "What is a lease?"}],
///     "model": "gpt-5",
/// });
/// let taken = LlmRequest::json("openai", body);
/// assert_eq!(typed.key()?, taken.key()?);
/// assert_ne!(typed.key()?, taken.parameter("top_k", 1).key()?);
/// # Ok::<(), agentos_idempotency::IdempotencyError>(())
/// ```
#[derive(Clone)]
pub struct LlmRequest {
    provider: String,
    operation: String,
    scope: Scope,
    body: Value,
    /// The canonical form of a body that was taken from text: in a `Value` integers
    /// beyond 64 bits would not be exact.
    exact: Option<CanonicalJson>,
    /// The first thing that can never be right.
    invalid: Option<InvalidInput>,
    identity: OnceLock<Identity>,
}

/// What a request is known by.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) key: IdempotencyKey,
    /// Of provider and body.
    pub(crate) digest: Digest,
}

impl LlmRequest {
    /// A request for a chat, without messages yet.
    pub fn chat(provider: impl Into<String>, model: impl Into<String>) -> LlmRequest {
        let model = Value::String(model.into());
        LlmRequest::json(provider, Value::Object(Map::new())).parameter("model", model)
    }

    /// A request with this body. Its `model`, where it has one, is what
    /// answers are found by when those of a model are invalidated.
    pub fn json(provider: impl Into<String>, body: Value) -> LlmRequest {
        LlmRequest {
            provider: provider.into(),
            operation: OPERATION_DEFAULT.into(),
            scope: Scope::Shared,
            body,
            exact: None,
            invalid: None,
            identity: OnceLock::new(),
        }
    }

    /// A request with this body, given as JSON text, in which no digit is lost: what
    /// went over somebody else's wire. Nothing can be added to it.
    ///
    /// # Errors
    ///
    /// [`JsonError`] when it is no JSON, or has a member twice.
    pub fn text(provider: impl Into<String>, body: &str) -> Result<LlmRequest, JsonError> {
        let (exact, body) = CanonicalJson::with_value(body)?;
        let mut request = LlmRequest::json(provider, body);
        request.exact = Some(exact);
        Ok(request)
    }

    /// A request with any body that serde writes as JSON, as
    /// [`serde_json::to_value`] does: a float that JSON does not have becomes null, and
    /// an integer beyond 64 bits is refused.
    ///
    /// # Errors
    ///
    /// [`JsonError::NotJson`] when it cannot be written as JSON.
    pub fn of<B: Serialize + ?Sized>(
        provider: impl Into<String>,
        body: &B,
    ) -> Result<LlmRequest, JsonError> {
        Ok(LlmRequest::json(provider, serde_json::to_value(body)?))
    }

    /// Appends a message. The content is text, or whatever parts the provider knows.
    #[must_use]
    pub fn message(self, role: Role, content: impl Into<Value>) -> LlmRequest {
        let mut message = Map::new();
        message.insert("role".into(), role.as_str().into());
        message.insert("content".into(), content.into());
        self.raw_message(Value::Object(message))
    }

    /// Appends a message as it is: one with calls of tools, or an answer to them.
    #[must_use]
    pub fn raw_message(self, message: Value) -> LlmRequest {
        self.append("messages", message)
    }

    /// Appends the declaration of a tool.
    #[must_use]
    pub fn tool(self, tool: Value) -> LlmRequest {
        self.append("tools", tool)
    }

    /// Says in which form the model is to answer.
    #[must_use]
    pub fn response_format(self, format: Value) -> LlmRequest {
        self.parameter("response_format", format)
    }

    /// Says how freely the model chooses. One that is no finite number is refused
    /// when the request is used.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> LlmRequest {
        if !temperature.is_finite() {
            self.refuse("temperature", "is no finite number");
        }
        self.parameter("temperature", temperature)
    }

    /// Sets any other field of the body.
    #[must_use]
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<Value>) -> LlmRequest {
        if let Some(fields) = self.fields() {
            fields.insert(name.into(), value.into());
        }
        self
    }

    /// What kind of operation this is: "chat" unless said. It is part of the key, and
    /// answers of one kind can be invalidated.
    #[must_use]
    pub fn operation(mut self, operation: impl Into<String>) -> LlmRequest {
        self.operation = operation.into();
        self.identity = OnceLock::new();
        self
    }

    /// Says who shares the answer. It is part of the key.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> LlmRequest {
        self.scope = scope;
        self.identity = OnceLock::new();
        self
    }

    /// Who is asked.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Which model is asked, if the body says so in `model`.
    pub fn model(&self) -> Option<&str> {
        self.body.get("model").and_then(Value::as_str)
    }

    /// What goes over the wire.
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// The key under which the answer is stored. Computed once.
    ///
    /// # Errors
    ///
    /// `Invalid` or `LimitExceeded` of the store's errors, or
    /// [`IdempotencyError::Json`], when the request can never be right.
    pub fn key(&self) -> Result<&IdempotencyKey, IdempotencyError> {
        self.identity().map(|identity| &identity.key)
    }

    pub(crate) fn identity(&self) -> Result<&Identity, IdempotencyError> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity);
        }
        let identity = self.identify()?;
        Ok(self.identity.get_or_init(|| identity))
    }

    pub(crate) fn operation_name(&self) -> &str {
        &self.operation
    }

    pub(crate) fn task(&self) -> Option<&TaskId> {
        match &self.scope {
            Scope::Shared => None,
            Scope::Task(task) => Some(task),
        }
    }

    fn identify(&self) -> Result<Identity, IdempotencyError> {
        if let Some(invalid) = &self.invalid {
            return Err(invalid.clone().into());
        }
        check_name("operation", &self.operation)?;
        check_name("provider", &self.provider)?;
        if let Some(model) = self.model() {
            check_name("model", model)?;
        }
        let body = match &self.exact {
            Some(exact) => exact.digest(),
            None => CanonicalJson::of_value(&self.body)?.digest(),
        };
        let digest = DigestBuilder::new("model request")
            .bytes(self.provider.as_bytes())
            .bytes(body.as_bytes())
            .finish();
        Ok(Identity {
            key: cache_key(self.task(), &self.operation, &digest),
            digest,
        })
    }

    /// The fields of the body, about to be changed.
    fn fields(&mut self) -> Option<&mut Map<String, Value>> {
        self.identity = OnceLock::new();
        if self.exact.is_some() {
            self.refuse("request", "has fields set, and was taken from text");
        } else if !self.body.is_object() {
            self.refuse("request", "has fields set, and its body is no JSON object");
        }
        self.body.as_object_mut()
    }

    fn append(mut self, field: &'static str, item: Value) -> LlmRequest {
        let Some(fields) = self.fields() else {
            return self;
        };
        let items = fields
            .entry(field)
            .or_insert_with(|| Value::Array(Vec::new()));
        match items {
            Value::Array(items) => items.push(item),
            _ => self.refuse(field, "is no list, and something is appended to it"),
        }
        self
    }

    fn refuse(&mut self, what: &'static str, reason: &str) {
        self.invalid
            .get_or_insert_with(|| InvalidInput::new(what, reason));
    }
}

impl fmt::Debug for LlmRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmRequest")
            .field("provider", &self.provider)
            .field("model", &self.model())
            .field("operation", &self.operation)
            .field("scope", &self.scope)
            .field("key", &self.key().ok())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request() -> LlmRequest {
        LlmRequest::chat("openai", "gpt-5")
            .message(Role::System, "You are brief.")
            .message(Role::User, "Hello")
            .temperature(0.0)
    }

    fn key(request: &LlmRequest) -> String {
        request.key().unwrap().to_string()
    }

    #[test]
    fn keys_are_those_of_the_cache_and_stay_the_same() {
        // Made by the first release: another key would make every stored answer a miss.
        assert_eq!(
            key(&request()),
            "llm-cache:018dedeb71069c1198bc7e38f25cd744f2016fbc191a42ca7140bc827781e701"
        );
    }

    #[test]
    fn the_typed_way_and_json_give_the_same_key() {
        let text = r#" { "temperature": 0.0,
            "messages": [{"content": "You are brief.", "role": "system"},
                         {"role": "user", "content": "Hello"}],
            "model": "gpt-5" } "#;
        let body: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            key(&request()),
            key(&LlmRequest::json("openai", body.clone()))
        );

        #[derive(Serialize)]
        struct Chat {
            temperature: f64,
            model: &'static str,
            messages: Value,
        }
        let chat = Chat {
            temperature: 0.0,
            model: "gpt-5",
            messages: body["messages"].clone(),
        };
        assert_eq!(
            key(&request()),
            key(&LlmRequest::of("openai", &chat).unwrap())
        );
    }

    #[test]
    fn text_gives_the_same_key_and_loses_no_digit() {
        let text = |text: &str| LlmRequest::text("openai", text).unwrap();
        let value: Value = serde_json::from_str(r#"{"model": "m", "seed": 7}"#).unwrap();
        let taken = text(r#"{"seed":7,  "model":"m"}"#);
        assert_eq!(key(&taken), key(&LlmRequest::json("openai", value)));
        assert_eq!(taken.model(), Some("m"));
        assert_ne!(
            key(&text(r#"{"seed": 18446744073709551616}"#)),
            key(&text(r#"{"seed": 18446744073709551617}"#))
        );
        assert!(LlmRequest::text("openai", r#"{"a": 1, "a": 2}"#).is_err());
        assert!(LlmRequest::of("openai", &(u128::MAX)).is_err());
    }

    #[test]
    fn everything_that_differs_is_another_key() {
        let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
        let task = |id| Scope::Task(TaskId::new(id).unwrap());
        let model = |name| LlmRequest::json("openai", request().body).parameter("model", name);
        let requests = [
            request(),
            LlmRequest::json("azure", request().body),
            model("gpt-5-mini"),
            request().message(Role::User, "Hello"),
            request().message(Role::User, "Hello "),
            request().message(Role::Developer, "Hello"),
            request().message(Role::User, json!([{"type": "text", "text": "Hello"}])),
            request().temperature(0.1),
            request().temperature(-0.0),
            request().temperature(1.0),
            request().parameter("temperature", Value::Null),
            request().tool(tool("a")),
            request().tool(tool("b")),
            request().tool(tool("a")).tool(tool("b")),
            request().tool(tool("b")).tool(tool("a")),
            request().response_format(json!({"type": "json_object"})),
            request().parameter("seed", 1),
            request().parameter("seed", u64::MAX),
            request().parameter("seed", u64::MAX - 1),
            request().parameter("a field of tomorrow", true),
            request().parameter("a field of tomorrow", "true"),
            request().operation("plan"),
            request().scope(task("a")),
            request().scope(task("b")),
            request().scope(task("a")).operation("plan"),
        ];
        let keys: std::collections::BTreeSet<String> = requests.iter().map(key).collect();
        assert_eq!(keys.len(), requests.len());
    }

    #[test]
    fn a_changed_request_has_another_key_than_before() {
        let asked = request();
        let before = key(&asked);
        assert_ne!(key(&asked.clone().temperature(0.5)), before);
        assert_ne!(key(&asked.clone().operation("plan")), before);
        assert_eq!(key(&asked), before);
    }

    #[test]
    fn what_can_never_be_right_is_refused_when_it_is_used() {
        let refused = |request: LlmRequest| request.key().unwrap_err().to_string();
        for request in [
            request().temperature(f64::NAN),
            request().temperature(f64::INFINITY).temperature(0.5),
            LlmRequest::json("openai", json!("text")).parameter("seed", 1),
            LlmRequest::json("openai", json!({"tools": 1})).tool(json!({})),
            request().operation(""),
            LlmRequest::json("", json!({})),
            LlmRequest::chat("openai", ""),
            LlmRequest::text("openai", "{}").unwrap().temperature(0.5),
        ] {
            assert_eq!(refused(request), "invalid input");
        }
        let long = LlmRequest::chat("openai", "x".repeat(129));
        assert_eq!(refused(long), "name bytes: 129 is over the limit of 128");
    }

    #[test]
    fn the_debug_form_holds_nothing_of_the_body() {
        let shown = format!("{:?}", request());
        assert!(!shown.contains("Hello") && !shown.contains("brief"));
        assert!(shown.contains("llm-cache:") && shown.contains("gpt-5"));
    }

    #[test]
    fn any_json_is_a_request() {
        for body in [json!(null), json!([]), json!({}), json!("text"), json!(7)] {
            assert!(key(&LlmRequest::json("mine", body)).starts_with("llm-cache:"));
        }
    }
}

//! The client: `async-openai`, asked from threads that wait for it.

use std::io;
use std::time::Duration;

use async_openai::config::OpenAIConfig;
use async_openai::types::chat::{CreateChatCompletionRequest, CreateChatCompletionResponse};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::server::{CALLS_PATH, Call};

/// For one answer to come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer, as the client understood it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Completion {
    /// All of it, as JSON.
    pub(crate) text: String,
    /// Tokens of the request.
    pub(crate) prompt_tokens: u64,
    /// Tokens of the answer.
    pub(crate) completion_tokens: u64,
    /// Why the model stopped, in the protocol's word.
    pub(crate) finish_reason: String,
}

/// Asks a model, one question at a time. Each thread has its own.
pub(crate) struct Asker {
    runtime: Runtime,
    client: async_openai::Client<OpenAIConfig>,
}

impl Asker {
    /// Asks the server at this port, under this name.
    pub(crate) fn new(port: u16, name: &str) -> io::Result<Asker> {
        // Whatever the environment could say is said here.
        let config = OpenAIConfig::new()
            .with_api_base(format!("{}/v1", base(port)))
            .with_api_key(name)
            .with_org_id("")
            .with_project_id("");
        Ok(Asker {
            runtime: runtime()?,
            client: async_openai::Client::build(http()?, config),
        })
    }

    /// The answer to a request, which is in the form of the protocol.
    pub(crate) fn ask(&self, request: &Value) -> io::Result<Completion> {
        let request: CreateChatCompletionRequest = serde_json::from_value(request.clone())?;
        let answer = self.runtime.block_on(self.client.chat().create(request));
        understood(&answer.map_err(io::Error::other)?)
    }
}

/// What the client understands of an answer as it goes over the wire.
pub(crate) fn completion(answer: Value) -> io::Result<Completion> {
    understood(&serde_json::from_value(answer)?)
}

fn understood(answer: &CreateChatCompletionResponse) -> io::Result<Completion> {
    let [choice] = &answer.choices[..] else {
        return Err(odd(format!("{} choices", answer.choices.len())));
    };
    let finish_reason = choice
        .finish_reason
        .ok_or_else(|| odd("no finish_reason"))?;
    let usage = answer.usage.as_ref().ok_or_else(|| odd("no usage"))?;
    Ok(Completion {
        text: serde_json::to_string(answer)?,
        prompt_tokens: usage.prompt_tokens.into(),
        completion_tokens: usage.completion_tokens.into(),
        finish_reason: serde_json::to_value(finish_reason)?
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| odd("a strange finish_reason"))?,
    })
}

fn odd(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// The calls that the server at this port has counted so far.
pub(crate) fn calls_of(port: u16) -> io::Result<Vec<Call>> {
    let url = format!("{}{CALLS_PATH}", base(port));
    let http = http()?;
    let told = async {
        let response = http.get(url).send().await?.error_for_status()?;
        response.bytes().await
    };
    let told = runtime()?.block_on(told).map_err(io::Error::other)?;
    Ok(serde_json::from_slice(&told)?)
}

fn base(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn http() -> io::Result<reqwest::Client> {
    // A proxy that the environment names does not know this machine's loopback.
    let builder = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
    builder.build().map_err(io::Error::other)
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

//! A model that is asked over the OpenAI chat-completions protocol, on loopback: its
//! answers, the server that gives them and counts who asked, and the client.
//!
//! The server is ours and small; the client is a public one that others use, so that
//! what the two speak is the protocol and not our idea of it. An answer follows from
//! its request and from nothing else, so a check can work it out by itself.

mod answer;
mod client;
mod prompts;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use self::answer::{answer, digest};
pub(crate) use self::client::{Asker, Completion, calls_of, completion};
pub(crate) use self::prompts::prompt;
pub(crate) use self::server::{Call, Pace, Server};

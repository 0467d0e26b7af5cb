//! What an agent and its model say to each other, and the tools that the model may ask
//! for.
//!
//! Each part of the work is told to the model, with a digest of all that was said
//! before; the model answers with a call of a tool. A tool adds one line to a file and
//! gives back which line it was: so a line too many, or one too few, changes every
//! answer that follows.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use agentos_core::{Digest, DigestBuilder, Finding};
use agentos_idempotency::{DoubtfulCall, ToolOutcome, ToolOutput};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What the tools have done, a line each, in the agent's folder.
pub(crate) const OUTBOX: &str = "outbox.log";
/// The tools that are offered.
const TOOLS: [&str; 2] = ["announce", "archive"];

/// How far a conversation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Talk {
    /// Digest of all that was said before the last part, in hexadecimal.
    before: String,
    /// The same after it.
    pub(crate) digest: String,
}

impl Talk {
    /// Before the first word.
    pub(crate) fn start() -> Talk {
        let nothing = Digest::of(b"").to_string();
        Talk {
            before: nothing.clone(),
            digest: nothing,
        }
    }

    /// As it was before its last part.
    pub(crate) fn without_last(&self) -> Talk {
        Talk {
            before: self.before.clone(),
            digest: self.before.clone(),
        }
    }

    /// After one more part: what the model said, and what came of it.
    pub(crate) fn after(&self, said: &Said, outcome: &[u8]) -> Talk {
        let digest = DigestBuilder::new("talk")
            .bytes(self.digest.as_bytes())
            .bytes(said.words.as_bytes())
            .bytes(said.tool.as_bytes())
            .bytes(said.arguments.as_bytes())
            .bytes(outcome)
            .finish();
        Talk {
            before: self.digest.clone(),
            digest: digest.to_string(),
        }
    }
}

/// What a model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    words: String,
    /// The tool that it asks for.
    pub(crate) tool: String,
    /// The arguments of that, as JSON.
    pub(crate) arguments: String,
}

impl Said {
    /// Reads the answer to a request. `None`: it asks for no tool.
    pub(crate) fn read(answer: &Value) -> Option<Said> {
        let message = &answer["choices"][0]["message"];
        let function = &message["tool_calls"][0]["function"];
        Some(Said {
            words: message["content"].as_str()?.to_owned(),
            tool: function["name"].as_str()?.to_owned(),
            arguments: function["arguments"].as_str()?.to_owned(),
        })
    }
}

/// What the model is asked about a part of the work.
pub(crate) fn request(part: u64, parts: u64, files: &[String], before: &str) -> Value {
    let told = format!(
        "Part {part} of {parts} is counted: {}. What was said before: {before}. \
         Where does the record go?",
        files.join(", ")
    );
    let tool = |name| {
        json!({
            "type": "function",
            "function": {
                "name": name,
                "parameters": {
                    "type": "object",
                    "properties": {
                        "shelf": {"type": "string", "enum": ["red", "green", "blue"]},
                        "title": {"type": "string"},
                    },
                    "required": ["shelf", "title"],
                },
            },
        })
    };
    json!({
        "model": "librarian",
        "messages": [
            {"role": "system", "content": "You keep the records of a count of files."},
            {"role": "user", "content": told},
        ],
        "tools": TOOLS.map(tool),
        "tool_choice": "required",
    })
}

/// The file in which the tools do what they do.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    path: PathBuf,
}

impl Outbox {
    /// That of an agent's folder.
    pub(crate) fn of(work: &Path) -> Outbox {
        Outbox {
            path: work.join(OUTBOX),
        }
    }

    /// Runs a tool: adds its line, and gives back which it is.
    pub(crate) fn send(&self, key: &str, tool: &str, arguments: &str) -> io::Result<ToolOutput> {
        let receipt = receipt(self.lines()?.lines().count());
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?;
        // One call, so that a kill leaves a line or none.
        file.write_all(format!("{key} {tool} {arguments}\n").as_bytes())?;
        Ok(receipt)
    }

    /// Asks whether a tool has run.
    pub(crate) fn ask(&self, call: &DoubtfulCall) -> Finding<ToolOutcome> {
        let lines = match self.lines() {
            Ok(lines) => lines,
            Err(error) => return Finding::CannotTell(error.to_string()),
        };
        let is_it = |line: &str| line.split(' ').next() == Some(call.key.as_str());
        match lines.lines().position(is_it) {
            Some(before) => Finding::Happened(ToolOutcome::Done(receipt(before))),
            None => Finding::DidNotHappen,
        }
    }

    fn lines(&self) -> io::Result<String> {
        match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        }
    }
}

fn receipt(before: usize) -> ToolOutput {
    ToolOutput::new(format!("receipt {}", before + 1))
}

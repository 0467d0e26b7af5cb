//! Everything that a victim printed, in order, complete lines only.
//!
//! Shared between the victim's handle and the run that started it, so that the
//! evidence has it even when the scenario panicked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentos_process::Exit;

/// What an acknowledgement begins with when nothing else is said; the rest of the
/// line is its payload.
pub const ACK_PREFIX: &str = "ack ";

/// The words of one victim and how it ended.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// The victim's name.
    pub victim: String,
    /// What its acknowledgements begin with.
    pub ack_prefix: String,
    /// Every line, acknowledgements included.
    pub lines: Vec<String>,
    /// How it ended, once that is known.
    pub exit: Option<Exit>,
    /// Whether the harness sent it SIGKILL while it was running.
    pub killed: bool,
}

impl Default for Transcript {
    fn default() -> Transcript {
        Transcript {
            victim: String::new(),
            ack_prefix: ACK_PREFIX.to_owned(),
            lines: Vec::new(),
            exit: None,
            killed: false,
        }
    }
}

impl Transcript {
    /// The payloads of the acknowledgements.
    pub fn acks(&self) -> Vec<String> {
        self.lines
            .iter()
            .filter_map(|line| line.strip_prefix(&self.ack_prefix))
            .map(str::to_owned)
            .collect()
    }

    /// All other lines.
    pub fn said(&self) -> Vec<String> {
        self.lines
            .iter()
            .filter(|line| !line.starts_with(&self.ack_prefix))
            .cloned()
            .collect()
    }
}

/// A transcript with two owners.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Transcript>>);

impl Shared {
    pub(crate) fn new(victim: &str) -> Shared {
        let shared = Shared::default();
        victim.clone_into(&mut shared.lock().victim);
        shared
    }

    /// Every change is one assignment or one push, so what a panic left behind
    /// is whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Transcript> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_a_line_with_the_prefix() {
        let lines = ["ack 1", "ready", "ack", "ack 2 x", " ack 3", "acknowledged"];
        let transcript = Transcript {
            lines: lines.map(str::to_owned).to_vec(),
            ..Transcript::default()
        };
        assert_eq!(transcript.acks(), ["1", "2 x"]);
        let said = ["ready", "ack", " ack 3", "acknowledged"];
        assert_eq!(transcript.said(), said);
    }

    #[test]
    fn another_prefix_makes_other_lines_acknowledgements() {
        let transcript = Transcript {
            ack_prefix: "saved ".to_owned(),
            lines: ["ack 1", "saved 2"].map(str::to_owned).to_vec(),
            ..Transcript::default()
        };
        assert_eq!(transcript.acks(), ["2"]);
        assert_eq!(transcript.said(), ["ack 1"]);
    }
}

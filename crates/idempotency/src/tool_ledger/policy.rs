//! What follows when a call failed, and when nobody knows whether it happened.
//!
//! Only what is declared safe to repeat is repeated unasked. What a server says of its
//! own tools counts only if the caller trusts that server.

use std::fmt;
use std::sync::Arc;

use agentos_core::{IdempotencyKey, PermitHolder, Probe, TaskId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::outcome::ToolOutcome;

/// What to do with a call of which nobody knows whether it happened: its process died
/// between the start and the recorded outcome.
#[derive(Clone, Default)]
pub enum OnDoubt {
    /// Run it again: repeating it is safe. It happens at least once.
    Retry,
    /// Ask the outside world, and go on as it says. It happens exactly once, if the
    /// probe tells the truth. Where the probe cannot tell, the call stays in doubt.
    Verify(Arc<dyn Probe<DoubtfulCall, ToolOutcome>>),
    /// Leave it in doubt until an operator has found out.
    #[default]
    Ask,
    /// Give it up: that is recorded once as a failure, and replayed from then on. It
    /// happens at most once.
    Fail,
}

impl OnDoubt {
    /// Asks this probe.
    pub fn verify(probe: impl Probe<DoubtfulCall, ToolOutcome> + 'static) -> OnDoubt {
        OnDoubt::Verify(Arc::new(probe))
    }
}

impl fmt::Debug for OnDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnDoubt::Retry => "Retry",
            OnDoubt::Verify(_) => "Verify",
            OnDoubt::Ask => "Ask",
            OnDoubt::Fail => "Fail",
        })
    }
}

/// What to do with a call whose recorded outcome is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Run it again. The failure is kept until then.
    #[default]
    RunAgain,
    /// Replay the failure.
    Replay,
}

/// What a call does to the world, as its caller declares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It changes nothing.
    ReadOnly,
    /// Done twice it has done no more than done once.
    Idempotent,
    /// It adds, and takes nothing away.
    Additive,
    /// It may take away or overwrite.
    Destructive,
}

impl Effect {
    /// The word that operators see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Effect::ReadOnly => "read-only",
            Effect::Idempotent => "idempotent",
            Effect::Additive => "additive",
            Effect::Destructive => "destructive",
        }
    }

    /// Reads that word; `None` when it is not one of ours.
    pub fn parse(word: &str) -> Option<Effect> {
        [
            Effect::ReadOnly,
            Effect::Idempotent,
            Effect::Additive,
            Effect::Destructive,
        ]
        .into_iter()
        .find(|effect| effect.as_str() == word)
    }

    /// What to do in doubt unless the call says otherwise.
    pub fn on_doubt(self) -> OnDoubt {
        match self {
            Effect::ReadOnly | Effect::Idempotent => OnDoubt::Retry,
            Effect::Additive | Effect::Destructive => OnDoubt::Ask,
        }
    }
}

/// Whether what a server says of its own tools is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The caller vouches for the server.
    Trusted,
    /// Its annotations are hints that anybody could have written: they change nothing.
    Untrusted,
}

/// The annotations of a tool in the Model Context Protocol, as its server sends them.
/// What is absent has the protocol's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ToolAnnotations {
    /// It does not change its environment. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only_hint: Option<bool>,
    /// It may destroy, not only add. Without meaning if it is read-only. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destructive_hint: Option<bool>,
    /// Calling it again with the same arguments does nothing more. Without meaning if it
    /// is read-only. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotent_hint: Option<bool>,
}

impl ToolAnnotations {
    /// What a call of the tool does, if its server is to be believed.
    pub fn effect(&self) -> Effect {
        if self.read_only_hint.unwrap_or(false) {
            Effect::ReadOnly
        } else if self.idempotent_hint.unwrap_or(false) {
            Effect::Idempotent
        } else if self.destructive_hint.unwrap_or(true) {
            Effect::Destructive
        } else {
            Effect::Additive
        }
    }
}

/// A call of which nobody knows whether it happened: what a probe is asked about.
#[derive(Debug, Clone, PartialEq)]
pub struct DoubtfulCall {
    /// The tool.
    pub tool: String,
    /// The arguments, as exact as a value can be: integers beyond 64 bits are rounded, and
    /// different ones may look alike.
    pub arguments: Value,
    /// The arguments as canonical JSON text, with every digit that was given.
    pub arguments_text: String,
    /// The task that it belongs to; none if it is shared.
    pub task: Option<TaskId>,
    /// The key that its body was given to hand on.
    pub key: IdempotencyKey,
    /// Who began it, and since when.
    pub holder: PermitHolder,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn effect(annotations: Value) -> Effect {
        serde_json::from_value::<ToolAnnotations>(annotations)
            .unwrap()
            .effect()
    }

    #[test]
    fn what_a_server_does_not_say_has_the_default_of_the_protocol() {
        assert_eq!(effect(json!({})), Effect::Destructive);
        assert_eq!(
            effect(json!({"title": "x", "openWorldHint": false})),
            Effect::Destructive
        );
        assert_eq!(effect(json!({"readOnlyHint": null})), Effect::Destructive);
        assert_eq!(effect(json!({"readOnlyHint": true})), Effect::ReadOnly);
        assert_eq!(effect(json!({"idempotentHint": true})), Effect::Idempotent);
        assert_eq!(effect(json!({"destructiveHint": false})), Effect::Additive);
        // Without meaning beside the first.
        assert_eq!(
            effect(json!({"readOnlyHint": true, "destructiveHint": true})),
            Effect::ReadOnly
        );
    }

    #[test]
    fn only_what_can_be_repeated_is_repeated_unasked() {
        for (effect, policy) in [
            (Effect::ReadOnly, "Retry"),
            (Effect::Idempotent, "Retry"),
            (Effect::Additive, "Ask"),
            (Effect::Destructive, "Ask"),
        ] {
            assert_eq!(format!("{:?}", effect.on_doubt()), policy);
            assert_eq!(Effect::parse(effect.as_str()), Some(effect));
        }
        assert_eq!(format!("{:?}", OnDoubt::default()), "Ask");
        assert_eq!(Effect::parse("harmless"), None);
    }
}

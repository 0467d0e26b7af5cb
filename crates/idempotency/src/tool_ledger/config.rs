//! How a ledger works.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::policy::OnFailure;
use crate::limits::TOOL_WAIT_DEFAULT;

/// Takes out of the arguments of a tool what nobody is to see.
pub type Redact = dyn Fn(&str, &mut Value) + Send + Sync;

/// How a ledger works.
#[derive(Clone)]
pub struct LedgerConfig {
    pub(super) wait: Duration,
    pub(super) on_failure: OnFailure,
    pub(super) keep_arguments: bool,
    pub(super) redact: Option<Arc<Redact>>,
}

impl Default for LedgerConfig {
    fn default() -> LedgerConfig {
        LedgerConfig {
            wait: TOOL_WAIT_DEFAULT,
            on_failure: OnFailure::default(),
            keep_arguments: true,
            redact: None,
        }
    }
}

impl fmt::Debug for LedgerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerConfig")
            .field("wait", &self.wait)
            .field("on_failure", &self.on_failure)
            .field("keep_arguments", &self.keep_arguments)
            .field("redacts", &self.redact.is_some())
            .finish()
    }
}

impl LedgerConfig {
    /// Waits 30 s for others, runs failures again, and keeps arguments for operators.
    pub fn new() -> LedgerConfig {
        LedgerConfig::default()
    }

    /// How long a call waits while somebody else runs it, unless it says otherwise.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> LedgerConfig {
        self.wait = wait;
        self
    }

    /// What to do with recorded failures, unless a call says otherwise.
    #[must_use]
    pub fn on_failure(mut self, policy: OnFailure) -> LedgerConfig {
        self.on_failure = policy;
        self
    }

    /// Whether the arguments of calls are kept for operators, unless a call says
    /// otherwise: those of up to 1 MiB as canonical JSON. Of all others there is a digest.
    #[must_use]
    pub fn keep_arguments(mut self, keep: bool) -> LedgerConfig {
        self.keep_arguments = keep;
        self
    }

    /// Sees the tool and its arguments before they are kept, and takes out what nobody is
    /// to see. The call itself and its key stay as they are. It sees integers beyond 64
    /// bits rounded; arguments in which one is left are not kept.
    #[must_use]
    pub fn redact(
        mut self,
        redact: impl Fn(&str, &mut Value) + Send + Sync + 'static,
    ) -> LedgerConfig {
        self.redact = Some(Arc::new(redact));
        self
    }
}

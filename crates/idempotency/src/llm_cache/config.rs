//! How a cache behaves: how long answers count, which are kept, and what of them is
//! stored.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentos_core::limits::CACHE_TTL_DEFAULT;
use agentos_core::records::key::check_ttl;
use agentos_core::{BoxError, Fence, InvalidInput, StorageError};
use serde_json::Value;

use super::envelope::{AnswerFormat, Finish, Usage};
use super::request::LlmRequest;
use crate::limits::{CACHE_WAIT_DEFAULT, CACHE_WAIT_MAX};

/// An answer that was paid for, before it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'c> {
    /// What was asked.
    pub request: &'c LlmRequest,
    /// Why the model stopped.
    pub finish: Finish,
    /// What it cost, if known.
    pub usage: Option<Usage>,
    /// The form of the answer.
    pub format: AnswerFormat,
    /// The answer, as it would be stored.
    pub bytes: &'c [u8],
}

/// Something that is about to be written to the disk; a redaction hook may change it.
#[derive(Debug)]
pub enum ToStore<'s> {
    /// The body of the request. Only where requests are kept.
    Request(&'s mut Value),
    /// The answer.
    Answer {
        /// Its form, which must stay.
        format: AnswerFormat,
        /// Its bytes.
        bytes: &'s mut Vec<u8>,
    },
}

type Keep = Arc<dyn Fn(&Candidate<'_>) -> bool + Send + Sync>;
type Redact = Arc<dyn Fn(&LlmRequest, ToStore<'_>) -> Result<(), BoxError> + Send + Sync>;

/// How a cache behaves.
#[derive(Clone)]
pub struct CacheConfig {
    pub(crate) ttl: Option<Duration>,
    pub(crate) wait: Duration,
    pub(crate) keep_requests: bool,
    pub(crate) keep: Keep,
    pub(crate) redact: Option<Redact>,
}

impl Default for CacheConfig {
    /// Answers count for 7 days, a caller waits at most 5 minutes for somebody else's,
    /// requests are not kept, and neither are answers that are cut off, refused, or
    /// ended in a way that is not known.
    fn default() -> CacheConfig {
        CacheConfig {
            ttl: Some(CACHE_TTL_DEFAULT),
            wait: CACHE_WAIT_DEFAULT,
            keep_requests: false,
            keep: Arc::new(|answer| matches!(answer.finish, Finish::Unsaid | Finish::Complete)),
            redact: None,
        }
    }
}

impl CacheConfig {
    /// How long answers count, unless they say otherwise; `None`: for ever. Zero is
    /// refused when the cache is made.
    #[must_use]
    pub fn ttl(mut self, ttl: Option<Duration>) -> CacheConfig {
        self.ttl = ttl;
        self
    }

    /// How long a caller waits at most for an answer that somebody else is asking the
    /// model for, up to 24 h. Zero: not at all.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> CacheConfig {
        self.wait = wait;
        self
    }

    /// Whether the bodies of requests are stored beside their answers, for people.
    /// Otherwise only their digests are. One of more than 1 MiB is never kept.
    #[must_use]
    pub fn keep_requests(mut self, keep: bool) -> CacheConfig {
        self.keep_requests = keep;
        self
    }

    /// Which answers are stored; in place of the rule that those are which are not cut
    /// off, not refused, and ended in a way that is known or not spoken of. One that
    /// is kept out is given to its caller all the same, and who waits for it asks the
    /// model in turn.
    #[must_use]
    pub fn keep(
        mut self,
        keep: impl Fn(&Candidate<'_>) -> bool + Send + Sync + 'static,
    ) -> CacheConfig {
        self.keep = Arc::new(keep);
        self
    }

    /// Sees everything that is about to be stored, before it reaches the disk, and may
    /// change it. An error keeps it from the disk: an answer is not stored then, and a
    /// request is not kept.
    ///
    /// The caller who pays for an answer gets it as the model gave it. Everybody who
    /// gets it from the cache, and who waits for it is one of them, gets what was
    /// stored.
    #[must_use]
    pub fn redact(
        mut self,
        redact: impl Fn(&LlmRequest, ToStore<'_>) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> CacheConfig {
        self.redact = Some(Arc::new(redact));
        self
    }

    /// Lets the hook look at something that is about to be stored.
    pub(crate) fn redacted(&self, request: &LlmRequest, what: ToStore<'_>) -> Result<(), BoxError> {
        match &self.redact {
            None => Ok(()),
            Some(redact) => redact(request, what),
        }
    }

    pub(crate) fn check(&self) -> Result<(), StorageError> {
        check_ttl(self.ttl)?;
        if CACHE_WAIT_MAX < self.wait {
            let reason = format!("is beyond {CACHE_WAIT_MAX:?}");
            return Err(InvalidInput::new("wait of a cache", reason).into());
        }
        Ok(())
    }
}

impl fmt::Debug for CacheConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheConfig")
            .field("ttl", &self.ttl)
            .field("wait", &self.wait)
            .field("keep_requests", &self.keep_requests)
            .finish_non_exhaustive()
    }
}

/// What is special about one call.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallOptions {
    pub(crate) refresh: bool,
    pub(crate) under: Option<Fence>,
    pub(crate) wait: Option<Duration>,
}

impl CallOptions {
    /// Nothing is.
    pub fn new() -> CallOptions {
        CallOptions::default()
    }

    /// Asks the model whatever is recorded. What was recorded is gone when the model
    /// is asked, also if it then gives no answer. Who finds somebody else asking it
    /// waits for that answer.
    #[must_use]
    pub fn refresh(mut self) -> CallOptions {
        self.refresh = true;
        self
    }

    /// Asks the model under the lease of a work item: only while it is held, and
    /// others wait as long as it is. An answer that comes after its loss is not
    /// stored.
    #[must_use]
    pub fn under(mut self, lease: impl Into<Fence>) -> CallOptions {
        self.under = Some(lease.into());
        self
    }

    /// How long this call waits for somebody else, at most; up to 24 h.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> CallOptions {
        self.wait = Some(wait.min(CACHE_WAIT_MAX));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_of_zero_is_refused_and_none_is_not() {
        let check = |ttl| CacheConfig::default().ttl(ttl).check();
        assert!(matches!(
            check(Some(Duration::ZERO)).unwrap_err(),
            StorageError::Invalid(_)
        ));
        check(None).unwrap();
        check(Some(Duration::from_micros(1))).unwrap();
        let defaults = CacheConfig::default();
        assert_eq!(defaults.ttl, Some(Duration::from_secs(7 * 86_400)));
        defaults.check().unwrap();
    }

    #[test]
    fn a_wait_without_an_end_is_refused() {
        let wait = |wait| CacheConfig::default().wait(wait).check();
        wait(Duration::ZERO).unwrap();
        wait(CACHE_WAIT_MAX).unwrap();
        assert!(wait(Duration::MAX).is_err());
    }
}

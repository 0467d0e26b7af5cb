//! Answers of models: nothing is paid twice.
//!
//! The whole request is the key. Of any number of callers who ask the same at once, in
//! any number of threads and processes, one asks the model and pays; the others wait,
//! and get the same answer. If the one who pays dies, one of them takes over. Whoever
//! has paid gets what it paid for, also when it cannot be stored. A damaged record is
//! a miss that is logged, never a wrong answer. Of requests only digests are stored,
//! unless more is asked for.

mod answer;
mod config;
mod envelope;
mod error;
mod invalidate;
mod request;
mod stats;

use std::sync::Arc;

use agentos_core::limits::{KEPT_REQUEST_BYTES_MAX, check_size};
use agentos_core::records::key::check_ttl;
use agentos_core::{
    Deadline, Execution, KeyStatus, NewOutcome, OnDamaged, OnLost, OnRecorded, RecordedKey,
    StorageError, crash_point,
};
use serde_json::json;

pub use self::answer::{AnswerBody, Cached, Json, LlmAnswer, Origin, Ttl};
pub use self::config::{CacheConfig, CallOptions, Candidate, ToStore};
pub use self::envelope::{AnswerFormat, EnvelopeError, Finish, StoredAnswer, Usage};
pub use self::error::{CacheError, NotStored};
pub use self::invalidate::Invalidation;
pub use self::request::{LlmRequest, Role, Scope};
pub use self::stats::CacheStats;

use self::error::Unreadable;
use self::request::Identity;
use self::stats::Counters;
use crate::error::IdempotencyError;
use crate::gate::{Begin, HeldPermit, IdempotencyStore};
use crate::limits::UNREADABLE_ANSWERS_MAX;
use crate::request::Request;

/// A cache of the answers of models.
///
/// Clones share their counters.
///
/// ```
/// use agentos_idempotency::{
///     LlmAnswer, CacheConfig, Finish, IdempotencyStore, LlmOutputCache, LlmRequest, Role, Usage,
/// };
///
/// fn ask(gate: IdempotencyStore) -> Result<String, Box<dyn std::error::Error>> {
///     let cache = LlmOutputCache::new(gate, CacheConfig::default())?;
///     let request = LlmRequest::chat("openai", "gpt-5")
///         .message(Role::User, "What is a lease?")
///         .temperature(0.0);
///     let cached = cache.get_or_generate(&request, || {
///         // Here the model is asked: `request.body()` is what goes over the wire.
///         let usage = Usage { prompt_tokens: 12, completion_tokens: 5, cost_micros: 90 };
///         let answer = LlmAnswer::new("A promise with an end.".to_string());
///         Ok::<_, std::io::Error>(answer.usage(usage).finish(Finish::of_reason("stop")))
///     })?;
///     Ok(cached.body)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct LlmOutputCache {
    gate: IdempotencyStore,
    config: Arc<CacheConfig>,
    counters: Arc<Counters>,
}

/// What follows from what is recorded.
enum Turn<A> {
    /// The answer is there.
    Answered(Cached<A>),
    /// This call asks the model, and records what it answers.
    Pay(HeldPermit),
    /// This call asks the model, and cannot record what it answers.
    PayUnstored(NotStored),
}

impl LlmOutputCache {
    /// A cache behind this gate.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] for a time to live of zero, or a wait without an end.
    pub fn new(
        gate: IdempotencyStore,
        config: CacheConfig,
    ) -> Result<LlmOutputCache, IdempotencyError> {
        config.check()?;
        Ok(LlmOutputCache {
            gate,
            config: Arc::new(config),
            counters: Arc::default(),
        })
    }

    /// The answer that is recorded; or that of `generate`, which is recorded then.
    ///
    /// While somebody else is asking the model the same, in whichever process, this
    /// waits. If that one fails or dies, this one may ask. An error of `generate` is
    /// given to its caller and stored nowhere; when it panics, others may ask at once,
    /// and the panic goes on. An answer that cannot be stored is given all the same:
    /// see [`Cached::not_stored`].
    ///
    /// # Errors
    ///
    /// [`CacheError::Generate`] when `generate` fails. With every other error the model
    /// was not asked: [`CacheError::InFlight`] when the time to wait is over,
    /// [`CacheError::Gate`] when the request can never be right, or the store refused.
    pub fn get_or_generate<A: AnswerBody, E>(
        &self,
        request: &LlmRequest,
        generate: impl FnOnce() -> Result<LlmAnswer<A>, E>,
    ) -> Result<Cached<A>, CacheError<E>> {
        self.call(request, &CallOptions::new(), generate)
    }

    /// A new answer, whatever is recorded: [`CallOptions::refresh`].
    ///
    /// # Errors
    ///
    /// As [`LlmOutputCache::get_or_generate`].
    pub fn refresh<A: AnswerBody, E>(
        &self,
        request: &LlmRequest,
        generate: impl FnOnce() -> Result<LlmAnswer<A>, E>,
    ) -> Result<Cached<A>, CacheError<E>> {
        self.call(request, &CallOptions::new().refresh(), generate)
    }

    /// As [`LlmOutputCache::get_or_generate`], with what is special about this call.
    ///
    /// # Errors
    ///
    /// As [`LlmOutputCache::get_or_generate`].
    pub fn call<A: AnswerBody, E>(
        &self,
        request: &LlmRequest,
        options: &CallOptions,
        generate: impl FnOnce() -> Result<LlmAnswer<A>, E>,
    ) -> Result<Cached<A>, CacheError<E>> {
        let identity = request.identity()?;
        match self.turn(request, identity, options)? {
            Turn::Answered(cached) => Ok(cached),
            Turn::Pay(permit) => {
                let execution = permit.permit().execution;
                if execution == Execution::AfterDamage {
                    tracing::warn!(key = %identity.key, "a cached answer is damaged and is made again");
                }
                self.counters.miss(Some(execution), options.refresh);
                let mut unpaid = Unpaid::new(self, permit);
                unpaid.require_held()?;
                crash_point!("model.before_asked");
                let answer = generate().map_err(CacheError::Generate)?;
                crash_point!("model.answered");
                unpaid.is_paid = true;
                Ok(self.record(request, identity, unpaid, answer))
            }
            Turn::PayUnstored(why) => {
                self.counters.miss(None, options.refresh);
                let answer = generate().map_err(|error| {
                    self.counters.failures.add(1);
                    CacheError::Generate(error)
                })?;
                Ok(self.unstored(identity, answer, why))
            }
        }
    }

    /// The recorded answer, without asking any model; `None` when there is none that
    /// counts and can be read in this form. It is no hit and no miss.
    ///
    /// # Errors
    ///
    /// Those of [`LlmRequest::key`], and those of the store.
    pub fn peek<A: AnswerBody>(
        &self,
        request: &LlmRequest,
    ) -> Result<Option<Cached<A>>, IdempotencyError> {
        let identity = request.identity()?;
        let entry = self.lookup(identity)?;
        let found = entry.and_then(|entry| read(identity, entry.outcome, Origin::Recorded).ok());
        Ok(found.map(|(cached, _)| cached))
    }

    /// What this cache did since it was made, in this process.
    pub fn stats(&self) -> CacheStats {
        self.counters.read()
    }

    /// The gate behind it.
    pub fn gate(&self) -> &IdempotencyStore {
        &self.gate
    }

    /// The recorded answer that counts. A damaged one is none: who begins finds it.
    fn lookup(&self, identity: &Identity) -> Result<Option<RecordedKey>, IdempotencyError> {
        let found = match self.gate.recorded(&identity.key) {
            Err(error) if is_damage(&error) => None,
            found => found?,
        };
        Ok(found.filter(|entry| {
            let view = &entry.view;
            view.status == KeyStatus::Succeeded && !view.expired && view.request == identity.digest
        }))
    }

    fn turn<A: AnswerBody, E>(
        &self,
        request: &LlmRequest,
        identity: &Identity,
        options: &CallOptions,
    ) -> Result<Turn<A>, CacheError<E>> {
        // A hit builds nothing and writes nothing.
        if !options.refresh
            && let Some(entry) = self.lookup(identity)?
        {
            self.gate.touch(entry.id, entry.used_at);
            if let Ok(cached) = self.hit(identity, entry.outcome, Origin::Recorded) {
                return Ok(Turn::Answered(cached));
            }
        }
        let asked = self.asked(request, identity, options);
        let deadline = Deadline::after(options.wait.unwrap_or(self.config.wait));
        for _ in 0..UNREADABLE_ANSWERS_MAX {
            let entry = match self.gate.begin_wait(&asked, deadline.remaining()) {
                Ok(Begin::Execute(permit)) => return Ok(Turn::Pay(permit)),
                Ok(Begin::Replay(entry)) => *entry,
                // Whose permit is over is taken over, so nothing stays in doubt here.
                Ok(Begin::InFlight(holder) | Begin::InDoubt(holder)) => {
                    self.counters.timeouts.add(1);
                    return Err(CacheError::InFlight {
                        waited: deadline.waited(),
                        holder: Box::new(holder),
                    });
                }
                Err(error) if is_damage(&error) => {
                    tracing::warn!(key = %identity.key, %error, "a cached answer is damaged and cannot be replaced");
                    self.counters.unreadable.add(1);
                    return Ok(Turn::PayUnstored(NotStored::InTheWay(error.into())));
                }
                Err(error) => return Err(error.into()),
            };
            let seen = entry.summary;
            match self.hit(identity, entry.outcome.unwrap_or_default(), Origin::Awaited) {
                Ok(cached) => return Ok(Turn::Answered(cached)),
                Err(error) => {
                    tracing::warn!(key = %identity.key, %error, "a cached answer cannot be read and is removed");
                    self.counters.unreadable.add(1);
                    // Of all who find it so one removes it, and one asks the model.
                    self.remove_one(&seen)?;
                }
            }
        }
        let why = "others go on recording answers in another form";
        Ok(Turn::PayUnstored(NotStored::InTheWay(why.into())))
    }

    fn asked(&self, request: &LlmRequest, identity: &Identity, options: &CallOptions) -> Request {
        let mut asked = Request::new(identity.key.clone(), identity.digest)
            .operation(request.operation_name())
            .on_lost(OnLost::TakeOver)
            .on_damaged(OnDamaged::RunAgain);
        if options.refresh {
            asked = asked.on_recorded(OnRecorded::RunAgain);
        }
        if let Some(task) = request.task() {
            asked = asked.task(task.clone());
        }
        if let Some(model) = request.model() {
            asked = asked.model(model);
        }
        if let Some(kept) = self.kept_request(request) {
            asked = asked.keep_request(kept);
        }
        if let Some(lease) = options.under {
            asked = asked.under(lease);
        }
        asked
    }

    /// What is kept of a request, for people.
    fn kept_request(&self, request: &LlmRequest) -> Option<Vec<u8>> {
        if !self.config.keep_requests {
            return None;
        }
        let mut body = request.body().clone();
        let redacted = self
            .config
            .redacted(request, ToStore::Request(&mut body))
            .map_err(|error| error.to_string());
        let kept = json!({"provider": request.provider(), "request": body}).to_string();
        let size = check_size("kept request bytes", kept.len(), KEPT_REQUEST_BYTES_MAX);
        match redacted.and(size.map_err(|error| error.to_string())) {
            Ok(()) => Some(kept.into_bytes()),
            Err(why) => {
                tracing::warn!(?request, why, "a request is not kept");
                None
            }
        }
    }

    fn hit<A: AnswerBody>(
        &self,
        identity: &Identity,
        outcome: Vec<u8>,
        origin: Origin,
    ) -> Result<Cached<A>, Unreadable> {
        let (cached, bytes) = read(identity, outcome, origin)?;
        let waited = origin == Origin::Awaited;
        self.counters.hit(bytes, cached.usage, waited);
        Ok(cached)
    }

    /// Records an answer that was paid for.
    fn record<A: AnswerBody>(
        &self,
        request: &LlmRequest,
        identity: &Identity,
        mut permit: Unpaid<'_>,
        answer: LlmAnswer<A>,
    ) -> Cached<A> {
        let outcome = match self.outcome(request, &answer) {
            Ok(outcome) => outcome,
            Err(why) => {
                drop(permit);
                return self.unstored(identity, answer, why);
            }
        };
        match permit.record(outcome) {
            Ok(()) => answer.given(&identity.key, None),
            Err(IdempotencyError::Storage(StorageError::StaleLease(_))) => {
                self.superseded(identity, answer)
            }
            Err(error) => {
                // Those who wait need not wait for the permit to run out.
                drop(permit);
                self.unstored(identity, answer, NotStored::Refused(error))
            }
        }
    }

    /// The answer came too late: another one may have been recorded meanwhile.
    fn superseded<A: AnswerBody>(&self, identity: &Identity, answer: LlmAnswer<A>) -> Cached<A> {
        let recorded = self.lookup(identity).ok().flatten();
        let recorded =
            recorded.and_then(|entry| read(identity, entry.outcome, Origin::Superseded).ok());
        match recorded {
            Some((cached, _)) => {
                tracing::warn!(key = %identity.key, "an answer came after another one was recorded");
                self.counters.not_stored(&NotStored::PermitLost);
                cached
            }
            None => self.unstored(identity, answer, NotStored::PermitLost),
        }
    }

    fn unstored<A>(&self, identity: &Identity, answer: LlmAnswer<A>, why: NotStored) -> Cached<A> {
        if !matches!(why, NotStored::NotKept) {
            tracing::warn!(key = %identity.key, error = %why, "an answer is not stored");
        }
        self.counters.not_stored(&why);
        answer.given(&identity.key, Some(why))
    }

    /// What is stored of an answer.
    fn outcome<A: AnswerBody>(
        &self,
        request: &LlmRequest,
        answer: &LlmAnswer<A>,
    ) -> Result<NewOutcome, NotStored> {
        if !answer.keep {
            return Err(NotStored::NotKept);
        }
        let mut bytes = answer.body.to_bytes().map_err(NotStored::NotRoundTrip)?;
        let candidate = Candidate {
            request,
            finish: answer.finish,
            usage: answer.usage,
            format: A::FORMAT,
            bytes: &bytes,
        };
        if !(self.config.keep)(&candidate) {
            return Err(NotStored::NotKept);
        }
        answer.body.check(&bytes).map_err(NotStored::NotRoundTrip)?;
        if self.config.redact.is_some() {
            let what = ToStore::Answer {
                format: A::FORMAT,
                bytes: &mut bytes,
            };
            self.config
                .redacted(request, what)
                .and_then(|()| A::from_bytes(bytes.clone()).map(drop))
                .map_err(NotStored::Withheld)?;
        }
        let stored = StoredAnswer {
            format: A::FORMAT,
            finish: answer.finish,
            usage: answer.usage,
            bytes,
        };
        let outcome = NewOutcome::success(stored.encode()).ttl(match answer.ttl {
            Ttl::Default => self.config.ttl,
            Ttl::For(ttl) => Some(ttl),
            Ttl::Never => None,
        });
        let limit = self.gate.storage().limits().outcome_bytes;
        check_ttl(outcome.ttl)
            .and_then(|()| check_size("outcome bytes", outcome.bytes.len(), limit))
            .map_err(|error| NotStored::Refused(error.into()))?;
        Ok(outcome)
    }
}

/// A permit under which nothing is recorded yet: given up when the generator fails or
/// panics, or its answer is not stored, so that others need not wait for it.
struct Unpaid<'c> {
    cache: &'c LlmOutputCache,
    permit: Option<HeldPermit>,
    is_paid: bool,
}

impl<'c> Unpaid<'c> {
    fn new(cache: &'c LlmOutputCache, permit: HeldPermit) -> Unpaid<'c> {
        Unpaid {
            cache,
            permit: Some(permit),
            is_paid: false,
        }
    }

    /// Nobody is paid under a permit that is lost.
    fn require_held(&self) -> Result<(), StorageError> {
        self.permit
            .as_ref()
            .map_or(Ok(()), HeldPermit::require_held)
    }

    /// Records the outcome. The permit stays unless it is used or lost.
    fn record(&mut self, outcome: NewOutcome) -> Result<(), IdempotencyError> {
        let Some(permit) = &self.permit else {
            return Ok(());
        };
        let recorded = self.cache.gate.record(permit, outcome);
        let is_over = match &recorded {
            Ok(()) => true,
            Err(error) => matches!(error.storage(), Some(StorageError::StaleLease(_))),
        };
        if is_over {
            self.permit = None;
        }
        recorded
    }
}

impl Drop for Unpaid<'_> {
    fn drop(&mut self) {
        self.cache.counters.failures.add(u64::from(!self.is_paid));
        let Some(permit) = self.permit.take() else {
            return;
        };
        if let Err(error) = self.cache.gate.abandon(permit) {
            // It runs out by itself, and is taken over then.
            tracing::warn!(%error, "a permit could not be given up");
        }
    }
}

/// Reads a recorded answer; also how many bytes it has.
fn read<A: AnswerBody>(
    identity: &Identity,
    outcome: Vec<u8>,
    origin: Origin,
) -> Result<(Cached<A>, usize), Unreadable> {
    let stored = StoredAnswer::decode(outcome)?;
    if stored.format != A::FORMAT {
        return Err(Unreadable::OtherForm);
    }
    let size = stored.bytes.len();
    let cached = Cached {
        body: A::from_bytes(stored.bytes).map_err(Unreadable::OtherType)?,
        usage: stored.usage,
        finish: stored.finish,
        key: identity.key.clone(),
        origin,
        not_stored: None,
    };
    Ok((cached, size))
}

fn is_damage(error: &IdempotencyError) -> bool {
    matches!(error.storage(), Some(StorageError::Corrupt { .. }))
}

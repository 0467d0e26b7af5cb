//! Idempotency keys: their states, the permits under which their executions run,
//! and what is recorded of them.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::digest::{Digest, DigestBuilder};
use crate::error::{InvalidInput, StorageError};
use crate::ids::{FencingToken, IdempotencyKey, KeyId, TaskId, Worker};
use crate::limits::{
    KEPT_REQUEST_BYTES_MAX, LEASE_DEFAULT, Limits, TTL_MAX, check_name, check_size,
};
use crate::records::task::check_metadata;
use crate::records::work_item::Fence;
use crate::storage::check_lease;
use crate::time::{BootTime, Timestamp};

text_enum! {
    /// State of an idempotency key.
    pub enum KeyStatus {
        /// Its execution has begun; the outcome is not recorded.
        Pending = "pending",
        /// The outcome is recorded.
        Succeeded = "succeeded",
        /// A failure is recorded.
        Failed = "failed",
    }
}

impl KeyStatus {
    /// The state in which keys are made.
    pub const INITIAL: KeyStatus = KeyStatus::Pending;

    /// Whether a key in this state may change to `next`. A recorded outcome
    /// goes back to pending when it has expired, or is to be made again.
    pub const fn can_become(self, next: KeyStatus) -> bool {
        use KeyStatus::{Failed, Pending, Succeeded};
        matches!(
            (self, next),
            (Pending, Succeeded | Failed) | (Succeeded | Failed, Pending)
        )
    }
}

/// Which execution of which key: what every write of an outcome is checked against.
///
/// The token grows by one with every execution of a key, and a key that was removed
/// never gives its number to another one: a late finisher fits nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyFence {
    /// The key.
    pub key: KeyId,
    /// The token of the execution.
    pub token: FencingToken,
}

/// What to do with an outcome that is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnRecorded {
    /// Replay it, also when it is a failure.
    Replay,
    /// Replay a success; execute again after a failure.
    #[default]
    RunFailedAgain,
    /// Execute again after the failure that this execution left; replay everything else.
    /// For one who has looked at that failure: another one may be there by now.
    RunFailureAgain(FencingToken),
    /// Execute again, whatever is recorded. What was recorded is gone with that.
    RunAgain,
}

/// What to do when the permit of a pending key is over: its owner is gone, and
/// nobody knows whether it was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLost {
    /// Say that it is in doubt.
    #[default]
    SayInDoubt,
    /// Execute again: repeating it is safe.
    TakeOver,
}

/// What to do when what is recorded is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamaged {
    /// Say so.
    #[default]
    Refuse,
    /// Execute again: losing it is safe. Of a damaged row nobody knows whether it is
    /// being executed: so two may be, for once.
    RunAgain,
}

/// Asks for the execution of a key, or for what is recorded under it.
#[derive(Debug, Clone, PartialEq)]
pub struct BeginKey {
    /// The key.
    pub key: IdempotencyKey,
    /// Digest of what is asked for. The same key with another one is a conflict.
    pub request: Digest,
    /// The task that it belongs to; it need not exist.
    pub task: Option<TaskId>,
    /// What kind of operation it is: a tool's name, a type of model call.
    pub operation: Option<String>,
    /// Which model is asked.
    pub model: Option<String>,
    /// What of the request is to be kept, for people.
    pub kept_request: Option<Vec<u8>>,
    /// Anything else that is to be kept, for people.
    pub detail: Value,
    /// Who executes it.
    pub owner: Worker,
    /// The lease of a work item under which it is executed. Then nothing is begun
    /// unless that lease is held and has not run out; the permit lasts as long as that
    /// lease, and needs no renewal of its own; and the outcome can only be recorded
    /// under it. What is recorded is replayed to anybody.
    pub under: Option<Fence>,
    /// How long the permit lasts unless it is renewed: 100 ms to 24 h. Without
    /// meaning under a lease.
    pub lease: Duration,
    /// Whether the owner's name runs once at a time: then a permit of an earlier
    /// start of it is over, whatever its deadline.
    pub sole_start: bool,
    /// What to do with a recorded outcome.
    pub on_recorded: OnRecorded,
    /// What to do when nobody knows whether it was executed.
    pub on_lost: OnLost,
    /// What to do with a damaged record.
    pub on_damaged: OnDamaged,
}

impl BeginKey {
    /// The execution of `key` by `owner`, for 30 s, with everything else as it is
    /// when nothing is said.
    pub fn new(key: IdempotencyKey, request: Digest, owner: Worker) -> BeginKey {
        BeginKey {
            key,
            request,
            task: None,
            operation: None,
            model: None,
            kept_request: None,
            detail: Value::Null,
            owner,
            under: None,
            lease: LEASE_DEFAULT,
            sole_start: false,
            on_recorded: OnRecorded::default(),
            on_lost: OnLost::default(),
            on_damaged: OnDamaged::default(),
        }
    }

    /// Checks everything that has a bound.
    ///
    /// # Errors
    ///
    /// [`StorageError::LimitExceeded`] or [`StorageError::Invalid`].
    pub fn check(&self, limits: &Limits) -> Result<(), StorageError> {
        check_lease(self.lease)?;
        if let Some(operation) = &self.operation {
            check_name("operation", operation)?;
        }
        if let Some(model) = &self.model {
            check_name("model", model)?;
        }
        let kept = self.kept_request.as_ref().map_or(0, Vec::len);
        check_size("kept request bytes", kept, KEPT_REQUEST_BYTES_MAX)?;
        check_metadata(&self.detail, limits)
    }

    /// What follows from what is there, and from nothing else. `None`: nothing is.
    pub fn decide(&self, found: Option<&KeyView>) -> KeyDecision {
        let Some(found) = found else {
            return KeyDecision::Execute(Execution::First);
        };
        if found.expired {
            return KeyDecision::Execute(Execution::AfterExpiry);
        }
        if found.request != self.request {
            return KeyDecision::Conflict;
        }
        match (&found.permit, found.status) {
            (_, KeyStatus::Succeeded | KeyStatus::Failed)
                if self.on_recorded == OnRecorded::RunAgain =>
            {
                KeyDecision::Execute(Execution::Again)
            }
            (_, KeyStatus::Succeeded) => KeyDecision::Replay,
            (_, KeyStatus::Failed) => match self.on_recorded {
                OnRecorded::Replay => KeyDecision::Replay,
                OnRecorded::RunFailureAgain(seen) if seen != found.token => KeyDecision::Replay,
                _ => KeyDecision::Execute(Execution::AfterFailure),
            },
            (Some(permit), KeyStatus::Pending) if !self.is_over(permit) => KeyDecision::InFlight,
            (_, KeyStatus::Pending) if self.on_lost == OnLost::TakeOver => {
                KeyDecision::Execute(Execution::TakenOver)
            }
            (_, KeyStatus::Pending) => KeyDecision::InDoubt,
        }
    }

    /// Whether a permit is over for the one who asks.
    fn is_over(&self, permit: &PermitHolder) -> bool {
        permit.is_over_for(self.sole_start.then_some(&self.owner))
    }
}

/// What a decision about a key rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    /// Its state.
    pub status: KeyStatus,
    /// Token of its newest execution.
    pub token: FencingToken,
    /// Digest of what was asked for.
    pub request: Digest,
    /// Whether its outcome has expired: then it counts as absent.
    pub expired: bool,
    /// Who executes it, or did when it was lost; `None` once an outcome is recorded.
    pub permit: Option<PermitHolder>,
}

/// What follows when the execution of a key is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyDecision {
    /// It is executed, by the one who asked.
    Execute(Execution),
    /// The recorded outcome is the answer.
    Replay,
    /// Somebody else executes it now.
    InFlight,
    /// Nobody knows whether it was executed.
    InDoubt,
    /// The key stands for another request.
    Conflict,
}

/// Why a key is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Execution {
    /// There was nothing.
    First,
    /// What was recorded has expired.
    AfterExpiry,
    /// A failure was recorded.
    AfterFailure,
    /// It was to be made again.
    Again,
    /// What was recorded is damaged.
    AfterDamage,
    /// Its last owner is gone, and repeating it is safe.
    TakenOver,
}

/// The right to execute a key, and to record its outcome.
///
/// It is a plain record. Dropping it does nothing; it runs out by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// What the outcome is checked against.
    pub fence: KeyFence,
    /// The key.
    pub key: IdempotencyKey,
    /// Who has it.
    pub owner: Worker,
    /// The lease of a work item under which it is had.
    pub under: Option<Fence>,
    /// Why it is executed.
    pub execution: Execution,
    /// When it runs out unless renewed, by the store's boot-time clock. Under a
    /// lease: when that lease did, as it stood then.
    pub deadline: BootTime,
    /// The same by the wall clock; for people.
    pub expires_at: Timestamp,
}

/// Who executes a key, or did when it was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermitHolder {
    /// Which execution.
    pub fence: KeyFence,
    /// Who.
    pub owner: Worker,
    /// The lease of a work item under which it is executed.
    pub under: Option<Fence>,
    /// Since when, by the wall clock.
    pub since: Timestamp,
    /// Until when unless renewed, by the wall clock; for people.
    pub until: Timestamp,
    /// How long it lasts unless renewed; `None` when it is over, and its owner
    /// counts as gone.
    pub left: Option<Duration>,
}

impl PermitHolder {
    /// Whether it is over: it ran out, or was held by an earlier start of a worker
    /// that runs once at a time.
    pub fn is_over_for(&self, sole_start: Option<&Worker>) -> bool {
        let is_earlier = |worker: &Worker| {
            self.owner.id == worker.id && self.owner.incarnation < worker.incarnation
        };
        self.left.is_none() || sole_start.is_some_and(is_earlier)
    }
}

/// The answer to [`BeginKey`].
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// Execute it.
    Execute(Permit),
    /// This was recorded.
    Replay(Box<KeyEntry>),
    /// Somebody else executes it.
    InFlight(PermitHolder),
    /// Nobody knows whether this one executed it.
    InDoubt(PermitHolder),
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOutcome {
    /// Whether it failed.
    pub failed: bool,
    /// What came out of it; empty is an outcome too.
    pub bytes: Vec<u8>,
    /// How long it counts; `None`: for ever.
    pub ttl: Option<Duration>,
}

impl NewOutcome {
    /// A success that counts for ever.
    pub fn success(bytes: impl Into<Vec<u8>>) -> NewOutcome {
        NewOutcome {
            failed: false,
            bytes: bytes.into(),
            ttl: None,
        }
    }

    /// A failure that counts for ever.
    pub fn failure(bytes: impl Into<Vec<u8>>) -> NewOutcome {
        NewOutcome {
            failed: true,
            ..NewOutcome::success(bytes)
        }
    }

    /// How long it counts, in microseconds as they are stored; `None`: for ever.
    #[must_use]
    pub fn ttl(mut self, ttl: Option<Duration>) -> NewOutcome {
        self.ttl = ttl;
        self
    }

    /// The state of a key with this outcome.
    pub fn status(&self) -> KeyStatus {
        if self.failed {
            KeyStatus::Failed
        } else {
            KeyStatus::Succeeded
        }
    }

    pub(crate) fn check(&self, limits: &Limits) -> Result<(), StorageError> {
        check_ttl(self.ttl)?;
        check_size("outcome bytes", self.bytes.len(), limits.outcome_bytes)
    }
}

/// Refuses a time to live of zero, and one beyond [`TTL_MAX`].
///
/// # Errors
///
/// [`StorageError::Invalid`].
pub fn check_ttl(ttl: Option<Duration>) -> Result<(), StorageError> {
    match ttl {
        // Below a microsecond nothing is stored of it.
        Some(ttl) if ttl < Duration::from_micros(1) => {
            Err(InvalidInput::new("time to live", "is zero").into())
        }
        Some(ttl) if TTL_MAX < ttl => {
            let reason = format!("is beyond {TTL_MAX:?}: use none for ever");
            Err(InvalidInput::new("time to live", reason).into())
        }
        _ => Ok(()),
    }
}

/// A key without its outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct KeySummary {
    /// Its number.
    pub id: KeyId,
    /// The key.
    pub key: IdempotencyKey,
    /// State, request, and who executes it.
    pub view: KeyView,
    /// The task that it belongs to.
    pub task: Option<TaskId>,
    /// What kind of operation it is.
    pub operation: Option<String>,
    /// Which model was asked.
    pub model: Option<String>,
    /// What else was kept; `Value::Null` when nothing was.
    pub detail: Value,
    /// Token of the newest execution: how many there were.
    pub token: FencingToken,
    /// When it was first begun.
    pub created_at: Timestamp,
    /// When its newest execution began, or its outcome was recorded.
    pub updated_at: Timestamp,
    /// When it was last known to be used. Uses are recorded now and then.
    pub used_at: Timestamp,
    /// From when on its outcome counts as absent; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// Bytes of its outcome; `None` when none is recorded.
    pub outcome_bytes: Option<u64>,
}

/// A key as it is stored. The seal of its outcome was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyEntry {
    /// All but what was asked for and came out.
    pub summary: KeySummary,
    /// What was kept of the request.
    pub kept_request: Option<Vec<u8>>,
    /// What is recorded; `None` while it is pending.
    pub outcome: Option<Vec<u8>>,
}

/// What is recorded under a key, as far as a replay needs it. Its seal was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedKey {
    /// Its number.
    pub id: KeyId,
    /// State and request. Nobody executes it.
    pub view: KeyView,
    /// When it was last known to be used. Uses are recorded now and then.
    pub used_at: Timestamp,
    /// What came out.
    pub outcome: Vec<u8>,
}

impl RecordedKey {
    /// What is recorded of an entry; `None` while that is pending.
    pub fn of(entry: KeyEntry) -> Option<RecordedKey> {
        let summary = entry.summary;
        match summary.view.status {
            KeyStatus::Pending => None,
            KeyStatus::Succeeded | KeyStatus::Failed => Some(RecordedKey {
                id: summary.id,
                view: summary.view,
                used_at: summary.used_at,
                outcome: entry.outcome?,
            }),
        }
    }
}

/// Everything that the seal of an outcome covers.
#[derive(Debug, Clone, Copy)]
pub struct SealedKey<'k> {
    /// The key.
    pub key: &'k IdempotencyKey,
    /// Digest of the request.
    pub request: &'k Digest,
    /// Token of the execution that it came out of.
    pub token: FencingToken,
    /// How it ended.
    pub status: KeyStatus,
    /// The task, as stored.
    pub task: Option<&'k str>,
    /// The operation, as stored.
    pub operation: Option<&'k str>,
    /// The model, as stored.
    pub model: Option<&'k str>,
    /// What of the request was kept, as stored.
    pub kept_request: Option<&'k [u8]>,
    /// Anything else, as stored.
    pub detail: Option<&'k str>,
    /// When the outcome was recorded, as stored.
    pub recorded_at: &'k str,
    /// From when on it counts as absent, as stored.
    pub expires_at: Option<&'k str>,
    /// What came out.
    pub outcome: &'k [u8],
}

impl SealedKey<'_> {
    /// The seal.
    pub fn seal(&self) -> Digest {
        // Digested in one piece, several blocks of it at a time.
        self.seal_of(&Digest::of(self.outcome))
    }

    /// Whether this is the seal, or the one of an earlier form, which did not cover the
    /// token. No seal of one form is one of the other: their domains differ.
    pub fn is_sealed_by(&self, seal: &[u8]) -> bool {
        let outcome = Digest::of(self.outcome);
        seal == self.seal_of(&outcome).as_bytes() || seal == self.earlier_seal(&outcome).as_bytes()
    }

    fn seal_of(&self, outcome: &Digest) -> Digest {
        let begun = DigestBuilder::new("idempotency key 2").number(self.token.get().unsigned_abs());
        self.seal_with(begun, outcome)
    }

    fn earlier_seal(&self, outcome: &Digest) -> Digest {
        self.seal_with(DigestBuilder::new("idempotency key"), outcome)
    }

    fn seal_with(&self, begun: DigestBuilder, outcome: &Digest) -> Digest {
        begun
            .bytes(self.key.as_str().as_bytes())
            .bytes(self.request.as_bytes())
            .bytes(self.status.as_str().as_bytes())
            .optional(self.task.map(str::as_bytes))
            .optional(self.operation.map(str::as_bytes))
            .optional(self.model.map(str::as_bytes))
            .optional(self.kept_request)
            .optional(self.detail.map(str::as_bytes))
            .bytes(self.recorded_at.as_bytes())
            .optional(self.expires_at.map(str::as_bytes))
            .bytes(outcome.as_bytes())
            .finish()
    }
}

/// A permit is over, or never was: nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StalePermit {
    /// What was presented.
    pub fence: KeyFence,
    /// State of the key now; `None` when it is not there any more.
    pub status: Option<KeyStatus>,
    /// Token of its newest execution.
    pub newest: Option<FencingToken>,
    /// Who executes it now, when anybody does.
    pub owner: Option<Worker>,
}

impl fmt::Display for StalePermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeyFence { key, token } = self.fence;
        write!(f, "permit {token} of key {key} is not held any more: ")?;
        match (&self.owner, self.status) {
            (Some(owner), _) => write!(f, "{owner} executes it"),
            (None, Some(status)) => write!(f, "it is {status}"),
            (None, None) => f.write_str("it is gone"),
        }
    }
}

impl std::error::Error for StalePermit {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, WorkerId};

    fn worker(start: &str) -> Worker {
        Worker {
            id: WorkerId::new("w").unwrap(),
            incarnation: Incarnation::new(start).unwrap(),
        }
    }

    fn token(number: i64) -> FencingToken {
        FencingToken::new(number).unwrap()
    }

    fn recorded(status: KeyStatus) -> KeyView {
        KeyView {
            status,
            token: token(5),
            request: Digest::of(b"request"),
            expired: false,
            permit: None,
        }
    }

    fn asks(on_recorded: OnRecorded) -> BeginKey {
        let key = IdempotencyKey::new("k").unwrap();
        BeginKey {
            on_recorded,
            ..BeginKey::new(key, Digest::of(b"request"), worker("2"))
        }
    }

    #[test]
    fn a_recorded_outcome_is_replayed_or_made_again_as_asked() {
        use Execution::{AfterFailure, Again};
        use KeyDecision::{Execute, Replay};
        for (on_recorded, after_success, after_failure) in [
            (OnRecorded::Replay, Replay, Replay),
            (OnRecorded::RunFailedAgain, Replay, Execute(AfterFailure)),
            // The one that was seen, and no other: that one may be never to be run again.
            (
                OnRecorded::RunFailureAgain(token(5)),
                Replay,
                Execute(AfterFailure),
            ),
            (OnRecorded::RunFailureAgain(token(4)), Replay, Replay),
            (OnRecorded::RunAgain, Execute(Again), Execute(Again)),
        ] {
            let decide = |status| asks(on_recorded).decide(Some(&recorded(status)));
            assert_eq!(
                decide(KeyStatus::Succeeded),
                after_success,
                "{on_recorded:?}"
            );
            assert_eq!(decide(KeyStatus::Failed), after_failure, "{on_recorded:?}");
        }
    }

    #[test]
    fn what_is_pending_is_in_flight_or_in_doubt_by_its_permit() {
        let pending = |left| KeyView {
            permit: Some(PermitHolder {
                fence: KeyFence {
                    key: KeyId::new(1).unwrap(),
                    token: token(5),
                },
                owner: worker("1"),
                under: None,
                since: Timestamp::MIN,
                until: Timestamp::MIN,
                left,
            }),
            ..recorded(KeyStatus::Pending)
        };
        let (lives, over) = (pending(Some(Duration::from_secs(1))), pending(None));
        let ask = asks(OnRecorded::default());
        assert_eq!(ask.decide(None), KeyDecision::Execute(Execution::First));
        assert_eq!(ask.decide(Some(&lives)), KeyDecision::InFlight);
        assert_eq!(ask.decide(Some(&over)), KeyDecision::InDoubt);
        let takes_over = BeginKey {
            on_lost: OnLost::TakeOver,
            ..ask.clone()
        };
        assert_eq!(takes_over.decide(Some(&lives)), KeyDecision::InFlight);
        let taken = KeyDecision::Execute(Execution::TakenOver);
        assert_eq!(takes_over.decide(Some(&over)), taken);
        // Of a worker that runs once the earlier start is gone, and the later one is not.
        let sole = BeginKey {
            sole_start: true,
            ..ask.clone()
        };
        assert_eq!(sole.decide(Some(&lives)), KeyDecision::InDoubt);
        let earlier = BeginKey {
            owner: worker("0"),
            ..sole
        };
        assert_eq!(earlier.decide(Some(&lives)), KeyDecision::InFlight);
        // Another request is a conflict, unless what is there has expired.
        let other = BeginKey {
            request: Digest::of(b"other"),
            ..ask
        };
        assert_eq!(other.decide(Some(&over)), KeyDecision::Conflict);
        let expired = KeyView {
            expired: true,
            ..recorded(KeyStatus::Succeeded)
        };
        let after = KeyDecision::Execute(Execution::AfterExpiry);
        assert_eq!(other.decide(Some(&expired)), after);
    }
}

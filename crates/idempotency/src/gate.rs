//! The gate: execute, replay, or wait.
//!
//! For one key, callers in any number of threads and processes get one execution. What
//! is recorded is looked for without a lock; only what must write goes through the
//! store's writer, which decides again inside its transaction. A late finisher is
//! refused by the token of his permit, and changes nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentos_core::{
    AbandonKey, BeginKey, Begun, Commit, Deadline, DoubtKey, Execution, FinishKey, KeyDecision,
    KeyEntry, KeyFence, NewOutcome, OnDamaged, OnRecorded, Part, Permit, PermitHolder, Storage,
    StorageError, TouchKeys, Worker,
};

use crate::config::GateConfig;
use crate::error::IdempotencyError;
use crate::limits::{POLL_MIN, UNKNOWN_COMMITS_MAX};
use crate::permits::{PermitLoss, Permits, Renewing};
use crate::request::Request;
use crate::stats::{Counters, GateStats};
use crate::waiting::Rooms;

/// The answer to a [`Request`].
#[derive(Debug)]
pub enum Begin {
    /// Execute it, and record what comes of it.
    Execute(HeldPermit),
    /// This was recorded; its seal holds.
    Replay(Box<KeyEntry>),
    /// Somebody else executes it.
    InFlight(PermitHolder),
    /// It was begun, and nobody knows whether it was executed.
    InDoubt(PermitHolder),
}

/// The gate. Clones share everything.
#[derive(Debug, Clone)]
pub struct IdempotencyStore {
    pub(crate) gate: Arc<Gate>,
}

pub(crate) struct Gate {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) config: GateConfig,
    pub(crate) permits: Permits,
    pub(crate) rooms: Rooms,
    pub(crate) counters: Arc<Counters>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The right to execute a key, renewed until this is dropped.
///
/// Dropping it ends the renewing, and nothing else: unless an outcome was recorded, the
/// key is in flight until its permit has run out, and then in doubt.
///
/// Under the lease of a work item the permit lasts as long as that lease, which the
/// worker's own heartbeat renews: then [`HeldPermit::is_lost`] knows nothing, and the
/// lease is to be asked.
pub struct HeldPermit {
    pub(crate) permit: Permit,
    pub(crate) gate: Arc<Gate>,
    pub(crate) renewing: Option<Renewing>,
}

impl fmt::Debug for HeldPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldPermit")
            .field("permit", &self.permit)
            .field("loss", &self.loss())
            .finish_non_exhaustive()
    }
}

impl HeldPermit {
    /// As it was given. Its deadline is counted from before the request.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// What its outcome is checked against.
    pub fn fence(&self) -> KeyFence {
        self.permit.fence
    }

    /// Whether it is lost: nothing should be executed under it any more. Costs a look
    /// at the clock.
    pub fn is_lost(&self) -> bool {
        self.loss().is_some()
    }

    /// How it was lost; `None` while it is held.
    pub fn loss(&self) -> Option<PermitLoss> {
        let renewing = self.renewing.as_ref()?;
        renewing.flag().loss(&self.gate.storage.boot_now())
    }

    /// Refuses to go on under a permit that is lost: asked before an execution starts.
    pub(crate) fn require_held(&self) -> Result<(), StorageError> {
        match self.loss() {
            None => Ok(()),
            Some(PermitLoss::Taken(stale)) => Err((*stale).into()),
            Some(PermitLoss::Overdue) => Err(StorageError::Busy {
                waited: self.gate.config.lease,
            }),
        }
    }
}

impl Drop for HeldPermit {
    fn drop(&mut self) {
        // Nobody is told that it is over before it is renewed no more.
        self.renewing = None;
        self.gate.rooms.ended(&self.permit.key);
    }
}

impl IdempotencyStore {
    /// The gate of a store.
    ///
    /// # Errors
    ///
    /// [`StorageError::Invalid`] for a configuration that can never be right.
    pub fn new(
        storage: Arc<dyn Storage>,
        config: GateConfig,
    ) -> Result<IdempotencyStore, IdempotencyError> {
        config.check()?;
        let counters = Arc::new(Counters::default());
        let permits = Permits::new(Arc::clone(&storage), config.lease, Arc::clone(&counters));
        Ok(IdempotencyStore {
            gate: Arc::new(Gate {
                storage,
                config,
                permits,
                rooms: Rooms::default(),
                counters,
            }),
        })
    }

    /// Where everything is kept.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.gate.storage
    }

    /// Who executes.
    pub fn owner(&self) -> &Worker {
        &self.gate.config.owner
    }

    /// What was done since it was made.
    pub fn stats(&self) -> GateStats {
        self.gate.counters.read(self.gate.permits.held() as u64)
    }

    /// Begins the execution of a key, or says why not. Waits for nobody but the store's
    /// writer, and for that only when it writes.
    ///
    /// When it returns [`Begin::Execute`], that the key is pending is as durable as a
    /// commit, and the permit is not over: where the store took longer than it lasts, it
    /// was renewed before it was given. Where that took too long as well, nothing is to be
    /// executed: what was recorded is there again, or the key is as if it had not been
    /// begun, or is in doubt if it was so before.
    ///
    /// # Errors
    ///
    /// [`StorageError::Conflict`] when the key stands for another request;
    /// [`StorageError::StaleLease`] when the lease under which it is to be executed is
    /// not held; [`StorageError::Corrupt`] when what is recorded is damaged, unless that
    /// is to be executed again; [`IdempotencyError::Thread`]; [`StorageError::Busy`] also
    /// when the permit was over before it could be given; and those of
    /// [`KeyStorage::begin_key`](agentos_core::KeyStorage::begin_key). After
    /// [`StorageError::CommitUnknown`] the key may be pending until its permit has run
    /// out, and in doubt then.
    pub fn begin(&self, request: &Request) -> Result<Begin, IdempotencyError> {
        self.counted(self.gate.ask(request, request.on_recorded))
    }

    /// As [`IdempotencyStore::begin`], but waits up to `wait` while somebody else
    /// executes it, and answers [`Begin::InFlight`] only after that. When that one is
    /// gone, what [`Request::on_lost`] says happens at once.
    ///
    /// Who waited takes what the other one recorded, also with
    /// [`OnRecorded::RunAgain`]: it is as new as his own would be. A failure is
    /// replayed only with [`OnRecorded::Replay`].
    ///
    /// # Errors
    ///
    /// As [`IdempotencyStore::begin`].
    pub fn begin_wait(&self, request: &Request, wait: Duration) -> Result<Begin, IdempotencyError> {
        let deadline = Deadline::after(wait);
        let first = self.gate.ask(request, request.on_recorded);
        if deadline.passed() || !matches!(first, Ok(Begin::InFlight(_))) {
            return self.counted(first);
        }
        self.gate.counters.waits.add(1);
        let on_recorded = match request.on_recorded {
            OnRecorded::RunAgain => OnRecorded::RunFailedAgain,
            other => other,
        };
        let room = self.gate.rooms.enter(&request.key);
        let mut pause = POLL_MIN;
        loop {
            let seen = room.ends();
            let answer = self.gate.ask(request, on_recorded);
            let Ok(Begin::InFlight(holder)) = &answer else {
                return self.counted(answer);
            };
            let left = deadline.remaining();
            if left.is_zero() {
                return self.counted(answer);
            }
            let until_over = holder.left.unwrap_or_default().max(POLL_MIN);
            room.wait(seen, pause.min(left).min(until_over));
            pause = pause.saturating_mul(2).min(self.gate.config.poll);
        }
    }

    fn counted(&self, answer: Result<Begin, IdempotencyError>) -> Result<Begin, IdempotencyError> {
        let counters = &self.gate.counters;
        match &answer {
            Ok(Begin::Execute(held)) => {
                counters.executions.add(1);
                let taken_over = held.permit.execution == Execution::TakenOver;
                counters.takeovers.add(u64::from(taken_over));
            }
            Ok(Begin::Replay(_)) => counters.replays.add(1),
            Ok(Begin::InFlight(_)) => counters.in_flight.add(1),
            Ok(Begin::InDoubt(_)) => counters.in_doubt.add(1),
            Err(IdempotencyError::Storage(StorageError::Conflict { .. })) => {
                counters.conflicts.add(1);
            }
            Err(_) => {}
        }
        answer
    }

    /// The part that records the outcome of an execution, for a commit of the caller's
    /// own: under the lease of a work item, if the permit is. The permit is to be
    /// dropped once that is made.
    pub fn prepare_finish(&self, held: &HeldPermit, outcome: NewOutcome) -> Part {
        FinishKey {
            fence: held.permit.fence,
            outcome,
        }
        .into()
    }

    /// Records the outcome of an execution. When it returns `Ok`, that is as durable as
    /// a commit.
    ///
    /// # Errors
    ///
    /// As [`IdempotencyStore::record`]. The permit is given up then: who wants to try
    /// again uses that.
    pub fn finish(&self, held: HeldPermit, outcome: NewOutcome) -> Result<(), IdempotencyError> {
        self.record(&held, outcome)
    }

    /// Records the outcome of an execution, and leaves the permit with the caller, who
    /// can try again. After `Ok` it is to be dropped.
    ///
    /// Where the store does not know whether a commit was made, it is asked what is
    /// there, and the outcome is recorded again if it is not.
    ///
    /// # Errors
    ///
    /// [`StorageError::StaleLease`] when the permit is over, or the lease of its work
    /// item: nothing was changed. [`StorageError::Invalid`] for a time to live of zero,
    /// [`StorageError::LimitExceeded`] for an outcome that is too large, and those of
    /// [`Storage::commit`].
    pub fn record(&self, held: &HeldPermit, outcome: NewOutcome) -> Result<(), IdempotencyError> {
        let finish = FinishKey {
            fence: held.permit.fence,
            outcome,
        };
        let mut unknown = 0;
        loop {
            match self.end(held, finish.clone()) {
                Err(StorageError::CommitUnknown(cause)) => {
                    unknown += 1;
                    match self.gate.storage.find_key(&held.permit.key) {
                        Ok(Some(entry)) if is_recorded(&entry, &finish) => break,
                        Ok(_) if unknown < UNKNOWN_COMMITS_MAX => {}
                        _ => return Err(StorageError::CommitUnknown(cause).into()),
                    }
                }
                answer => {
                    answer?;
                    break;
                }
            }
        }
        self.gate.counters.finished.add(1);
        Ok(())
    }

    /// Ends an execution that did nothing: the key is as if it had never been begun,
    /// and what was recorded before is gone.
    ///
    /// # Errors
    ///
    /// [`StorageError::StaleLease`], and those of [`Storage::commit`].
    pub fn abandon(&self, held: HeldPermit) -> Result<(), IdempotencyError> {
        let fence = held.permit.fence;
        Ok(self.end(&held, AbandonKey { fence })?)
    }

    /// Ends an execution of which nobody knows what it did: the key is in doubt at once.
    ///
    /// # Errors
    ///
    /// [`StorageError::StaleLease`], and those of [`Storage::commit`].
    pub fn leave_in_doubt(&self, held: HeldPermit) -> Result<(), IdempotencyError> {
        let fence = held.permit.fence;
        Ok(self.end(&held, DoubtKey { fence })?)
    }

    /// Commits the end of an execution, and the uses that were noted meanwhile.
    fn end(&self, held: &HeldPermit, part: impl Into<Part>) -> Result<(), StorageError> {
        let mut commit = match held.permit.under {
            Some(lease) => Commit::under(lease),
            None => Commit::new(),
        };
        commit = commit.part(part);
        let keys = self.gate.permits.take_uses();
        if !keys.is_empty() {
            commit = commit.part(TouchKeys { keys });
        }
        if let Some(renewing) = &held.renewing {
            renewing.ending();
        }
        let answer = self.gate.storage.commit(commit);
        if let Err(error) = &answer {
            let is_stale = matches!(error, StorageError::StaleLease(_));
            self.gate.counters.stale.add(u64::from(is_stale));
            if let Some(renewing) = &held.renewing {
                renewing.not_ended();
            }
        }
        answer.map(|_| ())
    }
}

impl Gate {
    /// Asks for a key once, without waiting.
    fn ask(
        self: &Arc<Gate>,
        request: &Request,
        on_recorded: OnRecorded,
    ) -> Result<Begin, IdempotencyError> {
        let question = BeginKey {
            on_recorded,
            lease: self.config.lease,
            ..request.question(&self.config.owner, self.config.sole_start)
        };
        let before = match self.look(&question)? {
            Look::Answered(answer) => return Ok(answer),
            Look::Writes(before) => before,
        };
        let needs_renewing = request.under.is_none();
        if needs_renewing {
            // Before anything is begun that could not be renewed.
            self.permits.start()?;
        }
        let begin = request.fill(question);
        let asked = self.storage.boot_now();
        match self.storage.begin_key(&begin)? {
            Begun::Execute(permit) => {
                let Some(permit) = self.in_time(permit, &asked, before)? else {
                    // Somebody else has it by now.
                    return match self.look(&begin)? {
                        Look::Answered(answer) => Ok(answer),
                        Look::Writes(_) => Err(self.busy_since(&asked).into()),
                    };
                };
                let renewing = needs_renewing
                    .then(|| self.permits.hold(permit.fence, permit.deadline.clone()));
                Ok(Begin::Execute(HeldPermit {
                    permit,
                    gate: Arc::clone(self),
                    renewing,
                }))
            }
            Begun::Replay(entry) => Ok(Begin::Replay(entry)),
            Begun::InFlight(holder) => Ok(Begin::InFlight(holder)),
            Begun::InDoubt(holder) => Ok(Begin::InDoubt(holder)),
        }
    }

    /// Looks for an answer without a lock.
    fn look(&self, question: &BeginKey) -> Result<Look, IdempotencyError> {
        let found = match self.storage.find_key(&question.key) {
            Err(StorageError::Corrupt { what, cause }) => {
                self.counters.damaged.add(1);
                if question.on_damaged == OnDamaged::Refuse {
                    return Err(StorageError::Corrupt { what, cause }.into());
                }
                return Ok(Look::Writes(None));
            }
            found => found?,
        };
        let decision = question.decide(found.as_ref().map(|entry| &entry.summary.view));
        let answer = match (decision, found) {
            (KeyDecision::Conflict, _) => {
                return Err(StorageError::Conflict {
                    what: "idempotency key",
                    id: question.key.to_string(),
                }
                .into());
            }
            (KeyDecision::Replay, Some(entry)) => Some(Begin::Replay(Box::new(entry))),
            (KeyDecision::InFlight, Some(entry)) => entry.summary.view.permit.map(Begin::InFlight),
            (KeyDecision::InDoubt, Some(entry)) => entry.summary.view.permit.map(Begin::InDoubt),
            (_, before) => return Ok(Look::Writes(before.map(Box::new))),
        };
        Ok(answer.map_or(Look::Writes(None), Look::Answered))
    }
}

/// What a look at a key comes to.
enum Look {
    /// This is the answer.
    Answered(Begin),
    /// Something is to be written; what was there, as far as it could be read.
    Writes(Option<Box<KeyEntry>>),
}

/// Whether what is there is this outcome of this execution. Where its permit was over,
/// somebody may have found out another one, and recorded that.
fn is_recorded(entry: &KeyEntry, finish: &FinishKey) -> bool {
    let summary = &entry.summary;
    summary.view.status == finish.outcome.status()
        && summary.id == finish.fence.key
        && summary.token == finish.fence.token
        && entry.outcome.as_ref() == Some(&finish.outcome.bytes)
}

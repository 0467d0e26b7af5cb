//! Idempotency keys inside a transaction: begun, renewed, ended.
//!
//! What follows from what is there is decided in core; here it is read and written
//! in one transaction, so that of any number of callers one gets the permit.

use std::time::Duration;

use agentos_core::records::audit::KEY_RESOLVED;
use agentos_core::records::key::SealedKey;
use agentos_core::records::task::metadata_text;
use agentos_core::{
    AbandonKey, BeginKey, Begun, BootTime, DoubtKey, Execution, Fence, FencingToken, FinishKey,
    IdempotencyKey, KeyDecision, KeyEntry, KeyFence, KeyId, KeyStatus, NewOutcome, OnDamaged,
    PartOutcome, Permit, RemoveKeys, RenewedPermit, Resolution, ResolveKey, StalePermit,
    StorageError, TaskId, Timestamp, TouchKeys, crash_point,
};
use rusqlite::{Connection, OptionalExtension, named_params};
use serde_json::json;

use super::claims::Moment;
use super::error::of;
use super::keys::KeyRow;
use super::parts::{Apply, Line};
use super::readers::ReadError;
use super::{statements, work};

/// Begins the execution of a key, or says why not.
pub(crate) fn begin(
    connection: &Connection,
    begin: &BeginKey,
    now: &Moment,
) -> Result<Begun, StorageError> {
    let lasts = match begin.under {
        None => Lasts::for_(begin.lease, now),
        Some(fence) => Lasts::with(connection, fence, now)?,
    };
    let apply = Apply::new(connection, now.wall);
    let found = match find(connection, &begin.key, now) {
        Err(StorageError::Corrupt { what, cause }) if begin.on_damaged == OnDamaged::RunAgain => {
            tracing::warn!(key = %begin.key, %what, %cause, "a damaged key is executed again");
            let fence = apply.make_anew(begin, &lasts)?;
            return Ok(Begun::Execute(lasts.permit(
                begin,
                fence,
                Execution::AfterDamage,
            )));
        }
        found => found?,
    };
    let view = found.as_ref().map(|entry| &entry.summary.view);
    let answer = match (begin.decide(view), found) {
        (KeyDecision::Execute(why), None) => {
            let fence = apply.insert_key(begin, &lasts)?;
            Begun::Execute(lasts.permit(begin, fence, why))
        }
        (KeyDecision::Execute(why), Some(entry)) => {
            let fence = apply.take_key(begin, &entry, &lasts)?;
            Begun::Execute(lasts.permit(begin, fence, why))
        }
        (KeyDecision::Replay, Some(entry)) => Begun::Replay(Box::new(entry)),
        (KeyDecision::Conflict, _) => {
            return Err(StorageError::Conflict {
                what: "idempotency key",
                id: begin.key.to_string(),
            });
        }
        (decision, found) => match (decision, found.and_then(|entry| entry.summary.view.permit)) {
            (KeyDecision::InFlight, Some(holder)) => Begun::InFlight(holder),
            (KeyDecision::InDoubt, Some(holder)) => Begun::InDoubt(holder),
            (decision, _) => {
                return Err(StorageError::Internal {
                    context: "beginning a key".into(),
                    cause: format!("{decision:?} of nothing").into(),
                });
            }
        },
    };
    crash_point!("key.begun");
    Ok(answer)
}

/// How long a permit lasts.
struct Lasts {
    deadline: BootTime,
    until: Timestamp,
}

impl Lasts {
    fn for_(lease: Duration, now: &Moment) -> Lasts {
        Lasts {
            deadline: now.boot.plus(lease),
            until: now.wall.plus(lease),
        }
    }

    /// As long as the lease of a work item that must be held.
    fn with(connection: &Connection, fence: Fence, now: &Moment) -> Result<Lasts, StorageError> {
        let held = work::require(connection, fence)?;
        let deadline = work::deadline(connection, fence.item)?;
        let deadline = deadline.filter(|deadline| !now.boot.until(deadline).is_zero());
        // A permit that is over as it is given would let two execute at once.
        let Some(deadline) = deadline else {
            return Err(work::stale(fence, Some(held)).into());
        };
        let until = held.holder.map_or(now.wall, |holder| holder.until);
        Ok(Lasts { deadline, until })
    }

    fn permit(self, begin: &BeginKey, fence: KeyFence, execution: Execution) -> Permit {
        Permit {
            fence,
            key: begin.key.clone(),
            owner: begin.owner.clone(),
            under: begin.under,
            execution,
            deadline: self.deadline,
            expires_at: self.until,
        }
    }
}

/// A key as the transaction sees it, its seal checked.
fn find(
    connection: &Connection,
    key: &IdempotencyKey,
    now: &Moment,
) -> Result<Option<KeyEntry>, StorageError> {
    let read = || -> Result<Option<KeyEntry>, ReadError> {
        let mut statement = connection.prepare_cached(statements::KEYS_FIND)?;
        let mut rows = statement.query(named_params! { ":key": key.as_str() })?;
        match rows.next()? {
            Some(row) => Ok(Some(KeyRow::read(row, now)?.entry(row)?)),
            None => Ok(None),
        }
    };
    read().map_err(|error| error.into_storage("reading a key"))
}

/// The pending key of this number, and its columns as they stand under a seal.
struct HeldKey {
    entry: KeyEntry,
    detail: Option<String>,
    /// Whether its permit was ended, and it was left in doubt.
    was_left: bool,
}

fn held(
    connection: &Connection,
    key: KeyId,
    now: &Moment,
) -> Result<Option<HeldKey>, StorageError> {
    let read = || -> Result<Option<HeldKey>, ReadError> {
        let mut statement = connection.prepare_cached(statements::KEYS_HELD)?;
        let mut rows = statement.query(named_params! { ":id": key.get() })?;
        match rows.next()? {
            Some(row) => Ok(Some(HeldKey {
                detail: row.get(8)?,
                // No boot has this name.
                was_left: row.get_ref(19)?.as_str().is_ok_and(str::is_empty),
                entry: KeyRow::read(row, now)?.entry(row)?,
            })),
            None => Ok(None),
        }
    };
    read().map_err(|error| error.into_storage("reading a key"))
}

/// The key that is executed under exactly this permit.
///
/// # Errors
///
/// [`StorageError::StaleLease`] for any other, for one that was ended by leaving the
/// key in doubt, and when the lease under which it is executed is not held any more.
fn require(
    connection: &Connection,
    fence: KeyFence,
    now: &Moment,
) -> Result<HeldKey, StorageError> {
    let Some(held) = held(connection, fence.key, now)? else {
        return Err(gone(fence).into());
    };
    let summary = &held.entry.summary;
    let Some(holder) = summary
        .view
        .permit
        .as_ref()
        .filter(|_| summary.token == fence.token && !held.was_left)
    else {
        return Err(stale(fence, &held).into());
    };
    if let Some(lease) = holder.under {
        work::require(connection, lease)?;
    }
    Ok(held)
}

fn gone(fence: KeyFence) -> StalePermit {
    StalePermit {
        fence,
        status: None,
        newest: None,
        owner: None,
    }
}

fn stale(fence: KeyFence, held: &HeldKey) -> StalePermit {
    let summary = &held.entry.summary;
    let permit = summary.view.permit.as_ref().filter(|_| !held.was_left);
    StalePermit {
        fence,
        status: Some(summary.view.status),
        newest: Some(summary.token),
        owner: permit.map(|holder| holder.owner.clone()),
    }
}

/// Renews each permit, or says what became of the key.
pub(crate) fn renew(
    connection: &Connection,
    fences: &[KeyFence],
    lease: Duration,
    now: &Moment,
) -> Result<Vec<Result<RenewedPermit, StalePermit>>, StorageError> {
    let deadline = now.boot.plus(lease);
    let until = now.wall.plus(lease).to_text();
    let apply = Apply::new(connection, now.wall);
    let mut statement = apply.prepare(statements::KEYS_RENEW)?;
    let renew = |fence: &KeyFence| -> Result<_, StorageError> {
        let changed = statement
            .execute(named_params! {
                ":id": fence.key.get(),
                ":token": fence.token.get(),
                ":until": until,
                ":boot": deadline.boot.as_str(),
                ":deadline_us": deadline.micros,
            })
            .map_err(|error| of(&error, "renewing a permit"))?;
        if changed == 1 {
            return Ok(Ok(RenewedPermit {
                fence: *fence,
                deadline: deadline.clone(),
            }));
        }
        // That the row cannot be read is no reason to lose the others.
        let found = match held(connection, fence.key, now) {
            Err(StorageError::Corrupt { .. }) | Ok(None) => return Ok(Err(gone(*fence))),
            held => held?,
        };
        let Some(held) = found else {
            return Ok(Err(gone(*fence)));
        };
        let permit = held.entry.summary.view.permit.as_ref();
        match permit.filter(|holder| holder.fence == *fence) {
            Some(holder) if holder.under.is_some() && holder.left.is_some() => {
                Ok(Ok(RenewedPermit {
                    fence: *fence,
                    deadline: now.boot.plus(holder.left.unwrap_or_default()),
                }))
            }
            _ => Ok(Err(stale(*fence, &held))),
        }
    };
    let answers = fences.iter().map(renew).collect::<Result<_, _>>()?;
    crash_point!("key.renewed");
    Ok(answers)
}

impl Apply<'_> {
    fn insert_key(&self, begin: &BeginKey, lasts: &Lasts) -> Result<KeyFence, StorageError> {
        self.write_permit(statements::KEYS_INSERT, begin, lasts, None)?;
        let number = self.connection.last_insert_rowid();
        Ok(KeyFence {
            key: key_id(number)?,
            token: token(1)?,
        })
    }

    fn take_key(
        &self,
        begin: &BeginKey,
        entry: &KeyEntry,
        lasts: &Lasts,
    ) -> Result<KeyFence, StorageError> {
        let before = KeyFence {
            key: entry.summary.id,
            token: entry.summary.token,
        };
        let next = before.token.get().checked_add(1);
        let next = next.ok_or_else(|| {
            StorageError::corrupt(format!("key {}", before.key), "its token is at its end")
        })?;
        self.write_permit(statements::KEYS_TAKE, begin, lasts, Some(before))?;
        Ok(KeyFence {
            key: before.key,
            token: token(next)?,
        })
    }

    /// Removes what cannot be read, and begins again under another number.
    fn make_anew(&self, begin: &BeginKey, lasts: &Lasts) -> Result<KeyFence, StorageError> {
        let number: Option<i64> = self
            .prepare(statements::KEYS_NUMBER)?
            .query_row(named_params! { ":key": begin.key.as_str() }, |row| {
                row.get(0)
            })
            .optional()
            .map_err(|error| of(&error, "reading a key"))?;
        if let Some(number) = number {
            self.prepare(statements::KEYS_DELETE)?
                .execute(named_params! { ":id": number })
                .map_err(|error| of(&error, "removing a damaged key"))?;
        }
        self.insert_key(begin, lasts)
    }

    fn write_permit(
        &self,
        sql: &'static str,
        begin: &BeginKey,
        lasts: &Lasts,
        before: Option<KeyFence>,
    ) -> Result<(), StorageError> {
        let detail = metadata_text(&begin.detail);
        let (until, deadline) = (lasts.until.to_text(), &lasts.deadline);
        let request_digest = begin.request.as_bytes().as_slice();
        let task = begin.task.as_ref().map(TaskId::as_str);
        let item = begin.under.map(|fence| fence.item.get());
        let item_token = begin.under.map(|fence| fence.token.get());
        let (owner, incarnation) = (begin.owner.id.as_str(), begin.owner.incarnation.as_str());
        let boot = deadline.boot.as_str();
        let mut params = named_params! {
            ":task": task,
            ":operation": begin.operation,
            ":model": begin.model,
            ":digest": request_digest,
            ":owner": owner,
            ":incarnation": incarnation,
            ":item": item,
            ":item_token": item_token,
            ":until": until,
            ":boot": boot,
            ":deadline_us": deadline.micros,
            ":now": self.now_text,
            ":detail": detail,
            ":request": begin.kept_request,
        }
        .to_vec();
        let key = begin.key.as_str();
        let of_before = before.map(|fence| (fence.key.get(), fence.token.get()));
        match &of_before {
            None => params.push((":key", &key)),
            Some((id, token)) => params.extend([(":id", id as _), (":token", token as _)]),
        }
        let changed = self
            .prepare(sql)?
            .execute(params.as_slice())
            .map_err(|error| of(&error, "beginning a key"))?;
        is_one(changed)
    }

    pub(crate) fn finish_key(
        &self,
        finish: &FinishKey,
        now: &Moment,
    ) -> Result<PartOutcome, StorageError> {
        let held = require(self.connection, finish.fence, now)?;
        self.record(&held, finish.fence, &finish.outcome)?;
        Ok(PartOutcome::KeyFinished)
    }

    fn record(
        &self,
        held: &HeldKey,
        fence: KeyFence,
        outcome: &NewOutcome,
    ) -> Result<(), StorageError> {
        let entry = &held.entry;
        let expires_at = outcome.ttl.map(|ttl| self.now.plus(ttl).to_text());
        let seal = SealedKey {
            key: &entry.summary.key,
            request: &entry.summary.view.request,
            token: fence.token,
            status: outcome.status(),
            task: entry.summary.task.as_ref().map(TaskId::as_str),
            operation: entry.summary.operation.as_deref(),
            model: entry.summary.model.as_deref(),
            kept_request: entry.kept_request.as_deref(),
            detail: held.detail.as_deref(),
            recorded_at: &self.now_text,
            expires_at: expires_at.as_deref(),
            outcome: &outcome.bytes,
        }
        .seal();
        let bytes = i64::try_from(outcome.bytes.len()).unwrap_or(i64::MAX);
        let changed = self
            .prepare(statements::KEYS_FINISH)?
            .execute(named_params! {
                ":id": fence.key.get(),
                ":token": fence.token.get(),
                ":status": outcome.status().as_str(),
                ":outcome": outcome.bytes,
                ":bytes": bytes,
                ":seal": seal.as_bytes().as_slice(),
                ":expires_at": expires_at,
                ":now": self.now_text,
            })
            .map_err(|error| of(&error, "recording an outcome"))?;
        is_one(changed)
    }

    pub(crate) fn abandon_key(
        &self,
        abandon: &AbandonKey,
        now: &Moment,
    ) -> Result<PartOutcome, StorageError> {
        require(self.connection, abandon.fence, now)?;
        self.end_permit(statements::KEYS_ABANDON, abandon.fence)?;
        Ok(PartOutcome::KeyAbandoned)
    }

    pub(crate) fn doubt_key(
        &self,
        doubt: &DoubtKey,
        now: &Moment,
    ) -> Result<PartOutcome, StorageError> {
        require(self.connection, doubt.fence, now)?;
        let KeyFence { key, token } = doubt.fence;
        let changed = self
            .prepare(statements::KEYS_DOUBT)?
            .execute(named_params! {
                ":id": key.get(),
                ":token": token.get(),
                ":now": self.now_text,
            })
            .map_err(|error| of(&error, "leaving a key in doubt"))?;
        is_one(changed)?;
        Ok(PartOutcome::KeyInDoubt)
    }

    fn end_permit(&self, sql: &'static str, fence: KeyFence) -> Result<(), StorageError> {
        let changed = self
            .prepare(sql)?
            .execute(named_params! {
                ":id": fence.key.get(),
                ":token": fence.token.get(),
            })
            .map_err(|error| of(&error, "ending a permit"))?;
        is_one(changed)
    }

    pub(crate) fn resolve_key(
        &self,
        resolve: &ResolveKey,
        now: &Moment,
    ) -> Result<PartOutcome, StorageError> {
        let Some(held) = held(self.connection, resolve.fence.key, now)? else {
            return Err(gone(resolve.fence).into());
        };
        let summary = &held.entry.summary;
        let permit = summary.view.permit.as_ref();
        let Some(holder) = permit.filter(|holder| holder.fence == resolve.fence) else {
            return Err(stale(resolve.fence, &held).into());
        };
        if summary.key != resolve.key {
            return Err(gone(resolve.fence).into());
        }
        let (to, what) = match &resolve.resolution {
            Resolution::Happened(outcome) => (Some(outcome.status()), "happened"),
            Resolution::DidNotHappen => (None, "did_not_happen"),
        };
        if !holder.is_over_for(resolve.sole_start.as_ref()) {
            return Err(StorageError::IllegalTransition {
                what: "idempotency key",
                id: summary.key.to_string(),
                from: "in flight",
                to: to.map_or("absent", KeyStatus::as_str),
            });
        }
        match &resolve.resolution {
            Resolution::Happened(outcome) => self.record(&held, resolve.fence, outcome)?,
            Resolution::DidNotHappen => self.end_permit(statements::KEYS_ABANDON, resolve.fence)?,
        }
        self.write_line(&Line {
            task: summary.task.as_ref(),
            event: KEY_RESOLVED,
            from: Some(KeyStatus::Pending.as_str()),
            to: to.map(KeyStatus::as_str),
            reason: Some(&resolve.reason),
            detail: &json!({
                "key": summary.key.as_str(),
                "operation": summary.operation,
                "token": resolve.fence.token.get(),
                "resolution": what,
                "worker": holder.owner.id.as_str(),
                "incarnation": holder.owner.incarnation.as_str(),
                "begun": holder.since.to_text(),
            }),
        })?;
        Ok(PartOutcome::KeyResolved)
    }

    pub(crate) fn remove_keys(&self, remove: &RemoveKeys) -> Result<PartOutcome, StorageError> {
        let mut statement = self.prepare(statements::KEYS_REMOVE)?;
        let mut removed = 0;
        for fence in &remove.keys {
            let changed = statement
                .execute(named_params! {
                    ":id": fence.key.get(),
                    ":token": fence.token.get(),
                })
                .map_err(|error| of(&error, "removing a key"))?;
            removed += u32::try_from(changed).unwrap_or(0);
        }
        Ok(PartOutcome::KeysRemoved(removed))
    }

    pub(crate) fn touch_keys(&self, touch: &TouchKeys) -> Result<PartOutcome, StorageError> {
        let mut statement = self.prepare(statements::KEYS_TOUCH)?;
        for key in &touch.keys {
            statement
                .execute(named_params! { ":id": key.get(), ":now": self.now_text })
                .map_err(|error| of(&error, "noting a use"))?;
        }
        Ok(PartOutcome::KeysTouched)
    }
}

fn key_id(number: i64) -> Result<KeyId, StorageError> {
    KeyId::new(number)
        .map_err(|_| StorageError::corrupt("the keys", format!("there is a row {number}")))
}

fn token(number: i64) -> Result<FencingToken, StorageError> {
    FencingToken::new(number)
        .map_err(|_| StorageError::corrupt("the keys", format!("there is a token {number}")))
}

/// A row that was just read, and is to be changed, is there.
fn is_one(changed: usize) -> Result<(), StorageError> {
    if changed == 1 {
        return Ok(());
    }
    Err(StorageError::corrupt(
        "the keys",
        format!("a row that was just read was changed {changed} times"),
    ))
}

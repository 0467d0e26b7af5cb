//! Claims and renewals inside a transaction.
//!
//! The most urgent due item is found without looking at those that are not due:
//! one look at an index tells the first item of the highest priority; when that
//! one is for later, all of its priority are, and the next look goes below it.

use std::collections::BTreeSet;
use std::time::Duration;

use agentos_core::limits::SWEEP_ROWS_PER_CLAIM;
use agentos_core::{
    BootTime, ClaimRequest, Clock, Fence, FencingToken, Lease, Lost, Renewed, StaleLease,
    StorageError, SweepRequest, TaskId, Timestamp, WorkFilter, WorkItemId, crash_point,
};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, named_params};

use super::error::of;
use super::work::{held, item_id, stale};
use super::{checkpoints, statements, sweep};

/// The moment of a transaction, by both clocks.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    pub(crate) wall: Timestamp,
    pub(crate) boot: BootTime,
}

impl Moment {
    pub(crate) fn of(clock: &dyn Clock) -> Moment {
        Moment {
            wall: clock.wall(),
            boot: clock.boot(),
        }
    }
}

/// What a claim did.
pub(crate) struct Claimed {
    pub(crate) leases: Vec<Lease>,
    /// How many expired leases were taken away on the way.
    pub(crate) recovered: usize,
}

/// Where items are looked for: one order of one index.
enum Scope<'s> {
    Any,
    Type(&'s str),
    TaskType(&'s TaskId, String),
}

/// The most urgent pending item of a scope that is due, or how long until one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    Due(Candidate),
    Later(Timestamp),
    Nothing,
}

/// An item that is due. Ordered by urgency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate {
    priority: std::cmp::Reverse<i64>,
    available_at: Timestamp,
    item: WorkItemId,
}

pub(crate) fn claim(
    connection: &Connection,
    request: &ClaimRequest,
    now: &Moment,
) -> Result<Claimed, StorageError> {
    let swept = sweep::batch(
        connection,
        &SweepRequest {
            lost: Lost::Expired,
            rows: SWEEP_ROWS_PER_CLAIM,
            skip: 0,
            after_loss: request.after_loss,
        },
        now,
    )?;
    for (item, error) in &swept.failed {
        tracing::warn!(%item, %error, "an expired lease could not be taken away");
    }
    let scopes = scopes(connection, &request.filter)?;
    let mut looks = scopes
        .iter()
        .map(|scope| scope.look(connection, now.wall))
        .collect::<Result<Vec<_>, _>>()?;
    let mut leases = Vec::new();
    while leases.len() < request.items as usize {
        let most_urgent = looks
            .iter()
            .enumerate()
            .filter_map(|(place, look)| match look {
                Look::Due(candidate) => Some((candidate, place)),
                Look::Later(_) | Look::Nothing => None,
            })
            .min();
        let Some((candidate, place)) = most_urgent else {
            break;
        };
        leases.push(take(connection, candidate.item, request, now)?);
        looks[place] = scopes[place].look(connection, now.wall)?;
    }
    crash_point!("lease.claimed");
    Ok(Claimed {
        leases,
        recovered: swept.recovered.len(),
    })
}

/// Renews each lease, or says who has it now.
pub(crate) fn renew(
    connection: &Connection,
    fences: &[Fence],
    lease: Duration,
    now: &Moment,
) -> Result<Vec<Result<Renewed, StaleLease>>, StorageError> {
    let context = "renewing a lease";
    let expires_at = now.wall.plus(lease);
    let expires_text = expires_at.to_text();
    let deadline = now.boot.plus(lease);
    let mut statement = prepare(connection, statements::LEASES_RENEW)?;
    let renew = |fence: &Fence| -> Result<_, StorageError> {
        let changed = statement
            .execute(named_params! {
                ":item": fence.item.get(),
                ":token": fence.token.get(),
                ":expires_at": expires_text,
                ":boot": deadline.boot.as_str(),
                ":deadline_us": deadline.micros,
            })
            .map_err(|error| of(&error, context))?;
        if changed == 0 {
            return Ok(Err(stale(*fence, held(connection, fence.item)?)));
        }
        Ok(Ok(Renewed {
            fence: *fence,
            expires_at,
            deadline: deadline.clone(),
        }))
    };
    let answers = fences.iter().map(renew).collect::<Result<_, _>>()?;
    crash_point!("lease.renewed");
    Ok(answers)
}

/// How things stand with the work that a filter names, at this moment.
pub(crate) fn look(
    connection: &Connection,
    filter: &WorkFilter,
    now: Timestamp,
) -> Result<Look, StorageError> {
    let mut found = Look::Nothing;
    for scope in scopes(connection, filter)? {
        found = match (found, scope.look(connection, now)?) {
            (_, Look::Due(candidate)) => return Ok(Look::Due(candidate)),
            (Look::Later(one), Look::Later(other)) => Look::Later(one.min(other)),
            (Look::Nothing, later) => later,
            (found, _) => found,
        };
    }
    Ok(found)
}

fn scopes<'f>(
    connection: &Connection,
    filter: &'f WorkFilter,
) -> Result<Vec<Scope<'f>>, StorageError> {
    // A type that is named twice is looked for once: what one look has taken the
    // other must not find.
    let types = || {
        filter
            .types
            .iter()
            .map(String::as_str)
            .collect::<BTreeSet<_>>()
    };
    match &filter.task {
        None if filter.types.is_empty() => Ok(vec![Scope::Any]),
        None => Ok(types().into_iter().map(Scope::Type).collect()),
        Some(task) if filter.types.is_empty() => {
            let types = types_of(connection, task)?;
            Ok(types
                .into_iter()
                .map(|name| Scope::TaskType(task, name))
                .collect())
        }
        Some(task) => Ok(types()
            .into_iter()
            .map(|name| Scope::TaskType(task, name.to_owned()))
            .collect()),
    }
}

/// The types of a task's pending items, at the cost of a look each.
fn types_of(connection: &Connection, task: &TaskId) -> Result<Vec<String>, StorageError> {
    let mut types: Vec<String> = Vec::new();
    let mut statement = prepare(connection, statements::LEASES_NEXT_TYPE_OF_TASK)?;
    loop {
        let after = types.last().map_or("", String::as_str);
        let next: Option<String> = statement
            .query_row(
                named_params! { ":task": task.as_str(), ":after": after },
                |row| row.get(0),
            )
            .optional()
            .map_err(|error| of(&error, "reading the types of a task's work"))?;
        match next {
            Some(next) if after < next.as_str() => types.push(next),
            Some(_) => return Err(damaged_index()),
            None => return Ok(types),
        }
    }
}

impl Scope<'_> {
    fn look(&self, connection: &Connection, now: Timestamp) -> Result<Look, StorageError> {
        let mut statement = prepare(
            connection,
            match self {
                Scope::Any => statements::LEASES_FIND_ANY,
                Scope::Type(_) => statements::LEASES_FIND_BY_TYPE,
                Scope::TaskType(..) => statements::LEASES_FIND_BY_TASK,
            },
        )?;
        // A shell may have given any priority.
        let mut below = i64::MAX;
        let mut first_later: Option<Timestamp> = None;
        loop {
            let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            let found: Option<(i64, i64, String)> = match self {
                Scope::Any => statement.query_row(named_params! { ":below": below }, read),
                Scope::Type(name) => {
                    statement.query_row(named_params! { ":type": name, ":below": below }, read)
                }
                Scope::TaskType(task, name) => statement.query_row(
                    named_params! { ":task": task.as_str(), ":type": name, ":below": below },
                    read,
                ),
            }
            .optional()
            .map_err(|error| of(&error, "looking for work"))?;
            let Some((item, priority, available_at)) = found else {
                return Ok(first_later.map_or(Look::Nothing, Look::Later));
            };
            if below <= priority {
                return Err(damaged_index());
            }
            let item = item_id(item)?;
            let available_at = Timestamp::parse(&available_at).ok_or_else(|| {
                StorageError::corrupt(format!("work item {item}"), "its available_at")
            })?;
            if available_at <= now {
                return Ok(Look::Due(Candidate {
                    priority: std::cmp::Reverse(priority),
                    available_at,
                    item,
                }));
            }
            first_later = Some(first_later.map_or(available_at, |first| first.min(available_at)));
            below = priority;
        }
    }
}

fn take(
    connection: &Connection,
    item: WorkItemId,
    request: &ClaimRequest,
    now: &Moment,
) -> Result<Lease, StorageError> {
    let context = "claiming work";
    let now_text = now.wall.to_text();
    let expires_at = now.wall.plus(request.lease);
    let deadline = now.boot.plus(request.lease);
    let (id, incarnation) = (&request.worker.id, &request.worker.incarnation);
    let found = prepare(connection, statements::LEASES_CLAIM)?
        .query_row(
            named_params! {
                ":item": item.get(),
                ":worker": id.as_str(),
                ":incarnation": incarnation.as_str(),
                ":now": now_text,
                ":expires_at": expires_at.to_text(),
                ":boot": deadline.boot.as_str(),
                ":deadline_us": deadline.micros,
            },
            |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, Option<String>>(2)?,
                    (row.get(3)?, row.get(4)?),
                    (row.get(5)?, row.get(6)?),
                    row.get::<_, Option<i64>>(7)?,
                ))
            },
        )
        .optional()
        .map_err(|error| of(&error, context))?;
    // The index has just told of it, in this transaction.
    let Some((token, work_type, task, (priority, payload), tries, checkpoint)) = found else {
        return Err(damaged_index());
    };
    let damaged = |what: &str| StorageError::corrupt(format!("work item {item}"), what);
    let lease = Lease {
        fence: Fence {
            item,
            token: FencingToken::new(token).map_err(|_| damaged("its lease_token"))?,
        },
        holder: request.worker.clone(),
        work_type,
        task: task
            .map(|task| TaskId::new(task).map_err(|_| damaged("its task")))
            .transpose()?,
        priority,
        payload: Option::unwrap_or_default(payload),
        attempt: tries.0,
        max_attempts: tries.1,
        checkpoint: checkpoint.map(checkpoints::sequence).transpose()?,
        duration: request.lease,
        acquired_at: now.wall,
        expires_at,
        deadline,
    };
    prepare(connection, statements::LEASES_BEGIN_ATTEMPT)?
        .execute(named_params! {
            ":item": item.get(),
            ":number": token,
            ":worker": id.as_str(),
            ":incarnation": incarnation.as_str(),
            ":now": now_text,
        })
        .map_err(|error| of(&error, context))?;
    Ok(lease)
}

fn damaged_index() -> StorageError {
    StorageError::corrupt("an index of the work items", "it is out of order")
}

fn prepare<'c>(connection: &'c Connection, sql: &str) -> Result<CachedStatement<'c>, StorageError> {
    connection
        .prepare_cached(sql)
        .map_err(|error| of(&error, "preparing a statement"))
}

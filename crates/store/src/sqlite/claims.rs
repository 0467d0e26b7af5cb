//! Claims and renewals inside a transaction.
//!
//! The most urgent due item is found without looking at those that are not due:
//! one look at an index tells the first item of the highest priority; when that
//! one is for later, all of its priority are, and the next look goes below it.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use agentos_core::limits::{SWEEP_BATCHES_PER_CLAIM, SWEEP_ROWS_PER_CLAIM};
use agentos_core::{
    BootTime, ClaimRequest, Clock, Fence, FencingToken, Lease, Lost, Renewed, StaleLease,
    StorageError, SweepRequest, TaskId, Timestamp, WorkFilter, WorkItemId, crash_point,
};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, named_params};

use super::error::{is_fatal, of};
use super::group_commit::Apart;
use super::sweep::in_savepoint;
use super::work::{count, held, item_id, stale};
use super::{checkpoints, statements, sweep};

/// Most items that one claim passes over, since they cannot be claimed.
const PASSED_OVER_MAX: usize = 64;

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
    /// Expired leases that were taken away on the way.
    pub(crate) recovered: Vec<Fence>,
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

/// An item that is due. Ordered by urgency. Its moment is compared as text, as the
/// index does: so what a shell wrote there is in nobody's way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate {
    priority: Reverse<i64>,
    available_at: String,
    item: WorkItemId,
}

/// A scope while one claim looks through it.
struct Place<'s> {
    scope: Scope<'s>,
    /// No item of a higher priority is due: they were looked at.
    at_most: i64,
    /// The last item that could not be claimed; nothing before it is looked at.
    behind: Option<Candidate>,
    found: Look,
}

impl<'s> Place<'s> {
    fn new(scope: Scope<'s>) -> Place<'s> {
        Place {
            scope,
            at_most: i64::MAX,
            behind: None,
            found: Look::Nothing,
        }
    }

    fn pass_over(&mut self, candidate: Candidate) {
        self.behind = Some(candidate);
    }

    fn look(&mut self, connection: &Connection, now: Timestamp) -> Result<(), StorageError> {
        let now = now.to_text();
        if let Some(behind) = &self.behind {
            let same = self.scope.look_behind(connection, behind)?;
            if let Some(candidate) = same.filter(|candidate| candidate.available_at <= now) {
                self.found = Look::Due(candidate);
                return Ok(());
            }
            let Some(lower) = behind.priority.0.checked_sub(1) else {
                self.found = Look::Nothing;
                return Ok(());
            };
            self.at_most = self.at_most.min(lower);
        }
        self.found = self.scope.look(connection, &now, self.at_most)?;
        if let Look::Due(candidate) = &self.found {
            self.at_most = candidate.priority.0;
        }
        Ok(())
    }
}

pub(crate) fn claim(
    connection: &Connection,
    request: &ClaimRequest,
    now: &Moment,
    apart: Apart,
) -> Result<Claimed, StorageError> {
    let recovered = take_expired_away(connection, request, now, apart)?;
    let mut places = scopes(connection, &request.filter)?
        .into_iter()
        .map(Place::new)
        .collect::<Vec<_>>();
    for place in &mut places {
        place.look(connection, now.wall)?;
    }
    let mut leases = Vec::new();
    let mut passed_over = 0;
    while leases.len() < request.items as usize && passed_over < PASSED_OVER_MAX {
        let most_urgent = places
            .iter_mut()
            .filter_map(|place| match &place.found {
                Look::Due(candidate) => Some((candidate.clone(), place)),
                Look::Later(_) | Look::Nothing => None,
            })
            .min_by(|(one, _), (other, _)| one.cmp(other));
        let Some((candidate, place)) = most_urgent else {
            break;
        };
        let take = || take(connection, candidate.item, request, now);
        let taken = match apart {
            Apart::Together => take(),
            Apart::Savepoints => in_savepoint(connection, "claim", take),
        };
        match taken {
            Ok(lease) => leases.push(lease),
            Err(error) if apart == Apart::Together || is_fatal(connection, &error) => {
                return Err(error);
            }
            // A damaged row keeps nobody from the others.
            Err(error) => {
                tracing::warn!(item = %candidate.item, %error, "an item cannot be claimed");
                passed_over += 1;
                place.pass_over(candidate);
            }
        }
        if leases.len() < request.items as usize {
            place.look(connection, now.wall)?;
        }
    }
    crash_point!("lease.claimed");
    Ok(Claimed { leases, recovered })
}

/// Takes a bounded number of expired leases away, past those for which that fails.
fn take_expired_away(
    connection: &Connection,
    request: &ClaimRequest,
    now: &Moment,
    apart: Apart,
) -> Result<Vec<Fence>, StorageError> {
    let mut batch = SweepRequest {
        lost: Lost::Expired,
        rows: SWEEP_ROWS_PER_CLAIM,
        skip: 0,
        after_loss: request.after_loss,
    };
    for _ in 0..SWEEP_BATCHES_PER_CLAIM {
        let swept = sweep::batch(connection, &batch, now, apart)?;
        for (item, error) in &swept.failed {
            tracing::warn!(%item, %error, "an expired lease could not be taken away");
        }
        if !swept.recovered.is_empty() || !swept.more {
            return Ok(swept.recovered.iter().map(|item| item.fence).collect());
        }
        batch.skip += swept.found;
    }
    Ok(Vec::new())
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
            // That the row cannot be read is no reason to lose the others.
            let held = match held(connection, fence.item) {
                Err(StorageError::Corrupt { .. }) => None,
                held => held?,
            };
            return Ok(Err(stale(*fence, held)));
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
    let now = now.to_text();
    for scope in scopes(connection, filter)? {
        found = match (found, scope.look(connection, &now, i64::MAX)?) {
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
    /// The most urgent item of a priority up to `at_most`.
    fn look(
        &self,
        connection: &Connection,
        now: &str,
        mut at_most: i64,
    ) -> Result<Look, StorageError> {
        let mut statement = prepare(
            connection,
            match self {
                Scope::Any => statements::LEASES_FIND_ANY,
                Scope::Type(_) => statements::LEASES_FIND_BY_TYPE,
                Scope::TaskType(..) => statements::LEASES_FIND_BY_TASK,
            },
        )?;
        let mut first_later: Option<String> = None;
        loop {
            let found = match self {
                Scope::Any => {
                    statement.query_row(named_params! { ":at_most": at_most }, read_candidate)
                }
                Scope::Type(name) => statement.query_row(
                    named_params! { ":type": name, ":at_most": at_most },
                    read_candidate,
                ),
                Scope::TaskType(task, name) => statement.query_row(
                    named_params! { ":task": task.as_str(), ":type": name, ":at_most": at_most },
                    read_candidate,
                ),
            };
            let candidate = match candidate(found)? {
                Some(candidate) if candidate.priority.0 > at_most => return Err(damaged_index()),
                Some(candidate) if candidate.available_at.as_str() <= now => {
                    return Ok(Look::Due(candidate));
                }
                found => found,
            };
            let lower = candidate
                .as_ref()
                .and_then(|candidate| candidate.priority.0.checked_sub(1));
            let later = candidate.map(|candidate| candidate.available_at);
            first_later = [first_later, later].into_iter().flatten().min();
            let Some(lower) = lower else {
                return Ok(first_later.map_or(Look::Nothing, |text| {
                    // What cannot be read is beyond the end of the calendar.
                    Look::Later(Timestamp::parse(&text).unwrap_or(Timestamp::MAX))
                }));
            };
            at_most = lower;
        }
    }

    /// The next item of the same priority.
    fn look_behind(
        &self,
        connection: &Connection,
        behind: &Candidate,
    ) -> Result<Option<Candidate>, StorageError> {
        let (task, name) = match self {
            Scope::Any => (None, None),
            Scope::Type(name) => (None, Some(*name)),
            Scope::TaskType(task, name) => (Some(task.as_str()), Some(name.as_str())),
        };
        let found = prepare(connection, statements::LEASES_FIND_BEHIND)?.query_row(
            named_params! {
                ":priority": behind.priority.0,
                ":available_at": behind.available_at,
                ":item": behind.item.get(),
                ":type": name,
                ":task": task,
            },
            read_candidate,
        );
        candidate(found)
    }
}

fn read_candidate(row: &Row<'_>) -> rusqlite::Result<(i64, i64, String)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn candidate(
    found: rusqlite::Result<(i64, i64, String)>,
) -> Result<Option<Candidate>, StorageError> {
    let found = found
        .optional()
        .map_err(|error| of(&error, "looking for work"))?;
    let Some((item, priority, available_at)) = found else {
        return Ok(None);
    };
    Ok(Some(Candidate {
        priority: Reverse(priority),
        available_at,
        item: item_id(item)?,
    }))
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
                    (row.get::<_, i64>(3)?, row.get::<_, Option<Vec<u8>>>(4)?),
                    (count(row, 5)?, count(row, 6)?),
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
        priority: i32::try_from(priority).unwrap_or(if priority < 0 { i32::MIN } else { i32::MAX }),
        payload: payload.unwrap_or_default(),
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

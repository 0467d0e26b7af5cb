//! Work items and leases: what goes to the writer, and reads.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use agentos_core::storage::{check_lease, check_renewal};
use agentos_core::{
    Attempt, AttemptEnd, AttemptOutcome, ClaimRequest, Cursor, Fence, FencingToken, Incarnation,
    Lease, LeaseStorage, Outlook, Page, Renewed, StaleLease, StorageError, SweepRequest, Swept,
    TaskId, Timestamp, WorkFilter, WorkItem, WorkItemId, WorkItemStatus, WorkItemSummary,
    WorkListener, Worker, WorkerId,
};
use rusqlite::{OptionalExtension, Row, named_params};

use super::claims::{self, Look, Moment};
use super::jobs::{Done, Job};
use super::tasks::{check_page, next_page};
use super::work::{decode_holder, item_id, read_holder};
use super::{SqliteStore, statements};

impl LeaseStorage for SqliteStore {
    fn claim(&self, request: &ClaimRequest) -> Result<Vec<Lease>, StorageError> {
        request.check()?;
        match self.submit(Job::Claim(request.clone()))? {
            Done::Claimed(claimed) => {
                assert!(
                    claimed.leases.len() <= request.items as usize,
                    "no more is claimed than was asked for"
                );
                Ok(claimed.leases)
            }
            _ => Err(other_answer("claiming work")),
        }
    }

    fn renew(
        &self,
        fences: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Result<Renewed, StaleLease>>, StorageError> {
        check_lease(lease)?;
        check_renewal(fences.len())?;
        if fences.is_empty() {
            return Ok(Vec::new());
        }
        let fences = fences.to_vec();
        let count = fences.len();
        match self.submit(Job::Renew { fences, lease })? {
            Done::Renewed(answers) => {
                assert_eq!(answers.len(), count, "every lease is answered");
                Ok(answers)
            }
            _ => Err(other_answer("renewing leases")),
        }
    }

    fn sweep(&self, request: &SweepRequest) -> Result<Swept, StorageError> {
        request.check()?;
        match self.submit(Job::Sweep(request.clone()))? {
            Done::Swept(swept) => Ok(swept),
            _ => Err(other_answer("sweeping")),
        }
    }

    fn work_item(&self, id: WorkItemId) -> Result<Option<WorkItem>, StorageError> {
        self.readers.read("reading a work item", |connection| {
            let found = connection
                .prepare_cached(statements::WORK_GET)?
                .query_row(named_params! { ":item": id.get() }, |row| {
                    Ok((
                        RawItem::read(row)?,
                        row.get::<_, Option<Vec<u8>>>(18)?,
                        row.get(19)?,
                    ))
                })
                .optional()?;
            let Some((raw, payload, result)) = found else {
                return Ok(None);
            };
            Ok(Some(WorkItem {
                summary: raw.decode()?,
                payload: payload.unwrap_or_default(),
                result,
            }))
        })
    }

    fn work_items(
        &self,
        status: WorkItemStatus,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<WorkItemSummary>, StorageError> {
        let after = after.map_or(0, Cursor::key);
        self.page(
            statements::WORK_LIST,
            named_params! { ":status": status.as_str(), ":after": after, ":rows": rows },
            rows,
        )
    }

    fn work_items_of(
        &self,
        task: &TaskId,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<WorkItemSummary>, StorageError> {
        let after = after.map_or(0, Cursor::key);
        self.page(
            statements::WORK_LIST_OF_TASK,
            named_params! { ":task": task.as_str(), ":after": after, ":rows": rows },
            rows,
        )
    }

    fn count_work_items(&self) -> Result<BTreeMap<WorkItemStatus, u64>, StorageError> {
        self.readers.read("counting work items", |connection| {
            let mut statement = connection.prepare_cached(statements::WORK_COUNT)?;
            let mut counts = BTreeMap::new();
            // Of one moment, however long it takes.
            let _moment = connection.unchecked_transaction()?;
            for &status in WorkItemStatus::ALL {
                let count: i64 = statement
                    .query_row(named_params! { ":status": status.as_str() }, |row| {
                        row.get(0)
                    })?;
                counts.insert(status, count.unsigned_abs());
            }
            Ok(counts)
        })
    }

    fn attempts(&self, item: WorkItemId) -> Result<Vec<Attempt>, StorageError> {
        self.readers.read("reading attempts", |connection| {
            let mut statement = connection.prepare_cached(statements::WORK_ATTEMPTS)?;
            let found =
                statement.query_map(named_params! { ":item": item.get() }, RawAttempt::read)?;
            let raw = found.collect::<Result<Vec<_>, _>>()?;
            let decoded: Result<Vec<_>, StorageError> =
                raw.into_iter().map(|raw| raw.decode(item)).collect();
            Ok(decoded?)
        })
    }

    fn outlook(&self, filter: &WorkFilter) -> Result<Outlook, StorageError> {
        filter.check()?;
        self.readers.read("looking ahead", |connection| {
            // After the wait for a reader.
            let now = Moment::of(self.config.clock.as_ref());
            let claimable = match claims::look(connection, filter, now.wall)? {
                Look::Due(_) => Some(Duration::ZERO),
                Look::Later(moment) => {
                    let micros = moment.unix_micros().saturating_sub(now.wall.unix_micros());
                    Some(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
                }
                Look::Nothing => None,
            };
            let deadline: Option<i64> = connection
                .prepare_cached(statements::LEASES_NEXT_DEADLINE)?
                .query_row(
                    named_params! {
                        ":boot": now.boot.boot.as_str(),
                        ":now_us": now.boot.micros,
                    },
                    |row| row.get(0),
                )?;
            let expires = deadline.map(|deadline| {
                let micros = deadline.saturating_sub(now.boot.micros);
                Duration::from_micros(u64::try_from(micros).unwrap_or(0))
            });
            Ok(Outlook { claimable, expires })
        })
    }

    fn listen(&self, listener: Weak<dyn WorkListener>) {
        self.listeners.add(listener);
    }
}

impl SqliteStore {
    fn page(
        &self,
        sql: &'static str,
        params: &[(&str, &dyn rusqlite::ToSql)],
        rows: u32,
    ) -> Result<Page<WorkItemSummary>, StorageError> {
        check_page(rows)?;
        self.readers.read("listing work items", |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map(params, RawItem::read)?;
            let raw = found.collect::<Result<Vec<_>, _>>()?;
            let next = next_page(raw.last().map(|item| item.id), raw.len(), rows);
            let items = raw
                .into_iter()
                .map(RawItem::decode)
                .collect::<Result<_, _>>()?;
            Ok(Page { items, next })
        })
    }
}

fn other_answer(context: &str) -> StorageError {
    StorageError::Internal {
        context: context.into(),
        cause: "it was answered as something else".into(),
    }
}

struct RawItem {
    id: i64,
    work_type: String,
    task: Option<String>,
    status: String,
    priority: i64,
    unique_key: Option<String>,
    counts: [i64; 3],
    available_at: String,
    token: i64,
    holder: [Option<String>; 4],
    last_error: Option<String>,
    created_at: String,
    updated_at: String,
}

impl RawItem {
    fn read(row: &Row<'_>) -> rusqlite::Result<RawItem> {
        Ok(RawItem {
            id: row.get(0)?,
            work_type: row.get(1)?,
            task: row.get(2)?,
            status: row.get(3)?,
            priority: row.get(4)?,
            unique_key: row.get(5)?,
            counts: [row.get(6)?, row.get(7)?, row.get(8)?],
            available_at: row.get(9)?,
            token: row.get(10)?,
            holder: read_holder(row, 11)?,
            last_error: row.get(15)?,
            created_at: row.get(16)?,
            updated_at: row.get(17)?,
        })
    }

    fn decode(self) -> Result<WorkItemSummary, StorageError> {
        let damaged = |what: &str| StorageError::corrupt(format!("work item {}", self.id), what);
        let moment = |text: &str, what| Timestamp::parse(text).ok_or_else(|| damaged(what));
        let count = |count, what| u32::try_from(count).map_err(|_| damaged(what));
        let [attempts, max_attempts, losses] = self.counts;
        Ok(WorkItemSummary {
            id: item_id(self.id)?,
            task: self
                .task
                .as_deref()
                .map(|task| TaskId::new(task).map_err(|_| damaged("its task")))
                .transpose()?,
            status: WorkItemStatus::parse(&self.status).ok_or_else(|| damaged("its status"))?,
            // Whoever parks an item writes the end of the calendar.
            available_at: if self.available_at > Timestamp::MAX.to_text() {
                Timestamp::MAX
            } else {
                moment(&self.available_at, "its available_at")?
            },
            newest_token: FencingToken::new(self.token).ok(),
            holder: decode_holder(self.holder.clone()).map_err(damaged)?,
            created_at: moment(&self.created_at, "its created_at")?,
            updated_at: moment(&self.updated_at, "its updated_at")?,
            work_type: self.work_type,
            priority: i32::try_from(self.priority).map_err(|_| damaged("its priority"))?,
            attempts: count(attempts, "its attempts")?,
            max_attempts: count(max_attempts, "its max_attempts")?,
            losses: count(losses, "its losses")?,
            unique_key: self.unique_key,
            last_error: self.last_error,
        })
    }
}

struct RawAttempt {
    number: i64,
    worker: String,
    incarnation: String,
    started_at: String,
    ended_at: Option<String>,
    outcome: Option<String>,
    error: Option<String>,
}

impl RawAttempt {
    fn read(row: &Row<'_>) -> rusqlite::Result<RawAttempt> {
        Ok(RawAttempt {
            number: row.get(0)?,
            worker: row.get(1)?,
            incarnation: row.get(2)?,
            started_at: row.get(3)?,
            ended_at: row.get(4)?,
            outcome: row.get(5)?,
            error: row.get(6)?,
        })
    }

    fn decode(self, item: WorkItemId) -> Result<Attempt, StorageError> {
        let damaged = |what: &str| {
            let attempt = format!("attempt {} at work item {item}", self.number);
            StorageError::corrupt(attempt, what)
        };
        let end = match (&self.ended_at, &self.outcome) {
            (Some(at), Some(outcome)) => Some(AttemptEnd {
                at: Timestamp::parse(at).ok_or_else(|| damaged("its ended_at"))?,
                outcome: AttemptOutcome::parse(outcome).ok_or_else(|| damaged("its outcome"))?,
                error: self.error.clone(),
            }),
            _ => None,
        };
        Ok(Attempt {
            number: FencingToken::new(self.number).map_err(|_| damaged("its number"))?,
            worker: Worker {
                id: WorkerId::new(&self.worker).map_err(|_| damaged("its worker"))?,
                incarnation: Incarnation::new(&self.incarnation)
                    .map_err(|_| damaged("its incarnation"))?,
            },
            started_at: Timestamp::parse(&self.started_at)
                .ok_or_else(|| damaged("its started_at"))?,
            end,
        })
    }
}

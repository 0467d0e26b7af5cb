//! Idempotency keys: what goes to the writer, reads, and rows.

use std::time::Duration;

use agentos_core::records::key::SealedKey;
use agentos_core::storage::{check_key_renewal, check_lease};
use agentos_core::{
    BeginKey, Begun, BootId, BootTime, Cursor, Digest, Fence, FencingToken, IdempotencyKey,
    Incarnation, KeyEntry, KeyFence, KeyFilter, KeyId, KeyStatus, KeyStorage, KeySummary, KeyView,
    Page, PermitHolder, RecordedKey, RenewedPermit, StalePermit, StorageError, TaskId, Timestamp,
    WorkItemId, Worker, WorkerId,
};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, named_params};
use serde_json::Value;

use super::claims::Moment;
use super::jobs::{Done, Job};
use super::readers::ReadError;
use super::tasks::{check_page, next_page};
use super::{SqliteStore, statements};

impl KeyStorage for SqliteStore {
    fn begin_key(&self, begin: &BeginKey) -> Result<Begun, StorageError> {
        begin.check(&self.config.limits)?;
        match self.submit(Job::BeginKey(Box::new(begin.clone())))? {
            Done::Begun(begun) => Ok(begun),
            _ => Err(other_answer("beginning a key")),
        }
    }

    fn renew_keys(
        &self,
        fences: &[KeyFence],
        lease: Duration,
    ) -> Result<Vec<Result<RenewedPermit, StalePermit>>, StorageError> {
        check_lease(lease)?;
        check_key_renewal(fences.len())?;
        if fences.is_empty() {
            return Ok(Vec::new());
        }
        let count = fences.len();
        let fences = fences.to_vec();
        match self.submit(Job::RenewKeys { fences, lease })? {
            Done::RenewedKeys(answers) => {
                assert_eq!(answers.len(), count, "every permit is answered");
                Ok(answers)
            }
            _ => Err(other_answer("renewing permits")),
        }
    }

    fn find_key(&self, key: &IdempotencyKey) -> Result<Option<KeyEntry>, StorageError> {
        let now = Moment::of(self.config.clock.as_ref());
        self.readers.read("reading a key", |connection| {
            let mut statement = connection.prepare_cached(statements::KEYS_FIND)?;
            let mut rows = statement.query(named_params! { ":key": key.as_str() })?;
            match rows.next()? {
                Some(row) => Ok(Some(KeyRow::read(row, &now)?.entry(row)?)),
                None => Ok(None),
            }
        })
    }

    fn find_recorded(&self, key: &IdempotencyKey) -> Result<Option<RecordedKey>, StorageError> {
        let now = self.config.clock.wall();
        self.readers.read("reading an outcome", |connection| {
            recorded(connection, key, now)
        })
    }

    fn newest_key(&self) -> Result<Option<KeyId>, StorageError> {
        self.readers.read("reading the newest key", |connection| {
            let newest: Option<i64> = connection
                .prepare_cached(statements::KEYS_NEWEST)?
                .query_row([], |row| row.get(0))?;
            let damaged = |number| StorageError::corrupt(format!("key {number}"), "its number");
            let newest = newest.map(|number| KeyId::new(number).map_err(|_| damaged(number)));
            Ok(newest.transpose()?)
        })
    }

    fn keys(
        &self,
        filter: &KeyFilter,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, StorageError> {
        let after = after.map_or(0, Cursor::key);
        let before = filter.changed_before.map(Timestamp::to_text);
        // Names that differ in the engine only where the statements do.
        let filters = named_params! {
            ":prefix": filter.prefix,
            ":operation": filter.operation,
            ":model": filter.model,
            ":before": before,
            ":after": after,
            ":rows": rows,
        };
        match &filter.task {
            None => self.key_page(statements::KEYS_LIST, filters, rows, |_| true),
            Some(task) => {
                let mut filters = filters.to_vec();
                let task = task.as_str();
                filters.push((":task", &task));
                self.key_page(statements::KEYS_LIST_OF_TASK, &filters, rows, |_| true)
            }
        }
    }

    fn keys_in_doubt(
        &self,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, StorageError> {
        let after = after.map_or(0, Cursor::key);
        self.key_page(
            statements::KEYS_LIST_PENDING,
            named_params! { ":after": after, ":rows": rows },
            rows,
            |view| view.permit.as_ref().is_none_or(|p| p.left.is_none()),
        )
    }
}

impl SqliteStore {
    fn key_page(
        &self,
        sql: &'static str,
        params: &[(&str, &dyn rusqlite::ToSql)],
        rows: u32,
        is_meant: impl Fn(&KeyView) -> bool,
    ) -> Result<Page<KeySummary>, StorageError> {
        check_page(rows)?;
        let now = Moment::of(self.config.clock.as_ref());
        self.readers.read("listing keys", |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let mut found = statement.query(params)?;
            let (mut items, mut last, mut count) = (Vec::new(), None, 0);
            while let Some(row) = found.next()? {
                let summary = KeyRow::read(row, &now)?.summary;
                last = Some(summary.id.get());
                count += 1;
                if is_meant(&summary.view) {
                    items.push(summary);
                }
            }
            let next = next_page(last, count, rows);
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

/// A row of the statements that read keys, without what is large.
pub(crate) struct KeyRow {
    pub(crate) summary: KeySummary,
}

/// Columns of `keys/find.sql` from here on are not in lists.
const SEAL: usize = 24;
const REQUEST: usize = 25;
const OUTCOME: usize = 26;

impl KeyRow {
    pub(crate) fn read(row: &Row<'_>, now: &Moment) -> Result<KeyRow, ReadError> {
        let id: i64 = row.get(0)?;
        let damaged = |what: &str| StorageError::corrupt(format!("key {id}"), what);
        let moment = |column: usize, what: &str| -> Result<Timestamp, ReadError> {
            let text = row.get_ref(column)?.as_str().ok();
            Ok(text
                .and_then(Timestamp::parse)
                .ok_or_else(|| damaged(what))?)
        };
        let text = |column: usize, what: &str| -> Result<Option<String>, ReadError> {
            match row.get_ref(column)? {
                ValueRef::Null => Ok(None),
                ValueRef::Text(text) => match std::str::from_utf8(text) {
                    Ok(text) => Ok(Some(text.to_owned())),
                    Err(_) => Err(damaged(what).into()),
                },
                _ => Err(damaged(what).into()),
            }
        };
        let status = row.get_ref(2)?.as_str().ok();
        let status = status.and_then(KeyStatus::parse);
        let status = status.ok_or_else(|| damaged("its status"))?;
        let request = row.get_ref(3)?.as_blob().ok();
        let request = request.and_then(|bytes| <[u8; Digest::BYTES]>::try_from(bytes).ok());
        let request = request.ok_or_else(|| damaged("its request_digest"))?;
        let token = FencingToken::new(row.get(4)?).map_err(|_| damaged("its token"))?;
        let key_id = KeyId::new(id).map_err(|_| damaged("its number"))?;
        let key = text(1, "its key")?.and_then(|key| IdempotencyKey::new(key).ok());
        let task = match text(5, "its task")? {
            None => None,
            Some(task) => Some(TaskId::new(task).map_err(|_| damaged("its task"))?),
        };
        let detail = match row.get_ref(8)? {
            ValueRef::Null => Value::Null,
            ValueRef::Text(text) => {
                serde_json::from_slice(text).map_err(|_| damaged("its detail"))?
            }
            _ => return Err(damaged("its detail").into()),
        };
        let expires_at = match row.get_ref(12)? {
            ValueRef::Null => None,
            _ => Some(moment(12, "its expires_at")?),
        };
        let permit = match status {
            KeyStatus::Pending => {
                let fence = KeyFence { key: key_id, token };
                let holder = read_holder(row, fence, now)?;
                Some(holder.ok_or_else(|| damaged("who executes it"))?)
            }
            KeyStatus::Succeeded | KeyStatus::Failed => None,
        };
        let outcome_bytes: Option<i64> = row.get(13)?;
        Ok(KeyRow {
            summary: KeySummary {
                id: key_id,
                key: key.ok_or_else(|| damaged("its key"))?,
                view: KeyView {
                    status,
                    token,
                    request: Digest::from_bytes(request),
                    expired: permit.is_none() && expires_at.is_some_and(|at| at <= now.wall),
                    permit,
                },
                task,
                operation: text(6, "its operation")?,
                model: text(7, "its model")?,
                detail,
                token,
                created_at: moment(9, "its created_at")?,
                updated_at: moment(10, "its updated_at")?,
                used_at: moment(11, "its used_at")?,
                expires_at,
                outcome_bytes: outcome_bytes.map(i64::unsigned_abs),
            },
        })
    }

    /// With what is large, its seal checked.
    pub(crate) fn entry(self, row: &Row<'_>) -> Result<KeyEntry, ReadError> {
        let summary = self.summary;
        let damaged = |what: &str| StorageError::corrupt(format!("key {}", summary.id), what);
        let blob = |column: usize, what: &str| match row.get_ref(column)? {
            ValueRef::Null => Ok(None),
            ValueRef::Blob(bytes) => Ok(Some(bytes)),
            _ => Err(ReadError::from(damaged(what))),
        };
        let kept_request = blob(REQUEST, "its request")?;
        let outcome = blob(OUTCOME, "its outcome")?;
        if summary.view.permit.is_none() {
            let outcome = outcome.ok_or_else(|| damaged("its outcome is not there"))?;
            let seal = SealedKey {
                key: &summary.key,
                request: &summary.view.request,
                token: summary.token,
                status: summary.view.status,
                task: summary.task.as_ref().map(TaskId::as_str),
                operation: summary.operation.as_deref(),
                model: summary.model.as_deref(),
                kept_request,
                detail: row.get_ref(8)?.as_str().ok(),
                // They were read as moments, in their one form.
                recorded_at: row.get_ref(10)?.as_str().unwrap_or_default(),
                expires_at: row.get_ref(12)?.as_str().ok(),
                outcome,
            };
            if !blob(SEAL, "its seal")?.is_some_and(|found| seal.is_sealed_by(found)) {
                return Err(damaged("the seal of its outcome does not hold").into());
            }
        }
        Ok(KeyEntry {
            kept_request: kept_request.map(<[u8]>::to_vec),
            outcome: outcome.map(<[u8]>::to_vec),
            summary,
        })
    }
}

/// What is recorded under a key, its seal checked; `None` when it is pending or not
/// there. What only the seal needs is not read any further.
fn recorded(
    connection: &Connection,
    key: &IdempotencyKey,
    now: Timestamp,
) -> Result<Option<RecordedKey>, ReadError> {
    let mut statement = connection.prepare_cached(statements::KEYS_RECORDED)?;
    let mut rows = statement.query([key.as_str()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let id: i64 = row.get(0)?;
    let damaged = |what: &str| StorageError::corrupt(format!("key {id}"), what);
    let text = |column: usize, what: &str| match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(ReadError::from(damaged(what))),
        },
        _ => Err(damaged(what).into()),
    };
    let moment = |text: Option<&str>, what: &str| {
        let moment = text.and_then(Timestamp::parse);
        moment.ok_or_else(|| ReadError::from(damaged(what)))
    };
    let blob = |column: usize, what: &str| match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(bytes) => Ok(Some(bytes)),
        _ => Err(ReadError::from(damaged(what))),
    };
    let status = text(1, "its status")?.and_then(KeyStatus::parse);
    let status = status.ok_or_else(|| damaged("its status"))?;
    let request = blob(2, "its request_digest")?.unwrap_or_default();
    let request = <[u8; Digest::BYTES]>::try_from(request);
    let request = Digest::from_bytes(request.map_err(|_| damaged("its request_digest"))?);
    let token = FencingToken::new(row.get(3)?).map_err(|_| damaged("its token"))?;
    let used_at = moment(text(9, "its used_at")?, "its used_at")?;
    let expires_at = text(10, "its expires_at")?;
    let expired = match expires_at {
        None => false,
        Some(_) => moment(expires_at, "its expires_at")? <= now,
    };
    let outcome = blob(13, "its outcome")?;
    let outcome = outcome.ok_or_else(|| damaged("its outcome is not there"))?;
    let seal = SealedKey {
        key,
        request: &request,
        token,
        status,
        task: text(4, "its task")?,
        operation: text(5, "its operation")?,
        model: text(6, "its model")?,
        kept_request: blob(12, "its request")?,
        detail: text(7, "its detail")?,
        recorded_at: text(8, "its updated_at")?.unwrap_or_default(),
        expires_at,
        outcome,
    };
    if !blob(11, "its seal")?.is_some_and(|found| seal.is_sealed_by(found)) {
        return Err(damaged("the seal of its outcome does not hold").into());
    }
    Ok(Some(RecordedKey {
        id: KeyId::new(id).map_err(|_| damaged("its number"))?,
        view: KeyView {
            status,
            token,
            request,
            expired,
            permit: None,
        },
        used_at,
        outcome: outcome.to_vec(),
    }))
}

/// Who executes a pending key; `None` when that cannot be read.
fn read_holder(
    row: &Row<'_>,
    fence: KeyFence,
    now: &Moment,
) -> rusqlite::Result<Option<PermitHolder>> {
    let text = |column: usize| row.get::<_, Option<String>>(column);
    let (Some(owner), Some(incarnation)) = (text(14)?, text(15)?) else {
        return Ok(None);
    };
    let (Ok(id), Ok(incarnation)) = (WorkerId::new(owner), Incarnation::new(incarnation)) else {
        return Ok(None);
    };
    let item: Option<i64> = row.get(16)?;
    let under = match (item, row.get::<_, Option<i64>>(17)?) {
        (None, _) => None,
        (Some(item), Some(token)) => match (WorkItemId::new(item), FencingToken::new(token)) {
            (Ok(item), Ok(token)) => Some(Fence { item, token }),
            _ => return Ok(None),
        },
        (Some(_), None) => return Ok(None),
    };
    // Under a lease the columns behind are that lease's, and empty once it is over.
    let first = if under.is_some() { 21 } else { 18 };
    let (boot, micros) = (text(first + 1)?, row.get::<_, Option<i64>>(first + 2)?);
    let left = match (boot, micros) {
        (Some(boot), Some(micros)) => {
            let boot = BootId::new(boot);
            Some(now.boot.until(&BootTime { boot, micros })).filter(|left| !left.is_zero())
        }
        _ => None,
    };
    let moment =
        |column: usize| text(column).map(|text| text.as_deref().and_then(Timestamp::parse));
    let until = match moment(first)? {
        Some(until) => until,
        None => moment(18)?.unwrap_or(now.wall),
    };
    Ok(Some(PermitHolder {
        fence,
        owner: Worker { id, incarnation },
        under,
        since: moment(10)?.unwrap_or(until),
        until,
        left,
    }))
}

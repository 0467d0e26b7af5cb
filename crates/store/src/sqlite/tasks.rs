//! Reads of tasks and their audit lines.

use agentos_core::limits::{PAGE_ROWS_MAX, check_size};
use agentos_core::{
    Audit, Cursor, Page, StorageError, Task, TaskId, TaskStatus, TaskStorage, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde_json::Value;

use super::error::of;
use super::{SqliteStore, statements};

impl TaskStorage for SqliteStore {
    fn task(&self, id: &TaskId) -> Result<Option<Task>, StorageError> {
        self.readers.read("reading a task", |connection| {
            let found = connection
                .prepare_cached(statements::TASKS_GET)?
                .query_row(named_params! { ":task": id.as_str() }, RawTask::read)
                .optional()?;
            Ok(found.map(RawTask::decode).transpose()?)
        })
    }

    fn tasks(
        &self,
        status: TaskStatus,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<Task>, StorageError> {
        check_page(rows)?;
        self.readers.read("listing tasks", |connection| {
            let mut statement = connection.prepare_cached(statements::TASKS_LIST)?;
            let found = statement.query_map(
                named_params! {
                    ":status": status.as_str(),
                    ":after": after.map_or(0, Cursor::key),
                    ":rows": rows,
                },
                RawTask::read,
            )?;
            let raw = found.collect::<Result<Vec<_>, _>>()?;
            let next = next_page(raw.last().map(|task| task.key), raw.len(), rows);
            let items = raw
                .into_iter()
                .map(RawTask::decode)
                .collect::<Result<_, _>>()?;
            Ok(Page { items, next })
        })
    }

    fn audits(
        &self,
        task: &TaskId,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<Audit>, StorageError> {
        check_page(rows)?;
        self.readers.read("listing audit lines", |connection| {
            let mut statement = connection.prepare_cached(statements::AUDITS_LIST)?;
            let found = statement.query_map(
                named_params! {
                    ":task": task.as_str(),
                    ":after": after.map_or(0, Cursor::key),
                    ":rows": rows,
                },
                RawAudit::read,
            )?;
            let raw = found.collect::<Result<Vec<_>, _>>()?;
            let next = next_page(raw.last().map(|audit| audit.key), raw.len(), rows);
            let items = raw
                .into_iter()
                .map(|audit| audit.decode(task))
                .collect::<Result<_, _>>()?;
            Ok(Page { items, next })
        })
    }
}

/// The task, read inside a transaction of the writer.
pub(crate) fn get(connection: &Connection, id: &TaskId) -> Result<Option<Task>, StorageError> {
    let read = || -> rusqlite::Result<Option<RawTask>> {
        connection
            .prepare_cached(statements::TASKS_GET)?
            .query_row(named_params! { ":task": id.as_str() }, RawTask::read)
            .optional()
    };
    read()
        .map_err(|error| of(&error, "reading a task"))?
        .map(RawTask::decode)
        .transpose()
}

pub(crate) fn check_page(rows: u32) -> Result<(), StorageError> {
    check_size("rows per page", rows as usize, PAGE_ROWS_MAX as usize)
}

/// A full page may have another after it; a shorter one is the last.
pub(crate) fn next_page(last_key: Option<i64>, found: usize, rows: u32) -> Option<Cursor> {
    last_key.filter(|_| found == rows as usize).map(Cursor::new)
}

struct RawTask {
    key: i64,
    id: String,
    task_type: String,
    status: String,
    metadata: Option<String>,
    created_at: String,
    updated_at: String,
}

impl RawTask {
    fn read(row: &Row<'_>) -> rusqlite::Result<RawTask> {
        Ok(RawTask {
            key: row.get(0)?,
            id: row.get(1)?,
            task_type: row.get(2)?,
            status: row.get(3)?,
            metadata: row.get(4)?,
            created_at: row.get(5)?,
            updated_at: row.get(6)?,
        })
    }

    fn decode(self) -> Result<Task, StorageError> {
        let damaged = |what: &str| StorageError::corrupt(format!("task {:?}", self.id), what);
        Ok(Task {
            id: TaskId::new(&self.id).map_err(|_| damaged("its id"))?,
            status: TaskStatus::parse(&self.status).ok_or_else(|| damaged("its status"))?,
            metadata: decode_json(self.metadata.as_deref())
                .ok_or_else(|| damaged("its metadata"))?,
            created_at: Timestamp::parse(&self.created_at)
                .ok_or_else(|| damaged("its created_at"))?,
            updated_at: Timestamp::parse(&self.updated_at)
                .ok_or_else(|| damaged("its updated_at"))?,
            task_type: self.task_type,
        })
    }
}

struct RawAudit {
    key: i64,
    event: String,
    from: Option<String>,
    to: Option<String>,
    reason: Option<String>,
    detail: Option<String>,
    created_at: String,
}

impl RawAudit {
    fn read(row: &Row<'_>) -> rusqlite::Result<RawAudit> {
        Ok(RawAudit {
            key: row.get(0)?,
            event: row.get(1)?,
            from: row.get(2)?,
            to: row.get(3)?,
            reason: row.get(4)?,
            detail: row.get(5)?,
            created_at: row.get(6)?,
        })
    }

    fn decode(self, task: &TaskId) -> Result<Audit, StorageError> {
        let damaged = |what: &str| StorageError::corrupt(format!("audit line {}", self.key), what);
        Ok(Audit {
            task: task.clone(),
            detail: decode_json(self.detail.as_deref()).ok_or_else(|| damaged("its detail"))?,
            created_at: Timestamp::parse(&self.created_at)
                .ok_or_else(|| damaged("its created_at"))?,
            event: self.event,
            from: self.from,
            to: self.to,
            reason: self.reason,
        })
    }
}

/// Absent is null; `None` when the text is not JSON.
pub(crate) fn decode_json(text: Option<&str>) -> Option<Value> {
    match text {
        None => Some(Value::Null),
        Some(text) => serde_json::from_str(text).ok(),
    }
}

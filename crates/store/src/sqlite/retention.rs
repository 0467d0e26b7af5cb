//! Reads for retention: what pruning would find, asked outside of any
//! transaction of the writer.

use agentos_core::{
    BoundedTable, CheckpointSpan, Cursor, Page, Prunable, PruneCheckpoints, PruneRows,
    RetentionStorage, RowMark, RowRule, StorageError, TaskId, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, named_params};

use super::prune::{CandidateColumns, bind, is_cached, leased, mark, sql};
use super::readers::ReadError;
use super::tasks::{check_page, next_page};
use super::{SqliteStore, checkpoints, statements};

impl RetentionStorage for SqliteStore {
    fn task_ids(
        &self,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<Result<TaskId, StorageError>>, StorageError> {
        check_page(rows)?;
        self.readers.read("listing ids of tasks", |connection| {
            let mut statement = connection.prepare_cached(statements::RETENTION_TASK_IDS)?;
            let mut found = statement.query(named_params! {
                ":after": after.map_or(0, Cursor::key),
                ":rows": rows,
            })?;
            let (mut items, mut last) = (Vec::new(), None);
            while let Some(row) = found.next()? {
                let key: i64 = row.get(0)?;
                let id = row.get_ref(1)?.as_str().ok();
                items.push(id.and_then(|id| TaskId::new(id).ok()).ok_or_else(|| {
                    StorageError::corrupt(format!("the task of key {key}"), "its id")
                }));
                last = Some(key);
            }
            let next = next_page(last, items.len(), rows);
            Ok(Page { items, next })
        })
    }

    fn checkpoint_span(&self, task: &TaskId) -> Result<Option<CheckpointSpan>, StorageError> {
        self.readers
            .read("reading which checkpoints there are", |connection| {
                let oldest: Option<(i64, String)> = connection
                    .prepare_cached(statements::RETENTION_CHECKPOINTS_OLDEST_NUMBER)?
                    .query_row(named_params! { ":task": task.as_str() }, |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })
                    .optional()?;
                let newest: Option<i64> = connection
                    .prepare_cached(statements::CHECKPOINTS_NEWEST_NUMBER)?
                    .query_row(
                        named_params! { ":task": task.as_str(), ":below": i64::MAX },
                        |row| row.get(0),
                    )
                    .optional()?;
                let (Some((oldest, created_at)), Some(newest)) = (oldest, newest) else {
                    return Ok(None);
                };
                Ok(Some(CheckpointSpan {
                    oldest: checkpoints::sequence(oldest)?,
                    oldest_created_at: Timestamp::parse(&created_at),
                    newest: checkpoints::sequence(newest)?,
                }))
            })
    }

    fn prunable_checkpoints(&self, plan: &PruneCheckpoints) -> Result<Prunable, StorageError> {
        self.readers.read("counting old checkpoints", |connection| {
            let leased = leased(connection, &plan.task, plan.up_to)?;
            let mut prunable = Prunable::default();
            let mut statement =
                connection.prepare_cached(statements::RETENTION_CHECKPOINTS_ROWS)?;
            let mut rows = statement.query(named_params! {
                ":task": plan.task.as_str(),
                ":from": plan.from.get().cast_signed(),
                ":up_to": plan.up_to.get().cast_signed(),
            })?;
            while let Some(row) = rows.next()? {
                let columns = CandidateColumns::read(row, 0)?;
                let (candidate, bytes) = columns.decode(&leased)?;
                match plan.keeps(&candidate) {
                    Some(reason) => prunable.kept.push((candidate.sequence, reason)),
                    None => {
                        prunable.rows += 1;
                        prunable.bytes += bytes;
                    }
                }
            }
            Ok(prunable)
        })
    }

    fn rows_beyond(
        &self,
        table: BoundedTable,
        rule: &RowRule,
    ) -> Result<Option<RowMark>, StorageError> {
        rule.check_for(table)?;
        if let Some(is_cached) = is_cached(table) {
            return self.readers.read("looking for old keys", |connection| {
                keys_beyond(connection, table, is_cached, rule)
            });
        }
        let Some(max_rows) = rule.max_rows else {
            return Ok(None);
        };
        self.readers.read("looking for old rows", |connection| {
            let max_rows = i64::try_from(max_rows).unwrap_or(i64::MAX);
            let mut statement = connection.prepare_cached(sql(table).beyond)?;
            let mut rows = statement.query(named_params! { ":rows": max_rows })?;
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            let key: Option<i64> = row.get(1)?;
            let at = row.get_ref(0)?;
            let mark = key.map(|key| mark(table, at, key));
            Ok(mark.filter(|mark| RowMark::START < *mark))
        })
    }

    fn prunable_rows(&self, plan: &PruneRows) -> Result<Prunable, StorageError> {
        let now = self.config.clock.wall();
        self.readers.read("counting old rows", |connection| {
            let up_to = newest_doomed(connection, plan, now)?;
            let mut prunable = Prunable::default();
            let mut add = |sql| count(connection, sql, (plan.table, up_to), now, &mut prunable);
            add(sql(plan.table).count)?;
            if is_cached(plan.table).is_some() {
                add(statements::RETENTION_KEYS_EXPIRED_COUNT)?;
            }
            Ok(prunable)
        })
    }
}

/// The last key, in the order of use, that a rule of numbers and bytes does not keep.
/// Walks over what it keeps.
fn keys_beyond(
    connection: &Connection,
    table: BoundedTable,
    is_cached: bool,
    rule: &RowRule,
) -> Result<Option<RowMark>, ReadError> {
    if rule.max_rows.is_none() && rule.max_bytes.is_none() {
        return Ok(None);
    }
    let mut statement = connection.prepare_cached(sql(table).beyond)?;
    let mut rows = statement.query(named_params! { ":cached": is_cached })?;
    let (mut kept, mut bytes) = (0_u64, 0_u64);
    while let Some(row) = rows.next()? {
        let its_bytes: i64 = row.get(2)?;
        kept += 1;
        bytes = bytes.saturating_add(its_bytes.unsigned_abs());
        let few = rule.max_rows.is_none_or(|most| kept <= most);
        let small = rule.max_bytes.is_none_or(|most| bytes <= most);
        if !few || !small {
            return Ok(Some(mark(table, row.get_ref(0)?, row.get(1)?)));
        }
    }
    Ok(None)
}

/// Adds what a statement counts.
fn count(
    connection: &Connection,
    sql: &str,
    (table, up_to): (BoundedTable, RowMark),
    now: Timestamp,
    prunable: &mut Prunable,
) -> Result<(), ReadError> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, table, up_to)?;
    if let Some(at) = statement.parameter_index(":now")? {
        statement.raw_bind_parameter(at, now.to_text())?;
    }
    let mut rows = statement.raw_query();
    if let Some(row) = rows.next()? {
        let (rows, bytes): (i64, i64) = (row.get(0)?, row.get(1)?);
        prunable.rows += u64::try_from(rows).unwrap_or(0);
        prunable.bytes += u64::try_from(bytes).unwrap_or(0);
    }
    Ok(())
}

/// The last place in a table's order at which a row goes, by age or by number.
fn newest_doomed(
    connection: &Connection,
    plan: &PruneRows,
    now: Timestamp,
) -> Result<RowMark, ReadError> {
    let by_number = plan.up_to.unwrap_or(RowMark::START);
    let Some(age) = plan.max_age else {
        return Ok(by_number);
    };
    let before = now.minus(age);
    if plan.table != BoundedTable::AuditLines {
        // Keys begin at one: what is older stands before this.
        let by_age = RowMark { at: before, key: 0 };
        return Ok(by_number.max(by_age));
    }
    let first_young: Option<i64> = connection
        .prepare_cached(statements::RETENTION_AUDITS_FIRST_YOUNG)?
        .query_row(
            named_params! { ":key": by_number.key, ":before": before.to_text() },
            |row| row.get(1),
        )
        .optional()?;
    let key = first_young.map_or(i64::MAX, |young| young - 1);
    Ok(RowMark {
        key,
        ..RowMark::START
    })
}

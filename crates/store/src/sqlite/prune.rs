//! Removes what retention does not keep, inside the transaction of its group.
//!
//! A batch is bounded by rows, bytes and time, since everybody else waits for
//! its lock. Rows go one by one, the oldest first, each found by an index: what
//! the plan relied on is looked at again here, under the lock, and what the
//! index says is asked of the row itself as it goes, since a damaged one leads
//! to rows in doubt. The newest checkpoint of a task never goes, unless the task
//! goes. A row that cannot be judged stays, and holds no other up.

use agentos_core::limits::{PRUNE_BYTES_PER_BATCH, PRUNE_TIME_PER_BATCH};
use agentos_core::{
    BoundedTable, PartOutcome, PruneCandidate, PruneCheckpoints, PruneRows, Pruned, RowMark,
    SequenceNumber, Stopwatch, StorageError, TaskId, Timestamp, Verification, crash_point,
};
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, named_params};

use super::error::of;
use super::{checkpoints, statements};

const CONTEXT: &str = "pruning";

/// What is left of a batch. It is never spent before its first row, so that each
/// batch makes progress, however long a look takes.
struct Budget {
    watch: Stopwatch,
    is_whole: bool,
    rows: u32,
    bytes: u64,
}

impl Budget {
    fn of(rows: u32) -> Budget {
        Budget {
            watch: Stopwatch::start(),
            is_whole: true,
            rows,
            bytes: PRUNE_BYTES_PER_BATCH,
        }
    }

    fn is_spent(&self) -> bool {
        let is_over = PRUNE_TIME_PER_BATCH <= self.watch.elapsed();
        !self.is_whole && (self.rows == 0 || self.bytes == 0 || is_over)
    }

    fn spend(&mut self, bytes: u64) {
        self.is_whole = false;
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Removes a batch of a task's checkpoints.
pub(crate) fn prune_checkpoints(
    connection: &Connection,
    plan: &PruneCheckpoints,
) -> Result<PartOutcome, StorageError> {
    if is_stale(connection, plan)? {
        return Ok(PartOutcome::PruneStale);
    }
    let leased = leased(connection, &plan.task, plan.up_to)?;
    let mut budget = Budget::of(plan.rows);
    let mut pruned = Pruned {
        removed: 0,
        bytes: 0,
        unreadable: 0,
        next: None,
    };
    let mut from = plan.from;
    while let Some(row) = OldCheckpoint::find(connection, &plan.task, from, plan.up_to)? {
        if budget.is_spent() {
            pruned.next = Some(row.sequence);
            break;
        }
        let stays = plan.keeps(&row.candidate(&leased)).is_some();
        if !stays {
            row.delete(connection, &plan.task)?;
            pruned.removed += 1;
            pruned.bytes += row.bytes;
        }
        budget.spend(if stays { 0 } else { row.bytes });
        match row.sequence.get().checked_add(1).map(SequenceNumber::new) {
            Some(Ok(next)) => from = next,
            _ => break,
        }
    }
    crash_point!("prune.checkpoints_deleted");
    Ok(PartOutcome::CheckpointsPruned(pruned))
}

/// Whether the plan rests on what is no longer so.
fn is_stale(connection: &Connection, plan: &PruneCheckpoints) -> Result<bool, StorageError> {
    let newest: Option<i64> = prepare(connection, statements::CHECKPOINTS_NEWEST_NUMBER)?
        .query_row(
            named_params! { ":task": plan.task.as_str(), ":below": i64::MAX },
            |row| row.get(0),
        )
        .optional()
        .map_err(|error| of(&error, CONTEXT))?;
    if newest.is_none_or(|newest| newest <= plan.up_to.get().cast_signed()) {
        return Ok(true);
    }
    let Some(protect) = plan.protect else {
        return Ok(false);
    };
    let resumable = prepare(connection, statements::RETENTION_CHECKPOINTS_RESUMABLE)?
        .exists(named_params! {
            ":task": plan.task.as_str(),
            ":sequence": protect.get().cast_signed(),
        })
        .map_err(|error| of(&error, CONTEXT))?;
    Ok(!resumable)
}

/// The checkpoints, up to a number, that holders of open leases work from.
pub(crate) fn leased(
    connection: &Connection,
    task: &TaskId,
    up_to: SequenceNumber,
) -> Result<Vec<i64>, StorageError> {
    let read = || -> rusqlite::Result<Vec<i64>> {
        connection
            .prepare_cached(statements::RETENTION_CHECKPOINTS_LEASED)?
            .query_map(
                named_params! {
                    ":task": task.as_str(),
                    ":up_to": up_to.get().cast_signed(),
                },
                |row| row.get(0),
            )?
            .collect()
    };
    read().map_err(|error| of(&error, "reading which checkpoints are worked from"))
}

/// A checkpoint that a rule does not keep.
struct OldCheckpoint {
    key: i64,
    sequence: SequenceNumber,
    bytes: u64,
    carries_state: bool,
    verification: Verification,
}

impl OldCheckpoint {
    /// The oldest of a task within these numbers.
    fn find(
        connection: &Connection,
        task: &TaskId,
        from: SequenceNumber,
        up_to: SequenceNumber,
    ) -> Result<Option<OldCheckpoint>, StorageError> {
        let found = prepare(connection, statements::RETENTION_CHECKPOINTS_OLDEST)?
            .query_row(
                named_params! {
                    ":task": task.as_str(),
                    ":from": from.get().cast_signed(),
                    ":up_to": up_to.get().cast_signed(),
                },
                |row| Ok((row.get(0)?, CandidateColumns::read(row, 1)?)),
            )
            .optional()
            .map_err(|error| of(&error, CONTEXT))?;
        let Some((key, columns)) = found else {
            return Ok(None);
        };
        let (candidate, bytes) = columns.decode(&[])?;
        // A damaged index could lead elsewhere: nothing is removed on its word.
        if !(from..=up_to).contains(&candidate.sequence) {
            let what = format!("the index of the checkpoints of task {:?}", task.as_str());
            return Err(StorageError::corrupt(what, "it leads to another number"));
        }
        Ok(Some(OldCheckpoint {
            key,
            sequence: candidate.sequence,
            bytes,
            carries_state: candidate.carries_state,
            verification: candidate.verification,
        }))
    }

    fn candidate(&self, leased: &[i64]) -> PruneCandidate {
        PruneCandidate {
            sequence: self.sequence,
            carries_state: self.carries_state,
            verification: self.verification,
            leased: leased.contains(&self.sequence.get().cast_signed()),
        }
    }

    fn delete(&self, connection: &Connection, task: &TaskId) -> Result<(), StorageError> {
        let deleted = prepare(connection, statements::RETENTION_CHECKPOINTS_DELETE)?
            .execute(named_params! {
                ":checkpoint": self.key,
                ":task": task.as_str(),
                ":sequence": self.sequence.get().cast_signed(),
            })
            .map_err(|error| of(&error, CONTEXT))?;
        is_one(deleted, || {
            format!("the index of the checkpoints of task {:?}", task.as_str())
        })
    }
}

/// The columns by which a checkpoint is judged.
pub(crate) struct CandidateColumns {
    sequence: i64,
    bytes: i64,
    carries_state: bool,
    verification: String,
}

impl CandidateColumns {
    /// Reads them from column `at` on.
    pub(crate) fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<CandidateColumns> {
        Ok(CandidateColumns {
            sequence: row.get(at)?,
            bytes: row.get(at + 1)?,
            carries_state: row.get(at + 2)?,
            verification: row.get(at + 3)?,
        })
    }

    /// With the bytes of its state. A word that is none of ours makes a damaged
    /// row of it, and of no failed one: it must not keep the others from going.
    pub(crate) fn decode(self, leased: &[i64]) -> Result<(PruneCandidate, u64), StorageError> {
        let verification = Verification::parse(&self.verification);
        let verification = verification.unwrap_or(Verification::Unverified);
        let candidate = PruneCandidate {
            sequence: checkpoints::sequence(self.sequence)?,
            carries_state: self.carries_state,
            verification,
            leased: leased.contains(&self.sequence),
        };
        Ok((candidate, u64::try_from(self.bytes).unwrap_or(0)))
    }
}

/// The statements of a table.
pub(crate) struct TableSql {
    oldest: &'static str,
    delete: &'static str,
    pub(crate) beyond: &'static str,
    pub(crate) count: &'static str,
}

/// The statements of this table.
pub(crate) fn sql(table: BoundedTable) -> TableSql {
    use super::statements as s;
    let (oldest, delete, beyond, count) = match table {
        BoundedTable::AuditLines => (
            s::RETENTION_AUDITS_OLDEST,
            s::RETENTION_AUDITS_DELETE,
            s::RETENTION_AUDITS_BEYOND,
            s::RETENTION_AUDITS_COUNT,
        ),
        BoundedTable::FinishedWorkItems => (
            s::RETENTION_WORK_ITEMS_OLDEST,
            s::RETENTION_WORK_ITEMS_DELETE,
            s::RETENTION_WORK_ITEMS_BEYOND,
            s::RETENTION_WORK_ITEMS_COUNT,
        ),
        BoundedTable::DeadLetters => (
            s::RETENTION_DEAD_LETTERS_OLDEST,
            s::RETENTION_DEAD_LETTERS_DELETE,
            s::RETENTION_DEAD_LETTERS_BEYOND,
            s::RETENTION_DEAD_LETTERS_COUNT,
        ),
        BoundedTable::CacheEntries | BoundedTable::LedgerEntries => (
            s::RETENTION_KEYS_OLDEST,
            s::RETENTION_KEYS_DELETE,
            s::RETENTION_KEYS_NEWEST_FIRST,
            s::RETENTION_KEYS_COUNT,
        ),
        BoundedTable::FinishedTasks => (
            s::RETENTION_TASKS_OLDEST,
            s::RETENTION_TASKS_DELETE,
            s::RETENTION_TASKS_BEYOND,
            s::RETENTION_TASKS_COUNT,
        ),
    };
    TableSql {
        oldest,
        delete,
        beyond,
        count,
    }
}

/// Removes a batch of a table's rows.
pub(crate) fn prune_rows(
    connection: &Connection,
    plan: &PruneRows,
    now: Timestamp,
) -> Result<PartOutcome, StorageError> {
    let mut pruned = Pruned {
        removed: 0,
        bytes: 0,
        unreadable: 0,
        next: None,
    };
    let mut budget = Budget::of(plan.rows);
    if let Some(is_cached) = is_cached(plan.table) {
        prune_expired(
            connection,
            (plan.table, is_cached),
            now,
            &mut budget,
            &mut pruned,
        )?;
    }
    let sql = sql(plan.table);
    let before = plan.max_age.map(|age| now.minus(age));
    let mut after = plan.after;
    while before.is_some() || plan.up_to.is_some() {
        let Some(row) = OldRow::find(connection, sql.oldest, plan.table, after)? else {
            break;
        };
        let by_number = plan.up_to.is_some_and(|up_to| row.mark <= up_to);
        if !by_number && before.is_none_or(|before| before <= row.at) {
            break;
        }
        if budget.is_spent() {
            pruned.next = Some(after);
            break;
        }
        // Audit lines go by their number without a look at their moment.
        let is_judged = row.is_readable || (by_number && plan.table == BoundedTable::AuditLines);
        if !is_judged {
            if row.mark <= after {
                break;
            }
            pruned.unreadable += 1;
            budget.spend(0);
            after = row.mark;
            continue;
        }
        if let Some((task, is_spoken_of)) = &row.task {
            // A task that goes leaves no row behind that speaks of it. One that
            // stays for that is passed over, and looked at again next time.
            if *is_spoken_of {
                budget.spend(0);
                after = row.mark;
                continue;
            }
            if !prune_whole_task(connection, task, &mut budget)? {
                pruned.next = Some(after);
                break;
            }
        }
        delete(connection, sql.delete, plan.table, row.mark.key, row.at)?;
        budget.spend(row.bytes);
        pruned.removed += 1;
        pruned.bytes += row.bytes;
        after = row.mark;
    }
    crash_point!("prune.rows_deleted");
    Ok(PartOutcome::RowsPruned(pruned))
}

/// Of the tables of keys: whether it is the one of the model cache.
pub(crate) fn is_cached(table: BoundedTable) -> Option<bool> {
    match table {
        BoundedTable::CacheEntries => Some(true),
        BoundedTable::LedgerEntries => Some(false),
        BoundedTable::AuditLines
        | BoundedTable::FinishedWorkItems
        | BoundedTable::DeadLetters
        | BoundedTable::FinishedTasks => None,
    }
}

/// Removes keys whose time is over. Pending ones are in no index of these.
fn prune_expired(
    connection: &Connection,
    (table, is_cached): (BoundedTable, bool),
    now: Timestamp,
    budget: &mut Budget,
    pruned: &mut Pruned<RowMark>,
) -> Result<(), StorageError> {
    let text = now.to_text();
    loop {
        let found: Option<(i64, i64)> =
            prepare(connection, statements::RETENTION_KEYS_EXPIRED_OLDEST)?
                .query_row(
                    named_params! { ":now": text, ":cached": is_cached },
                    |row| Ok((row.get(0)?, row.get(2)?)),
                )
                .optional()
                .map_err(|error| of(&error, CONTEXT))?;
        let Some((key, bytes)) = found else {
            return Ok(());
        };
        if budget.is_spent() {
            pruned.next = Some(RowMark::START);
            return Ok(());
        }
        let bytes = u64::try_from(bytes).unwrap_or(0);
        let sql = statements::RETENTION_KEYS_EXPIRED_DELETE;
        delete(connection, sql, table, key, now)?;
        budget.spend(bytes);
        pruned.removed += 1;
        pruned.bytes += bytes;
    }
}

/// Removes a task's checkpoints, all of them, the oldest first, and what is recorded
/// under its keys: a task of the same name must not be told what this one did. `false`
/// when the budget ended before they did, or with them: then the task is left to the next
/// batch.
fn prune_whole_task(
    connection: &Connection,
    task: &TaskId,
    budget: &mut Budget,
) -> Result<bool, StorageError> {
    let last = SequenceNumber::new(i64::MAX.unsigned_abs())?;
    while let Some(row) = OldCheckpoint::find(connection, task, SequenceNumber::FIRST, last)? {
        if budget.is_spent() {
            return Ok(false);
        }
        row.delete(connection, task)?;
        budget.spend(row.bytes);
    }
    loop {
        let found: Option<(i64, i64)> =
            prepare(connection, statements::RETENTION_TASK_KEYS_RECORDED)?
                .query_row(named_params! { ":task": task.as_str() }, |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()
                .map_err(|error| of(&error, CONTEXT))?;
        let Some((key, bytes)) = found else { break };
        if budget.is_spent() {
            return Ok(false);
        }
        prepare(connection, statements::KEYS_DELETE)?
            .execute(named_params! { ":id": key })
            .map_err(|error| of(&error, CONTEXT))?;
        budget.spend(u64::try_from(bytes).unwrap_or(0));
    }
    Ok(!budget.is_spent())
}

/// A row that a rule may not keep.
struct OldRow {
    /// Its place; when it cannot be read, one behind it and before all that can.
    mark: RowMark,
    /// When it was last changed; when that cannot be read, no later than that.
    at: Timestamp,
    /// Whether it can be judged.
    is_readable: bool,
    bytes: u64,
    /// Of a task: its id, and whether a work item or a pending key speaks of it.
    task: Option<(TaskId, bool)>,
}

impl OldRow {
    fn find(
        connection: &Connection,
        sql: &str,
        table: BoundedTable,
        after: RowMark,
    ) -> Result<Option<OldRow>, StorageError> {
        let mut statement = prepare(connection, sql)?;
        bind(&mut statement, table, after).map_err(|error| of(&error, CONTEXT))?;
        let mut rows = statement.raw_query();
        let Some(row) = rows.next().map_err(|error| of(&error, CONTEXT))? else {
            return Ok(None);
        };
        OldRow::read(row, table)
            .map(Some)
            .map_err(|error| of(&error, CONTEXT))
    }

    fn read(row: &Row<'_>, table: BoundedTable) -> rusqlite::Result<OldRow> {
        let (key, bytes): (i64, i64) = (row.get(0)?, row.get(2)?);
        let stored = row.get_ref(1)?;
        let at = readable(stored);
        let (mut is_readable, mut task) = (at.is_some(), None);
        if table == BoundedTable::FinishedTasks {
            let id = row.get_ref(3)?.as_str().ok();
            match id.and_then(|id| TaskId::new(id).ok()) {
                Some(id) => task = Some((id, row.get(4)?)),
                None => is_readable = false,
            }
        }
        Ok(OldRow {
            mark: mark(table, stored, key),
            at: at.unwrap_or_else(|| match table {
                BoundedTable::AuditLines => Timestamp::MIN,
                _ => place_behind(stored).at,
            }),
            is_readable,
            bytes: u64::try_from(bytes).unwrap_or(0),
            task,
        })
    }
}

/// Binds what a statement knows of a table and a mark in it.
pub(crate) fn bind(
    statement: &mut CachedStatement<'_>,
    table: BoundedTable,
    mark: RowMark,
) -> rusqlite::Result<()> {
    if let (Some(cached), Some(at)) = (is_cached(table), statement.parameter_index(":cached")?) {
        statement.raw_bind_parameter(at, cached)?;
    }
    if let Some(at) = statement.parameter_index(":at")? {
        statement.raw_bind_parameter(at, mark.at.to_text())?;
    }
    if let Some(key) = statement.parameter_index(":key")? {
        statement.raw_bind_parameter(key, mark.key)?;
    }
    Ok(())
}

/// The place of a row in its table's order, by its stored moment. Audit lines are
/// in the order of their numbers: their moment needs no index then.
pub(crate) fn mark(table: BoundedTable, at: ValueRef<'_>, key: i64) -> RowMark {
    match (table, readable(at)) {
        (BoundedTable::AuditLines, _) => RowMark {
            at: RowMark::START.at,
            key,
        },
        (_, Some(at)) => RowMark { at, key },
        (_, None) => place_behind(at),
    }
}

/// A stored moment; `None` when it is none.
fn readable(at: ValueRef<'_>) -> Option<Timestamp> {
    at.as_str().ok().and_then(Timestamp::parse)
}

/// The place behind a moment that cannot be read, and before all behind it that
/// can: the engine's order is that of the bytes of the text.
fn place_behind(at: ValueRef<'_>) -> RowMark {
    let text = match at {
        ValueRef::Text(text) => text,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => b"",
        ValueRef::Blob(_) => &[u8::MAX],
    };
    let (mut least, mut most) = (Timestamp::MIN.unix_micros(), Timestamp::MAX.unix_micros());
    if Timestamp::MAX.to_text().as_bytes() <= text {
        return RowMark {
            at: Timestamp::MAX,
            key: i64::MAX,
        };
    }
    while least < most {
        let middle = least + (most - least) / 2;
        let moment = Timestamp::from_unix_micros(middle).to_text();
        if text < moment.as_bytes() {
            most = middle;
        } else {
            least = middle + 1;
        }
    }
    // Keys begin at one.
    RowMark {
        at: Timestamp::from_unix_micros(most),
        key: 0,
    }
}

/// Removes the row of this key, if it may go and its moment is this one: for
/// keys that have expired, is not after it.
fn delete(
    connection: &Connection,
    sql: &str,
    table: BoundedTable,
    key: i64,
    at: Timestamp,
) -> Result<(), StorageError> {
    let delete = || -> rusqlite::Result<usize> {
        let mut statement = connection.prepare_cached(sql)?;
        if let Some(index) = statement.parameter_index(":at")? {
            statement.raw_bind_parameter(index, at.to_text())?;
        }
        if let Some(index) = statement.parameter_index(":key")? {
            statement.raw_bind_parameter(index, key)?;
        }
        statement.raw_execute()
    };
    let deleted = delete().map_err(|error| of(&error, CONTEXT))?;
    is_one(deleted, || format!("an index of {table:?}"))
}

/// A row that an index told of, under the lock, is there and may go.
fn is_one(deleted: usize, what: impl FnOnce() -> String) -> Result<(), StorageError> {
    match deleted {
        1 => Ok(()),
        _ => Err(StorageError::corrupt(
            what(),
            "it leads to a row that may not go",
        )),
    }
}

fn prepare<'c>(connection: &'c Connection, sql: &str) -> Result<CachedStatement<'c>, StorageError> {
    connection
        .prepare_cached(sql)
        .map_err(|error| of(&error, "preparing a statement"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a walk that passes a text over misses no moment behind it, and meets
    /// none before it again.
    #[test]
    fn the_place_behind_a_text_is_the_least_moment_above_it() {
        for text in [
            "",
            "2026-00-01 00:00:00.000000",
            "2026-02-31 23:59:59.999999",
            "2026-01-01 00:00:00.00000x",
            "2026-01-01 00:00:60.000000",
            "0000-00-00 00:00:00.000000",
            "9999-12-30 21:59:59.99999x",
        ] {
            let mark = place_behind(ValueRef::Text(text.as_bytes()));
            assert_eq!(mark.key, 0, "{text}");
            assert!(text < mark.at.to_text().as_str(), "{text}: {mark:?}");
            let before = Timestamp::from_unix_micros(mark.at.unix_micros() - 1);
            let is_first = mark.at == Timestamp::MIN;
            assert!(is_first || before.to_text().as_str() < text, "{text}");
        }
        for beyond in [
            ValueRef::Text(b"never"),
            ValueRef::Text(b"\xff"),
            ValueRef::Blob(b""),
        ] {
            let mark = place_behind(beyond);
            assert_eq!((mark.at, mark.key), (Timestamp::MAX, i64::MAX));
        }
    }
}

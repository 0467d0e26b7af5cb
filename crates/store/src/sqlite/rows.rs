//! Questions about a row, for evidence: names are quoted, values bound.
//!
//! Columns are always written with their table: SQLite takes a quoted name that
//! is no column for a text, and evidence about a column that does not exist
//! would hold.

use std::path::Path;
use std::time::Duration;

use agentos_core::{RowAnswer, RowQuestion, RowSource, RowStorage, RowValue, StorageError};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ToSql, ffi, params_from_iter};

use super::SqliteStore;
use super::connection::{open_reader, set_up_reader};
use super::error::SqliteError;
use super::readers::ReadError;

impl RowStorage for SqliteStore {
    fn ask_row(&self, question: &RowQuestion) -> Result<RowAnswer, StorageError> {
        if question.key.is_empty() {
            return Ok(cannot_ask("no key column is given"));
        }
        match &question.source {
            RowSource::Store => self.readers.read("asking about a row", |connection| {
                match ask(connection, question) {
                    Ok(answer) => Ok(answer),
                    // No such table or column: an answer, not a fault of the store.
                    Err(error) if SqliteError::from(&error).primary() == ffi::SQLITE_ERROR => {
                        Ok(cannot_ask(&error.to_string()))
                    }
                    Err(error) => Err(ReadError::from(error)),
                }
            }),
            RowSource::SqliteFile(path) => ask_file(path, question, self.config.busy_timeout),
        }
    }
}

/// Asks another file. Whatever is wrong with it is an answer: it is not our store.
fn ask_file(
    path: &Path,
    question: &RowQuestion,
    busy: Duration,
) -> Result<RowAnswer, StorageError> {
    let connection = match open_reader(path) {
        Ok(connection) => connection,
        Err(error) => return busy_or_cannot_ask(error),
    };
    if let Err(error) = set_up_reader(&connection, busy) {
        return busy_or_cannot_ask(error);
    }
    match ask(&connection, question) {
        Ok(answer) => Ok(answer),
        Err(error) => busy_or_cannot_ask(super::error::of(&error, "asking another file")),
    }
}

fn busy_or_cannot_ask(error: StorageError) -> Result<RowAnswer, StorageError> {
    match error {
        StorageError::Busy { .. } => Err(error),
        StorageError::Corrupt { cause, .. } | StorageError::Internal { cause, .. } => {
            Ok(cannot_ask(&cause.to_string()))
        }
        error => Ok(cannot_ask(&error.to_string())),
    }
}

fn cannot_ask(reason: &str) -> RowAnswer {
    RowAnswer::CannotAsk {
        reason: reason.to_string(),
    }
}

fn ask(connection: &Connection, question: &RowQuestion) -> rusqlite::Result<RowAnswer> {
    let columns: Vec<String> = question
        .expected
        .iter()
        .map(|(name, _)| column(name))
        .collect();
    let key: Vec<String> = question
        .key
        .iter()
        .enumerate()
        .map(|(index, (name, _))| format!("{} IS ?{}", column(name), index + 1))
        .collect();
    let sql = format!(
        "SELECT {} FROM {} AS asked WHERE {} LIMIT 2",
        if columns.is_empty() {
            "1".to_string()
        } else {
            columns.join(", ")
        },
        quoted(&question.table),
        key.join(" AND "),
    );
    let mut statement = connection.prepare(&sql)?;
    let values = question.key.iter().map(|(_, value)| Bound(value));
    let mut rows = statement.query(params_from_iter(values))?;
    let Some(row) = rows.next()? else {
        return Ok(RowAnswer::Absent);
    };
    let mut differs = None;
    for (index, (name, expected)) in question.expected.iter().enumerate() {
        if !is_same(expected, row.get_ref(index)?) {
            differs = Some(name.clone());
            break;
        }
    }
    if rows.next()?.is_some() {
        return Ok(RowAnswer::Ambiguous);
    }
    Ok(differs.map_or(RowAnswer::Matches, |column| RowAnswer::Differs { column }))
}

fn column(name: &str) -> String {
    format!("asked.{}", quoted(name))
}

/// A name as SQL's quoted identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

struct Bound<'v>(&'v RowValue);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            RowValue::Null => ToSqlOutput::Owned(Value::Null),
            RowValue::Integer(integer) => ToSqlOutput::Owned(Value::Integer(*integer)),
            RowValue::Real(real) => ToSqlOutput::Owned(Value::Real(*real)),
            RowValue::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            RowValue::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

/// Same type and same value; a whole number may be an integer or a real.
fn is_same(expected: &RowValue, found: ValueRef<'_>) -> bool {
    match (expected, found) {
        (RowValue::Null, ValueRef::Null) => true,
        (RowValue::Integer(expected), ValueRef::Integer(found)) => *expected == found,
        (RowValue::Real(expected), ValueRef::Real(found)) => *expected == found,
        (RowValue::Integer(expected), ValueRef::Real(found)) => is_whole(found, *expected),
        (RowValue::Real(expected), ValueRef::Integer(found)) => is_whole(*expected, found),
        (RowValue::Text(expected), ValueRef::Text(found)) => expected.as_bytes() == found,
        (RowValue::Blob(expected), ValueRef::Blob(found)) => expected == found,
        _ => false,
    }
}

/// Whether a real is exactly this integer, within the range in which every
/// integer has a real of its own.
fn is_whole(real: f64, integer: i64) -> bool {
    const EXACT: i64 = 1 << 53;
    (-EXACT..=EXACT).contains(&integer) && real == integer as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                r#"CREATE TABLE "odd ""name" (id INTEGER PRIMARY KEY, "it's" TEXT, r REAL, b BLOB);
                   INSERT INTO "odd ""name" VALUES (1, 'x', 2, x'00ff'), (2, NULL, 0.5, NULL),
                                                   (9007199254740993, 'x', 3, NULL);"#,
            )
            .unwrap();
        connection
    }

    fn question(key: (&str, RowValue), expected: &[(&str, RowValue)]) -> RowQuestion {
        RowQuestion {
            source: RowSource::Store,
            table: "odd \"name".into(),
            key: vec![(key.0.into(), key.1)],
            expected: expected
                .iter()
                .map(|(name, value)| ((*name).into(), value.clone()))
                .collect(),
        }
    }

    #[test]
    fn rows_are_found_compared_and_told_apart() {
        use RowValue::{Blob, Integer, Null, Real, Text};
        let database = database();
        let x = || Text("x".into());
        for (question, answer) in [
            (question(("id", Integer(1)), &[]), RowAnswer::Matches),
            (question(("id", Integer(7)), &[]), RowAnswer::Absent),
            (question(("it's", x()), &[]), RowAnswer::Ambiguous),
            (
                question(("it's", Null), &[("id", Integer(2))]),
                RowAnswer::Matches,
            ),
            (
                question(("id", Integer(1)), &[("r", Integer(2))]),
                RowAnswer::Matches,
            ),
            (
                question(("id", Integer(2)), &[("r", Real(0.5))]),
                RowAnswer::Matches,
            ),
            (
                question(("id", Integer(1)), &[("b", Blob(vec![0, 255]))]),
                RowAnswer::Matches,
            ),
            (
                question(("id", Integer(1)), &[("it's", x()), ("b", Null)]),
                RowAnswer::Differs { column: "b".into() },
            ),
            // Integers beyond the reals stay exact.
            (
                question(("id", Integer(9_007_199_254_740_992)), &[]),
                RowAnswer::Absent,
            ),
        ] {
            assert_eq!(ask(&database, &question).unwrap(), answer, "{question:?}");
        }
    }

    #[test]
    fn a_column_that_does_not_exist_is_never_a_text() {
        let database = database();
        let question = question(
            ("no such column", RowValue::Text("no such column".into())),
            &[],
        );
        assert!(ask(&database, &question).is_err());
    }
}

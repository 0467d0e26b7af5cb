//! Evidence that a row is in a database: in the store's own, or in another
//! SQLite file. The question goes through the port, which quotes names and
//! binds values. Values are stored exactly as they are; another file is not
//! synced, since only its own engine may open it.

use std::path::{Path, PathBuf};

use agentos_core::limits::check_name;
use agentos_core::{
    InvalidInput, RowAnswer, RowQuestion, RowSource, RowValue, Storage, StorageError,
};
use serde::{Deserialize, Serialize};

use crate::error::{CheckpointError, with_causes};
use crate::evidence::{Check, check_path, hex, unhex};
use crate::paths::{Base, kind_in_words};

/// Exactly one row of a table has certain values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredRow", into = "StoredRow")]
pub struct DbRow(RowQuestion);

impl DbRow {
    /// A row of `table` in the store's own file. Name at least one
    /// [`key`](DbRow::key).
    pub fn new(table: impl Into<String>) -> DbRow {
        DbRow(RowQuestion {
            source: RowSource::Store,
            table: table.into(),
            key: Vec::new(),
            expected: Vec::new(),
        })
    }

    /// Looks in the SQLite file at this path, under the rules for all paths of
    /// evidence, instead of in the store.
    #[must_use]
    pub fn in_sqlite_file(mut self, path: impl Into<PathBuf>) -> DbRow {
        self.0.source = RowSource::SqliteFile(path.into());
        self
    }

    /// The row is the one with this value in this column; several together
    /// select it.
    #[must_use]
    pub fn key(mut self, column: impl Into<String>, value: RowValue) -> DbRow {
        self.0.key.push((column.into(), value));
        self
    }

    /// The row has this value in this column. Without any, it only exists.
    #[must_use]
    pub fn expected(mut self, column: impl Into<String>, value: RowValue) -> DbRow {
        self.0.expected.push((column.into(), value));
        self
    }

    /// The SQLite file, as it was given.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.0.source {
            RowSource::Store => None,
            RowSource::SqliteFile(path) => Some(path),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), CheckpointError> {
        let RowQuestion {
            source: _,
            table,
            key,
            expected,
        } = &self.0;
        check_name("table", table)?;
        if let Some(path) = self.path() {
            check_path(path)?;
        }
        if key.is_empty() {
            return Err(InvalidInput::new("row", "has no key").into());
        }
        for (column, value) in key.iter().chain(expected) {
            check_name("column", column)?;
            if matches!(value, RowValue::Real(real) if real.is_nan()) {
                let reason = "is not a number, which no column can hold";
                return Err(InvalidInput::new("row value", reason).into());
            }
        }
        Ok(())
    }

    /// Asks. An answer that never came because the store is busy or closed is
    /// an error: it says nothing about the row.
    pub(crate) fn check(
        &self,
        base: &Base<'_>,
        storage: &dyn Storage,
    ) -> Result<Check, CheckpointError> {
        let table = &self.0.table;
        let mut question = self.0.clone();
        if let RowSource::SqliteFile(path) = &mut question.source {
            let given = path.display();
            let found = match base.find(path) {
                Ok(found) => found,
                Err(problem) => return Ok(Check::failed(format!("{given} {problem}"))),
            };
            match &found.meta {
                None => return Ok(Check::failed(format!("{given} does not exist"))),
                Some(meta) if !meta.is_file() => {
                    let is = kind_in_words(meta);
                    return Ok(Check::failed(format!("{given} is {is}, not a file")));
                }
                Some(_) => *path = found.place.path,
            }
        }
        let reason = match storage.ask_row(&question) {
            Ok(RowAnswer::Matches) => return Ok(Check::Passed),
            Ok(RowAnswer::Absent) => format!("no row of {table:?} has that key"),
            Ok(RowAnswer::Ambiguous) => format!("more than one row of {table:?} has that key"),
            Ok(RowAnswer::Differs { column }) => {
                format!("the row of {table:?} has another value in {column:?}")
            }
            Ok(RowAnswer::CannotAsk { reason }) => reason,
            Err(error) if error.is_transient() || matches!(error, StorageError::Closed) => {
                return Err(error.into());
            }
            Err(error) => format!(
                "the row of {table:?} could not be asked for: {}",
                with_causes(&error)
            ),
        };
        Ok(Check::failed(reason))
    }
}

impl From<RowQuestion> for DbRow {
    fn from(question: RowQuestion) -> DbRow {
        DbRow(question)
    }
}

/// A question as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRow {
    source: StoredSource,
    table: String,
    key: Vec<(String, StoredValue)>,
    expected: Vec<(String, StoredValue)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredSource {
    Store,
    SqliteFile(PathBuf),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredValue {
    Null,
    Integer(i64),
    /// As text, which Rust writes and reads exactly: JSON has no infinity.
    Real(String),
    Text(String),
    /// Lower-case hexadecimal.
    Blob(String),
}

impl From<DbRow> for StoredRow {
    fn from(row: DbRow) -> StoredRow {
        let values = |values: Vec<(String, RowValue)>| {
            values
                .into_iter()
                .map(|(column, value)| (column, StoredValue::from(value)))
                .collect()
        };
        let question = row.0;
        StoredRow {
            source: match question.source {
                RowSource::Store => StoredSource::Store,
                RowSource::SqliteFile(path) => StoredSource::SqliteFile(path),
            },
            table: question.table,
            key: values(question.key),
            expected: values(question.expected),
        }
    }
}

impl TryFrom<StoredRow> for DbRow {
    type Error = String;

    fn try_from(row: StoredRow) -> Result<DbRow, String> {
        let values = |values: Vec<(String, StoredValue)>| {
            values
                .into_iter()
                .map(|(column, value)| Ok((column, RowValue::try_from(value)?)))
                .collect::<Result<_, String>>()
        };
        Ok(DbRow(RowQuestion {
            source: match row.source {
                StoredSource::Store => RowSource::Store,
                StoredSource::SqliteFile(path) => RowSource::SqliteFile(path),
            },
            table: row.table,
            key: values(row.key)?,
            expected: values(row.expected)?,
        }))
    }
}

impl From<RowValue> for StoredValue {
    fn from(value: RowValue) -> StoredValue {
        match value {
            RowValue::Null => StoredValue::Null,
            RowValue::Integer(integer) => StoredValue::Integer(integer),
            RowValue::Real(real) => StoredValue::Real(format!("{real:?}")),
            RowValue::Text(text) => StoredValue::Text(text),
            RowValue::Blob(bytes) => StoredValue::Blob(hex(&bytes)),
        }
    }
}

impl TryFrom<StoredValue> for RowValue {
    type Error = String;

    fn try_from(value: StoredValue) -> Result<RowValue, String> {
        Ok(match value {
            StoredValue::Null => RowValue::Null,
            StoredValue::Integer(integer) => RowValue::Integer(integer),
            StoredValue::Real(real) => match real.parse() {
                Ok(real) => RowValue::Real(real),
                Err(_) => return Err(format!("{real:?} is no real number")),
            },
            StoredValue::Text(text) => RowValue::Text(text),
            StoredValue::Blob(digits) => match unhex(&digits) {
                Some(bytes) => RowValue::Blob(bytes),
                None => return Err("a blob is not hexadecimal".into()),
            },
        })
    }
}

#[cfg(test)]
mod tests;

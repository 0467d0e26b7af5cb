//! Questions about a row, for evidence of the kind "a row is there".

use std::path::PathBuf;

/// Where the row is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowSource {
    /// In the database of this store.
    Store,
    /// In another SQLite file, opened read-only.
    SqliteFile(PathBuf),
}

/// A value in a column. Integers stay exact; reals compare by value.
#[derive(Debug, Clone, PartialEq)]
pub enum RowValue {
    /// NULL.
    Null,
    /// A signed integer of 64 bits.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

/// "Is there exactly one row in `table` with these `key` values, and does it
/// have these `expected` values?"
#[derive(Debug, Clone, PartialEq)]
pub struct RowQuestion {
    /// Where to look.
    pub source: RowSource,
    /// Table name; quoted, never interpreted.
    pub table: String,
    /// Columns and values that select the row; at least one.
    pub key: Vec<(String, RowValue)>,
    /// Columns and values that it must have; none means that it only exists.
    pub expected: Vec<(String, RowValue)>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub enum RowAnswer {
    /// Exactly one row, with the expected values.
    Matches,
    /// No row has that key.
    Absent,
    /// More than one row has that key.
    Ambiguous,
    /// The row has another value in this column.
    Differs {
        /// The first such column.
        column: String,
    },
    /// The question could not be asked: no such file, table or column.
    CannotAsk {
        /// Why.
        reason: String,
    },
}

//! Engine codes to [`StorageError`], by SQLite's extended result codes
//! (<https://sqlite.org/rescode.html>), never by message text.

use std::io;
use std::path::Path;
use std::time::Duration;

use agentos_core::{BoxError, LimitExceeded, StorageError};
use rusqlite::{Connection, ffi};

/// What SQLite answered. Copied out of its error, so that every member of a
/// group can be told.
#[derive(Debug, Clone, thiserror::Error)]
#[error("SQLite {code}: {message}")]
pub(crate) struct SqliteError {
    /// Extended result code.
    pub(crate) code: i32,
    /// For people.
    pub(crate) message: String,
}

impl SqliteError {
    /// The primary result code.
    pub(crate) fn primary(&self) -> i32 {
        self.code & 0xff
    }
}

impl From<&rusqlite::Error> for SqliteError {
    fn from(error: &rusqlite::Error) -> SqliteError {
        let code = match error {
            rusqlite::Error::SqliteFailure(failure, _) => failure.extended_code,
            rusqlite::Error::SqlInputError { error, .. } => error.extended_code,
            // A stored value of another type, or text that is not UTF-8: the
            // schema takes neither, so something else wrote it.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..) => ffi::SQLITE_CORRUPT,
            _ => ffi::SQLITE_ERROR,
        };
        SqliteError {
            code,
            message: error.to_string(),
        }
    }
}

/// An error outside of COMMIT: nothing was written.
pub(crate) fn of(error: &rusqlite::Error, context: &'static str) -> StorageError {
    of_sqlite(SqliteError::from(error), context)
}

/// As [`of`], from an answer that was kept.
pub(crate) fn of_sqlite(error: SqliteError, context: &'static str) -> StorageError {
    match error.primary() {
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => StorageError::Busy {
            waited: Duration::ZERO,
        },
        ffi::SQLITE_FULL => StorageError::DiskFull(error.into()),
        ffi::SQLITE_READONLY | ffi::SQLITE_PERM | ffi::SQLITE_AUTH => {
            StorageError::ReadOnly(error.into())
        }
        ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => StorageError::Corrupt {
            what: "the database file".into(),
            cause: error.into(),
        },
        ffi::SQLITE_IOERR if error.code == ffi::SQLITE_IOERR_CORRUPTFS => StorageError::Corrupt {
            what: "the file system".into(),
            cause: error.into(),
        },
        ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN | ffi::SQLITE_NOMEM | ffi::SQLITE_PROTOCOL => {
            StorageError::Io(error.into())
        }
        ffi::SQLITE_TOOBIG => LimitExceeded {
            name: "bytes of one value in SQLite",
            limit: 1_000_000_000,
            value: 1_000_000_001,
        }
        .into(),
        _ => StorageError::Internal {
            context: context.into(),
            cause: error.into(),
        },
    }
}

/// An error at COMMIT. After a full disk the transaction is gone, as after a
/// refused lock; after anything else that touches the disk nobody knows.
pub(crate) fn of_commit(error: SqliteError) -> StorageError {
    match error.primary() {
        ffi::SQLITE_IOERR | ffi::SQLITE_CORRUPT | ffi::SQLITE_NOMEM | ffi::SQLITE_CANTOPEN => {
            StorageError::CommitUnknown(error.into())
        }
        _ => of_sqlite(error, "committing"),
    }
}

/// Whether an error says that what the connection has read and cached cannot be
/// trusted. A row that is not what it should be does not.
pub(crate) fn spoils_connection(error: &StorageError) -> bool {
    match error {
        StorageError::Io(_) => true,
        StorageError::Corrupt { cause, .. } => cause.is::<SqliteError>(),
        _ => false,
    }
}

/// Whether an error inside a transaction is one of all of it, and not of the row
/// that was worked on.
pub(crate) fn is_fatal(connection: &Connection, error: &StorageError) -> bool {
    connection.is_autocommit()
        || matches!(
            error,
            StorageError::DiskFull(_)
                | StorageError::ReadOnly(_)
                | StorageError::Io(_)
                | StorageError::Busy { .. }
        )
}

/// An error of the operating system about a file beside the database.
pub(crate) fn of_io(error: io::Error, path: &Path) -> StorageError {
    let kind = error.kind();
    let cause: BoxError = format!("{}: {error}", path.display()).into();
    match kind {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StorageError::ReadOnly(cause)
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::DiskFull(cause),
        _ => StorageError::Io(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(code: i32) -> StorageError {
        of_sqlite(
            SqliteError {
                code,
                message: "text that must not matter".into(),
            },
            "testing",
        )
    }

    #[test]
    fn codes_decide_and_extended_codes_fall_to_their_class() {
        assert!(matches!(
            typed(ffi::SQLITE_BUSY_SNAPSHOT),
            StorageError::Busy { .. }
        ));
        assert!(matches!(typed(ffi::SQLITE_FULL), StorageError::DiskFull(_)));
        assert!(matches!(
            typed(ffi::SQLITE_READONLY_DBMOVED),
            StorageError::ReadOnly(_)
        ));
        assert!(matches!(
            typed(ffi::SQLITE_CORRUPT_INDEX),
            StorageError::Corrupt { .. }
        ));
        assert!(matches!(
            typed(ffi::SQLITE_NOTADB),
            StorageError::Corrupt { .. }
        ));
        assert!(matches!(
            typed(ffi::SQLITE_IOERR_FSYNC),
            StorageError::Io(_)
        ));
        assert!(matches!(
            typed(ffi::SQLITE_IOERR_CORRUPTFS),
            StorageError::Corrupt { .. }
        ));
        assert!(matches!(
            typed(ffi::SQLITE_TOOBIG),
            StorageError::LimitExceeded(_)
        ));
        assert!(matches!(
            typed(ffi::SQLITE_CONSTRAINT_CHECK),
            StorageError::Internal { .. }
        ));
    }

    #[test]
    fn at_commit_a_failed_sync_is_unknown_and_a_full_disk_is_not() {
        let at_commit = |code| {
            of_commit(SqliteError {
                code,
                message: "text that must not matter".into(),
            })
        };
        assert!(matches!(
            at_commit(ffi::SQLITE_IOERR_FSYNC),
            StorageError::CommitUnknown(_)
        ));
        assert!(matches!(
            at_commit(ffi::SQLITE_IOERR_WRITE),
            StorageError::CommitUnknown(_)
        ));
        assert!(matches!(
            at_commit(ffi::SQLITE_FULL),
            StorageError::DiskFull(_)
        ));
        assert!(matches!(
            at_commit(ffi::SQLITE_BUSY),
            StorageError::Busy { .. }
        ));
    }
}

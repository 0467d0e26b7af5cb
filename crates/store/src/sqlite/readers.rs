//! Read-only connections, pooled.
//!
//! Readers never wait for the writer. A connection that met an I/O error or
//! damage is closed and not lent again: the pool itself would not notice.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentos_core::{Deadline, StorageError};
use parking_lot::RwLock;
use r2d2::ManageConnection;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, ffi};

use super::connection::{open_reader, read_only, set_up_reader};
use super::error::{SqliteError, of_sqlite};
use crate::sync::{Condvar, Mutex};

/// The readers of one store.
pub(crate) struct Readers {
    path: PathBuf,
    size: u32,
    busy: Duration,
    pool: RwLock<Pool>,
    census: Arc<Census>,
}

enum Pool {
    /// Made at the first read.
    Absent,
    Open(r2d2::Pool<Manager>),
    Closed,
}

/// How many readers are open. The pool opens some in a thread of its own, and
/// may still do so after it was dropped: closing waits for those too.
#[derive(Default)]
struct Census {
    state: Mutex<CensusState>,
    changed: Condvar,
}

#[derive(Default)]
struct CensusState {
    open: usize,
    closing: bool,
}

/// Opens readers, and tells the pool which are broken.
struct Manager {
    files: SqliteConnectionManager,
    busy: Duration,
    census: Arc<Census>,
    /// The reader that the pool begins with, until it asks for one.
    first: Mutex<Option<Reader>>,
}

/// A reader and whether it may be lent again.
struct Reader {
    /// `None` only while it is being dropped.
    connection: Option<Connection>,
    broken: bool,
    census: Arc<Census>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.connection.take()); // closed first, then counted
        self.census.state.lock().open -= 1;
        self.census.changed.notify_all();
    }
}

impl Readers {
    pub(crate) fn new(path: &Path, size: u32, busy: Duration) -> Readers {
        Readers {
            path: path.to_path_buf(),
            size,
            busy,
            pool: RwLock::new(Pool::Absent),
            census: Arc::default(),
        }
    }

    /// Closes all readers, lent ones when they come back. The next read opens
    /// new ones.
    pub(crate) fn discard(&self) {
        let mut pool = self.pool.write();
        if !matches!(*pool, Pool::Closed) {
            *pool = Pool::Absent;
        }
    }

    /// Closes all readers; later reads are refused. Waits for readers that are
    /// lent or just being opened, at most as long as for a busy database.
    pub(crate) fn close(&self) {
        let deadline = Deadline::after(self.busy);
        *self.pool.write() = Pool::Closed;
        let mut state = self.census.state.lock();
        state.closing = true;
        while state.open > 0 && !deadline.passed() {
            (state, _) = self.census.changed.wait_until(state, &deadline);
        }
        if state.open > 0 {
            tracing::warn!(
                open = state.open,
                "readers are still open after the store was closed"
            );
        }
    }

    fn pool(&self) -> Result<r2d2::Pool<Manager>, StorageError> {
        match &*self.pool.read() {
            Pool::Open(pool) => return Ok(pool.clone()),
            Pool::Closed => return Err(StorageError::Closed),
            Pool::Absent => {}
        }
        let mut slot = self.pool.write();
        match &*slot {
            Pool::Open(pool) => Ok(pool.clone()),
            Pool::Closed => Err(StorageError::Closed),
            Pool::Absent => {
                let pool = self.open_pool()?;
                *slot = Pool::Open(pool.clone());
                Ok(pool)
            }
        }
    }

    fn open_pool(&self) -> Result<r2d2::Pool<Manager>, StorageError> {
        // The pool would try again until its time is over, and say only that.
        let first = self.open_first()?;
        let files = SqliteConnectionManager::file(&self.path).with_flags(read_only());
        let pool = r2d2::Pool::builder()
            .max_size(self.size)
            .min_idle(Some(1))
            .idle_timeout(None)
            .max_lifetime(None)
            .test_on_check_out(false)
            .connection_timeout(self.busy.max(Duration::from_millis(1)))
            .error_handler(Box::new(LogErrors));
        let manager = Manager {
            files,
            busy: self.busy,
            census: Arc::clone(&self.census),
            first: Mutex::new(Some(first)),
        };
        // It panics when the system has no room for its threads.
        catch_unwind(AssertUnwindSafe(|| pool.build_unchecked(manager)))
            .map_err(|_| StorageError::Io("no thread is left that opens readers".into()))
    }

    /// The reader that the pool begins with. Nobody closes meanwhile: the place of the
    /// pool is locked.
    fn open_first(&self) -> Result<Reader, StorageError> {
        self.census.state.lock().open += 1;
        // From here on, dropping the reader counts it out again.
        let mut reader = Reader {
            connection: None,
            broken: false,
            census: Arc::clone(&self.census),
        };
        let connection = open_reader(&self.path)?;
        set_up_reader(&connection, self.busy)?;
        reader.connection = Some(connection);
        Ok(reader)
    }

    /// The pool says only that no reader came in time. Opening one tells
    /// whether all were lent or none could be opened.
    fn why_none(&self, deadline: &Deadline) -> StorageError {
        let opened = open_reader(&self.path).and_then(|reader| set_up_reader(&reader, self.busy));
        match opened {
            Err(error) => error,
            Ok(()) => StorageError::Busy {
                waited: deadline.waited(),
            },
        }
    }

    /// Reads with a connection of the pool. The closure must finish its
    /// statements before it returns, so that no read transaction outlives it.
    pub(crate) fn read<R>(
        &self,
        context: &'static str,
        read: impl FnOnce(&Connection) -> Result<R, ReadError>,
    ) -> Result<R, StorageError> {
        let pool = self.pool()?;
        let deadline = Deadline::after(self.busy);
        let mut reader = pool.get().map_err(|_| self.why_none(&deadline))?;
        let connection = reader.connection.as_ref().ok_or(StorageError::Closed)?;
        match read(connection) {
            Ok(value) => Ok(value),
            Err(ReadError::Storage(error)) => Err(error),
            Err(ReadError::Sqlite(error)) => {
                reader.broken = matches!(
                    error.primary(),
                    ffi::SQLITE_IOERR
                        | ffi::SQLITE_CORRUPT
                        | ffi::SQLITE_NOTADB
                        | ffi::SQLITE_CANTOPEN
                        | ffi::SQLITE_NOMEM
                );
                Err(match of_sqlite(error, context) {
                    StorageError::Busy { .. } => StorageError::Busy {
                        waited: deadline.waited(),
                    },
                    error => error,
                })
            }
        }
    }
}

/// Why a read failed: the engine, or what it read.
pub(crate) enum ReadError {
    Sqlite(SqliteError),
    Storage(StorageError),
}

impl ReadError {
    /// As an error of the writer's connection.
    pub(crate) fn into_storage(self, context: &'static str) -> StorageError {
        match self {
            ReadError::Sqlite(error) => of_sqlite(error, context),
            ReadError::Storage(error) => error,
        }
    }
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> ReadError {
        ReadError::Sqlite(SqliteError::from(&error))
    }
}

impl From<StorageError> for ReadError {
    fn from(error: StorageError) -> ReadError {
        ReadError::Storage(error)
    }
}

impl ManageConnection for Manager {
    type Connection = Reader;
    type Error = rusqlite::Error;

    fn connect(&self) -> rusqlite::Result<Reader> {
        {
            let mut state = self.census.state.lock();
            if state.closing {
                let closed = ffi::Error::new(ffi::SQLITE_MISUSE);
                return Err(rusqlite::Error::SqliteFailure(closed, None));
            }
            if let Some(first) = self.first.lock().take() {
                return Ok(first);
            }
            state.open += 1;
        }
        // From here on, dropping the reader counts it out again.
        let mut reader = Reader {
            connection: None,
            broken: false,
            census: Arc::clone(&self.census),
        };
        let connection = self.files.connect()?;
        set_up_reader(&connection, self.busy)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        reader.connection = Some(connection);
        Ok(reader)
    }

    fn is_valid(&self, reader: &mut Reader) -> rusqlite::Result<()> {
        match &mut reader.connection {
            Some(connection) => self.files.is_valid(connection),
            None => Ok(()),
        }
    }

    fn has_broken(&self, reader: &mut Reader) -> bool {
        // A read that left a transaction open must not reach the next borrower.
        let left_open = |connection: &Connection| !connection.is_autocommit();
        reader.broken || reader.connection.as_ref().is_none_or(left_open)
    }
}

#[derive(Debug)]
struct LogErrors;

impl r2d2::HandleError<rusqlite::Error> for LogErrors {
    fn handle_error(&self, error: rusqlite::Error) {
        tracing::warn!(%error, "a reader could not be opened");
    }
}

//! What a shim can make go wrong, and what it counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::code;

/// What SQLite asks of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// A file is opened or created.
    Open,
    /// Bytes are read.
    Read,
    /// Bytes are written.
    Write,
    /// The length is set.
    Truncate,
    /// A file is synced, and its directory with it where SQLite asks for that.
    Sync,
    /// A file is deleted.
    Delete,
    /// Somebody asks whether a file is there.
    Access,
    /// Somebody asks how long a file is.
    Size,
    /// A lock is taken.
    Lock,
    /// A piece of the shared memory of a WAL is mapped.
    Shared,
}

/// How many operations there are.
const OPERATIONS: usize = 10;

impl Operation {
    /// All of them.
    pub const ALL: [Operation; OPERATIONS] = [
        Operation::Open,
        Operation::Read,
        Operation::Write,
        Operation::Truncate,
        Operation::Sync,
        Operation::Delete,
        Operation::Access,
        Operation::Size,
        Operation::Lock,
        Operation::Shared,
    ];

    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Open => "open",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Truncate => "truncate",
            Operation::Sync => "sync",
            Operation::Delete => "delete",
            Operation::Access => "access",
            Operation::Size => "size",
            Operation::Lock => "lock",
            Operation::Shared => "shared",
        }
    }

    /// What SQLite says when the disk fails at this.
    fn io_error(self) -> i32 {
        match self {
            Operation::Open => code::SQLITE_CANTOPEN,
            Operation::Read => code::SQLITE_IOERR_READ,
            Operation::Write => code::SQLITE_IOERR_WRITE,
            Operation::Truncate => code::SQLITE_IOERR_TRUNCATE,
            Operation::Sync => code::SQLITE_IOERR_FSYNC,
            Operation::Delete => code::SQLITE_IOERR_DELETE,
            Operation::Access => code::SQLITE_IOERR_ACCESS,
            Operation::Size => code::SQLITE_IOERR_FSTAT,
            Operation::Lock => code::SQLITE_IOERR_LOCK,
            Operation::Shared => code::SQLITE_IOERR_SHMMAP,
        }
    }
}

/// What a file is to SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKind {
    /// A database.
    Main,
    /// A write-ahead log.
    Wal,
    /// A rollback journal, or one over several databases.
    Journal,
    /// A file that nobody needs after a crash. It is never recorded.
    Temporary,
}

/// What an operation that is made to fail answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The disk failed: the I/O error of that operation (`SQLITE_IOERR_READ`,
    /// `SQLITE_IOERR_FSYNC`, …; for an open `SQLITE_CANTOPEN`).
    IoError,
    /// The disk is full: `SQLITE_FULL`.
    Full,
    /// This result code of SQLite.
    Code(i32),
}

/// Calls that fail: of one operation, from the n-th on, so many. A call that
/// is made to fail does nothing. Files without a name, in which SQLite sorts and
/// keeps temporary tables, are left alone, and are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    operation: Operation,
    kind: Option<FileKind>,
    from: u64,
    count: u64,
    answer: Answer,
}

impl Fault {
    /// The first call of this operation fails, and every later one, with the
    /// operation's I/O error.
    pub fn of(operation: Operation) -> Fault {
        Fault {
            operation,
            kind: None,
            from: 1,
            count: u64::MAX,
            answer: Answer::IoError,
        }
    }

    /// Only calls about files of this kind count and fail.
    #[must_use]
    pub fn on(mut self, kind: FileKind) -> Fault {
        self.kind = Some(kind);
        self
    }

    /// The first call that fails, counted from 1 since the fault was set.
    #[must_use]
    pub fn from_nth(mut self, nth: u64) -> Fault {
        self.from = nth.max(1);
        self
    }

    /// How many calls fail before the machine is sound again.
    #[must_use]
    pub fn times(mut self, count: u64) -> Fault {
        self.count = count;
        self
    }

    /// What they answer.
    #[must_use]
    pub fn answer(mut self, answer: Answer) -> Fault {
        self.answer = answer;
        self
    }
}

/// A fault, with what it has seen.
#[derive(Debug)]
pub(crate) struct ActiveFault {
    fault: Fault,
    seen: AtomicU64,
}

impl ActiveFault {
    pub(crate) fn new(fault: Fault) -> ActiveFault {
        ActiveFault {
            fault,
            seen: AtomicU64::new(0),
        }
    }

    /// The result code that this call gets, if it is to fail.
    pub(crate) fn strikes(&self, operation: Operation, kind: FileKind) -> Option<i32> {
        let fault = &self.fault;
        if fault.operation != operation || fault.kind.is_some_and(|only| only != kind) {
            return None;
        }
        let nth = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if nth < fault.from || nth - fault.from >= fault.count {
            return None;
        }
        Some(match fault.answer {
            Answer::IoError => operation.io_error(),
            Answer::Full => code::SQLITE_FULL,
            Answer::Code(code) => code,
        })
    }
}

/// How often SQLite has asked for each operation, failed calls included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    calls: [u64; OPERATIONS],
    failed: u64,
}

impl Counts {
    /// Calls of one operation.
    pub fn of(&self, operation: Operation) -> u64 {
        self.calls[operation as usize]
    }

    /// Calls that were made to fail.
    pub fn failed(&self) -> u64 {
        self.failed
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    calls: [AtomicU64; OPERATIONS],
    failed: AtomicU64,
}

impl Counters {
    pub(crate) fn count(&self, operation: Operation) {
        self.calls[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counts {
        Counts {
            calls: std::array::from_fn(|at| self.calls[at].load(Ordering::Relaxed)),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

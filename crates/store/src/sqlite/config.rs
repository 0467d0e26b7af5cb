//! How a store is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentos_core::limits::{
    BALLAST_BYTES_DEFAULT, BALLAST_BYTES_MAX, BUSY_TIMEOUT_DEFAULT, BUSY_TIMEOUT_MAX,
    INTEGRITY_AGE_DEFAULT, LOG_BYTES_DEFAULT, LOG_BYTES_MAX, LOG_BYTES_MIN, READERS_DEFAULT,
    READERS_MAX, check_size,
};
use agentos_core::{Clock, InvalidInput, LimitExceeded, Limits, StorageError, SystemClock};

/// What an acknowledged commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The death of any process, and the loss of power. One sync a group of
    /// commits (`synchronous=FULL`).
    #[default]
    Full,
    /// The death of any process. A power cut may lose a suffix of the last
    /// commits, never the middle, and never corrupts (`synchronous=NORMAL`).
    Relaxed,
}

impl Durability {
    /// The value of SQLite's `synchronous`.
    pub(crate) const fn synchronous(self) -> i64 {
        match self {
            Durability::Full => 2,
            Durability::Relaxed => 1,
        }
    }
}

/// How a store is opened.
#[derive(Clone)]
pub struct Config {
    pub(crate) path: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) busy_timeout: Duration,
    pub(crate) readers: u32,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ballast_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) integrity_age: Duration,
    pub(crate) allow_unsafe_file_system: bool,
    pub(crate) skip_check_after_crash: bool,
}

impl Config {
    /// The database at `path`, made when it is not there, with the defaults:
    /// `Durability::Full`, a busy timeout of 5 s, 4 readers, the system's clock,
    /// a ballast of 16 MiB, a write-ahead log of at most 1 GiB.
    pub fn at(path: impl AsRef<Path>) -> Config {
        Config {
            path: path.as_ref().to_path_buf(),
            durability: Durability::default(),
            busy_timeout: BUSY_TIMEOUT_DEFAULT,
            readers: READERS_DEFAULT,
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
            ballast_bytes: BALLAST_BYTES_DEFAULT,
            log_bytes: LOG_BYTES_DEFAULT,
            integrity_age: INTEGRITY_AGE_DEFAULT,
            allow_unsafe_file_system: false,
            skip_check_after_crash: false,
        }
    }

    /// What an acknowledged commit survives.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Config {
        self.durability = durability;
        self
    }

    /// How long a caller waits for the write lock before it gets
    /// [`StorageError::Busy`].
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Config {
        self.busy_timeout = timeout;
        self
    }

    /// How many read-only connections the store may open.
    #[must_use]
    pub fn readers(mut self, readers: u32) -> Config {
        self.readers = readers;
        self
    }

    /// The bounds of what can be stored.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Config {
        self.limits = limits;
        self
    }

    /// The clock of the text columns.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Config {
        self.clock = Arc::new(clock);
        self
    }

    /// Bytes of the file beside the database that is given up when the disk is
    /// full, so that recovery and pruning go on; zero for none. All processes
    /// that open one database should agree on it.
    #[must_use]
    pub fn ballast_bytes(mut self, bytes: u64) -> Config {
        self.ballast_bytes = bytes;
        self
    }

    /// Bytes of the write-ahead log beyond which no commit is taken
    /// ([`StorageError::LogFull`]). It grows while a reader does not end, a
    /// backup among them.
    #[must_use]
    pub fn log_bytes(mut self, bytes: u64) -> Config {
        self.log_bytes = bytes;
        self
    }

    /// How old the last [`check_integrity`](super::SqliteStore::check_integrity)
    /// may be before the doctor warns.
    #[must_use]
    pub fn integrity_age(mut self, age: Duration) -> Config {
        self.integrity_age = age;
        self
    }

    /// Opens the database also on a network file system or FUSE. Only for one on
    /// which you know that locks hold and memory is shared: on any other,
    /// processes that write at the same time damage the database.
    #[must_use]
    pub fn allow_unsafe_file_system(mut self, allow: bool) -> Config {
        self.allow_unsafe_file_system = allow;
        self
    }

    /// Opens the database after a crash without looking through it first, which
    /// takes about 1.2 s a GiB. Damage is then found when it is met.
    #[must_use]
    pub fn skip_check_after_crash(mut self, skip: bool) -> Config {
        self.skip_check_after_crash = skip;
        self
    }

    pub(crate) fn check(&self) -> Result<(), StorageError> {
        self.limits.check()?;
        check_bytes(
            "configured ballast bytes",
            self.ballast_bytes,
            BALLAST_BYTES_MAX,
        )?;
        check_bytes("configured log bytes", self.log_bytes, LOG_BYTES_MAX)?;
        if self.log_bytes < LOG_BYTES_MIN {
            let reason = format!("are below {LOG_BYTES_MIN}");
            return Err(InvalidInput::new("configured log bytes", reason).into());
        }
        check_size(
            "configured readers",
            self.readers as usize,
            READERS_MAX as usize,
        )?;
        let timeout_ms = usize::try_from(self.busy_timeout.as_millis()).unwrap_or(usize::MAX);
        let max_ms = usize::try_from(BUSY_TIMEOUT_MAX.as_millis()).unwrap_or(usize::MAX);
        check_size(
            "configured busy timeout in milliseconds",
            timeout_ms,
            max_ms,
        )?;
        if self.readers == 0 {
            return Err(InvalidInput::new("configured readers", "are zero").into());
        }
        Ok(())
    }
}

fn check_bytes(name: &'static str, value: u64, limit: u64) -> Result<(), StorageError> {
    if value > limit {
        return Err(LimitExceeded { name, limit, value }.into());
    }
    Ok(())
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("path", &self.path)
            .field("durability", &self.durability)
            .field("busy_timeout", &self.busy_timeout)
            .field("readers", &self.readers)
            .field("limits", &self.limits)
            .field("ballast_bytes", &self.ballast_bytes)
            .field("log_bytes", &self.log_bytes)
            .field("integrity_age", &self.integrity_age)
            .field("allow_unsafe_file_system", &self.allow_unsafe_file_system)
            .field("skip_check_after_crash", &self.skip_check_after_crash)
            .finish_non_exhaustive()
    }
}

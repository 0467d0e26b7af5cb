//! How a store is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentos_core::limits::{
    BUSY_TIMEOUT_DEFAULT, BUSY_TIMEOUT_MAX, READERS_DEFAULT, READERS_MAX, check_size,
};
use agentos_core::{Clock, InvalidInput, Limits, StorageError, SystemClock};

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
}

impl Config {
    /// The database at `path`, made when it is not there, with the defaults:
    /// `Durability::Full`, a busy timeout of 5 s, 4 readers, the system's clock.
    pub fn at(path: impl AsRef<Path>) -> Config {
        Config {
            path: path.as_ref().to_path_buf(),
            durability: Durability::default(),
            busy_timeout: BUSY_TIMEOUT_DEFAULT,
            readers: READERS_DEFAULT,
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
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

    pub(crate) fn check(&self) -> Result<(), StorageError> {
        self.limits.check()?;
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

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("path", &self.path)
            .field("durability", &self.durability)
            .field("busy_timeout", &self.busy_timeout)
            .field("readers", &self.readers)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

//! Files as a test sees them: compared by digest, copied, and damaged bit by bit.
//!
//! Only for databases that this process has not open: closing a descriptor of
//! one would drop SQLite's locks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use agentos_core::Digest;

/// Every file of a directory, with the digest of its bytes.
///
/// # Panics
///
/// When one cannot be read.
pub fn contents(directory: &Path) -> BTreeMap<String, Digest> {
    names(directory)
        .into_iter()
        .map(|name| {
            let bytes = fs::read(directory.join(&name)).expect("a readable file");
            (name, Digest::of(&bytes))
        })
        .collect()
}

/// The names in a directory, sorted.
///
/// # Panics
///
/// When it cannot be read.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("a readable directory")
        .map(|entry| {
            let entry = entry.expect("a readable entry");
            entry.file_name().to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}

/// Copies a database that nobody has open, and its write-ahead log where there
/// is one, into a directory; gives the copy's path.
///
/// # Panics
///
/// When it cannot be copied.
pub fn copy_database(database: &Path, directory: &Path) -> PathBuf {
    let name = database.file_name().expect("a file name");
    let copy = directory.join(name);
    fs::copy(database, &copy).expect("a copy of the database");
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    if Path::new(&log).exists() {
        let mut target = copy.as_os_str().to_owned();
        target.push("-wal");
        fs::copy(&log, &target).expect("a copy of the write-ahead log");
    }
    copy
}

/// Moves what a write-ahead log holds into the database, which nobody writes to.
///
/// # Panics
///
/// When the database cannot be opened.
pub fn settle(database: &Path) {
    crate::wait_until("the log is in the file", || {
        let connection = rusqlite::Connection::open(database).expect("a database");
        let left: i64 = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .expect("an answer");
        left == 0
    });
}

/// Seeded positions of bits in a number of bytes.
pub struct Bits {
    random: fastrand::Rng,
    bytes: usize,
}

impl Bits {
    /// Positions below `bytes`, the same for the same seed.
    pub fn seeded(seed: u64, bytes: usize) -> Bits {
        Bits {
            random: fastrand::Rng::with_seed(seed),
            bytes,
        }
    }
}

impl Iterator for Bits {
    /// A byte's position, and the mask of one bit in it.
    type Item = (usize, u8);

    fn next(&mut self) -> Option<(usize, u8)> {
        Some((self.random.usize(..self.bytes), 1 << self.random.u8(..8)))
    }
}

//! Who holds locks on a database, without touching its files.
//!
//! `/proc/locks` names the holders. What each reader still needs stands in the
//! shared-memory file, which may not be opened: closing it would drop this
//! process's locks. But SQLite has mapped it into this process, so it is read
//! from there, through `/proc/self/mem`.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use procfs::process::{MMapPath, Process};
use procfs::{Lock, LockKind};
use rustix::fs::{major, minor};
use serde::Serialize;

use super::paths::{LOCK, with_suffix};

/// Who holds locks on a database. A process of another container may show as 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LockFacts {
    /// The process that holds the write lock.
    pub writer_pid: Option<i32>,
    /// Who is reading now, the oldest view first. The write-ahead log cannot be
    /// begun anew while the oldest of them reads.
    pub readers: Vec<ReaderFacts>,
}

impl LockFacts {
    /// The reader with the oldest view.
    pub fn oldest_reader(&self) -> Option<&ReaderFacts> {
        self.readers.first()
    }
}

/// A process that is reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ReaderFacts {
    /// Last frame of the write-ahead log that its view contains, from 1; 0 for
    /// a view of the database file alone. `None` where that could not be read.
    pub frame: Option<u32>,
    /// The process.
    pub pid: i32,
}

/// First byte of `-shm` that a reader locks, and how many read marks there are
/// (WAL_READ_LOCK(0) and WAL_NREADER, <https://sqlite.org/walformat.html>).
const READ_LOCK_FIRST: u64 = 123;
const READ_MARKS: usize = 5;
/// Where the read marks stand in `-shm`: numbers of 32 bits in the machine's
/// own order, after two index headers of 48 bytes and the backfill count.
const READ_MARKS_AT: u64 = 100;

/// Whether some process has the database at `path` open: SQLite holds a lock on
/// it, or on its shared memory, as long as a connection has read from it.
/// Processes of other containers may not show.
pub(crate) fn is_open_somewhere(path: &Path) -> bool {
    let Ok(locks) = procfs::locks() else {
        return false;
    };
    [path.to_path_buf(), with_suffix(path, "-shm")]
        .iter()
        .any(|file| locks_on(&locks, file).next().is_some())
}

/// The locks on a file.
fn locks_on<'l>(locks: &'l [Lock], file: &Path) -> impl Iterator<Item = &'l Lock> + use<'l> {
    let found = fs::metadata(file).ok().map(|found| {
        let device = (major(found.dev()), minor(found.dev()));
        // Some file systems (overlays, btrfs) tell users another device than
        // the kernel's; there the number of the file has to do.
        let is_shown = locks
            .iter()
            .any(|lock| (lock.devmaj, lock.devmin) == device);
        (found.ino(), is_shown.then_some(device))
    });
    locks.iter().filter(move |lock| {
        found.is_some_and(|(inode, device)| {
            let same_device = device.is_none_or(|device| device == (lock.devmaj, lock.devmin));
            lock.inode == inode && same_device
        })
    })
}

/// Looks at the locks of the database at `path`.
pub(crate) fn lock_facts(path: &Path) -> LockFacts {
    let Ok(locks) = procfs::locks() else {
        return LockFacts::default();
    };
    let shm = with_suffix(path, "-shm");
    let marks = fs::metadata(&shm)
        .ok()
        .and_then(|found| read_marks(found.ino()));
    // Those who wait for the write lock are listed after its holder; who only
    // looks has a read lock.
    let writer = locks_on(&locks, &with_suffix(path, LOCK))
        .find(|lock| matches!(lock.kind, LockKind::Write));
    let mut readers = Vec::new();
    for lock in locks_on(&locks, &shm) {
        // Locks of one process on neighbouring bytes show as one.
        let held = lock.offset_first..=lock.offset_last.unwrap_or(u64::MAX);
        for mark in 0..READ_MARKS {
            if held.contains(&(READ_LOCK_FIRST + mark as u64)) {
                // The first mark is that of readers who need no log.
                let frame = if mark == 0 {
                    Some(0)
                } else {
                    marks.map(|marks| marks[mark])
                };
                readers.push(ReaderFacts {
                    frame,
                    pid: lock.pid.unwrap_or(0),
                });
            }
        }
    }
    readers.sort_unstable();
    readers.dedup();
    LockFacts {
        writer_pid: writer.map(|lock| lock.pid.unwrap_or(0)),
        readers,
    }
}

/// The read marks, from this process's own mapping of the file with this inode.
fn read_marks(inode: u64) -> Option<[u32; READ_MARKS]> {
    let process = Process::myself().ok()?;
    let map = process.maps().ok()?.into_iter().find(|map| {
        map.inode == inode && map.offset == 0 && matches!(map.pathname, MMapPath::Path(_))
    })?;
    let mut bytes = [0; READ_MARKS * 4];
    process
        .mem()
        .ok()?
        .read_exact_at(&mut bytes, map.address.0 + READ_MARKS_AT)
        .ok()?;
    let mut marks = [0; READ_MARKS];
    for (mark, bytes) in marks.iter_mut().zip(bytes.chunks_exact(4)) {
        *mark = u32::from_ne_bytes(bytes.try_into().ok()?);
    }
    Some(marks)
}

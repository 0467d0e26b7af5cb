//! Room that is given up when the disk is full.
//!
//! A file of a configured size beside the database. When a write finds no space
//! the file is emptied: its room is for what must go on (recovery, pruning,
//! heartbeats), and plain commits are refused as `DiskFull` meanwhile. Once it
//! fits again, with as much room beside it, it is filled and everything goes on.
//!
//! The state is the file itself, so all processes share it and a crash changes
//! nothing: full length, in place; empty, given up; absent, never made. It is made
//! under another name, or a crash before it has its length would leave one that
//! looks as if it were given up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use agentos_core::{StorageError, crash_point};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::file_system::free_bytes;
use super::paths::{BALLAST, NEW_BALLAST, with_suffix};

/// With less free space than this, an I/O error may be one of a full disk.
const FULL_BELOW_BYTES: u64 = 1 << 20;

/// The ballast of one database.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    /// Where it is made.
    new: PathBuf,
    bytes: u64,
}

/// What there is of the ballast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// None is configured.
    Unwanted,
    /// Its room is kept.
    InPlace,
    /// Its room was needed, and has not come back.
    GivenUp,
    /// It was never made, or somebody removed it, or it is smaller than wanted.
    Missing,
}

impl Ballast {
    /// The ballast of `database`; zero bytes mean that there is none.
    pub(crate) fn new(database: &Path, bytes: u64) -> Ballast {
        Ballast {
            path: with_suffix(database, BALLAST),
            new: with_suffix(database, NEW_BALLAST),
            bytes,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn state(&self) -> State {
        if self.bytes == 0 {
            return State::Unwanted;
        }
        match fs::metadata(&self.path) {
            Ok(found) if !found.is_file() => State::Missing,
            Ok(found) if found.len() == 0 => State::GivenUp,
            Ok(found) if found.len() >= self.bytes => State::InPlace,
            _ => State::Missing,
        }
    }

    /// Makes or restores it where there is room. `false` while its room is given
    /// up: only what frees space may be written.
    pub(crate) fn keep(&self) -> bool {
        let state = self.state();
        if matches!(state, State::Unwanted | State::InPlace) {
            return true;
        }
        let short = state == State::GivenUp;
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        // As much beside it, or the next write would need it again.
        let has_room = free_bytes(directory).is_ok_and(|free| free >= self.bytes.saturating_mul(2));
        if !has_room {
            // Left by a crash while it was made: nobody else gives its room up.
            let _ = fs::remove_file(&self.new);
            return !short;
        }
        match self.make() {
            Ok(()) => {
                if short {
                    tracing::info!(bytes = self.bytes, "there is room again: ballast restored");
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the ballast could not be made");
                let _ = fs::remove_file(&self.new);
                // Empty says that it is given up, which keeps commits from being
                // taken. It is tried again at the next turn.
                if short && is_full(&error) {
                    return false;
                }
                if short {
                    let _ = fs::remove_file(&self.path);
                }
                true
            }
        }
    }

    fn make(&self) -> io::Result<()> {
        // Beyond this limit the system kills the process instead of refusing.
        let limit = getrlimit(Resource::Fsize).current;
        if limit.is_some_and(|limit| limit < self.bytes) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        crash_point!("ballast.before_making");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.new)?;
        crash_point!("ballast.empty");
        match fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            // A file system that cannot reserve: what is written is reserved too.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(&mut file, self.bytes)?,
            done => done?,
        }
        crash_point!("ballast.filled");
        fs::rename(&self.new, &self.path)?;
        crash_point!("ballast.made");
        Ok(())
    }

    /// Gives its room up if that may be what an error asks for; `false` when it
    /// is not, or there was none to give.
    pub(crate) fn give_up_for(&self, error: &StorageError) -> bool {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        may_be_full(error, directory) && self.give_up()
    }

    /// Gives its room up; `false` when there was none to give.
    pub(crate) fn give_up(&self) -> bool {
        let is_there = |found: &fs::Metadata| found.is_file() && found.len() > 0;
        if self.bytes == 0 || !fs::metadata(&self.path).is_ok_and(|found| is_there(&found)) {
            return false;
        }
        match File::options().write(true).open(&self.path) {
            Ok(file) => {
                crash_point!("ballast.before_giving_up");
                let given = file.set_len(0).is_ok();
                crash_point!("ballast.given_up");
                tracing::error!(
                    bytes = self.bytes,
                    "the disk is full: the ballast is given up"
                );
                given
            }
            Err(error) => {
                tracing::error!(%error, "the ballast could not be given up");
                false
            }
        }
    }
}

/// Whether an error of the engine is one of a full disk. SQLite says so of some
/// files only; of others it says that they could not be opened or grown.
fn may_be_full(error: &StorageError, directory: &Path) -> bool {
    match error {
        StorageError::DiskFull(_) => true,
        StorageError::Io(_) => is_full_now(directory),
        _ => false,
    }
}

/// Whether there is next to no room.
pub(crate) fn is_full_now(directory: &Path) -> bool {
    free_bytes(directory).is_ok_and(|free| free < FULL_BELOW_BYTES)
}

fn write_zeros(file: &mut File, bytes: u64) -> io::Result<()> {
    static CHUNK: [u8; 64 << 10] = [0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).map_or(CHUNK.len(), |left| left.min(CHUNK.len()));
        file.write_all(&CHUNK[..now])?;
        left -= now as u64;
    }
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn ballast(bytes: u64) -> (tempfile::TempDir, Ballast) {
        let directory = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(&directory.path().join("x.db"), bytes);
        (directory, ballast)
    }

    #[test]
    fn it_takes_real_room_and_gives_it_up_once() {
        let (_directory, ballast) = ballast(1 << 20);
        assert_eq!(ballast.state(), State::Missing);
        assert!(ballast.keep());
        assert_eq!(ballast.state(), State::InPlace);
        let blocks = || fs::metadata(&ballast.path).unwrap().blocks() * 512;
        assert!(blocks() >= 1 << 20, "{}", blocks());
        assert!(ballast.give_up());
        assert_eq!((ballast.state(), blocks()), (State::GivenUp, 0));
        assert!(!ballast.give_up());
        assert!(ballast.keep());
        assert_eq!(ballast.state(), State::InPlace);
    }

    #[test]
    fn what_does_not_fit_is_not_made_and_refuses_nothing() {
        let (directory, ballast) = ballast(u64::MAX / 4);
        assert!(ballast.keep());
        assert_eq!(ballast.state(), State::Missing);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn given_up_and_without_room_it_refuses() {
        let (_directory, ballast) = ballast(u64::MAX / 4);
        File::create(&ballast.path).unwrap();
        assert_eq!(ballast.state(), State::GivenUp);
        assert!(!ballast.keep());
    }

    /// What cannot be made must not look as if it were given up.
    #[test]
    fn one_that_cannot_be_made_refuses_nothing() {
        let (_directory, ballast) = ballast(1 << 20);
        fs::create_dir(&ballast.path).unwrap();
        for _ in 0..2 {
            assert!(ballast.keep());
            assert_eq!(ballast.state(), State::Missing);
        }
        assert!(!ballast.give_up());
    }

    /// Goal: a crash while it was made refuses nothing, and keeps no room for nothing.
    /// Method: what such a crash leaves, empty and full, with room and without.
    #[test]
    fn one_that_was_half_made_is_not_given_up() {
        let (directory, ballast) = ballast(1 << 20);
        for left in [0, 1 << 20] {
            File::create(&ballast.new).unwrap().set_len(left).unwrap();
            assert_eq!(ballast.state(), State::Missing);
            assert!(ballast.keep());
            assert_eq!(ballast.state(), State::InPlace);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
            fs::remove_file(&ballast.path).unwrap();
        }
        let (directory, too_large) = self::ballast(u64::MAX / 4);
        File::create(&too_large.new).unwrap().set_len(1).unwrap();
        assert!(too_large.keep());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn none_is_none() {
        let (directory, ballast) = ballast(0);
        assert!(ballast.keep() && !ballast.give_up());
        assert_eq!(ballast.state(), State::Unwanted);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_larger_one_is_wanted_later() {
        let (directory, small) = ballast(1 << 16);
        assert!(small.keep());
        let larger = Ballast::new(&directory.path().join("x.db"), 1 << 17);
        assert_eq!(larger.state(), State::Missing);
        assert!(larger.keep());
        assert_eq!(larger.state(), State::InPlace);
    }
}

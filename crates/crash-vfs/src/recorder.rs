//! Recording: what SQLite does to the files of a directory, appended to a log.
//!
//! Every record is exactly one `write(2)` to a descriptor in append mode, so
//! that the order in the file is the order for all threads and processes, and
//! a trace of system calls can be merged with it record by record.
//!
//! An operation is recorded after it was done and before SQLite is told so; a
//! sync is recorded before it begins and after it has returned. That order is
//! one in which it all can have happened:
//!
//! - What stands before the begin of a sync had been done by then, so the sync
//!   covered it. What was done, but is recorded later, counts as not covered:
//!   its thread could have been that much slower.
//! - Between an operation and its record its connection still holds the lock
//!   under which it wrote, so no other writer of the same file comes between.
//! - A process that is killed between an operation and its record leaves a log
//!   without that operation. It was never told of it, but others may have read
//!   what it did: the log ends with the last record of such a process.
//! - An acknowledgement is recorded after the commit returned, and so after
//!   the ends of the syncs that it rests on.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::ShimError;
use crate::limits::{BASE_BYTES_MAX, BASE_PIECE_BYTES, MARK_BYTES_MAX};
use crate::record::{Found, HEADER_BYTES, Mark, Record, frame_at, write_frame};
use crate::shim::{Installed, Shim, relative};

/// Records until it is dropped or stopped.
#[derive(Debug)]
pub struct Recorder {
    installed: Installed,
    writer: Arc<Writer>,
}

impl Recorder {
    /// Installs a shim over its directory and appends what happens there to a
    /// log file, which is made if need be. Files that are in the directory
    /// already are copied into a new log first, as durable.
    ///
    /// Several processes may record into one log: each calls this with the
    /// same log and directory before it opens a database there.
    ///
    /// To be called before this process opens any file of the directory:
    /// copying one closes a descriptor of it, which would drop the locks that
    /// SQLite holds. Nobody may change a file while it is copied; a process that
    /// comes later waits for the copy.
    ///
    /// # Errors
    ///
    /// [`ShimError::LogInside`], [`ShimError::NotALog`],
    /// [`ShimError::CannotRecord`], those of [`Shim::install`], and
    /// [`ShimError::Machine`]. Nothing is recorded then.
    pub fn start(log: &Path, shim: Shim) -> Result<Recorder, ShimError> {
        let dir = shim.directory()?;
        let writer = Arc::new(Writer::open(log, &dir)?);
        let installed = shim.install_with(Some(Arc::clone(&writer)))?;
        *lock(&LATEST) = Arc::downgrade(&writer);
        Ok(Recorder { installed, writer })
    }

    /// The shim: its counts and its faults.
    pub fn shim(&self) -> &Installed {
        &self.installed
    }

    /// Records a word of the program; see [`Mark`] for when.
    ///
    /// # Errors
    ///
    /// [`ShimError::MarkTooLong`] and [`ShimError::Broken`]: it was not
    /// recorded.
    pub fn mark(&self, mark: Mark) -> Result<(), ShimError> {
        self.writer.mark(mark)
    }

    /// Records an operation on a file that SQLite does not write, so that it is
    /// part of the images: to be called after the operation was done, and for
    /// a sync before it begins and after it has returned.
    ///
    /// # Errors
    ///
    /// [`ShimError::BadRecord`] when the record can stand in no log, and
    /// [`ShimError::Broken`]: it was not recorded.
    pub fn record(&self, record: &Record) -> Result<(), ShimError> {
        self.writer.record(record)
    }

    /// A number for [`Record::SyncBegin`] and its end that no other sync of
    /// the log has.
    pub fn new_sync(&self) -> u64 {
        self.writer.new_sync()
    }

    /// Something that other threads can record words with.
    pub fn marker(&self) -> Marker {
        Marker {
            writer: Arc::clone(&self.writer),
        }
    }

    /// Ends the recording, as dropping does. Close the databases first: those
    /// that are still open stay usable, but what they do is not recorded, and
    /// so the log ends here also for other processes.
    ///
    /// # Errors
    ///
    /// [`ShimError::Broken`] when the recording had ended before.
    pub fn stop(self) -> Result<(), ShimError> {
        self.end();
        self.writer.sound()
    }

    fn end(&self) {
        if self.writer.stopped.load(Ordering::Acquire) {
            return;
        }
        if !self.installed.retire() {
            let process = std::process::id();
            self.writer.append(&Record::Stop { process });
        }
        self.writer.stop();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

/// Records words of a program from any thread; cheap to copy.
#[derive(Debug, Clone)]
pub struct Marker {
    writer: Arc<Writer>,
}

impl Marker {
    /// As [`Recorder::mark`].
    ///
    /// # Errors
    ///
    /// As [`Recorder::mark`].
    pub fn mark(&self, mark: Mark) -> Result<(), ShimError> {
        self.writer.mark(mark)
    }
}

static LATEST: Mutex<Weak<Writer>> = Mutex::new(Weak::new());
/// Syncs of all recorders of this process.
static SYNCS: AtomicU32 = AtomicU32::new(0);

/// Records a word with the recorder that this process started last. Says
/// whether there is one.
///
/// # Errors
///
/// As [`Recorder::mark`].
pub fn mark(mark: Mark) -> Result<bool, ShimError> {
    let writer = lock(&LATEST).upgrade();
    match writer.filter(|writer| !writer.stopped.load(Ordering::Acquire)) {
        Some(writer) => writer.mark(mark).map(|()| true),
        None => Ok(false),
    }
}

/// The open log of one recorder.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    stopped: AtomicBool,
    /// Held for each `write`: a trace of system calls then never shows two of
    /// this process at once, of which nobody could say which came first.
    appending: Mutex<()>,
    broken: Mutex<Option<String>>,
}

impl Writer {
    fn open(log: &Path, dir: &Path) -> Result<Writer, ShimError> {
        let doing = ShimError::machine;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(log)
            .map_err(doing("open the log"))?;
        let real = fs::canonicalize(log).map_err(doing("find the log"))?;
        if real.starts_with(dir) {
            return Err(ShimError::LogInside {
                log: log.to_owned(),
            });
        }
        // Whoever comes first copies the files; the others wait for that.
        file.lock().map_err(doing("lock the log"))?;
        let writer = Writer {
            stopped: AtomicBool::new(false),
            appending: Mutex::new(()),
            broken: Mutex::new(None),
            file,
        };
        let begun = writer.begin(log, dir);
        let unlocked = writer.file.unlock().map_err(doing("unlock the log"));
        begun.and(unlocked)?;
        Ok(writer)
    }

    /// The first records, under the lock.
    fn begin(&self, log: &Path, dir: &Path) -> Result<(), ShimError> {
        let doing = ShimError::machine;
        let process = std::process::id();
        let len = self.file.metadata().map_err(doing("read the log"))?.len();
        if len == 0 {
            self.append(&Record::Start { process });
            let mut left = BASE_BYTES_MAX;
            self.copy_files(dir, dir, &mut left)?;
        } else {
            let mut first = [0; HEADER_BYTES * 4];
            let count = Read::read(&mut &self.file, &mut first);
            let count = count.map_err(doing("read the log"))?;
            let known = match frame_at(&first[..count]) {
                Found::Frame(payload, _) => Record::decode(payload),
                Found::Nothing => None,
            };
            if !matches!(known, Some((_, Record::Start { .. }))) {
                return Err(ShimError::NotALog {
                    log: log.to_owned(),
                });
            }
            self.append(&Record::Start { process });
        }
        self.sound()
    }

    fn copy_files(&self, root: &Path, dir: &Path, left: &mut u64) -> Result<(), ShimError> {
        let doing = ShimError::machine;
        let refuse = |path: &Path, why| ShimError::CannotRecord {
            path: path.to_owned(),
            why,
        };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(dir).map_err(doing("read the directory"))? {
            paths.push(entry.map_err(doing("read the directory"))?.path());
        }
        paths.sort();
        for path in paths {
            let kind = fs::symlink_metadata(&path).map_err(doing("read the directory"))?;
            if kind.is_dir() {
                self.copy_files(root, &path, left)?;
            }
            let shared = path.as_os_str().as_encoded_bytes().ends_with(b"-shm");
            if !kind.is_file() || shared {
                continue;
            }
            let name = relative(root, &path).ok_or_else(|| refuse(&path, "its name"))?;
            let mut file = File::open(&path).map_err(doing("open a file"))?;
            let mut offset = 0;
            loop {
                let mut piece = Vec::new();
                let mut limited = Read::take(&mut file, BASE_PIECE_BYTES as u64);
                limited
                    .read_to_end(&mut piece)
                    .map_err(doing("read a file"))?;
                let len = piece.len() as u64;
                *left = left
                    .checked_sub(len)
                    .ok_or_else(|| refuse(root, "it is too large"))?;
                if len > 0 || offset == 0 {
                    self.append(&Record::Base {
                        path: Arc::clone(&name),
                        offset,
                        bytes: piece.into(),
                    });
                }
                if len < BASE_PIECE_BYTES as u64 {
                    break;
                }
                offset += len;
            }
        }
        Ok(())
    }

    fn record(&self, record: &Record) -> Result<(), ShimError> {
        let early = matches!(
            record,
            Record::Base { .. }
                | Record::Start { .. }
                | Record::Stop { .. }
                | Record::Broken { .. }
        );
        let flaw = match early {
            true => Some("only a recorder writes such a record"),
            false => record.flaw(),
        };
        if let Some(why) = flaw {
            return Err(ShimError::BadRecord { why });
        }
        self.append(record);
        self.sound()
    }

    fn mark(&self, mark: Mark) -> Result<(), ShimError> {
        let bytes = mark.text.len();
        if bytes > MARK_BYTES_MAX {
            return Err(ShimError::MarkTooLong { bytes });
        }
        self.append(&Record::Mark(mark));
        self.sound()
    }

    /// Appends a record; says whether recording is still sound.
    pub(crate) fn append(&self, record: &Record) -> bool {
        self.append_frame(&record.frame())
    }

    /// As [`append`](Self::append), of a write.
    pub(crate) fn append_write(&self, path: &str, offset: u64, bytes: &[u8]) -> bool {
        self.append_frame(&write_frame(path, offset, bytes))
    }

    fn append_frame(&self, frame: &[u8]) -> bool {
        if self.stopped.load(Ordering::Acquire) {
            return lock(&self.broken).is_none();
        }
        let written = {
            let _one_at_a_time = lock(&self.appending);
            (&self.file).write(frame)
        };
        match written {
            Ok(written) if written == frame.len() => true,
            Ok(_) => self.give_up("the log was not written wholly".to_owned()),
            Err(error) => self.give_up(format!("the log was not written: {error}")),
        }
    }

    /// The machine failed at something that changes a file, so that nobody
    /// knows what the file holds: the log ends here.
    pub(crate) fn end_at(&self, why: String) {
        self.append(&Record::Broken { why: why.clone() });
        self.give_up(why);
    }

    fn give_up(&self, why: String) -> bool {
        lock(&self.broken).get_or_insert(why);
        self.stop();
        false
    }

    /// A number for a sync that no other one of the log has, unless its process
    /// is dead.
    pub(crate) fn new_sync(&self) -> u64 {
        let number = SYNCS.fetch_add(1, Ordering::Relaxed);
        u64::from(std::process::id()) << 32 | u64::from(number)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    fn sound(&self) -> Result<(), ShimError> {
        match &*lock(&self.broken) {
            None => Ok(()),
            Some(why) => Err(ShimError::Broken { why: why.clone() }),
        }
    }
}

/// A panic elsewhere leaves these values whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

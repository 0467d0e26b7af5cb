//! Power cuts for programs that use SQLite.
//!
//! SIGKILL cannot see a missing `fsync`: what was written stays in the page
//! cache. A power cut can. This crate records what SQLite does to its files
//! while a program runs, together with what the program was told, and makes
//! from that log every kind of file that a power cut could have left:
//! *crash images*. A check opens each with the real library.
//!
//! ```
//! use agentos_crash_vfs::{ImageDir, Log, Mark, Recorder, Shim};
//! use rusqlite::Connection;
//!
//! # let place = tempfile::tempdir()?;
//! # let place = place.path();
//! let (dir, log) = (place.join("data"), place.join("log"));
//! std::fs::create_dir(&dir)?;
//!
//! // 1. Record a workload. The program itself needs no change: the shim is the
//! //    process's default VFS for files of that directory.
//! let recorder = Recorder::start(&log, Shim::over(&dir))?;
//! let db = Connection::open(dir.join("my.db"))?;
//! db.pragma_update(None, "journal_mode", "WAL")?;
//! db.pragma_update(None, "synchronous", "FULL")?;
//! db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY)")?;
//! for id in 1..=5 {
//!     recorder.mark(Mark::begun(id.to_string()))?;
//!     db.execute("INSERT INTO t VALUES (?1)", [id])?;
//!     recorder.mark(Mark::acknowledged(id.to_string()))?;
//! }
//! drop(db);
//! recorder.stop()?;
//!
//! // 2. Check every image: what was acknowledged before the cut is there.
//! let log = Log::read(&log)?;
//! let images = ImageDir::at(&place.join("image"))?;
//! for image in log.crash_images(8141) {
//!     images.write(&image)?;
//!     let Some(newest) = image.acknowledged().last() else { continue };
//!     let db = Connection::open(images.path().join("my.db"))?;
//!     let count: i64 = db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?;
//!     // On a failure `image.id()` is the line that replays it:
//!     // `log.image("123:nothing".parse()?)`.
//!     assert!(count >= newest.parse()?, "{}\n{}", image.id(), image.describe());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The model
//!
//! - A file's durable content is what was written before its last finished
//!   sync began. What came later pends: a power cut keeps all of it, nothing,
//!   a prefix, a suffix, any subset (so that a later write is there and an
//!   earlier one is not), and tears a write at sectors of 512 bytes.
//! - A new file's name, a deletion and a rename pend until their directory is
//!   synced. SQLite does that with the first sync of a new journal or WAL, and
//!   after the deletion of a journal only with `synchronous=EXTRA`.
//! - Each file, and the names, choose apart from each other.
//! - A sync counts when it has returned. One that failed, or lied
//!   ([`Shim::lying_syncs`]), makes nothing durable.
//! - The shared memory of a WAL (`-shm`) and temporary files are never there
//!   after a cut.
//!
//! # Several threads, several processes, other files
//!
//! Threads need nothing: use [`Recorder::marker`] or [`mark`]. Each process
//! starts a [`Recorder`] with the same log and directory. One record is one
//! `write(2)` in append mode, so the file's order is the order of all of them;
//! an operation is recorded after it was done and before SQLite is told so,
//! under the locks that SQLite holds for it, and a sync before it begins and
//! after it has returned. So what stands before a sync's begin was done by
//! then, and an acknowledgement stands behind the syncs that it rests on. The
//! file's order is one in which all of it can have happened.
//!
//! Files that SQLite does not write can be part of the images: record what the
//! program does to them ([`Recorder::record`]), or push [`Record`]s among those
//! of a log ([`Log::read_records`], [`Log::builder`]). A recorder writes to its
//! log by these records alone, so that a trace of system calls can be merged
//! exactly: the n-th `write` to the log is the n-th record.
//!
//! # Recovery that crashes
//!
//! Start a recorder over the directory of an image, with a log of its own: the
//! image's files are copied into that log as what was there before, and its
//! own images are power cuts during the recovery.
//!
//! # Not covered
//!
//! - SQLite through its `unix` VFS on a Unix system. Memory maps are refused.
//! - A drive that loses what it said it had synced, writes to another place,
//!   or damages what it was not asked to write. [`Shim::lying_syncs`] is the
//!   canary for the first.
//! - After a failed sync the kernel may have dropped what was to be written; here
//!   a later sync that succeeds covers it.
//! - A file whose name was removed or changed by something else than SQLite,
//!   unless it is pushed. Making a directory counts as durable at once. Files
//!   have one name each (no hard links), and only files are recorded.
//! - What other processes do after one of them was killed: the log ends there
//!   ([`Log::read`] says why).

#[cfg(not(unix))]
compile_error!("agentos-crash-vfs needs a Unix system: it is a shim over SQLite's `unix` VFS");

mod choice;
mod content;
mod disk;
mod error;
mod fault;
mod image;
mod images;
pub mod limits;
mod log;
mod record;
mod recorder;
#[cfg(test)]
mod reference;
mod shim;
mod sys;

pub use choice::{Choice, ImageId, ImageIdError};
pub use error::{LogError, ShimError};
pub use fault::{Answer, Counts, Fault, FileKind, Operation};
pub use image::{Image, ImageDir, ImageFile};
pub use images::CrashImages;
pub use log::{Log, LogBuilder};
pub use record::{Mark, MarkKind, Record, Synced};
pub use recorder::{Marker, Recorder, mark};
pub use shim::{Installed, Shim, VFS_NAME};

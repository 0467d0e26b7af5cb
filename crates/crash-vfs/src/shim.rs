//! The shim between SQLite and its `unix` VFS: records, delays, lies, fails.
//!
//! One VFS serves the whole process; what it does to a file follows from the
//! directory that the file is in. Here is what happens around each call of the
//! VFS beneath; the calls themselves are in `sys.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::error::ShimError;
use crate::fault::{ActiveFault, Counters, Counts, Fault, FileKind, Operation};
use crate::record::{Record, Synced, path_flaw};
use crate::recorder::Writer;
use crate::sys::{self, code};

/// The name under which SQLite knows the shim, for programs that choose their
/// VFS themselves; see [`Shim::by_name`].
pub const VFS_NAME: &str = "agentos-crash-vfs";

/// What is to happen to the SQLite files of one directory.
#[derive(Debug, Clone)]
pub struct Shim {
    dir: PathBuf,
    default: bool,
    delay: Duration,
    lying: bool,
    faults: Vec<Fault>,
}

impl Shim {
    /// For the files in this directory and below it. It must be there.
    pub fn over(dir: impl Into<PathBuf>) -> Shim {
        Shim {
            dir: dir.into(),
            default: true,
            delay: Duration::ZERO,
            lying: false,
            faults: Vec::new(),
        }
    }

    /// Leaves the process's default VFS alone: only databases that are opened
    /// with the VFS [`VFS_NAME`] go through the shim. Without this the shim is
    /// the default, so that a program needs no change.
    #[must_use]
    pub fn by_name(mut self) -> Shim {
        self.default = false;
        self
    }

    /// Each sync takes so much longer.
    #[must_use]
    pub fn sync_delay(mut self, delay: Duration) -> Shim {
        self.delay = delay;
        self
    }

    /// Syncs do nothing and say that they have: a drive that lies. In a log
    /// they make nothing durable.
    #[must_use]
    pub fn lying_syncs(mut self) -> Shim {
        self.lying = true;
        self
    }

    /// Some calls fail.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Shim {
        self.faults.push(fault);
        self
    }

    /// Installs the shim without a recording. It stays until what is returned
    /// is dropped; databases that are open then keep it until they are closed.
    ///
    /// # Errors
    ///
    /// [`ShimError::Taken`], [`ShimError::NoUnixVfs`],
    /// [`ShimError::Refused`], and [`ShimError::Machine`] when the directory
    /// is not there. Nothing was installed.
    pub fn install(self) -> Result<Installed, ShimError> {
        self.install_with(None)
    }

    /// The directory, as SQLite will name it.
    pub(crate) fn directory(&self) -> Result<PathBuf, ShimError> {
        fs::canonicalize(&self.dir).map_err(ShimError::machine("find the directory"))
    }

    pub(crate) fn install_with(self, writer: Option<Arc<Writer>>) -> Result<Installed, ShimError> {
        let dir = self.directory()?;
        let scope = Arc::new(Scope {
            default: self.default,
            delay: self.delay,
            lying: self.lying,
            may_fail: AtomicBool::new(!self.faults.is_empty()),
            faults: RwLock::new(self.faults.into_iter().map(ActiveFault::new).collect()),
            counters: Counters::default(),
            writer,
            dir,
        });
        let mut scopes = scopes();
        if scopes.iter().any(|other| other.dir == scope.dir) {
            return Err(ShimError::Taken {
                dir: scope.dir.clone(),
            });
        }
        scopes.push(Arc::clone(&scope));
        let registered = register(&scopes);
        if registered.is_err() {
            scopes.pop();
        }
        registered?;
        Ok(Installed { scope })
    }
}

/// A shim that is in force until this is dropped.
#[derive(Debug)]
pub struct Installed {
    scope: Arc<Scope>,
}

impl Installed {
    /// How often SQLite has called so far.
    pub fn counts(&self) -> Counts {
        self.scope.counters.read()
    }

    /// Takes the shim away from files that are opened from now on; says whether
    /// one is open that came through it.
    pub(crate) fn retire(&self) -> bool {
        let mut scopes = scopes();
        scopes.retain(|scope| !Arc::ptr_eq(scope, &self.scope));
        // What refuses to go is found again by the next shim.
        let _ = register(&scopes);
        // Held by this, and by each open file.
        Arc::strong_count(&self.scope) > 1
    }

    /// Makes some calls fail from now on, beside what fails already.
    pub fn add_fault(&self, fault: Fault) {
        let faults = self.scope.faults.write();
        faults
            .unwrap_or_else(PoisonError::into_inner)
            .push(ActiveFault::new(fault));
        self.scope.may_fail.store(true, Ordering::Release);
    }

    /// The machine is sound again: nothing fails any more.
    pub fn clear_faults(&self) {
        self.scope.may_fail.store(false, Ordering::Release);
        let faults = self.scope.faults.write();
        faults.unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        self.retire();
    }
}

/// The shims in force.
static SCOPES: Mutex<Vec<Arc<Scope>>> = Mutex::new(Vec::new());

fn scopes() -> MutexGuard<'static, Vec<Arc<Scope>>> {
    SCOPES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a program came to the shim: without knowing, or by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    AsDefault = 0,
    ByName = 1,
}

/// Makes SQLite know the shim as the shims in force ask for it.
fn register(scopes: &[Arc<Scope>]) -> Result<(), ShimError> {
    let wanted = [
        (Asked::AsDefault, scopes.iter().any(|scope| scope.default)),
        (Asked::ByName, !scopes.is_empty()),
    ];
    for (which, wanted) in wanted {
        if wanted {
            sys::register(which)?;
        } else {
            sys::unregister(which)?;
        }
    }
    Ok(())
}

/// The shim of the innermost directory around a file.
fn scope_of(asked: Asked, path: &Path) -> Option<Arc<Scope>> {
    scopes()
        .iter()
        .filter(|scope| scope.default || asked == Asked::ByName)
        .filter(|scope| path.starts_with(&scope.dir))
        .max_by_key(|scope| scope.dir.as_os_str().len())
        .cloned()
}

/// The name of a file below a directory as a log has it, if it can have one.
pub(crate) fn relative(dir: &Path, path: &Path) -> Option<Arc<str>> {
    let name = path.strip_prefix(dir).ok()?.to_str()?;
    path_flaw(name).is_none().then(|| name.into())
}

#[derive(Debug)]
struct Scope {
    dir: PathBuf,
    default: bool,
    delay: Duration,
    lying: bool,
    may_fail: AtomicBool,
    faults: RwLock<Vec<ActiveFault>>,
    counters: Counters,
    writer: Option<Arc<Writer>>,
}

impl Scope {
    /// Counts a call; the result code that it gets if it is to fail.
    fn strikes(&self, operation: Operation, kind: FileKind) -> Option<i32> {
        self.counters.count(operation);
        if !self.may_fail.load(Ordering::Acquire) {
            return None;
        }
        let faults = self.faults.read().unwrap_or_else(PoisonError::into_inner);
        // Every fault counts, also behind one that strikes.
        let struck =
            faults
                .iter()
                .fold(None, |struck, fault| match fault.strikes(operation, kind) {
                    Some(code) => struck.or(Some(code)),
                    None => struck,
                })?;
        self.counters.count_failed();
        Some(struck)
    }
}

/// What the shim knows about one open file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    scope: Option<Arc<Scope>>,
    kind: FileKind,
    /// Its name in the log, if there is one.
    name: Option<Arc<str>>,
    found_bytes: u64,
    /// SQLite's `unix` VFS syncs the directory with the first sync of a
    /// journal or WAL that it was asked to create.
    entries_too: AtomicBool,
}

impl OpenFile {
    /// Before a file is opened. `Err` is the result code of an open that is
    /// to fail.
    pub(crate) fn before(asked: Asked, path: Option<&Path>, flags: i32) -> Result<OpenFile, i32> {
        let kind = if flags & code::SQLITE_OPEN_MAIN_DB != 0 {
            FileKind::Main
        } else if flags & code::SQLITE_OPEN_WAL != 0 {
            FileKind::Wal
        } else if flags & (code::SQLITE_OPEN_MAIN_JOURNAL | code::SQLITE_OPEN_SUPER_JOURNAL) != 0 {
            FileKind::Journal
        } else {
            FileKind::Temporary
        };
        let scope = path.and_then(|path| scope_of(asked, path));
        let mut name = None;
        let mut found_bytes = 0;
        if let (Some(scope), Some(path)) = (&scope, path) {
            if let Some(code) = scope.strikes(Operation::Open, kind) {
                return Err(code);
            }
            if scope.writer.is_some() && kind != FileKind::Temporary {
                let known = relative(&scope.dir, path).ok_or(code::SQLITE_CANTOPEN)?;
                name = Some(known);
                // No descriptor: closing it would drop SQLite's locks.
                found_bytes = fs::metadata(path).map_or(0, |found| found.len());
            }
        }
        let create = flags & code::SQLITE_OPEN_CREATE != 0;
        Ok(OpenFile {
            scope,
            kind,
            name,
            found_bytes,
            entries_too: AtomicBool::new(
                create && matches!(kind, FileKind::Wal | FileKind::Journal),
            ),
        })
    }

    /// After it was opened.
    pub(crate) fn opened(&self) -> i32 {
        self.record(|path| Record::Open {
            path,
            found_bytes: self.found_bytes,
        })
    }

    /// Counts a call; the result code that it gets if it is to fail.
    pub(crate) fn strikes(&self, operation: Operation) -> Option<i32> {
        self.scope.as_ref()?.strikes(operation, self.kind)
    }

    fn writer(&self) -> Option<(&Writer, &Arc<str>)> {
        let writer = self.scope.as_ref()?.writer.as_deref()?;
        Some((writer, self.name.as_ref()?))
    }

    fn record(&self, record: impl FnOnce(Arc<str>) -> Record) -> i32 {
        match self.writer() {
            Some((writer, name)) => answer(writer.append(&record(Arc::clone(name)))),
            None => code::SQLITE_OK,
        }
    }

    /// After the machine failed at a change: nobody knows what the file holds.
    fn unknown(&self, doing: &str) {
        if let Some((writer, name)) = self.writer() {
            writer.end_at(format!("the machine failed to {doing} {name}"));
        }
    }

    /// After a write.
    pub(crate) fn wrote(&self, returned: i32, offset: i64, bytes: &[u8]) -> i32 {
        if returned != code::SQLITE_OK {
            self.unknown("write");
            return returned;
        }
        match (self.writer(), u64::try_from(offset)) {
            (Some((writer, name)), Ok(offset)) => answer(writer.append_write(name, offset, bytes)),
            _ => code::SQLITE_OK,
        }
    }

    /// After a truncation.
    pub(crate) fn truncated(&self, returned: i32, len: i64) -> i32 {
        if returned != code::SQLITE_OK {
            self.unknown("truncate");
            return returned;
        }
        let len = u64::try_from(len).unwrap_or(0);
        self.record(|path| Record::Truncate { path, len })
    }

    /// Around a sync.
    pub(crate) fn sync(&self, sync: impl FnOnce() -> i32) -> i32 {
        let Some(scope) = &self.scope else {
            return sync();
        };
        let entries_too = self.entries_too.load(Ordering::Relaxed);
        let what = match entries_too {
            true => Synced::FileAndEntries,
            false => Synced::File,
        };
        let number = self.writer().map_or(0, |(writer, _)| writer.new_sync());
        let begun = self.record(|path| Record::SyncBegin {
            sync: number,
            path,
            what,
        });
        if begun != code::SQLITE_OK {
            return begun;
        }
        wait(scope.delay);
        let (returned, durable) = match self.strikes(Operation::Sync) {
            Some(code) => (code, false),
            None if scope.lying => (code::SQLITE_OK, false),
            None => {
                let returned = sync();
                // The VFS beneath does it once, whether it succeeds or not.
                let synced = returned == code::SQLITE_OK;
                if synced {
                    self.entries_too.store(false, Ordering::Relaxed);
                }
                (returned, synced)
            }
        };
        let ended = self.record(|_| Record::SyncEnd {
            sync: number,
            durable,
        });
        if returned == code::SQLITE_OK {
            ended
        } else {
            returned
        }
    }
}

/// Around a deletion. `delete` removes the name and syncs no directory.
pub(crate) fn delete(
    asked: Asked,
    path: Option<&Path>,
    sync_directory: bool,
    delete: impl FnOnce(bool) -> i32,
) -> i32 {
    let Some((path, scope)) = path.and_then(|path| Some((path, scope_of(asked, path)?))) else {
        return delete(sync_directory);
    };
    if let Some(code) = scope.strikes(Operation::Delete, kind_of(path)) {
        return code;
    }
    let returned = delete(false);
    if returned != code::SQLITE_OK {
        return returned;
    }
    let recorded = scope.writer.as_deref().zip(relative(&scope.dir, path));
    if let Some((writer, name)) = &recorded
        && !writer.append(&Record::Delete {
            path: Arc::clone(name),
        })
    {
        return code::SQLITE_IOERR;
    }
    if !sync_directory {
        return code::SQLITE_OK;
    }
    // The sync by itself, so that what it covers is known: only what was
    // recorded before it began.
    let number = recorded.as_ref().map_or(0, |(writer, _)| writer.new_sync());
    if let Some((writer, name)) = &recorded {
        writer.append(&Record::SyncBegin {
            sync: number,
            path: crate::disk::parent(name).into(),
            what: Synced::Directory,
        });
    }
    wait(scope.delay);
    let directory = path.parent().unwrap_or(Path::new("/"));
    let synced = !scope.lying
        && fs::File::open(directory)
            .and_then(|directory| directory.sync_all())
            .is_ok();
    if let Some((writer, _)) = &recorded
        && !writer.append(&Record::SyncEnd {
            sync: number,
            durable: synced,
        })
    {
        return code::SQLITE_IOERR;
    }
    if synced || scope.lying {
        code::SQLITE_OK
    } else {
        code::SQLITE_IOERR_DIR_FSYNC
    }
}

/// Before somebody asks whether a file is there.
pub(crate) fn access(asked: Asked, path: Option<&Path>) -> Option<i32> {
    let path = path?;
    scope_of(asked, path)?.strikes(Operation::Access, kind_of(path))
}

/// What a file is, by its name alone.
fn kind_of(path: &Path) -> FileKind {
    let name = path.as_os_str().as_encoded_bytes();
    if name.ends_with(b"-wal") {
        FileKind::Wal
    } else if name.ends_with(b"-journal") {
        FileKind::Journal
    } else {
        FileKind::Main
    }
}

/// What SQLite is told when an operation was done, but could not be recorded.
fn answer(recorded: bool) -> i32 {
    if recorded {
        code::SQLITE_OK
    } else {
        code::SQLITE_IOERR
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a slow disk is what is asked for: the one place where this crate waits"
)]
fn wait(delay: Duration) {
    if !delay.is_zero() {
        std::thread::sleep(delay);
    }
}

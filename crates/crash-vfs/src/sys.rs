//! The VFS as SQLite knows it: a table of C functions, and the only file with
//! `unsafe`.
//!
//! Each function finds what the shim knows about a file, lets safe code decide,
//! and calls the same function of the `unix` VFS beneath. Shared memory and
//! locks are passed through. Memory maps of the database are not: version 2 of
//! the table has none, so that every read and write comes by here.

#![allow(
    unsafe_code,
    reason = "the one file of the crate that may: C functions called by SQLite, and calling it"
)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};

use crate::error::ShimError;
use crate::fault::Operation;
use crate::shim::{self, Asked, OpenFile};

/// Result codes and flags of SQLite.
pub(crate) mod code {
    pub(crate) use rusqlite::ffi::{
        SQLITE_CANTOPEN, SQLITE_FULL, SQLITE_IOERR, SQLITE_IOERR_ACCESS, SQLITE_IOERR_DELETE,
        SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSTAT, SQLITE_IOERR_FSYNC, SQLITE_IOERR_LOCK,
        SQLITE_IOERR_READ, SQLITE_IOERR_SHMMAP, SQLITE_IOERR_TRUNCATE, SQLITE_IOERR_WRITE,
        SQLITE_OK, SQLITE_OPEN_CREATE, SQLITE_OPEN_MAIN_DB, SQLITE_OPEN_MAIN_JOURNAL,
        SQLITE_OPEN_SUPER_JOURNAL, SQLITE_OPEN_WAL,
    };
}

use code::{SQLITE_IOERR, SQLITE_OK};

/// The VFS that is the process's default, and `shim::VFS_NAME` for C.
const NAMES: [&CStr; 2] = [c"agentos-crash-vfs-default", c"agentos-crash-vfs"];

/// An open file, in memory of SQLite; the file of the VFS beneath follows it.
#[repr(C)]
struct ShimFile {
    base: sqlite3_file,
    /// A `Box`, from a successful open until the close.
    open: *mut OpenFile,
}

/// Where the file of the VFS beneath begins.
const BENEATH_AT: usize = size_of::<ShimFile>().next_multiple_of(16);

/// The VFS beneath, and our two; they are there for ever once they are there.
static BENEATH: AtomicPtr<sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());
static OURS: [AtomicPtr<sqlite3_vfs>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];

/// Which of the two was asked.
fn asked(vfs: *mut sqlite3_vfs) -> Asked {
    if vfs == OURS[Asked::ByName as usize].load(Ordering::Acquire) {
        Asked::ByName
    } else {
        Asked::AsDefault
    }
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: Some(x_shm_map),
    xShmLock: Some(x_shm_lock),
    xShmBarrier: Some(x_shm_barrier),
    xShmUnmap: Some(x_shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Registers the shim, as the process's default or by its name alone; again is
/// harmless. The caller sees to it that one thread is here at a time.
pub(crate) fn register(which: Asked) -> Result<(), ShimError> {
    let mut ours = OURS[which as usize].load(Ordering::Acquire);
    if ours.is_null() {
        // SAFETY: the name is a C string. What is found is never freed: it is
        // SQLite's own static.
        let beneath = unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) };
        if beneath.is_null() {
            return Err(ShimError::NoUnixVfs);
        }
        // SAFETY: a VFS of SQLite, which nobody changes but for `pNext`; that
        // is not used of the copy.
        let mut copy = unsafe { *beneath };
        let beneath_bytes = usize::try_from(copy.szOsFile).unwrap_or(0);
        let (Ok(bytes), true) = (
            c_int::try_from(BENEATH_AT + beneath_bytes),
            beneath_bytes > 0,
        ) else {
            return Err(ShimError::NoUnixVfs);
        };
        // What is not set here stays the function of the VFS beneath. Those
        // (full path names, shared libraries, randomness, time, the last
        // error, system calls) do not look at the VFS that they are given.
        copy.szOsFile = bytes;
        copy.pNext = ptr::null_mut();
        copy.zName = NAMES[which as usize].as_ptr();
        copy.xOpen = Some(x_open);
        copy.xDelete = Some(x_delete);
        copy.xAccess = Some(x_access);
        BENEATH.store(beneath, Ordering::Release);
        // Never freed: connections may use it as long as the process lives.
        ours = Box::into_raw(Box::new(copy));
        OURS[which as usize].store(ours, Ordering::Release);
    }
    let default = c_int::from(which == Asked::AsDefault);
    // SAFETY: `ours` is a whole VFS that is never freed.
    checked(unsafe { ffi::sqlite3_vfs_register(ours, default) })
}

/// Takes one of the two out of SQLite's list. Open files keep it.
pub(crate) fn unregister(which: Asked) -> Result<(), ShimError> {
    let ours = OURS[which as usize].load(Ordering::Acquire);
    if ours.is_null() {
        return Ok(());
    }
    // SAFETY: `ours` is a whole VFS that is never freed.
    checked(unsafe { ffi::sqlite3_vfs_unregister(ours) })
}

fn checked(code: c_int) -> Result<(), ShimError> {
    match code {
        SQLITE_OK => Ok(()),
        code => Err(ShimError::Refused { code }),
    }
}

/// A name as a path, if there is one.
///
/// # Safety
///
/// `name` is null or a C string that outlives what is returned.
unsafe fn path_of<'a>(name: *const c_char) -> Option<&'a Path> {
    if name.is_null() {
        return None;
    }
    // SAFETY: not null, and so a C string by the contract above.
    let name = unsafe { CStr::from_ptr(name) };
    Some(Path::new(OsStr::from_bytes(name.to_bytes())))
}

/// An open file: what the shim knows, and the file beneath with its functions.
struct Handle<'a> {
    open: &'a OpenFile,
    beneath: *mut sqlite3_file,
    methods: &'a sqlite3_io_methods,
}

/// # Safety
///
/// `file` was opened by [`x_open`] with success and is not closed yet.
unsafe fn handle<'a>(file: *mut sqlite3_file) -> Handle<'a> {
    let beneath = beneath_of(file);
    // SAFETY: SQLite gave `szOsFile` bytes, which hold both files; `x_open`
    // set `open` and the VFS beneath set `pMethods`, and both stay until the
    // close.
    unsafe {
        Handle {
            open: &*(*file.cast::<ShimFile>()).open,
            beneath,
            methods: &*(*beneath).pMethods,
        }
    }
}

fn beneath_of(file: *mut sqlite3_file) -> *mut sqlite3_file {
    file.wrapping_byte_add(BENEATH_AT)
}

/// Calls a function of the file beneath with what SQLite has given.
macro_rules! beneath {
    ($handle:expr, $method:ident $(, $argument:expr)*) => {
        match $handle.methods.$method {
            // SAFETY: an open file with its own function, and arguments that
            // SQLite gave for just this call.
            Some(call) => unsafe { call($handle.beneath $(, $argument)*) },
            None => SQLITE_IOERR,
        }
    };
}

/// Finds an open file, or returns the code of a call that is to fail.
macro_rules! open_file {
    ($file:expr) => {{
        // SAFETY: SQLite calls a file's functions between its open and close.
        unsafe { handle($file) }
    }};
    ($file:expr, $operation:expr) => {{
        let handle = open_file!($file);
        if let Some(code) = handle.open.strikes($operation) {
            return code;
        }
        handle
    }};
}

unsafe extern "C" fn x_open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let (shim_file, beneath) = (file.cast::<ShimFile>(), beneath_of(file));
    // SAFETY: SQLite gives `szOsFile` bytes of its own, aligned for pointers,
    // and a name that lives until the close.
    let path = unsafe {
        (*shim_file).base.pMethods = ptr::null();
        (*shim_file).open = ptr::null_mut();
        (*beneath).pMethods = ptr::null();
        path_of(name)
    };
    let open = match OpenFile::before(asked(vfs), path, flags) {
        Ok(open) => open,
        Err(code) => return code,
    };
    let vfs = BENEATH.load(Ordering::Acquire);
    // SAFETY: the VFS beneath was found before ours was registered.
    let returned = match unsafe { (*vfs).xOpen } {
        // SAFETY: SQLite's arguments, with the VFS and the file that are its.
        Some(call) => unsafe { call(vfs, name, beneath, flags, out_flags) },
        None => SQLITE_IOERR,
    };
    let returned = match returned {
        SQLITE_OK => open.opened(),
        code => code,
    };
    // SAFETY: as above; the VFS beneath sets `pMethods` when there is
    // something to close, also after a failure.
    unsafe {
        if returned == SQLITE_OK {
            (*shim_file).open = Box::into_raw(Box::new(open));
            (*shim_file).base.pMethods = &raw const METHODS;
        } else if let Some(methods) = (*beneath).pMethods.as_ref()
            && let Some(close) = methods.xClose
        {
            close(beneath);
        }
    }
    returned
}

unsafe extern "C" fn x_delete(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    let asked = asked(vfs);
    let vfs = BENEATH.load(Ordering::Acquire);
    // SAFETY: SQLite gives a name that lives as long as this call.
    let path = unsafe { path_of(name) };
    shim::delete(asked, path, sync_directory & 1 != 0, |sync_directory| {
        // SAFETY: the VFS beneath, with SQLite's own name.
        unsafe {
            match (*vfs).xDelete {
                Some(call) => call(vfs, name, c_int::from(sync_directory)),
                None => SQLITE_IOERR,
            }
        }
    })
}

unsafe extern "C" fn x_access(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    result: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives a name that lives as long as this call.
    if let Some(code) = shim::access(asked(vfs), unsafe { path_of(name) }) {
        return code;
    }
    let vfs = BENEATH.load(Ordering::Acquire);
    // SAFETY: the VFS beneath, with SQLite's own arguments.
    unsafe {
        match (*vfs).xAccess {
            Some(call) => call(vfs, name, flags, result),
            None => SQLITE_IOERR,
        }
    }
}

unsafe extern "C" fn x_close(file: *mut sqlite3_file) -> c_int {
    let handle = open_file!(file);
    let returned = beneath!(handle, xClose);
    let shim_file = file.cast::<ShimFile>();
    // SAFETY: `open` came from `Box::into_raw` in `x_open`, and SQLite closes
    // a file once.
    unsafe {
        drop(Box::from_raw((*shim_file).open));
        (*shim_file).open = ptr::null_mut();
        (*shim_file).base.pMethods = ptr::null();
    }
    returned
}

unsafe extern "C" fn x_read(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    bytes: c_int,
    offset: i64,
) -> c_int {
    let handle = open_file!(file, Operation::Read);
    beneath!(handle, xRead, buffer, bytes, offset)
}

unsafe extern "C" fn x_write(
    file: *mut sqlite3_file,
    buffer: *const c_void,
    bytes: c_int,
    offset: i64,
) -> c_int {
    let handle = open_file!(file, Operation::Write);
    let returned = beneath!(handle, xWrite, buffer, bytes, offset);
    let count = usize::try_from(bytes).unwrap_or(0);
    if buffer.is_null() || count == 0 {
        return returned;
    }
    // SAFETY: SQLite gave `bytes` bytes to be written, and changes them only
    // after this call.
    let written = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), count) };
    handle.open.wrote(returned, offset, written)
}

unsafe extern "C" fn x_truncate(file: *mut sqlite3_file, len: i64) -> c_int {
    let handle = open_file!(file, Operation::Truncate);
    let returned = beneath!(handle, xTruncate, len);
    handle.open.truncated(returned, len)
}

unsafe extern "C" fn x_sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    let handle = open_file!(file);
    handle.open.sync(|| beneath!(handle, xSync, flags))
}

unsafe extern "C" fn x_file_size(file: *mut sqlite3_file, size: *mut i64) -> c_int {
    let handle = open_file!(file, Operation::Size);
    beneath!(handle, xFileSize, size)
}

unsafe extern "C" fn x_lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    let handle = open_file!(file, Operation::Lock);
    beneath!(handle, xLock, level)
}

unsafe extern "C" fn x_unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    let handle = open_file!(file);
    beneath!(handle, xUnlock, level)
}

unsafe extern "C" fn x_check_reserved_lock(file: *mut sqlite3_file, result: *mut c_int) -> c_int {
    let handle = open_file!(file);
    beneath!(handle, xCheckReservedLock, result)
}

unsafe extern "C" fn x_file_control(
    file: *mut sqlite3_file,
    what: c_int,
    argument: *mut c_void,
) -> c_int {
    match what {
        // Hints that would change the length of a file without a write.
        ffi::SQLITE_FCNTL_SIZE_HINT | ffi::SQLITE_FCNTL_CHUNK_SIZE => SQLITE_OK,
        ffi::SQLITE_FCNTL_MMAP_SIZE => {
            if !argument.is_null() {
                // SAFETY: the argument of this control is an `i64`, in which
                // SQLite wants the size that is in force.
                unsafe { argument.cast::<i64>().write(0) };
            }
            SQLITE_OK
        }
        _ => {
            let handle = open_file!(file);
            beneath!(handle, xFileControl, what, argument)
        }
    }
}

unsafe extern "C" fn x_sector_size(file: *mut sqlite3_file) -> c_int {
    let handle = open_file!(file);
    beneath!(handle, xSectorSize)
}

unsafe extern "C" fn x_device_characteristics(file: *mut sqlite3_file) -> c_int {
    let handle = open_file!(file);
    // What the model does not know must not be rested on.
    beneath!(handle, xDeviceCharacteristics) & !ffi::SQLITE_IOCAP_BATCH_ATOMIC
}

unsafe extern "C" fn x_shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    memory: *mut *mut c_void,
) -> c_int {
    let handle = open_file!(file, Operation::Shared);
    beneath!(handle, xShmMap, region, bytes, extend, memory)
}

unsafe extern "C" fn x_shm_lock(
    file: *mut sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    let handle = open_file!(file);
    beneath!(handle, xShmLock, offset, count, flags)
}

unsafe extern "C" fn x_shm_barrier(file: *mut sqlite3_file) {
    let handle = open_file!(file);
    if let Some(call) = handle.methods.xShmBarrier {
        // SAFETY: an open file with its own function.
        unsafe { call(handle.beneath) };
    }
}

unsafe extern "C" fn x_shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    let handle = open_file!(file);
    beneath!(handle, xShmUnmap, delete)
}

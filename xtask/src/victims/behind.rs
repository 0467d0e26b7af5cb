//! Turns syncs off behind the library's back, for a victim that is broken on purpose.
//!
//! The store reads its settings back when it opens, so nothing it was told could switch
//! them off. SQLite tells of every connection that is opened in this process; once the
//! store is open, its writing connection gets `synchronous=OFF` from here.
#![expect(unsafe_code, reason = "nobody outside of the store has its connection")]

use std::error::Error;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use rusqlite::ffi;

/// The connections that are open, as addresses.
static OPEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());

fn open() -> std::sync::MutexGuard<'static, Vec<usize>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes note of each connection that is opened from now on.
pub(super) fn watch() -> Result<(), Box<dyn Error>> {
    // SAFETY: `opened` has the signature that SQLite calls it with, and stays for ever.
    let code = unsafe { ffi::sqlite3_auto_extension(Some(opened)) };
    is_ok(code)
}

/// Turns syncs off for every connection that can write. The store must be open, and no
/// thread at work on it.
pub(super) fn switch_sync_off() -> Result<(), Box<dyn Error>> {
    let mut switched = 0;
    for &address in open().iter() {
        let db = address as *mut ffi::sqlite3;
        // SAFETY: the connection is open, since closing it takes it off the list, and
        // nobody else uses it now.
        unsafe {
            if ffi::sqlite3_db_readonly(db, c"main".as_ptr()) == 0 {
                let sql = c"PRAGMA synchronous = OFF".as_ptr();
                is_ok(ffi::sqlite3_exec(
                    db,
                    sql,
                    None,
                    ptr::null_mut(),
                    ptr::null_mut(),
                ))?;
                switched += 1;
            }
        }
    }
    match switched {
        1 => Ok(()),
        _ => Err(format!("{switched} connections can write, and not one").into()),
    }
}

/// A connection was opened. A function that is made for it tells when it is closed.
unsafe extern "C" fn opened(
    db: *mut ffi::sqlite3,
    _message: *mut *mut c_char,
    _routines: *const ffi::sqlite3_api_routines,
) -> c_int {
    open().push(db as usize);
    // SAFETY: SQLite has just made `db`, and calls `closed` with it before it is gone.
    unsafe {
        ffi::sqlite3_create_function_v2(
            db,
            c"is_watched".as_ptr(),
            0,
            ffi::SQLITE_UTF8,
            db.cast(),
            Some(is_watched),
            None,
            None,
            Some(closed),
        )
    }
}

unsafe extern "C" fn closed(db: *mut c_void) {
    open().retain(|address| *address != db as usize);
}

unsafe extern "C" fn is_watched(
    context: *mut ffi::sqlite3_context,
    _count: c_int,
    _values: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with the context of a call.
    unsafe { ffi::sqlite3_result_int(context, 1) };
}

fn is_ok(code: c_int) -> Result<(), Box<dyn Error>> {
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(format!("SQLite said {code}").into()),
    }
}

//! The system's own interface, as far as no crate offers it safely: the only
//! file with `unsafe`.

#![allow(
    unsafe_code,
    reason = "the one file of the crate that may: ptrace with any signal, seccomp, pre_exec"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

/// How a stopped thread is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Until the next event.
    Continue,
    /// Until the next event or the end of the call that it is in.
    ToCallExit,
    /// It stays stopped by job control, and SIGCONT is heard.
    Listen,
}

/// Lets a stopped thread go, with a signal (0: none). `nix` knows neither
/// real-time signals nor LISTEN.
pub(crate) fn resume(thread: i32, how: Resume, signal: i32) -> io::Result<()> {
    let request = match how {
        Resume::Continue => libc::PTRACE_CONT,
        Resume::ToCallExit => libc::PTRACE_SYSCALL,
        Resume::Listen => libc::PTRACE_LISTEN,
    };
    let none: *mut libc::c_void = std::ptr::null_mut();
    // SAFETY: these requests read no memory of this process; the last argument
    // is the signal's number, passed by value.
    let returned = unsafe { libc::ptrace(request, thread, none, libc::c_long::from(signal)) };
    if returned == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Installs a seccomp filter for the calling thread and all that it starts. A
/// process without privileges gives up ever gaining any (set-user-id programs)
/// first: the kernel asks for that. Allocates nothing.
pub(crate) fn install_filter(filter: &[libc::sock_filter]) -> io::Result<()> {
    let Ok(len) = u16::try_from(filter.len()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast_mut(),
    };
    let install = || {
        // SAFETY: `program` points to `len` instructions, which live until the
        // call has returned; the kernel copies them and writes nothing.
        let returned = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const program,
            )
        };
        if returned == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    match install() {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            // SAFETY: this request takes numbers alone.
            let returned = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            if returned == 0 {
                install()
            } else {
                Err(io::Error::last_os_error())
            }
        }
        done => done,
    }
}

/// Has `step` run in the child between fork and exec.
///
/// `step` must neither allocate nor take a lock: other threads of the parent
/// may hold those at the fork. It is private to this crate, which keeps that.
pub(crate) fn before_exec(
    command: &mut Command,
    step: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the one caller passes a step made of plain system calls.
    unsafe {
        command.pre_exec(step);
    }
}

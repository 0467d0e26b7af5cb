//! Looks into a stopped thread: its arguments, its memory, its descriptors.

use std::io::IoSliceMut;
use std::path::{Path, PathBuf};

use nix::libc::{self, user_regs_struct};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::calls::On;
use crate::limits::PATH_BYTES_MAX;
use crate::trace::Target;

/// The smallest page of the system: a read never crosses one, since the next
/// may not be there.
const PAGE_BYTES: u64 = 4096;

/// The six arguments of the call that the registers show.
pub(crate) fn arguments(regs: &user_regs_struct) -> [u64; 6] {
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]
}

/// Sets one of the six arguments.
pub(crate) fn set_argument(regs: &mut user_regs_struct, index: usize, value: u64) {
    match index {
        0 => regs.rdi = value,
        1 => regs.rsi = value,
        2 => regs.rdx = value,
        3 => regs.r10 = value,
        4 => regs.r8 = value,
        5 => regs.r9 = value,
        _ => unreachable!("a call has six arguments"),
    }
}

/// A descriptor: the low half of the register, signed.
fn descriptor(value: u64) -> i32 {
    value as u32 as i32
}

/// Bytes of the thread's memory; `None` when they cannot be read.
fn bytes_at(thread: i32, address: u64, bytes: &mut [u8]) -> Option<()> {
    let remote = RemoteIoVec {
        base: usize::try_from(address).ok()?,
        len: bytes.len(),
    };
    let wanted = bytes.len();
    let read = process_vm_readv(
        Pid::from_raw(thread),
        &mut [IoSliceMut::new(bytes)],
        &[remote],
    );
    (read.ok()? == wanted).then_some(())
}

/// A word of the thread's memory; `None` when it cannot be read.
pub(crate) fn word_at(thread: i32, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes_at(thread, address, &mut bytes)?;
    Some(u64::from_ne_bytes(bytes))
}

/// Text up to its NUL, cut at the kernel's own bound for paths.
fn text_at(thread: i32, mut address: u64) -> Option<String> {
    let mut text = Vec::new();
    while text.len() < PATH_BYTES_MAX {
        let rest_of_page = PAGE_BYTES - address % PAGE_BYTES;
        let mut piece = vec![0; rest_of_page.min(256) as usize];
        bytes_at(thread, address, &mut piece)?;
        if let Some(end) = piece.iter().position(|&byte| byte == 0) {
            text.extend_from_slice(&piece[..end]);
            break;
        }
        address = address.checked_add(piece.len() as u64)?;
        text.extend(piece);
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn link(path: String) -> Option<PathBuf> {
    std::fs::read_link(path).ok()
}

/// What a descriptor of the thread stands for.
fn of_descriptor(thread: i32, fd: i32) -> Target {
    let Some(name) = link(format!("/proc/{thread}/fd/{fd}")) else {
        return Target::Other(format!("descriptor {fd}, which is not open"));
    };
    let name = name.to_string_lossy();
    if name.starts_with("pipe:") {
        Target::Pipe
    } else if name.starts_with("socket:") {
        Target::Socket
    } else if name.starts_with("/memfd:") {
        Target::Memory
    } else if name.starts_with('/') {
        Target::Path(name.into_owned())
    } else {
        Target::Other(name.into_owned())
    }
}

/// The path at `address`, made absolute through the directory that `fd` names.
fn path_at(thread: i32, fd: i32, address: u64) -> Result<String, Target> {
    let path = match address {
        // As in `futimens`: the descriptor itself.
        0 => String::new(),
        _ => text_at(thread, address)
            .ok_or_else(|| Target::Other("a path that cannot be read".to_owned()))?,
    };
    if path.starts_with('/') {
        return Ok(path);
    }
    let base = match fd {
        libc::AT_FDCWD => link(format!("/proc/{thread}/cwd")),
        fd if path.is_empty() => match of_descriptor(thread, fd) {
            Target::Path(path) => return Ok(path),
            other => return Err(other),
        },
        fd => link(format!("/proc/{thread}/fd/{fd}")),
    };
    let base = base.unwrap_or_default();
    Ok(Path::new(&base).join(path).to_string_lossy().into_owned())
}

/// What a call with these arguments acts on.
pub(crate) fn target(thread: i32, on: On, args: [u64; 6]) -> Target {
    let single = |fd, path: usize| match path_at(thread, fd, args[path]) {
        Ok(path) => Target::Path(path),
        Err(other) => other,
    };
    let double = |from_fd, from: usize, to_fd, to: usize| {
        let from = path_at(thread, from_fd, args[from]);
        let to = path_at(thread, to_fd, args[to]);
        match (from, to) {
            (Ok(from), Ok(to)) => Target::Paths { from, to },
            (Err(other), _) | (_, Err(other)) => other,
        }
    };
    match on {
        On::Fd(fd) => of_descriptor(thread, descriptor(args[fd])),
        On::Path(path) => single(libc::AT_FDCWD, path),
        On::At(fd, path) => single(descriptor(args[fd]), path),
        On::Paths(from, to) => double(libc::AT_FDCWD, from, libc::AT_FDCWD, to),
        On::PathsAt([from_fd, from, to_fd, to]) => {
            double(descriptor(args[from_fd]), from, descriptor(args[to_fd]), to)
        }
        On::Memory => Target::Memory,
        On::All => Target::Other("everything".to_owned()),
    }
}

/// The process that a thread belongs to; `None` when it is gone.
pub(crate) fn process_of(thread: i32) -> Option<i32> {
    status_field(thread, "Tgid:")
}

/// The parent of the process that a thread belongs to; `None` when it is gone.
pub(crate) fn parent_of(thread: i32) -> Option<i32> {
    status_field(thread, "PPid:")
}

fn status_field(thread: i32, field: &str) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().parse().ok()
}

//! Waiting for and reading from pipes without ever blocking longer than asked.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionread, read};

use crate::clock::Deadline;
use crate::error::ProcessError;
use crate::limits::READ_BYTES;

/// Which of the descriptors can be read (or have reached their end), waiting
/// for the first of them until the deadline. All false: the deadline came.
pub(crate) fn readable<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    deadline: Deadline,
) -> Result<[bool; N], ProcessError> {
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .flatten()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    loop {
        match poll(&mut polled, deadline.remaining().as_ref()) {
            Ok(_) => break,
            Err(Errno::INTR) => continue,
            Err(error) => {
                return Err(ProcessError::Machine {
                    doing: "wait for a child process",
                    source: error.into(),
                });
            }
        }
    }
    // Hang-up and error count as readable: the read that follows tells which.
    let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && ready.next().unwrap_or(false)))
}

/// Reads once from a pipe that is known to be readable. Empty means its end.
pub(crate) fn read_some<'buffer>(
    fd: &impl AsFd,
    buffer: &'buffer mut Vec<u8>,
) -> Result<&'buffer [u8], ProcessError> {
    buffer.resize(READ_BYTES, 0);
    loop {
        match read(fd, &mut buffer[..]) {
            Ok(count) => return Ok(&buffer[..count]),
            Err(Errno::INTR) => continue,
            Err(error) => {
                return Err(ProcessError::Machine {
                    doing: "read a child's output",
                    source: error.into(),
                });
            }
        }
    }
}

/// Hands over what stands in the pipe now, and no more: a process that left the
/// group could write for ever.
pub(crate) fn drain(fd: &impl AsFd, mut take: impl FnMut(&[u8])) -> Result<(), ProcessError> {
    let mut left = ioctl_fionread(fd).map_err(ProcessError::machine("look into a pipe"))?;
    let mut buffer = Vec::new();
    while left > 0 {
        let bytes = read_some(fd, &mut buffer)?;
        if bytes.is_empty() {
            break;
        }
        left = left.saturating_sub(bytes.len() as u64);
        take(bytes);
    }
    Ok(())
}

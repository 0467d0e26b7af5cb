//! Watches processes that are not children of the test, without sleeping.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The pid that a helper printed.
pub(crate) fn pid_of(line: &[u8]) -> Pid {
    let text = std::str::from_utf8(line).unwrap();
    let number = text.rsplit(' ').next().unwrap().parse().unwrap();
    Pid::from_raw(number).unwrap()
}

/// Whether the process ends within `patience` (a zombie has ended).
pub(crate) fn ends_within(pid: Pid, patience: Duration) -> bool {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    let timeout = Timespec::try_from(patience).unwrap();
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).unwrap() == 1
}

/// Whether the process has ended already.
#[allow(dead_code, reason = "not every test binary asks")]
pub(crate) fn has_ended(pid: Pid) -> bool {
    ends_within(pid, Duration::ZERO)
}

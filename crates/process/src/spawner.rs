//! A say for others in how a child is started and reaped, e.g. for a tracer.
//!
//! The child is spawned here all the same, in its guarded group, and watched
//! through its pidfd; only its exit status may come from somewhere else, since
//! a process that is traced is reaped by whoever waits for it first.

use std::fmt;
use std::io;
use std::process::{Command, ExitStatus};

/// Prepares one child, and takes charge of it when it runs. Given to
/// [`Child::spawn_by`](crate::Child::spawn_by); for one child `prepare` is
/// called first, then either `started` or `failed`.
pub trait Spawner {
    /// Called once, just before the child is spawned, with the command as it
    /// will be: arguments, environment, directory, streams and process group
    /// are set. It may add steps (`pre_exec`), and must spawn nothing by itself.
    ///
    /// # Errors
    ///
    /// Any; nothing is spawned then, and the caller of `spawn_by` gets
    /// [`ProcessError::Machine`](crate::ProcessError::Machine) with it.
    fn prepare(&mut self, command: &mut Command) -> io::Result<()>;

    /// The child could not be spawned. Returns the spawner's own error when it
    /// is to blame, so that it is not taken for one of the program.
    fn failed(&mut self, error: &io::Error) -> Option<io::Error> {
        let _ = error;
        None
    }

    /// The program was executed as process `id`, and is watched from now on: a
    /// reaper that reaped it earlier could give its id away to a stranger.
    ///
    /// # Errors
    ///
    /// Any; the child is killed and reaped then.
    fn started(&mut self, id: u32) -> io::Result<Box<dyn Reaper>>;
}

/// Knows how a child ended that was started by a [`Spawner`].
pub trait Reaper: fmt::Debug + Send + Sync {
    /// Called when the child has ended, until it says how. `None` means that it
    /// is not reaped yet and that nobody but the caller will do it.
    ///
    /// # Errors
    ///
    /// Any; the caller gets it as
    /// [`ProcessError::Machine`](crate::ProcessError::Machine).
    fn reap(&mut self) -> io::Result<Option<ExitStatus>>;
}

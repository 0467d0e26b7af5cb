//! Child processes as groups: spawned, bounded in time and output, killed and
//! reaped as a whole.
//!
//! Every child starts in a process group that a *guardian* leads: a shell that
//! waits on a pipe whose other end only this process holds. However this
//! process dies, the pipe closes and the guardian kills the group, so no child
//! outlives its parent. While this process lives, dropping a [`Child`] (also
//! in a panic) kills and reaps the whole group.
//!
//! Not covered, on purpose: a descendant that leaves the group (`setsid`), one
//! that runs under another user, and a guardian that somebody killed or stopped
//! (SIGKILL, SIGSTOP) before the parent died. A process that forks without
//! executing anything keeps the pipe open too. Linux only: it rests on pidfds
//! (5.3).
//!
//! ```
//! use agentos_process::{CommandSpec, Outcome, run};
//! use std::time::Duration;
//!
//! let spec = CommandSpec::shell("cat; echo done >&2; exit 3")
//!     .stdin_bytes("hello")
//!     .timeout(Duration::from_secs(10));
//! let finished = run(&spec)?;
//!
//! assert_eq!(finished.outcome, Outcome::Exited { code: 3 });
//! assert_eq!(finished.stdout, b"hello");
//! assert_eq!(finished.stderr, b"done\n");
//! # Ok::<(), agentos_process::ProcessError>(())
//! ```

#[cfg(not(target_os = "linux"))]
compile_error!("agentos-process needs Linux: process groups are watched through pidfds");

mod cancel;
mod child;
mod clock;
mod command;
mod error;
mod exit;
mod group;
mod guardian;
pub mod limits;
mod lines;
mod pipe;
mod process;
mod run;
mod spawner;

pub use cancel::CancelToken;
pub use child::{Child, NextLine, Signal, Sink};
pub use command::CommandSpec;
pub use error::ProcessError;
pub use exit::{Exit, Outcome};
pub use run::{Finished, run, run_until, run_while};
pub use spawner::{Reaper, Spawner};

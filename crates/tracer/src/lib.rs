//! System calls of a process tree: counted, killed at, failed.
//!
//! A [`Tracer`] starts a program through [`agentos_process`] and reports every
//! *interesting* call (one that changes files or talks to others, see
//! [`CallKind`]) of the whole tree with its [`Position`], which is the same in
//! the next run of a deterministic program. A [`Plan`] kills the whole tree
//! just before or just after one of them, or makes it fail. The program needs
//! no rebuilding, and no privileges: it runs under `ptrace` with a seccomp
//! filter, at full speed but for the interesting calls.
//!
//! ```
//! use agentos_process::{CommandSpec, Sink};
//! use agentos_tracer::{Plan, Target, Tracer, When};
//! use std::time::Duration;
//!
//! let patience = Duration::from_secs(30);
//! let spec = CommandSpec::shell("echo one; echo two");
//!
//! // A dry run counts.
//! let mut tracer = Tracer::new(Plan::Count);
//! let mut child = tracer.spawn(&spec, Sink::Null)?;
//! assert!(child.wait(patience)?.unwrap().success());
//! let trace = tracer.finish(patience)?;
//! assert_eq!(trace.total(), 2);
//! assert_eq!(trace.calls[1].to_string(), "1/1#2 write pipe = 4");
//!
//! // The next one dies at the second write: it is never made.
//! let plan = Plan::kill(trace.calls[1].position.clone(), When::Before);
//! let mut tracer = Tracer::new(plan);
//! let mut child = tracer.spawn(&spec, Sink::Null)?;
//! assert!(child.wait(patience)?.unwrap().is_sigkill());
//! let hit = tracer.finish(patience)?.hit.unwrap();
//! assert_eq!(hit.call.name(), "write");
//! assert_eq!(child.drain_lines()?, [b"one"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it does not cover:
//!
//! - Linux on x86_64 only; elsewhere a start is [`TraceError::Unsupported`].
//!   Calls of 32-bit programs are counted as foreign, and neither named nor
//!   struck. Where ptrace is refused, a start is [`TraceError::NotPermitted`].
//! - What changes a file without such a call: memory shared with it (`mmap`), an
//!   `ioctl` such as `FICLONE`, and what an `io_uring` or a queue of `io_submit` does
//!   after it was entered.
//! - A process or thread that its parent creates with `CLONE_UNTRACED`, which hides it
//!   from tracers: it has the filter and no tracer, so each interesting call that it
//!   makes fails with `ENOSYS`. Only debuggers and sandboxes have a use for that flag.
//! - Without privileges the program runs under `no_new_privs`: set-user-id
//!   programs and file capabilities give it nothing. With them (root), they
//!   do. A program that traces others (a debugger, strace) is refused by the
//!   kernel, since one process has one tracer. Filters that the program
//!   installs for itself work; a call that they refuse is not seen here.
//! - The processes of a tree are killed one after the other, within
//!   microseconds: what runs on another core may get a call further. The one
//!   that was struck stands still.
//! - Between two threads the order is the scheduler's, and it may decide what
//!   each of them does. A [`Hit`] says which call was really there.

mod calls;
mod error;
pub mod limits;
mod plan;
mod position;
mod trace;
mod tracer;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod engine;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod filter;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod memory;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod session;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod strike;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod sys;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tree;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[path = "unsupported.rs"]
mod session;

pub use calls::{CallKind, Class, UnknownCall};
pub use error::TraceError;
pub use plan::{Fault, Plan, UnknownWord, When};
pub use position::{Position, PositionError, ProcessPath, ThreadPath};
pub use trace::{Call, Done, Hit, Target, Trace};
pub use tracer::Tracer;

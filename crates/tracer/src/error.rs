//! What can go wrong with a tracer, sorted by what the caller does next.

use std::io;

use agentos_process::ProcessError;

/// A program could not be traced, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// This build is not for Linux on x86_64. Nothing ran: use strikes that
    /// need no tracer.
    #[error("system calls can be traced on Linux x86_64 only")]
    Unsupported,
    /// This machine or container does not permit ptrace or seccomp. Nothing
    /// ran: permit it (`kernel.yama.ptrace_scope` at most 1, the capability
    /// SYS_PTRACE in an old container), or use strikes that need no tracer.
    #[error("not permitted to {doing}")]
    NotPermitted {
        /// What was being tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The program could not be started, for a reason that has nothing to do
    /// with tracing.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// This tracer has started a program before. Take one for each.
    #[error("a tracer traces one program")]
    Used,
    /// Nothing was started through this tracer.
    #[error("the tracer has started no program")]
    NotStarted,
    /// The machine got in the way; the whole tree has been sent SIGKILL.
    #[error("the machine failed to {doing}")]
    Machine {
        /// What was being tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl TraceError {
    /// For `map_err`: the machine failed while `doing`; a refusal for want of
    /// permission is told apart.
    pub(crate) fn machine<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> TraceError {
        move |source| TraceError::Machine {
            doing,
            source: source.into(),
        }
    }

    /// As [`machine`](Self::machine), where a refusal is
    /// [`NotPermitted`](Self::NotPermitted).
    pub(crate) fn refused(doing: &'static str, source: io::Error) -> TraceError {
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => {
                TraceError::NotPermitted { doing, source }
            }
            _ => TraceError::Machine { doing, source },
        }
    }

    /// As the error of an operation that knows `io::Error` alone; see
    /// [`of`](Self::of).
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &self {
            TraceError::Unsupported => io::ErrorKind::Unsupported,
            TraceError::NotPermitted { .. } => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }

    /// The tracer's own error inside an error of
    /// [`Child::spawn_by`](agentos_process::Child::spawn_by), if it is to blame.
    pub fn of(error: ProcessError) -> TraceError {
        match error {
            ProcessError::Machine { doing, source } => match source.downcast::<TraceError>() {
                Ok(own) => own,
                Err(source) => TraceError::Process(ProcessError::Machine { doing, source }),
            },
            other => TraceError::Process(other),
        }
    }
}

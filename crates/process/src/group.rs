//! A child in its guarded group: started after the guardian, killed with
//! everything that it started, reaped before the guardian.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::clock::{Deadline, Stopwatch};
use crate::command::CommandSpec;
use crate::error::{PREPARE_STDIN, ProcessError, START_CHILD};
use crate::exit::Exit;
use crate::guardian::Guardian;
use crate::limits::KILL_WAIT;
use crate::process::{Process, SpawnError};
use crate::spawner::Spawner;

/// A running child with its guardian. Dropping it kills and reaps both, and
/// whatever else is in the group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) main: Process,
    guardian: Guardian,
    ended: bool,
}

impl Group {
    pub(crate) fn start(
        spec: &CommandSpec,
        stdout: Stdio,
        stderr: Stdio,
        spawner: Option<&mut dyn Spawner>,
    ) -> Result<Group, ProcessError> {
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.args)
            .stdin(stdin_of(spec)?)
            .stdout(stdout)
            .stderr(stderr);
        if let Some(cwd) = &spec.cwd {
            command.current_dir(cwd);
        }
        if spec.env_clear {
            command.env_clear();
        }
        for (key, value) in &spec.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let guardian = Guardian::start()?;
        // The guardian dies with this function when the child cannot be had.
        let group = guardian.group().as_raw_nonzero().get();
        let main = match spawner {
            None => Process::spawn(&mut command, group),
            Some(spawner) => Process::spawn_by(&mut command, group, spawner),
        };
        let main = main.map_err(|error| match error {
            SpawnError::Program(source) => why_not_started(spec, source),
            SpawnError::Machine(error) => error,
        })?;
        Ok(Group {
            main,
            guardian,
            ended: false,
        })
    }

    /// The number of the process group.
    pub(crate) fn id(&self) -> u32 {
        self.guardian.group().as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills the whole group, reaps the child and returns only when nothing of
    /// the group runs any more. A child that had ended before keeps its exit.
    pub(crate) fn end(&mut self) -> Result<Exit, ProcessError> {
        self.ended = true;
        let watch = Stopwatch::start();
        self.guardian.kill_group()?;
        // The child may have left the group; its descendants there are its own.
        self.main.signal(Signal::KILL)?;
        let exit = self.main.wait(Deadline::after(KILL_WAIT))?;
        self.guardian.wait_gone()?;
        exit.ok_or_else(|| ProcessError::StillRunning {
            group: self.id(),
            waited: watch.elapsed(),
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            // Nothing can be reported from a drop, least of all in a panic.
            let _ = self.end();
        }
    }
}

/// Standard input as a file in memory: any length, no writing while the child
/// runs, no deadlock, and the end comes where it belongs.
fn stdin_of(spec: &CommandSpec) -> Result<Stdio, ProcessError> {
    let Some(bytes) = &spec.stdin else {
        return Ok(Stdio::null());
    };
    let fd = rustix::fs::memfd_create("agentos-stdin", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(ProcessError::machine(PREPARE_STDIN))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)
        .and_then(|()| std::io::Seek::rewind(&mut file))
        .map_err(ProcessError::machine(PREPARE_STDIN))?;
    Ok(Stdio::from(file))
}

/// Sorts the error of a failed spawn by what the caller does next.
fn why_not_started(spec: &CommandSpec, source: std::io::Error) -> ProcessError {
    const ENOEXEC: i32 = rustix::io::Errno::NOEXEC.raw_os_error();
    const ELOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();
    let program = spec.program.clone();
    let kind = source.kind();
    if matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory
    ) && let Some(error) = why_not_entered(spec)
    {
        return error;
    }
    match kind {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            ProcessError::NotFound { program, source }
        }
        ErrorKind::PermissionDenied => ProcessError::PermissionDenied { program, source },
        ErrorKind::InvalidInput | ErrorKind::ArgumentListTooLong | ErrorKind::InvalidFilename => {
            ProcessError::Invalid { program, source }
        }
        _ if matches!(source.raw_os_error(), Some(ENOEXEC | ELOOP)) => {
            ProcessError::Invalid { program, source }
        }
        _ => ProcessError::Machine {
            doing: START_CHILD,
            source,
        },
    }
}

/// The system gives the same error numbers for a directory that cannot be
/// entered and for a program: ask about the directory alone.
fn why_not_entered(spec: &CommandSpec) -> Option<ProcessError> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let path = spec.cwd.as_ref()?;
    let source = match std::fs::metadata(path) {
        Err(error) => error,
        Ok(metadata) if !metadata.is_dir() => ErrorKind::NotADirectory.into(),
        // Effective ids: those that the kernel uses for the child's chdir.
        Ok(_) => match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => return None,
            Err(error) => error.into(),
        },
    };
    Some(ProcessError::WorkingDirectory {
        path: path.clone(),
        source,
    })
}

//! The tracer as its users see it: a spawner for one child, and a trace at the end.

use std::io;
use std::process::Command;
use std::time::Duration;

use agentos_process::{Child, CommandSpec, Reaper, Sink, Spawner};

use crate::error::TraceError;
use crate::plan::Plan;
use crate::session::Session;
use crate::trace::Trace;

/// Traces one program and everything that it starts.
///
/// It is a [`Spawner`]: give it to whatever starts a
/// [`Child`], use the child as any other, and
/// [`finish`](Self::finish) when it has ended. Dropping the tracer kills the
/// traced tree.
#[derive(Debug)]
pub struct Tracer {
    plan: Plan,
    session: Option<Session>,
    used: bool,
}

impl Tracer {
    /// A tracer that has started nothing yet.
    pub fn new(plan: Plan) -> Tracer {
        Tracer {
            plan,
            session: None,
            used: false,
        }
    }

    /// What is to happen.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Starts the program in a guarded group of its own, as
    /// [`Child::spawn`] does, traced.
    ///
    /// # Errors
    ///
    /// [`TraceError::Unsupported`] and [`TraceError::NotPermitted`] where this
    /// machine cannot trace, [`TraceError::Used`] for a second program,
    /// [`TraceError::Process`] when the program cannot be started.
    pub fn spawn(&mut self, spec: &CommandSpec, stderr: Sink) -> Result<Child, TraceError> {
        Child::spawn_by(spec, stderr, self).map_err(TraceError::of)
    }

    /// Waits until the whole tree has ended, at most `wait`; kills what still
    /// runs then, and returns what was seen. Wait for the child (or kill it)
    /// first: a child whose output nobody reads may never end.
    ///
    /// # Errors
    ///
    /// [`TraceError::NotStarted`] when nothing was started,
    /// [`TraceError::Machine`] when the trace is not whole; the tree has been
    /// killed then.
    pub fn finish(mut self, wait: Duration) -> Result<Trace, TraceError> {
        match self.session.take() {
            Some(session) => session.finish(wait),
            None => Err(TraceError::NotStarted),
        }
    }
}

impl Spawner for Tracer {
    fn prepare(&mut self, command: &mut Command) -> io::Result<()> {
        if std::mem::replace(&mut self.used, true) {
            return Err(TraceError::Used.into_io());
        }
        let session = Session::prepare(self.plan.clone(), command);
        self.session = Some(session.map_err(TraceError::into_io)?);
        Ok(())
    }

    fn failed(&mut self, _error: &io::Error) -> Option<io::Error> {
        let own = self.session.take()?.failed();
        own.map(TraceError::into_io)
    }

    fn started(&mut self, _id: u32) -> io::Result<Box<dyn Reaper>> {
        match &self.session {
            Some(session) => Ok(session.started()),
            None => Err(TraceError::NotStarted.into_io()),
        }
    }
}

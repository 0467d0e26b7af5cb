//! What stands in for the tracer where there is none.

use std::process::Command;
use std::time::Duration;

use agentos_process::Reaper;

use crate::error::TraceError;
use crate::plan::Plan;
use crate::trace::Trace;

/// A run that cannot be had here.
#[derive(Debug)]
pub(crate) enum Session {}

impl Session {
    pub(crate) fn prepare(_plan: Plan, _command: &mut Command) -> Result<Session, TraceError> {
        Err(TraceError::Unsupported)
    }

    pub(crate) fn failed(&self) -> Option<TraceError> {
        match *self {}
    }

    pub(crate) fn started(&self) -> Box<dyn Reaper> {
        match *self {}
    }

    pub(crate) fn finish(&self, _wait: Duration) -> Result<Trace, TraceError> {
        match *self {}
    }
}

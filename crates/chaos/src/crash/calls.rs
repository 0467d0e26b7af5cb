//! The victim under the tracer: what its system calls were, and which was struck.

use super::attempt::Hit;
use super::position::Position;
use super::strike::{Fault, Strike};
use crate::error::{Failure, HarnessError};
use crate::scenario::Run;
use crate::supervisor::{Victim, VictimSpec};

/// One system call of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallSeen {
    pub(crate) position: Position,
    /// Its name and what it was about: `write file`.
    pub(crate) kind: String,
    /// In which ways it may fail.
    pub(crate) faults: Vec<Fault>,
}

/// A run that is traced.
pub(crate) struct Tracing {}

impl Tracing {
    /// A trace, where the strike or the dry run needs one.
    pub(crate) fn wanted(strike: &Strike, traces: bool) -> Result<Option<Tracing>, Failure> {
        let strikes = matches!(strike, Strike::Call { .. } | Strike::Fail { .. });
        if !strikes && !traces {
            return Ok(None);
        }
        Err(HarnessError::Machine {
            doing: "trace a victim".to_owned(),
            source: "system calls cannot be traced in this build".into(),
        }
        .into())
    }

    pub(crate) fn start(
        &mut self,
        run: &mut Run,
        spec: &VictimSpec,
    ) -> Result<Victim, HarnessError> {
        run.start(spec)
    }

    /// The calls of the run, and what was struck.
    pub(crate) fn end(self) -> Result<(Vec<CallSeen>, Option<Hit>), Failure> {
        Ok((Vec::new(), None))
    }
}

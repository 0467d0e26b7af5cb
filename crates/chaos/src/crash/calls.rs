//! The victim under the tracer: what its system calls were, and which was struck.

use std::time::Duration;

use agentos_tracer::{Call, Done, Fault, Plan, Position, Target, Trace, Tracer};

use super::attempt::Hit;
use super::strike::Strike;
use crate::error::HarnessError;
use crate::scenario::Run;
use crate::supervisor::{Victim, VictimSpec};

/// How long a process that has left the victim's group may go on when that is dead;
/// then it is killed, since it is traced. An interruption waits for it as well.
const END_WAIT: Duration = Duration::from_secs(1);

/// One system call of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallSeen {
    pub(crate) position: Position,
    /// Its name and what it acts on: `write file`.
    pub(crate) kind: String,
    /// In which ways it may fail.
    pub(crate) faults: Vec<Fault>,
}

/// What a traced run brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) calls: Vec<CallSeen>,
    /// What cannot be struck, and is not in the list.
    pub(crate) unseen: Vec<String>,
    pub(crate) hit: Option<Hit>,
}

/// A run that is traced.
pub(crate) struct Tracing {
    tracer: Tracer,
    /// What is to fail in which way.
    fault: Option<Fault>,
}

impl Tracing {
    /// A trace, where the strike or the dry run needs one.
    pub(crate) fn wanted(strike: &Strike, traces: bool) -> Option<Tracing> {
        let (plan, fault) = match strike {
            Strike::Call { position, when } => (Plan::kill(position.clone(), *when), None),
            Strike::Fail { position, fault } => {
                (Plan::fail(position.clone(), *fault), Some(*fault))
            }
            _ if traces => (Plan::Count, None),
            _ => return None,
        };
        let tracer = Tracer::new(plan);
        Some(Tracing { tracer, fault })
    }

    pub(crate) fn start(
        &mut self,
        run: &mut Run,
        spec: &VictimSpec,
    ) -> Result<Victim, HarnessError> {
        run.start_by(spec, &mut self.tracer)
    }

    /// The calls of the run, and what was struck. Nothing of the victim's group
    /// runs any more.
    pub(crate) fn end(self) -> Result<Seen, HarnessError> {
        let trace = self.tracer.finish(END_WAIT);
        let trace = trace.map_err(HarnessError::machine("trace a victim"))?;
        Ok(seen(&trace, self.fault))
    }
}

fn seen(trace: &Trace, fault: Option<Fault>) -> Seen {
    let call = |call: &Call| CallSeen {
        position: call.position.clone(),
        kind: kind(call),
        faults: call.faults().filter(|fault| can(call, *fault)).collect(),
    };
    let mut unseen = Vec::new();
    if trace.dropped() > 0 {
        let (dropped, kept) = (trace.dropped(), trace.calls.len());
        unseen.push(format!(
            "{dropped} system calls came after the first {kept}"
        ));
    }
    if trace.foreign > 0 {
        unseen.push(format!(
            "{} system calls were of 32-bit programs",
            trace.foreign
        ));
    }
    let hit = trace.hit.as_ref().filter(|hit| hit.done != Done::Nothing);
    Seen {
        calls: trace.calls.iter().map(call).collect(),
        unseen,
        hit: hit.map(|hit| Hit {
            label: match fault {
                Some(fault) => failing(&kind(&hit.call), fault),
                None => kind(&hit.call),
            },
            place: {
                let Call {
                    kind,
                    target,
                    position,
                    ..
                } = &hit.call;
                match fault {
                    Some(fault) => format!("{fault} of {kind} {target} at {position}"),
                    None => format!("{kind} {target} at {position}"),
                }
            },
        }),
    }
}

/// Whether the fault can happen to what this call did: one byte is not written
/// in part.
fn can(call: &Call, fault: Fault) -> bool {
    fault != Fault::ShortWrite || call.result.is_some_and(|bytes| bytes > 1)
}

/// What a call that fails is counted under.
pub(crate) fn failing(kind: &str, fault: Fault) -> String {
    format!("{kind} {fault}")
}

/// What a call is counted under: paths differ from run to run.
fn kind(call: &Call) -> String {
    let what = match call.target {
        Target::Path(_) | Target::Paths { .. } => "file",
        Target::Pipe => "pipe",
        Target::Socket => "socket",
        Target::Memory => "memory",
        Target::Other(_) => "other",
    };
    format!("{} {what}", call.kind)
}

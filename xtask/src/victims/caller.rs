//! An agent that makes calls through the ledger of tools. It can be told to stand still
//! at one place of a call, where it is killed.
//!
//! What its tool does is seen in the outside world, a file to which lines are appended:
//! first it prepares, then it books. The effect takes place with the second line.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use agentos_core::limits::PAGE_ROWS_MAX;
use agentos_core::{Deadline, Finding, TaskId, Worker, WorkerId, crash_point};
use agentos_idempotency::{
    CallContext, DoubtfulCall, GateConfig, IdempotencyStore, LedgerConfig, OnDoubt, Prepared,
    ToolAnswer, ToolCall, ToolError, ToolFailure, ToolLedger, ToolOutcome, ToolOutput,
};
use agentos_store::sqlite::Config;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{BUSY_TIMEOUT, ack, say};
use crate::broken_store;
use crate::canary::Canary;
use crate::model::doubt::{
    Place, Policy, Said, Trace, Turn, found_by_operator, operators_reason, receipt,
};
use crate::work::Who;

/// The tool.
pub(crate) const TOOL: &str = "book";
/// For permits of who is dead to run out, so that an operator sees what is in doubt.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at what is in doubt.
const LOOK: Duration = Duration::from_millis(5);

/// The role of a caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Caller {
    /// The database.
    pub(crate) db: PathBuf,
    /// The outside world.
    pub(crate) world: PathBuf,
    /// Its name, and whether that runs once at a time.
    pub(crate) worker: String,
    pub(crate) sole_start: bool,
    /// How long its permits last, in milliseconds.
    pub(crate) permit_ms: u64,
    /// The calls that an operator resolves before anything is asked for, and whether
    /// they happened.
    pub(crate) resolves: Vec<(String, bool)>,
    /// What it asks for, in this order, and in which turns.
    pub(crate) calls: Vec<(String, Policy)>,
    pub(crate) turns: Vec<Turn>,
    /// Where it stands still.
    pub(crate) stops_at: Option<Place>,
    /// How its store is broken.
    pub(crate) canary: Option<Canary>,
}

/// What a caller was told about a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToldCall {
    pub(crate) call: String,
    pub(crate) turn: Turn,
    pub(crate) said: Said,
}

/// What a caller says when it stands still.
pub(crate) fn standing_at(place: Place) -> String {
    format!("at {place:?}")
}

impl Caller {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let storage = broken_store::open(config, self.canary)?;
        let worker = Worker::start(WorkerId::new(&self.worker)?);
        say(&format!("process {}", Who::from(&worker)))?;
        let config = GateConfig::new(worker)
            .permit_lease(Duration::from_millis(self.permit_ms))
            .sole_start(self.sole_start);
        let gate = IdempotencyStore::new(storage, config)?;
        let ledger = ToolLedger::new(gate, LedgerConfig::new());
        if let Some(place) = self.stops_at {
            let stage = AtomicU8::new(NEITHER);
            crash_point::observe(move |name| {
                if reached(name, &stage) == Some(place) {
                    stand(place);
                }
            });
        }
        for (call, happened) in &self.resolves {
            resolve(&ledger, call, *happened)?;
        }
        for turn in &self.turns {
            for (call, policy) in &self.calls {
                let said = self.ask(&ledger, call, *policy, *turn)?;
                let call = call.clone();
                ack(&ToldCall {
                    call,
                    turn: *turn,
                    said,
                })?;
            }
        }
        Ok(())
    }

    fn ask(
        &self,
        ledger: &ToolLedger,
        call: &str,
        policy: Policy,
        turn: Turn,
    ) -> Result<Said, Box<dyn Error>> {
        let world = self.world.clone();
        let on_doubt = match policy {
            Policy::Retry => OnDoubt::Retry,
            Policy::Verify => OnDoubt::verify(move |call: &DoubtfulCall| look(&world, call)),
            Policy::AskHappened | Policy::AskDidNotHappen => OnDoubt::Ask,
            Policy::Fail => OnDoubt::Fail,
        };
        let asked = ToolCall::new(TOOL, json!({ "call": call }))
            .of_task(&TaskId::new(call)?)
            .on_doubt(on_doubt);
        let body = |context: &CallContext<'_>| {
            self.book(call, turn, context)
                .map_err(|error| ToolFailure::unknown(error.to_string()))
        };
        let answer = match ledger.prepare(&asked, body) {
            Ok(Prepared::Executed(pending)) => {
                self.pass(Place::Returned);
                pending.record()
            }
            Ok(Prepared::Replayed(answer)) => Ok(answer),
            Err(error) => Err(error),
        };
        Ok(said(answer))
    }

    /// The tool: two steps, each one write.
    fn book(&self, call: &str, turn: Turn, context: &CallContext<'_>) -> io::Result<ToolOutput> {
        let mut world = open_world(&self.world)?;
        let mut step = |booked| {
            let trace = Trace {
                call: call.into(),
                booked,
                turn: turn.to_string(),
                why: format!("{:?}", context.execution()),
            };
            world.write_all(format!("{trace}\n").as_bytes())
        };
        self.pass(Place::BeforeEffect);
        step(false)?;
        self.pass(Place::HalfWay);
        step(true)?;
        self.pass(Place::AfterEffect);
        Ok(receipt(call, turn).into())
    }

    fn pass(&self, place: Place) {
        if self.stops_at == Some(place) {
            stand(place);
        }
    }
}

/// The world, to which everybody appends.
fn open_world(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Says where it is, and does nothing more: it is to be killed.
fn stand(place: Place) {
    if say(&standing_at(place)).is_err() {
        std::process::exit(2);
    }
    loop {
        thread::park();
    }
}

/// Which of the two transactions of a call this process is in.
const NEITHER: u8 = 0;
const INTENT: u8 = 1;
const OUTCOME: u8 = 2;

/// Which place a crash point is.
fn reached(name: &str, stage: &AtomicU8) -> Option<Place> {
    match name {
        "key.begun" => {
            stage.store(INTENT, Ordering::SeqCst);
            Some(Place::IntentWritten)
        }
        "key.finished" => {
            stage.store(OUTCOME, Ordering::SeqCst);
            Some(Place::OutcomeWritten)
        }
        "store.before_commit" => match stage.load(Ordering::SeqCst) {
            INTENT => Some(Place::IntentUncommitted),
            OUTCOME => Some(Place::OutcomeUncommitted),
            _ => None,
        },
        "store.after_commit" => match stage.swap(NEITHER, Ordering::SeqCst) {
            INTENT => Some(Place::IntentCommitted),
            OUTCOME => Some(Place::OutcomeCommitted),
            _ => None,
        },
        _ => None,
    }
}

/// Asks the outside world whether a call happened.
fn look(world: &Path, call: &DoubtfulCall) -> Finding<ToolOutcome> {
    let Some(name) = call.arguments["call"].as_str() else {
        return Finding::CannotTell(format!("strange arguments: {}", call.arguments));
    };
    let lines = match std::fs::read_to_string(world) {
        Ok(lines) => lines,
        Err(error) => return Finding::CannotTell(error.to_string()),
    };
    let mut traces = lines.lines().filter_map(Trace::parse);
    match traces.find(|trace| trace.booked && trace.call == name) {
        Some(trace) => {
            let receipt = format!("{name} booked by {}", trace.turn);
            Finding::Happened(ToolOutcome::Done(receipt.into()))
        }
        None => Finding::DidNotHappen,
    }
}

fn said(answer: Result<ToolAnswer, ToolError>) -> Said {
    match answer {
        Ok(answer) => match (&answer.outcome, answer.replayed) {
            (ToolOutcome::Done(output), replayed) => {
                let output = String::from_utf8_lossy(output.as_bytes()).into_owned();
                if replayed {
                    Said::Replayed(output)
                } else {
                    Said::Executed(output)
                }
            }
            (ToolOutcome::GivenUp { .. }, _) => Said::GivenUp,
            (outcome @ ToolOutcome::Failed { .. }, _) => Said::Failed(format!("{outcome:?}")),
        },
        Err(ToolError::InDoubt { holder, .. }) => {
            Said::InDoubt(holder.map(|holder| Who::from(&holder.owner).to_string()))
        }
        Err(error) => Said::Failed(format!("{error:?}")),
    }
}

/// What an operator does: finds the call among those in doubt, and says what happened.
fn resolve(ledger: &ToolLedger, call: &str, happened: bool) -> Result<(), Box<dyn Error>> {
    let deadline = Deadline::after(PATIENCE);
    let task = TaskId::new(call)?;
    loop {
        let page = ledger.in_doubt(None, PAGE_ROWS_MAX)?;
        let mut listed = page.items.iter();
        if let Some(found) = listed.find(|one| one.task() == Some(&task)) {
            let reason = operators_reason(call);
            if happened {
                let outcome = ToolOutcome::Done(found_by_operator(call).into());
                ledger.resolve_happened(found, outcome, reason)?;
            } else {
                ledger.resolve_did_not_happen(found, reason)?;
            }
            return Ok(());
        }
        if deadline.passed() {
            return Err(format!("{call} is not listed as in doubt").into());
        }
        thread::park_timeout(LOOK);
    }
}

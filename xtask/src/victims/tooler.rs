//! Runs many commands through the ledger, and says what came out of each. Every command
//! leaves a line in a file of the outside world, which no ledger keeps.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use agentos_core::{BoxError, Finding, Stopwatch, TaskId, Worker, WorkerId};
use agentos_idempotency::{
    CommandAnswer, CommandCall, CommandOutcome, DoubtfulCall, GateConfig, IdempotencyStore,
    LedgerConfig, OnDoubt, OnFailure, ToolLedger, ToolOutcome, ToolOutput,
};
use agentos_process::CommandSpec;
use agentos_store::sqlite::Config;
use serde::{Deserialize, Serialize};

use super::{BUSY_TIMEOUT, DONE, ack, in_threads, say};
use crate::broken_store;
use crate::canary::Canary;

/// Where commands leave their lines, in the working directory.
pub(crate) const EFFECTS: &str = "effects";
/// Kinds of commands; the check knows what comes of each.
pub(crate) const KINDS: u64 = 8;
/// Of so many calls [`Canary::ForgetCalls`] forgets one.
const FORGOTTEN_EVERY: u64 = 10;

/// The role of one who runs commands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tooler {
    /// The database.
    pub(crate) db: PathBuf,
    /// Where the commands run.
    pub(crate) work: PathBuf,
    /// Its name.
    pub(crate) name: String,
    /// The name of the worker, of which there is one at a time.
    pub(crate) worker: String,
    /// The task to which the commands belong.
    pub(crate) task: String,
    /// It runs so many, of the run with this seed.
    pub(crate) commands: u64,
    pub(crate) seed: u64,
    /// In so many threads.
    pub(crate) threads: u64,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// What came out of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ran {
    /// Which.
    pub(crate) command: u64,
    /// Whether the ledger says that it was not run for this.
    pub(crate) replayed: bool,
    /// How it ended, in words.
    pub(crate) exit: String,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// How it went, by the ledger's own count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RanAll {
    pub(crate) executions: u64,
    pub(crate) replays: u64,
    pub(crate) replay_rate: f64,
    /// How long it took.
    pub(crate) ms: f64,
}

/// The `number`-th command of a run with this seed. What it prints, and how it ends, is
/// worked out once more, and otherwise, by the scenario's check.
fn script(seed: u64, number: u64) -> String {
    format!("echo {number} >> {EFFECTS}; {}", print(seed, number))
}

/// What a command does beside its effect.
fn print(seed: u64, number: u64) -> String {
    match number % KINDS {
        // Bytes that are no text.
        0 => format!("printf '\\x00\\xff\\xfe%s\\x80' {number}"),
        // A sum.
        1 => format!("s=0; for ((i = 1; i <= {number}; i++)); do ((s += i)); done; echo $s"),
        // Another program reads what the shell writes.
        2 => format!("printf 'run %s\\n' {seed}-{number} | tr a-z A-Z"),
        // Nothing.
        3 => ":".to_owned(),
        // Words on standard error.
        4 => format!("echo heard {number} >&2"),
        // A page of blanks with a word at its end.
        5 => format!("printf '%4096s' {number}"),
        // A failure that says why.
        6 => format!("echo half of {number}; echo no more >&2; exit 3"),
        // Without a line's end, and not in ASCII.
        _ => format!("printf 'naïve %x 日誌' {number}"),
    }
}

/// Looks whether a command has had its effect. If so, what it printed is printed once
/// more, without the effect.
fn look(work: &Path, seed: u64, number: u64) -> Finding<ToolOutcome> {
    let effects = match fs::read_to_string(work.join(EFFECTS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Finding::CannotTell(error.to_string()),
        Ok(effects) => effects,
    };
    if !effects.lines().any(|line| line == number.to_string()) {
        return Finding::DidNotHappen;
    }
    let spec = CommandSpec::new("bash").args(["-c", &print(seed, number)]);
    match agentos_process::run(&spec.cwd(work)) {
        Ok(finished) => {
            let outcome = CommandOutcome::from(finished);
            let output = ToolOutput::new(outcome.encode());
            Finding::Happened(match outcome.is_success() {
                true => ToolOutcome::Done(output),
                false => ToolOutcome::failed(outcome.exit.to_string(), output),
            })
        }
        Err(error) => Finding::CannotTell(error.to_string()),
    }
}

impl Tooler {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let storage = broken_store::open(config, self.canary)?;
        let owner = Worker::start(WorkerId::new(&self.worker)?);
        let config = GateConfig::new(owner).sole_start(true);
        let gate = IdempotencyStore::new(storage, config)?;
        // A failure is an outcome as well, and is replayed here.
        let config = LedgerConfig::new().on_failure(OnFailure::Replay);
        let ledger = ToolLedger::new(gate, config);
        let task = TaskId::new(&self.task)?;
        let watch = Stopwatch::start();
        in_threads(self.threads, |first| {
            let mine = (first..self.commands).step_by(usize::try_from(self.threads)?);
            for number in mine {
                let answer = self.call(&ledger, &task, number)?;
                ack(&self.told(number, answer))?;
            }
            Ok(())
        })?;
        let ms = watch.elapsed().as_secs_f64() * 1e3;
        let stats = ledger.stats();
        let done = RanAll {
            executions: stats.executions,
            replays: stats.replays,
            replay_rate: stats.replay_rate(),
            ms,
        };
        say(&format!("{DONE}{}", serde_json::to_string(&done)?))?;
        Ok(())
    }

    fn call(
        &self,
        ledger: &ToolLedger,
        task: &TaskId,
        number: u64,
    ) -> Result<CommandAnswer, BoxError> {
        let script = script(self.seed, number);
        let (work, seed) = (self.work.clone(), self.seed);
        let probe = move |_: &DoubtfulCall| look(&work, seed, number);
        let command = CommandCall::bash(&script).cwd(&self.work).with(|call| {
            let call = call.of_task(task).on_doubt(OnDoubt::verify(probe));
            match self.canary {
                Some(Canary::ForgetCalls) if number.is_multiple_of(FORGOTTEN_EVERY) => {
                    call.in_step(&self.name)
                }
                _ => call,
            }
        });
        let answer = ledger.command(&command, None)?;
        if answer.replayed && self.canary == Some(Canary::RunOnReplay) {
            self.run_unrecorded(&script)?;
        }
        Ok(answer)
    }

    fn run_unrecorded(&self, script: &str) -> Result<(), BoxError> {
        let spec = CommandSpec::new("bash").args(["-c", script]);
        agentos_process::run(&spec.cwd(&self.work))?;
        Ok(())
    }

    fn told(&self, number: u64, answer: CommandAnswer) -> Ran {
        let outcome = answer.outcome;
        let forgets = answer.replayed && self.canary == Some(Canary::ReplayNothing);
        let bytes = |bytes: Vec<u8>| if forgets { Vec::new() } else { bytes };
        Ran {
            command: number,
            replayed: answer.replayed,
            exit: outcome.exit.to_string(),
            stdout: bytes(outcome.stdout),
            stderr: bytes(outcome.stderr),
        }
    }
}

//! The command tool: a process of its own group, run through the ledger.
//!
//! Its call is what is run, where, with which chosen environment and input; how long it
//! may run and how much of its output is kept are not part of it. Whatever it started is
//! killed when it has ended, when its time is over, when it is cancelled, when the right to
//! run it is lost, and, by the group's guardian, when this process dies.

mod outcome;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use agentos_core::Digest;
use agentos_process::{CancelToken, CommandSpec, Finished, Outcome, ProcessError, run_while};
use serde_json::{Value, json};

pub use outcome::{COMMAND_VERSION, CommandEnd, CommandOutcome, MalformedOutcome};

use crate::limits::{
    COMMAND_LOOK_INTERVAL, COMMAND_OUTPUT_BYTES_DEFAULT, COMMAND_OUTPUT_BYTES_MAX,
    COMMAND_TIMEOUT_DEFAULT,
};
use crate::tool_ledger::{
    CallContext, Prepared, Step, TooLarge, ToolAnswer, ToolCall, ToolError, ToolFailure,
    ToolLedger, ToolOutcome, ToolOutput,
};

/// The variable in which a command finds the idempotency key of its call, to hand it on
/// to services that accept one.
pub const KEY_VARIABLE: &str = "AGENTOS_IDEMPOTENCY_KEY";

/// What to record of a command that did not end by itself: killed by a signal, by its
/// timeout, or cancelled. Its effect may have happened in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CutOff {
    /// A failure, as of a command that says that it failed: it is kept, with whatever it
    /// printed, and run again or replayed as the call says of failures.
    #[default]
    Failure,
    /// That nobody knows: the call is in doubt at once, and handled as it says of that.
    /// What the command printed is not kept.
    Doubt,
}

/// A command to run once.
///
/// It gets this process's environment and the variables that are chosen here, of which
/// only those are part of the call. What is part of the call is kept for operators, as
/// the ledger is configured: a secret is better left in the environment that it inherits,
/// or taken out by [`LedgerConfig::redact`](crate::LedgerConfig::redact).
#[derive(Debug, Clone)]
pub struct CommandCall {
    name: String,
    what: What,
    cwd: Option<PathBuf>,
    env: BTreeMap<OsString, OsString>,
    env_clear: bool,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
    output_bytes: usize,
    takes_cut_output: bool,
    cut_off: CutOff,
    policy: ToolCall,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Argv(Vec<OsString>),
    Script { shell: &'static str, text: OsString },
}

impl CommandCall {
    /// A program and its arguments; no shell reads them.
    pub fn argv<I>(argv: I) -> CommandCall
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        CommandCall::of(What::Argv(argv.into_iter().map(Into::into).collect()))
    }

    /// A script for `bash -c`.
    pub fn bash(text: impl Into<OsString>) -> CommandCall {
        let text = text.into();
        CommandCall::of(What::Script {
            shell: "bash",
            text,
        })
    }

    /// A script for `/bin/sh -c`.
    pub fn sh(text: impl Into<OsString>) -> CommandCall {
        let text = text.into();
        CommandCall::of(What::Script {
            shell: "/bin/sh",
            text,
        })
    }

    fn of(what: What) -> CommandCall {
        CommandCall {
            name: "command".into(),
            what,
            cwd: None,
            env: BTreeMap::new(),
            env_clear: false,
            stdin: None,
            timeout: COMMAND_TIMEOUT_DEFAULT,
            output_bytes: COMMAND_OUTPUT_BYTES_DEFAULT,
            takes_cut_output: false,
            cut_off: CutOff::default(),
            policy: ToolCall::new("", Value::Null),
        }
    }

    /// The name of the tool; `command` unless changed.
    #[must_use]
    pub fn tool(mut self, name: impl Into<String>) -> CommandCall {
        self.name = name.into();
        self
    }

    /// Runs in this directory, which is part of the call; in this process's own
    /// otherwise, which is part of it too.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> CommandCall {
        self.cwd = Some(cwd.into());
        self
    }

    /// Sets a variable of the environment, which is part of the call.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> CommandCall {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Starts from an empty environment: only what is set here is in it.
    #[must_use]
    pub fn env_clear(mut self) -> CommandCall {
        self.env_clear = true;
        self
    }

    /// What it reads, which is part of the call: of it the digest is kept.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> CommandCall {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long it may run: 60 s unless changed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> CommandCall {
        self.timeout = timeout;
        self
    }

    /// How many bytes of each of its two streams are recorded: 4 MiB unless changed. Of a
    /// command that prints more nothing but size and digest is recorded, and the answer is
    /// [`CommandError::OutputTooLarge`], in which whoever ran it gets the output, up to 64
    /// MiB of each stream. Of a command that prints more than that the rest is dropped, and
    /// the outcome says that it is cut: let it write to a file.
    #[must_use]
    pub fn output_bytes(mut self, bytes: usize) -> CommandCall {
        self.output_bytes = bytes;
        self
    }

    /// Nobody needs more of its output than [`CommandCall::output_bytes`]: what is beyond is
    /// dropped, and output that is cut is an answer like any other, which says that it is.
    #[must_use]
    pub fn take_cut_output(mut self) -> CommandCall {
        self.takes_cut_output = true;
        self
    }

    /// What to record when it did not end by itself.
    #[must_use]
    pub fn cut_off(mut self, cut_off: CutOff) -> CommandCall {
        self.cut_off = cut_off;
        self
    }

    /// Says of the call what can be said of every tool call: policies, scope, lease.
    #[must_use]
    pub fn with(mut self, say: impl FnOnce(ToolCall) -> ToolCall) -> CommandCall {
        self.policy = say(self.policy);
        self
    }

    /// What is executed: program and arguments, as evidence of a checkpoint names them.
    /// What is no UTF-8 has replacement characters there.
    pub fn executed(&self) -> Vec<String> {
        let lossy = |text: &OsString| text.to_string_lossy().into_owned();
        match &self.what {
            What::Argv(argv) => argv.iter().map(lossy).collect(),
            What::Script { shell, text } => vec![(*shell).into(), "-c".into(), lossy(text)],
        }
    }

    /// As a call of the ledger.
    ///
    /// # Errors
    ///
    /// [`ToolError::NotDone`] when this process has no working directory.
    pub fn to_call(&self) -> Result<ToolCall, ToolError> {
        let cwd = match &self.cwd {
            Some(cwd) => std::path::absolute(cwd),
            None => std::env::current_dir(),
        };
        let cwd = cwd.map_err(|error| ToolError::NotDone {
            reason: format!("there is no working directory: {error}"),
        })?;
        let env = self
            .env
            .iter()
            .map(|(name, value)| json!([text_of(name), text_of(value)]));
        let mut arguments = json!({
            "cwd": text_of(cwd.as_os_str()),
            "env": env.collect::<Vec<Value>>(),
        });
        let mut say = |name: &str, value: Value| arguments[name] = value;
        match &self.what {
            What::Argv(argv) => say("argv", argv.iter().map(|arg| text_of(arg)).collect()),
            What::Script { shell, text } => {
                say("shell", json!(shell));
                say("script", text_of(text));
            }
        }
        if self.env_clear {
            say("env_clear", json!(true));
        }
        if let Some(stdin) = &self.stdin {
            say("stdin", json!(Digest::of(stdin).to_string()));
        }
        Ok(self.policy.clone().calls(self.name.clone(), arguments))
    }

    /// Runs it, as the body of its call. When the right to run it is lost, the permit or
    /// the lease of a work item, it is killed with all that it started, a moment later, and
    /// nobody knows what it did.
    ///
    /// # Errors
    ///
    /// [`ToolFailure`].
    pub fn run(
        &self,
        context: &CallContext<'_>,
        cancel: Option<&CancelToken>,
    ) -> Result<ToolOutput, ToolFailure> {
        let spec = self
            .spec()
            .map_err(not_run)?
            .env(KEY_VARIABLE, context.idempotency_key());
        let mut is_over = false;
        let finished = run_while(&spec, cancel, COMMAND_LOOK_INTERVAL, || {
            is_over = context.is_over();
            !is_over
        });
        let finished = finished.map_err(not_run)?;
        if is_over && finished.outcome == Outcome::Cancelled {
            let reason = "the right to run the command was lost, and it was killed";
            return Err(ToolFailure::unknown(reason));
        }
        if !self.takes_cut_output && self.output_bytes < longest(&finished) {
            context.output_is_too_large();
        }
        self.ended(finished)
    }

    fn spec(&self) -> Result<CommandSpec, ProcessError> {
        let mut spec = match &self.what {
            What::Argv(argv) => CommandSpec::from_argv(argv)?,
            What::Script { shell, text } => CommandSpec::new(*shell).arg("-c").arg(text),
        };
        if let Some(cwd) = &self.cwd {
            spec = spec.cwd(cwd);
        }
        for (name, value) in &self.env {
            spec = spec.env(name, value);
        }
        if self.env_clear {
            spec = spec.env_clear();
        }
        if let Some(stdin) = &self.stdin {
            spec = spec.stdin_bytes(stdin.clone());
        }
        let bytes = match self.takes_cut_output {
            true => self.output_bytes,
            false => self.output_bytes.max(COMMAND_OUTPUT_BYTES_MAX),
        };
        Ok(spec.timeout(self.timeout).max_output(bytes))
    }

    fn ended(&self, finished: Finished) -> Result<ToolOutput, ToolFailure> {
        let outcome = CommandOutcome::from(finished);
        let output = ToolOutput::new(outcome.encode());
        match outcome.exit {
            exit if exit.is_success() => Ok(output),
            CommandEnd::Exited { .. } => Err(ToolFailure::failed(outcome.exit.to_string(), output)),
            exit => match self.cut_off {
                CutOff::Failure => Err(ToolFailure::failed(exit.to_string(), output)),
                CutOff::Doubt => Err(ToolFailure::unknown(format!(
                    "the command did not end by itself: {exit}"
                ))),
            },
        }
    }
}

/// Bytes of the longer stream.
fn longest(finished: &Finished) -> usize {
    finished.stdout.len().max(finished.stderr.len())
}

/// Sorts why there is no end of a command by whether it may have done something.
fn not_run(error: ProcessError) -> ToolFailure {
    let reason = match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    if error.nothing_ran() {
        ToolFailure::NotDone { reason }
    } else {
        ToolFailure::Unknown { reason }
    }
}

/// Text as itself, and anything else as its bytes, in numbers: neither stands for the
/// other.
fn text_of(text: &OsStr) -> Value {
    match text.to_str() {
        Some(text) => json!(text),
        None => json!(text.as_bytes()),
    }
}

/// The answer to a command: how it ended, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandAnswer {
    /// How it ended. That it failed, was killed or timed out is no error of the ledger.
    pub outcome: CommandOutcome,
    /// Whether it is what was recorded, and nothing was run.
    pub replayed: bool,
    /// Program and arguments, as evidence of a checkpoint names them.
    pub executed: Vec<String>,
    /// How often the call was begun: see [`ToolAnswer::executions`].
    pub executions: u64,
}

impl CommandAnswer {
    /// Reads the answer to a call of this command.
    ///
    /// # Errors
    ///
    /// [`CommandError::GivenUp`], [`CommandError::Malformed`], and
    /// [`CommandError::OutputTooLarge`] unless the command takes cut output.
    pub fn read(command: &CommandCall, answer: &ToolAnswer) -> Result<CommandAnswer, CommandError> {
        let output = match &answer.outcome {
            ToolOutcome::Done(output) | ToolOutcome::Failed { output, .. } => output,
            ToolOutcome::GivenUp { reason } => {
                let reason = reason.clone();
                return Err(CommandError::GivenUp { reason });
            }
        };
        let outcome = CommandOutcome::decode(output.as_bytes())?;
        let is_cut = outcome.stdout_cut || outcome.stderr_cut;
        let answer = CommandAnswer {
            outcome,
            replayed: answer.replayed,
            executed: command.executed(),
            executions: answer.executions,
        };
        if is_cut && !command.takes_cut_output {
            return Err(CommandError::OutputTooLarge {
                large: None,
                outcome: Some(Box::new(answer.outcome)),
            });
        }
        Ok(answer)
    }
}

/// Why a command has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// As the ledger says.
    #[error(transparent)]
    Tool(ToolError),
    /// Nobody knows whether it ran, and its policy was to give it up. It is never run
    /// again.
    #[error("{reason}")]
    GivenUp {
        /// Why.
        reason: String,
    },
    /// What is recorded, by an operator or a probe, is no outcome of a command: see
    /// [`CommandOutcome::encode`].
    #[error("what is recorded is no outcome of a command")]
    Malformed(#[from] MalformedOutcome),
    /// It ran, and printed more than [`CommandCall::output_bytes`]. That it ran is recorded,
    /// so that it is not run again unasked; its output is here and nowhere else, or is gone
    /// if this is a replay.
    #[error("the command printed more than is recorded")]
    OutputTooLarge {
        /// What is recorded: size and digest of [`CommandOutcome::encode`]. `None` when the
        /// command was run as one that takes cut output, which is recorded and here.
        large: Option<TooLarge>,
        /// How it ended, and what it printed; `None` when this is a replay.
        outcome: Option<Box<CommandOutcome>>,
    },
}

impl From<ToolError> for CommandError {
    fn from(error: ToolError) -> CommandError {
        let ToolError::TooLarge { large, output } = error else {
            return CommandError::Tool(error);
        };
        let outcome = output.map(|output| CommandOutcome::decode(output.as_bytes()));
        match outcome.transpose() {
            Ok(outcome) => CommandError::OutputTooLarge {
                large: Some(large),
                outcome: outcome.map(Box::new),
            },
            Err(malformed) => CommandError::Malformed(malformed),
        }
    }
}

impl Step {
    /// Runs a command, or answers with what is recorded, as
    /// [`Step::execute_or_replay`]. When `cancel` is cancelled the command is killed with
    /// all that it started before this returns. So it is when the permit of the call or the
    /// lease of its work item is lost, which is looked for every 100 ms: the call is in
    /// doubt then.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub fn command(
        &self,
        command: &CommandCall,
        cancel: Option<&CancelToken>,
    ) -> Result<CommandAnswer, CommandError> {
        let body = |context: &CallContext<'_>| command.run(context, cancel);
        let answer = self.execute_or_replay(&command.to_call()?, body)?;
        CommandAnswer::read(command, &answer)
    }

    /// As [`Step::command`], but leaves the recording to the caller, as
    /// [`Step::prepare`].
    ///
    /// # Errors
    ///
    /// [`ToolError`].
    pub fn prepare_command(
        &self,
        command: &CommandCall,
        cancel: Option<&CancelToken>,
    ) -> Result<Prepared, ToolError> {
        self.prepare(&command.to_call()?, |context| command.run(context, cancel))
    }
}

impl ToolLedger {
    /// As [`Step::command`], for the occurrence that the call says.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub fn command(
        &self,
        command: &CommandCall,
        cancel: Option<&CancelToken>,
    ) -> Result<CommandAnswer, CommandError> {
        let body = |context: &CallContext<'_>| command.run(context, cancel);
        let answer = self.execute_or_replay(&command.to_call()?, body)?;
        CommandAnswer::read(command, &answer)
    }
}

#[cfg(test)]
mod tests;

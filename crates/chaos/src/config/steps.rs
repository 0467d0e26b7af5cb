//! The commands of a run: what makes the directory ready, what is struck, and what
//! checks. All of them are victims, so that their words become evidence and none
//! outlives the run.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use agentos_process::Exit;

use super::Config;
use super::file::Command;
use super::template::Places;
use crate::crash::Aftermath;
use crate::error::{Failure, HarnessError};
use crate::scenario::{Run, ScenarioResult};
use crate::supervisor::VictimSpec;
use crate::verdict::{Outcome, Verdict};

/// The exit code of a check that found something broken.
const BROKEN: i32 = 1;

/// Lines of a check that become reasons.
const REASONS_MAX: usize = 20;

/// Bytes of the last acknowledgement that a check finds in its environment: what is longer
/// would keep it from being started.
const LAST_ACK_BYTES_MAX: usize = 64 * 1024;

/// What a directory beside the run's is made for.
const ROOM: &str = "make room for a command's words";

/// The end of standard error that is read for its last line.
const COMPLAINT_BYTES_MAX: i64 = 64 * 1024;

impl Config {
    /// The command as a victim of this run.
    pub(super) fn spec(
        &self,
        name: &str,
        command: &Command,
        run: &Run,
        size: u64,
    ) -> Result<VictimSpec, HarnessError> {
        let dir = std::path::absolute(run.dir());
        let dir = dir.map_err(HarnessError::machine("name the directory of a run"))?;
        let places = Places {
            dir: &dir,
            config_dir: &self.directory,
            size,
            seed: run.seed(),
        };
        let arguments = &command.argv.arguments;
        let cwd = command.cwd.as_ref();
        let cwd = cwd.map_or_else(
            || dir.clone(),
            |cwd| self.directory.join(cwd.expand(places)),
        );
        let mut spec = VictimSpec::new(name, command.argv.program.expand(places))
            .args(arguments.iter().map(|argument| argument.expand(places)))
            .cwd(cwd)
            .env("CHAOS_DIR", &dir)
            .env("CHAOS_SIZE", size.to_string())
            .env("CHAOS_SEED", run.seed().to_string());
        for (key, value) in &command.env {
            spec = spec.env(key, value.expand(places));
        }
        Ok(spec)
    }

    /// Makes the directory ready.
    pub(super) fn prepare(&self, run: &mut Run, size: u64) -> Result<(), Failure> {
        let Some(command) = &self.contents.prepare else {
            return Ok(());
        };
        let spec = self.spec("prepare", command, run, size)?;
        let apart = run.apart("prepare");
        let log = apart.map_err(HarnessError::machine(ROOM))?.join("stderr");
        let mut victim = run.start(&spec.stderr_log(&log))?;
        let unfit = |why: String| HarnessError::machine("make a directory ready")(why);
        match victim.wait_for_exit(self.command_timeout()) {
            Ok(exit) if exit.success() => Ok(()),
            Ok(exit) => Err(unfit(because(
                format!("the prepare command ended with {exit}"),
                last_words(&log)?,
            ))
            .into()),
            Err(error) => Err(unfit(Failure::from(error).reason()).into()),
        }
    }

    /// Asks the check command what is to be said.
    pub(super) fn check(&self, run: &mut Run, after: &Aftermath) -> ScenarioResult {
        let apart = run.apart("check");
        let apart = apart.map_err(HarnessError::machine(ROOM))?;
        let acks = after.acks();
        let list = apart.join("acks");
        let lines: String = acks.iter().map(|ack| format!("{ack}\n")).collect();
        fs::write(&list, lines).map_err(HarnessError::machine(ROOM))?;
        let log = apart.join("stderr");
        let spec = self
            .spec("check", &self.contents.check, run, after.size)?
            .env("CHAOS_ACKS", &list)
            .env("CHAOS_ACK_COUNT", acks.len().to_string())
            .env(
                "CHAOS_LAST_ACK",
                variable(acks.last().map_or("", String::as_str)),
            )
            .env("CHAOS_STRIKE", after.strike.to_string())
            .env("CHAOS_HIT", after.hit.as_deref().unwrap_or_default())
            .env("CHAOS_FINISHED", u8::from(after.finished()).to_string())
            .stderr_log(&log);
        let mut victim = run.start(&spec)?;
        let ended = victim.wait_for_exit(self.command_timeout());
        let mut outcome = Outcome::passed();
        outcome.metric("acked", acks.len());
        match ended {
            Ok(exit) if exit.success() => {}
            Ok(Exit::Exited { code: BROKEN }) => {
                for reason in reasons(&victim.said(), last_words(&log)?) {
                    outcome.violate(reason);
                }
            }
            Ok(exit) => outcome.not_judged(because(
                format!("the check is broken: it ended with {exit}"),
                last_words(&log)?,
            )),
            Err(error) if error.verdict() == Verdict::Inconclusive => return Err(error.into()),
            Err(error) => {
                let why = Failure::from(error).reason();
                outcome.not_judged(format!("the check is broken: {why}"));
            }
        }
        Ok(outcome)
    }
}

/// What the check said, or complained about, as reasons.
fn reasons(said: &[String], complaint: Option<String>) -> Vec<String> {
    let said: Vec<String> = said
        .iter()
        .filter(|line| !line.trim().is_empty())
        .take(REASONS_MAX)
        .map(|line| printable(line))
        .collect();
    match (said.is_empty(), complaint) {
        (false, _) => said,
        (true, Some(complaint)) => vec![complaint],
        (true, None) => vec![format!("the check ended with exit code {BROKEN}, silently")],
    }
}

/// Without what a terminal would obey, and no page can show.
fn printable(line: &str) -> String {
    let shown = |letter: char| match letter.is_control() && letter != '\t' {
        true => char::REPLACEMENT_CHARACTER,
        false => letter,
    };
    line.chars().map(shown).collect()
}

/// As a variable of the environment, which has a bound and no NUL: up to the one or the
/// other.
fn variable(text: &str) -> &str {
    let text = text.split('\0').next().unwrap_or_default();
    &text[..text.floor_char_boundary(LAST_ACK_BYTES_MAX)]
}

fn because(what: String, complaint: Option<String>) -> String {
    match complaint {
        Some(complaint) => format!("{what}: {complaint}"),
        None => what,
    }
}

/// The last line of a standard error that has one.
fn last_words(log: &Path) -> Result<Option<String>, HarnessError> {
    read_last(log).map_err(HarnessError::machine(
        "read what a command complained about",
    ))
}

fn read_last(log: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(log)?;
    let long = file.metadata()?.len() > COMPLAINT_BYTES_MAX.unsigned_abs();
    if long {
        file.seek(SeekFrom::End(-COMPLAINT_BYTES_MAX))?;
    }
    let mut bytes = Vec::new();
    file.take(COMPLAINT_BYTES_MAX.unsigned_abs())
        .read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    Ok(last.map(printable))
}

//! An agent that does real work in iterations.
//!
//! Each iteration a bash command makes an artifact from some lines of a real
//! file; the agent reads it, adds it to its running digest, and appends a
//! checkpoint with the artifact as evidence. Then it acknowledges. Started
//! again, it goes on from where it can resume.

use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentos_checkpoints::{
    CheckpointConfig, CheckpointManager, Evidence, NewCheckpoint, Pack, ReadState, Resume,
};
use agentos_core::{
    AppendCheckpoint, CheckpointType, Commit, Digest, DigestBuilder, NewTask, SetTaskStatus,
    Storage, TaskId, TaskStatus,
};
use agentos_process::CommandSpec;
use agentos_store::sqlite::{Config, SqliteStore};
use serde::{Deserialize, Serialize};

use super::say;
use crate::canary::Canary;

/// Lines of the input that one iteration works on.
pub(crate) const LINES_PER_ITERATION: usize = 7;

/// Counts words and digests the lines; written under another name first, so
/// that under its own name an artifact is whole.
const COMMAND: &str = r#"
set -euo pipefail
lines() { tail -n "+$FROM" "$INPUT" | head -n "$COUNT" || true; }
{ lines | wc -w | tr -d ' '; lines | sha256sum | cut -d ' ' -f 1; } > "$OUT.part.$$"
mv "$OUT.part.$$" "$OUT"
"#;

/// The same by who is broken.
const COMMAND_RENAMING_FIRST: &str = r#"
set -euo pipefail
lines() { tail -n "+$FROM" "$INPUT" | head -n "$COUNT" || true; }
: > "$OUT.part.$$"
mv "$OUT.part.$$" "$OUT"
{ lines | wc -w | tr -d ' '; lines | sha256sum | cut -d ' ' -f 1; } > "$OUT"
"#;

/// The role of an agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Agent {
    /// The database.
    pub(crate) db: PathBuf,
    /// Where artifacts go.
    pub(crate) work: PathBuf,
    /// The real file that is worked on.
    pub(crate) input: PathBuf,
    /// Its task.
    pub(crate) task: String,
    /// The iteration after which it is done.
    pub(crate) last: u64,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// The state of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Iterations done.
    pub(crate) iteration: u64,
    /// Digest over all artifacts so far, in hexadecimal.
    pub(crate) running: String,
}

impl Progress {
    /// Before the first iteration.
    pub(crate) fn start() -> Progress {
        Progress {
            iteration: 0,
            running: Digest::of(b"").to_string(),
        }
    }

    /// After one more iteration, which made `artifact`.
    pub(crate) fn after(&self, artifact: &[u8]) -> Progress {
        let running = DigestBuilder::new("running")
            .bytes(self.running.as_bytes())
            .bytes(artifact)
            .finish()
            .to_string();
        Progress {
            iteration: self.iteration + 1,
            running,
        }
    }
}

/// The artifact of an iteration, relative to the agent's folder.
pub(crate) fn artifact_of(iteration: u64) -> PathBuf {
    format!("iteration-{iteration:04}.txt").into()
}

/// First line, from 1, of what an iteration works on.
pub(crate) fn input_lines(iteration: u64, lines: usize) -> usize {
    let chunks = (lines / LINES_PER_ITERATION).max(1);
    let chunk = usize::try_from(iteration).unwrap_or(0) % chunks;
    chunk * LINES_PER_ITERATION + 1
}

impl Agent {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let store = Arc::new(SqliteStore::open(Config::at(&self.db))?);
        let config = CheckpointConfig::new(&self.work);
        let checkpoints = CheckpointManager::new(Arc::clone(&store) as Arc<dyn Storage>, config)?;
        let task = TaskId::new(&self.task)?;
        let status = store
            .create_task(NewTask::new(task.clone(), "chaos agent"))?
            .status;
        if status == TaskStatus::Created {
            store.commit(SetTaskStatus::new(task.clone(), TaskStatus::Running).into())?;
        }
        let mut progress = match checkpoints.resume(&task)? {
            Resume::From(resumed) if self.canary != Some(Canary::ForgetResume) => {
                resumed.checkpoint.state::<Progress>()?
            }
            _ => Progress::start(),
        };
        say(&format!("start {}", progress.iteration + 1))?;
        let lines = fs::read_to_string(&self.input)?.lines().count();
        let mut late: Option<AppendCheckpoint> = None;
        let mut acks = VecDeque::new();
        while progress.iteration < self.last {
            let iteration = progress.iteration + 1;
            let artifact = artifact_of(iteration);
            self.make(&artifact, input_lines(iteration, lines))?;
            progress = progress.after(&fs::read(self.work.join(&artifact))?);
            let part = checkpoints.prepare(
                NewCheckpoint::new(task.clone(), CheckpointType::IterationEnd)
                    .state(&progress)?
                    .evidence(Pack::all([Evidence::file(&artifact)])),
            )?;
            if self.canary == Some(Canary::ChangeArtifact) {
                fs::write(self.work.join(&artifact), "something else")?;
            }
            say(&format!("commit {iteration}"))?;
            let digest = part
                .snapshot
                .as_ref()
                .map(|state| state.digest())
                .ok_or("no state")?;
            match self.canary {
                Some(Canary::AckWithoutWrite) if iteration.is_multiple_of(3) => {}
                Some(Canary::AckBeforeCommit) => {
                    if let Some(part) = late.replace(part) {
                        store.commit(part.into())?;
                    }
                }
                _ => {
                    store.commit(part.into())?;
                }
            }
            acks.push_back(format!("ack {iteration} {digest}"));
            if self.canary != Some(Canary::AckLate) || acks.len() > 2 {
                say(&acks.pop_front().unwrap_or_default())?;
            }
        }
        // The canary that is always one behind, and is not struck, loses nothing.
        if let Some(part) = late {
            store.commit(part.into())?;
        }
        // One that was killed after its success has nothing to add.
        if status == TaskStatus::Succeeded {
            say("done")?;
            return Ok(());
        }
        store.commit(
            Commit::new().part(SetTaskStatus::new(task, TaskStatus::Succeeded).reason("done")),
        )?;
        say("done")?;
        Ok(())
    }

    /// Runs the command of one iteration.
    fn make(&self, artifact: &Path, from: usize) -> Result<(), Box<dyn Error>> {
        let command = match self.canary {
            Some(Canary::RenameBeforeWrite) => COMMAND_RENAMING_FIRST,
            _ => COMMAND,
        };
        let spec = CommandSpec::bash(command)
            .cwd(&self.work)
            .env("FROM", from.to_string())
            .env("COUNT", LINES_PER_ITERATION.to_string())
            .env("INPUT", &self.input)
            .env("OUT", artifact);
        let finished = agentos_process::run(&spec)?;
        if !finished.success() {
            let words = String::from_utf8_lossy(&finished.stderr);
            return Err(format!("the command ended with {}: {words}", finished.outcome).into());
        }
        Ok(())
    }
}

//! An agent with an exact answer: it counts the words of a folder of files.
//!
//! Each iteration adds some files to the statistics, writes what is known so far
//! as an artifact, and appends a checkpoint with the whole state and that
//! artifact as evidence. The last commit holds the last checkpoint, the answer
//! and the success of the task together. Started again, it finds out by itself
//! where to go on.
//!
//! Where the files of an iteration are read, and nowhere else, a line is added to
//! a log: how much was worked is counted there, whatever the agent says.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentos_checkpoints::{
    CheckpointConfig, CheckpointManager, Evidence, NewCheckpoint, Pack, ReadState, Resume,
};
use agentos_core::{
    AuditLine, CheckpointType, Commit, Digest, NewTask, SetTaskStatus, Snapshot, Storage, TaskId,
    TaskStatus,
};
use agentos_store::sqlite::{Config, SqliteStore};
use serde::{Deserialize, Serialize};

use super::say;
use super::tally::{Tally, share};
use crate::canary::Canary;

/// The event under which the answer stands in the audit.
pub(crate) const ANSWER_EVENT: &str = "answer";
/// The log of the work, in the counter's folder: a line with the iteration's
/// number whenever the files of an iteration are read.
pub(crate) const WORKED_LOG: &str = "worked.log";

/// The role of a counter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Counter {
    /// The database.
    pub(crate) db: PathBuf,
    /// Where artifacts go.
    pub(crate) work: PathBuf,
    /// The folder of files that is worked on.
    pub(crate) input: PathBuf,
    /// Its task.
    pub(crate) task: String,
    /// In how many iterations the work is done.
    pub(crate) iterations: u64,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

impl Counter {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        say("open")?;
        let store = Arc::new(SqliteStore::open(Config::at(&self.db))?);
        let config = CheckpointConfig::new(&self.work);
        let checkpoints = CheckpointManager::new(Arc::clone(&store) as Arc<dyn Storage>, config)?;
        let task = TaskId::new(&self.task)?;
        let status = store
            .create_task(NewTask::new(task.clone(), "counts words"))?
            .status;
        if status == TaskStatus::Created {
            store.commit(SetTaskStatus::new(task.clone(), TaskStatus::Running).into())?;
        }
        let names = names(&self.input)?;
        let mut tally = match checkpoints.resume(&task)? {
            Resume::From(resumed) if self.canary != Some(Canary::ForgetResume) => {
                let mut tally = resumed.checkpoint.state::<Tally>()?;
                if self.canary == Some(Canary::DoubleCount) {
                    self.work_on(&names, tally.iteration, &mut tally)?;
                }
                if self.canary == Some(Canary::RedoOnResume) {
                    tally = self.redo(&names, tally.iteration)?;
                }
                tally
            }
            _ => Tally::start(),
        };
        if self.canary == Some(Canary::AnswerAgain) && status == TaskStatus::Succeeded {
            store.commit(answer_line(&task, &tally)?.into())?;
        }
        say(&format!("start {}", tally.iteration + 1))?;
        while tally.iteration < self.iterations {
            let iteration = tally.iteration + 1;
            if self.canary == Some(Canary::WorkTwice) {
                self.work_on(&names, iteration, &mut tally.clone())?;
            }
            say(&format!("begin {iteration}"))?;
            self.work_on(&names, iteration, &mut tally)?;
            tally.iteration = iteration;
            let artifact = artifact_of(iteration);
            self.write(&artifact, &serde_json::to_vec(&tally.answer())?)?;
            say(&format!("prepare {iteration}"))?;
            let (commits, digest) = self.commits_of(&checkpoints, &task, &tally, &artifact)?;
            say(&format!("commit {iteration}"))?;
            if self.canary != Some(Canary::AckWithoutWrite) || !iteration.is_multiple_of(3) {
                for commit in commits {
                    store.commit(commit)?;
                }
            }
            say(&format!("ack {iteration} {digest}"))?;
        }
        say(&format!("done {}", serde_json::to_string(&tally.answer())?))?;
        Ok(())
    }

    /// Adds the files of one iteration.
    fn work_on(
        &self,
        names: &[String],
        iteration: u64,
        tally: &mut Tally,
    ) -> Result<(), Box<dyn Error>> {
        let log = self.work.join(WORKED_LOG);
        let mut log = OpenOptions::new().create(true).append(true).open(log)?;
        // One call, so that a kill leaves a line or none.
        log.write_all(format!("{iteration}\n").as_bytes())?;
        for name in &names[share(names.len(), iteration, self.iterations)] {
            tally.add(name, &fs::read(self.input.join(name))?);
        }
        Ok(())
    }

    /// The state after some iterations, worked out from the files again.
    fn redo(&self, names: &[String], iterations: u64) -> Result<Tally, Box<dyn Error>> {
        let mut tally = Tally::start();
        for iteration in 1..=iterations {
            self.work_on(names, iteration, &mut tally)?;
        }
        tally.iteration = iterations;
        Ok(tally)
    }

    /// All that an iteration has to keep, and the state's digest: one commit, unless
    /// this agent is broken.
    fn commits_of(
        &self,
        checkpoints: &CheckpointManager,
        task: &TaskId,
        tally: &Tally,
        artifact: &Path,
    ) -> Result<(Vec<Commit>, Digest), Box<dyn Error>> {
        let last = tally.iteration == self.iterations;
        let mut kept = tally.clone();
        if self.canary == Some(Canary::ForgetState) && !last {
            kept.counts.clear();
        }
        let mut new = NewCheckpoint::new(task.clone(), CheckpointType::IterationEnd)
            .state(&kept)?
            .evidence(Pack::all([Evidence::file(artifact)]));
        if last {
            new = new.metadata(serde_json::to_value(tally.answer())?);
        }
        let part = checkpoints.prepare(new)?;
        let digest = part.snapshot.as_ref().map(Snapshot::digest);
        let mut commit = Commit::new().part(part);
        let mut apart = Commit::new();
        if last && self.canary == Some(Canary::AnswerApart) {
            apart = apart.part(answer_line(task, tally)?);
        } else if last {
            commit = commit.part(answer_line(task, tally)?);
        }
        let success_at = match self.canary {
            Some(Canary::EarlySuccess) => self.iterations / 2,
            _ => self.iterations,
        };
        if tally.iteration == success_at {
            let success = SetTaskStatus::new(task.clone(), TaskStatus::Succeeded)
                .reason("all files are counted");
            if self.canary == Some(Canary::SuccessApart) {
                apart = apart.part(success);
            } else {
                commit = commit.part(success);
            }
        }
        let mut commits = vec![commit, apart];
        commits.retain(|commit| !commit.parts().is_empty());
        Ok((commits, digest.ok_or("no state")?))
    }

    /// Written under another name first, so that under its own name an artifact
    /// is whole.
    fn write(&self, artifact: &Path, content: &[u8]) -> Result<(), Box<dyn Error>> {
        let path = self.work.join(artifact);
        let part = path.with_extension("part");
        fs::write(&part, content)?;
        Ok(fs::rename(part, path)?)
    }
}

/// The audit line that keeps the answer.
fn answer_line(task: &TaskId, tally: &Tally) -> Result<AuditLine, Box<dyn Error>> {
    let answer = serde_json::to_value(tally.answer())?;
    Ok(AuditLine::new(task.clone(), ANSWER_EVENT).detail(answer))
}

/// The artifact of an iteration, relative to the counter's folder.
pub(crate) fn artifact_of(iteration: u64) -> PathBuf {
    format!("iteration-{iteration:04}.json").into()
}

/// The files of a folder, by name, in order.
pub(crate) fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

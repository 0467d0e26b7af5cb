//! A program that opens one damaged copy of a store after the other, and tells all that it
//! is answered: each checkpoint that it loads, each outcome that it is replayed, from where
//! it would go on, and what lists say. It never judges.

use std::error::Error;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentos_checkpoints::Resume;
use agentos_core::{
    Checkpoint, CheckpointStorage, ClaimRequest, Commit, Digest, FoundCheckpoint, LeaseStorage,
    SequenceNumber, Storage, StorageError, TaskId, TaskStatus, TaskStorage, WorkItemStatus,
};
use agentos_idempotency::{CallContext, LlmAnswer, ToolError, ToolOutput};
use agentos_store::sqlite::{Config, Durability, SqliteStore};
use serde::{Deserialize, Serialize};

use super::refusal::{kind, kind_of};
use super::stocker::{
    CALLS, LATE, STOCKED, Shelves, stocked_answer, stocked_call, stocked_output, stocked_request,
};
use super::{BUSY_TIMEOUT, ack};
use crate::canary::Canary;
use crate::model::rot::{Answer, Flip, Reading, checkpoint_name, stateless_name};
use crate::sealed_anew::seal_anew;

const PAGE: u32 = 1000;
/// In the place of what is there.
const AGAIN: &str = "once more";

/// The role of an appraiser.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Appraiser {
    /// The database whose copies are damaged; nobody has it open.
    pub(crate) db: PathBuf,
    /// The folder of artifacts.
    pub(crate) work: PathBuf,
    /// Where the copies are made, one after the other.
    pub(crate) scratch: PathBuf,
    /// What is flipped, one copy each.
    pub(crate) flips: Vec<Flip>,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// A database and its log, as they lie on the disk.
pub(crate) struct AtRest {
    pub(crate) main: Vec<u8>,
    pub(crate) log: Vec<u8>,
}

impl AtRest {
    /// Reads both. Nobody may have it open.
    pub(crate) fn read(db: &Path) -> io::Result<AtRest> {
        let log = match fs::read(log_of(db)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            log => log?,
        };
        Ok(AtRest {
            main: fs::read(db)?,
            log,
        })
    }

    /// Writes a copy with this bit flipped.
    pub(crate) fn write(&self, db: &Path, flip: &Flip) -> io::Result<()> {
        let flipped = |bytes: &[u8], at: Option<u64>| {
            let mut bytes = bytes.to_vec();
            let at = at.and_then(|at| usize::try_from(at).ok());
            if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
                *byte ^= 1 << (flip.bit % 8);
            }
            bytes
        };
        let (main, log) = match flip.in_log {
            true => (None, Some(flip.byte)),
            false => (Some(flip.byte), None),
        };
        fs::write(db, flipped(&self.main, main))?;
        if !self.log.is_empty() {
            fs::write(log_of(db), flipped(&self.log, log))?;
        }
        Ok(())
    }
}

fn log_of(db: &Path) -> PathBuf {
    let mut log = db.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

impl Appraiser {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let original = AtRest::read(&self.db)?;
        for (number, flip) in self.flips.iter().enumerate() {
            let folder = self.scratch.join(number.to_string());
            fs::create_dir_all(&folder)?;
            let db = folder.join("rotten.db");
            original.write(&db, flip)?;
            if self.canary == Some(Canary::SealAnew) {
                seal_anew(&db);
            }
            ack(&self.appraise(&db, flip)?)?;
            // Everything of it is closed.
            fs::remove_dir_all(&folder)?;
        }
        Ok(())
    }

    fn appraise(&self, db: &Path, flip: &Flip) -> Result<Reading, Box<dyn Error>> {
        let config = Config::at(db)
            .durability(Durability::Relaxed)
            .busy_timeout(BUSY_TIMEOUT)
            .skip_check_after_crash(flip.unlooked)
            .ballast_bytes(0);
        let mut reading = Reading::default();
        let store = match SqliteStore::open(config) {
            Ok(store) => Arc::new(store),
            Err(error) => {
                reading.opening = Some(kind(&error).to_owned());
                return Ok(reading);
            }
        };
        let shared = Arc::clone(&store) as Arc<dyn Storage>;
        let shelves = Shelves::over(&shared, &self.work)?;
        self.resume(&shelves, &store, &mut reading)?;
        load(&store, &mut reading)?;
        list(&store, &mut reading)?;
        // What is asked next may write.
        reading.problems = match store.check_integrity() {
            Ok(found) => Some(found.problems.len() as u64),
            Err(error) => {
                reading.refusals.push(kind(&error).to_owned());
                None
            }
        };
        replay(&shelves, &mut reading)?;
        go_on(&shelves, &store, &mut reading)?;
        store.close();
        Ok(reading)
    }

    fn resume(
        &self,
        shelves: &Shelves,
        store: &SqliteStore,
        reading: &mut Reading,
    ) -> Result<(), Box<dyn Error>> {
        for (task, _) in STOCKED {
            let id = TaskId::new(task)?;
            let newest = store.newest_checkpoint(&id, None);
            let stops = matches!(newest, Ok(Some(FoundCheckpoint::Damaged { .. })));
            let answer = if stops && self.canary == Some(Canary::StopAtDamage) {
                Answer::Refused("Corrupt".into())
            } else {
                match shelves.checkpoints.resume(&id) {
                    Ok(Resume::From(resumed)) => {
                        let number = resumed.checkpoint.summary.sequence;
                        reading.resumed.insert(task.into(), number.get());
                        Answer::of(&sealed(&resumed.checkpoint))
                    }
                    Ok(Resume::Nowhere { .. }) => Answer::Absent,
                    Err(error) => Answer::Refused(kind_of(&error).into()),
                }
            };
            reading.resume.insert(task.into(), answer);
        }
        Ok(())
    }
}

/// What the seal of a checkpoint covers, as text.
fn sealed(checkpoint: &Checkpoint) -> impl Debug {
    let summary = &checkpoint.summary;
    let state = checkpoint
        .snapshot
        .as_ref()
        .map(|state| (state.codec(), state.version(), Digest::of(state.bytes())));
    (
        summary.task.clone(),
        summary.sequence,
        summary.checkpoint_type,
        summary.created_at,
        state,
        checkpoint.evidence.clone(),
        checkpoint.metadata.clone(),
    )
}

fn answered<T>(
    found: Result<Option<T>, StorageError>,
    digest: impl FnOnce(&T) -> Answer,
) -> Answer {
    match found {
        Ok(Some(found)) => digest(&found),
        Ok(None) => Answer::Absent,
        Err(error) => Answer::Refused(kind(&error).into()),
    }
}

/// Each checkpoint, by its number.
fn load(store: &SqliteStore, reading: &mut Reading) -> Result<(), Box<dyn Error>> {
    for (task, first) in STOCKED {
        let id = TaskId::new(task)?;
        let late = if task == STOCKED[0].0 { LATE } else { 0 };
        for number in 1..=first + late {
            let sequence = SequenceNumber::new(number)?;
            let name = checkpoint_name(task, number);
            let found = store.checkpoint(&id, sequence);
            if let Ok(Some(found)) = &found {
                reading.plain.insert(
                    format!("verification of {task} {number}"),
                    Answer::of(&found.summary.verification),
                );
                if found.snapshot.is_none() {
                    reading
                        .plain
                        .insert(stateless_name(&name), Answer::of(&"none"));
                }
            }
            let answer = answered(found, |found| Answer::of(&sealed(found)));
            reading.sealed.insert(name, answer);
            // Most have no evidence.
            let results = store.evidence_results(&id, sequence);
            let results = results.map(|results| (!results.is_empty()).then_some(results));
            let answer = answered(results, Answer::of);
            if answer != Answer::Absent {
                reading
                    .plain
                    .insert(format!("results of {task} {number}"), answer);
            }
        }
    }
    Ok(())
}

/// What no seal covers.
fn list(store: &SqliteStore, reading: &mut Reading) -> Result<(), Box<dyn Error>> {
    let plain = &mut reading.plain;
    for (task, _) in STOCKED {
        let id = TaskId::new(task)?;
        let found = answered(store.task(&id), Answer::of);
        plain.insert(format!("task {task}"), found);
        match store.audits(&id, None, PAGE) {
            Ok(page) => {
                for (at, line) in page.items.iter().enumerate() {
                    plain.insert(format!("audit {task} {at}"), Answer::of(line));
                }
            }
            Err(error) => reading.refusals.push(kind(&error).into()),
        }
        if let Err(error) = store.checkpoints(&id, None, PAGE) {
            reading.refusals.push(kind(&error).into());
        }
    }
    for status in TaskStatus::ALL {
        if let Err(error) = store.tasks(*status, None, PAGE) {
            reading.refusals.push(kind(&error).into());
        }
    }
    let mut items = Vec::new();
    for status in WorkItemStatus::ALL {
        match store.work_items(*status, None, PAGE) {
            Ok(page) => items.extend(page.items.into_iter().map(|item| item.id)),
            Err(error) => reading.refusals.push(kind(&error).into()),
        }
    }
    items.sort_unstable();
    items.dedup();
    for item in items {
        let number = item.get();
        let found = answered(store.work_item(item), Answer::of);
        plain.insert(format!("item {number}"), found);
        let attempts = store.attempts(item).map(Some);
        plain.insert(
            format!("attempts at {number}"),
            answered(attempts, Answer::of),
        );
    }
    Ok(())
}

/// What a call gives when it is replayed.
pub(crate) fn expected_call(number: u64) -> Answer {
    outcome_of(!number.is_multiple_of(3), &stocked_output(number))
}

/// What the model said.
pub(crate) fn expected_answer(number: u64) -> Answer {
    Answer::of(&stocked_answer(number))
}

fn outcome_of(succeeded: bool, output: &[u8]) -> Answer {
    Answer::of(&(succeeded, Digest::of(output)))
}

/// Each call and each question, once more.
fn replay(shelves: &Shelves, reading: &mut Reading) -> Result<(), Box<dyn Error>> {
    for number in 0..CALLS + LATE {
        let body = |_: &CallContext<'_>| Ok(ToolOutput::new(AGAIN));
        let answer = match shelves
            .ledger
            .execute_or_replay(&stocked_call(number)?, body)
        {
            Ok(answer) if answer.replayed => {
                let output = answer.outcome.output().map(ToolOutput::as_bytes);
                outcome_of(answer.outcome.is_success(), output.unwrap_or_default())
            }
            Ok(_) => Answer::Again,
            Err(ToolError::InDoubt { .. }) => Answer::InDoubt,
            Err(error) => Answer::Refused(kind_of(&error).into()),
        };
        reading.sealed.insert(format!("call {number}"), answer);
        let again = || Ok::<_, io::Error>(LlmAnswer::new(AGAIN.to_owned()));
        let answer = match shelves
            .cache
            .get_or_generate(&stocked_request(number), again)
        {
            Ok(answer) if answer.is_hit() => Answer::of(&answer.body),
            Ok(_) => Answer::Again,
            Err(error) => Answer::Refused(kind_of(&error).into()),
        };
        reading.sealed.insert(format!("answer {number}"), answer);
    }
    Ok(())
}

/// Writes once in every way.
fn go_on(
    shelves: &Shelves,
    store: &SqliteStore,
    reading: &mut Reading,
) -> Result<(), Box<dyn Error>> {
    let task = TaskId::new(STOCKED[0].0)?;
    let next = super::numbered(task, 1);
    let wrote = [
        store.commit(Commit::new().part(next)).map(drop),
        store
            .claim(&ClaimRequest::new(shelves.me.clone()))
            .map(drop),
        store.sweep(&Default::default()).map(drop),
    ];
    let refused = wrote.into_iter().filter_map(Result::err);
    reading
        .writes
        .extend(refused.map(|error| kind(&error).to_owned()));
    Ok(())
}

//! Flipped bits. In the database: whatever is read is right, or an error says
//! that something is damaged. In the write-ahead log: what remains is an intact
//! prefix in commit order, never garbage.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use agentos_core::{
    AuditLine, Checkpoint, CheckpointStorage, Commit, FoundCheckpoint, SequenceNumber, Storage,
    StorageError, TaskStatus, TaskStorage,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{
    Bits, Open, Victim, append, config, copy_database, fresh, new_task, numbers, settle, task_id,
};

use crate::VICTIM;

const SEED: u64 = 20_261_121;
const TASKS: [&str; 2] = ["task-one", "task-two"];
const EACH: u64 = 12;

/// Two tasks with checkpoints that differ in every byte, some on overflow pages.
fn stored() -> Open {
    let store = fresh();
    for task in TASKS {
        store
            .create_task(new_task(task).metadata(serde_json::json!({"owner": "test"})))
            .unwrap();
        for number in 1..=EACH {
            let state = format!("{task} {number} ").repeat(20 * number as usize);
            let mut checkpoint = append(task, state);
            checkpoint.metadata = serde_json::json!({ "number": number });
            store
                .commit(
                    Commit::new()
                        .part(checkpoint)
                        .part(AuditLine::new(task_id(task), "step")),
                )
                .unwrap();
        }
    }
    store
}

fn truth(store: &dyn Storage) -> Vec<Checkpoint> {
    let mut all = Vec::new();
    for task in TASKS {
        for number in 1..=EACH {
            let sequence = SequenceNumber::new(number).unwrap();
            all.extend(store.checkpoint(&task_id(task), sequence).unwrap());
        }
    }
    all
}

/// What one flipped bit led to.
#[derive(Debug, Default)]
struct Tally {
    refused: u32,
    reported: u32,
    hidden: u32,
    unnoticed: u32,
}

/// Goal: a sealed thing is never wrong, nothing panics, and damage is typed.
/// Method: flip one bit of the file, open the copy and read everything.
/// A row may be hidden by damage to an index: then the integrity check says so.
#[test]
fn a_flipped_bit_in_the_database_is_never_a_wrong_answer() {
    const FLIPS: usize = 400;
    let store = stored();
    let truth = truth(&*store);
    assert_eq!(truth.len(), 2 * EACH as usize);
    let (_directory, path) = store.shut();
    settle(&path);
    let bytes = fs::read(&path).unwrap();
    // Every bit of the header, then seeded ones: in the first pages, which hold
    // the schema, and anywhere.
    let header = (0..100).flat_map(|byte| (0..8).map(move |bit| (byte, 1 << bit)));
    let schema = Bits::seeded(SEED, 6 * 4096).take(FLIPS);
    let anywhere = Bits::seeded(SEED + 1, bytes.len()).take(FLIPS);
    let (mut tally, mut wrong) = (Tally::default(), Vec::new());
    for (position, mask) in header.chain(schema).chain(anywhere) {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("agent.db");
        let mut damaged = bytes.clone();
        damaged[position] ^= mask;
        fs::write(&copy, &damaged).unwrap();
        let read = catch_unwind(AssertUnwindSafe(|| read_all(&copy, &truth, &mut tally)));
        match read {
            Ok(complaints) => wrong.extend(
                complaints
                    .into_iter()
                    .map(|complaint| format!("byte {position} ^ {mask:#04x}: {complaint}")),
            ),
            Err(_) => wrong.push(format!("byte {position} ^ {mask:#04x}: a panic")),
        }
    }
    println!("seed {SEED}, {} flips: {tally:?}", 800 + 2 * FLIPS);
    assert!(
        wrong.is_empty(),
        "{} complaints:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(0 < tally.refused && 0 < tally.reported, "{tally:?}");
}

/// Reads everything; gives what is wrong and not said to be.
fn read_all(path: &Path, truth: &[Checkpoint], tally: &mut Tally) -> Vec<String> {
    let store = match SqliteStore::open(config(path)) {
        Ok(store) => store,
        Err(error) => {
            tally.refused += 1;
            return typed("opening", &error, true);
        }
    };
    let (mut wrong, mut reported, mut hidden) = (Vec::new(), false, false);
    let mut note = |what: &str, error: &StorageError| {
        reported = true;
        typed(what, error, false)
    };
    for checkpoint in truth {
        let (task, sequence) = (&checkpoint.summary.task, checkpoint.summary.sequence);
        match store.checkpoint(task, sequence) {
            Ok(Some(mut found)) => {
                // Not under the seal: resume never trusts it.
                found.summary.verification = checkpoint.summary.verification;
                if found != *checkpoint {
                    wrong.push(format!("another checkpoint {sequence} of {task}"));
                }
            }
            Ok(None) => hidden = true,
            Err(error) => wrong.extend(note("reading a checkpoint", &error)),
        }
    }
    for task in TASKS.map(task_id) {
        // The walk of resume: downwards from the newest, and to an end.
        let mut below: Option<SequenceNumber> = None;
        for step in 0..=EACH {
            let sequence = match store.newest_checkpoint(&task, below) {
                Ok(Some(FoundCheckpoint::Sound(found))) => {
                    let number = found.summary.sequence;
                    let stored = truth.iter().map(|checkpoint| &checkpoint.summary);
                    if !stored
                        .filter(|stored| stored.task == task && stored.sequence == number)
                        .any(|stored| stored.seal == found.summary.seal)
                    {
                        wrong.push(format!("checkpoint {number} of {task} was never stored"));
                    }
                    number
                }
                Ok(Some(FoundCheckpoint::Damaged { sequence, .. })) => sequence,
                Ok(None) => break,
                Err(error) => {
                    wrong.extend(note("walking down", &error));
                    break;
                }
            };
            if below.is_some_and(|below| below <= sequence) || step == EACH {
                wrong.push(format!("the walk over {task} does not go down"));
                break;
            }
            below = Some(sequence);
        }
        if let Err(error) = store.task(&task) {
            wrong.extend(note("reading a task", &error));
        }
        if let Err(error) = store.checkpoints(&task, None, 100) {
            wrong.extend(note("listing checkpoints", &error));
        }
        if let Err(error) = store.audits(&task, None, 100) {
            wrong.extend(note("listing audit lines", &error));
        }
        if let Err(error) = store.evidence_results(&task, SequenceNumber::FIRST) {
            wrong.extend(note("reading recorded evidence", &error));
        }
    }
    for status in TaskStatus::ALL {
        if let Err(error) = store.tasks(*status, None, 100) {
            wrong.extend(note("listing tasks", &error));
        }
    }
    match store.commit(append(TASKS[0], "after").into()) {
        Ok(receipt) => {
            let number = receipt.appended().next().unwrap().sequence.get();
            if number <= EACH && !hidden && !reported {
                wrong.push(format!("the number {number} was given twice"));
            }
        }
        // A damaged row can hide the task itself.
        Err(StorageError::NotFound { .. }) => hidden = true,
        // A constraint that a damaged row breaks: nothing was written.
        Err(StorageError::Internal { .. }) => reported = true,
        Err(error) => wrong.extend(note("appending", &error)),
    }
    if hidden && !reported && store.check_integrity().is_ok_and(|found| found.is_sound()) {
        wrong.push("something is gone, and the integrity check is content".into());
    }
    tally.hidden += u32::from(hidden);
    tally.reported += u32::from(reported);
    tally.unnoticed += u32::from(!hidden && !reported);
    wrong
}

/// Complains about an error that is not of a type that says "damaged".
fn typed(what: &str, error: &StorageError, opening: bool) -> Vec<String> {
    let good = match error {
        StorageError::Corrupt { .. } => true,
        StorageError::NotOurs { .. } | StorageError::NewerSchema { .. } => opening,
        // A bit of the header that says "read-only format", or a pragma in it.
        StorageError::ReadOnly(_) | StorageError::UnsafeEngine { .. } => opening,
        StorageError::CommitUnknown(_) => !opening,
        _ => false,
    };
    if good {
        Vec::new()
    } else {
        vec![format!("{what}: {error:?}")]
    }
}

/// Goal: the newest checkpoint is the one that is found. Method: the header's number for
/// the format of the schema is made one that knows no index in descending order.
#[test]
fn a_header_that_turns_an_index_round_is_refused() {
    /// Where the header has it, as four bytes, the last of which is 4.
    const FORMAT: usize = 47;
    let (_directory, path) = stored().shut();
    settle(&path);
    let mut bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[FORMAT], 4);
    bytes[FORMAT] = 0;
    fs::write(&path, &bytes).unwrap();
    match SqliteStore::open(config(&path)) {
        Err(StorageError::Corrupt { what, .. }) => assert_eq!(what, "the file's header"),
        other => panic!("{other:?}"),
    }
}

/// Goal: damage to the log costs the commits behind it and nothing else.
/// Method: a writer is killed while its commits stand in the log; one seeded
/// bit of a copy of the log is flipped. What can be read must be the first
/// commits, each whole: the states, and the audit lines that were committed
/// with them.
#[test]
fn a_flipped_bit_in_the_log_leaves_an_intact_prefix() {
    const FLIPS: usize = 60;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    drop(SqliteStore::open(config(&path)).unwrap());
    let mut writer = Victim::start(VICTIM, "write", [path.to_str().unwrap(), "a"]);
    let mut said: Vec<String> = (0..60).map(|_| writer.line()).collect();
    said.extend(writer.kill());
    let mut log = path.clone().into_os_string();
    log.push("-wal");
    let log = fs::read(log).unwrap();
    let mut lengths = Vec::new();
    for (position, mask) in Bits::seeded(SEED, log.len()).take(FLIPS) {
        let directory = tempfile::tempdir().unwrap();
        let copy = copy_database(&path, directory.path());
        let mut damaged = log.clone();
        damaged[position] ^= mask;
        fs::write(directory.path().join("agent.db-wal"), &damaged).unwrap();
        let store = SqliteStore::open(config(&copy)).unwrap();
        let found = numbers(&store, "a");
        let length = found.len();
        assert_eq!(found, (1..=length as u64).collect::<Vec<_>>());
        let audits = match store.task(&task_id("a")).unwrap() {
            Some(_) => store.audits(&task_id("a"), None, 1000).unwrap().items,
            None => Vec::new(),
        };
        let steps: Vec<_> = audits.iter().filter(|line| line.event == "step").collect();
        assert_eq!(steps.len(), length, "each commit is whole");
        for (number, step) in (1..).zip(steps) {
            let sequence = SequenceNumber::new(number).unwrap();
            let found = store.checkpoint(&task_id("a"), sequence).unwrap().unwrap();
            let state = String::from_utf8(found.snapshot.unwrap().bytes().to_vec()).unwrap();
            assert_eq!(step.reason.as_ref(), Some(&state));
            if let Some(line) = said.get(number as usize - 1) {
                assert_eq!(*line, format!("{number} {state}"));
            }
        }
        assert!(store.check_integrity().unwrap().is_sound());
        // The store goes on where the prefix ends.
        store.create_task(new_task("a")).unwrap();
        let receipt = store.commit(append("a", "on").into()).unwrap();
        let number = receipt.appended().next().unwrap().sequence.get();
        assert_eq!(number, length as u64 + 1);
        lengths.push(length);
    }
    lengths.sort_unstable();
    println!("seed {SEED}: of {} commits remain {lengths:?}", said.len());
    assert!(
        lengths[0] < said.len(),
        "some flip must have cost something"
    );
}

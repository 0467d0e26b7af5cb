//! Several processes that work on the same items: how the items are prepared, and how
//! the processes are run to their ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentos_chaos::{Failure, Run, Victim};
use agentos_core::{
    Commit, Deadline, LeaseStorage, NewTask, NewWorkItem, Storage, TaskId, Timestamp, WorkFilter,
};
use agentos_recovery::{RecoverySweep, SweepConfig};
use agentos_store::sqlite::{Config, SqliteStore};

use super::told::{Told, listen_to};
use crate::model::Moment;
use crate::victims::{Rival, Role, spec};

const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for a word of one of them.
const LISTEN: Duration = Duration::from_millis(2);
/// Longest pause between two looks at the file.
const LOOK: Duration = Duration::from_millis(20);
/// Most attempts at an item: as many as are kept of it, so that none is the last.
const ATTEMPTS_MAX: u32 = 100;

type Fallible<T> = Result<T, Failure>;

/// Makes the file: items with a task each, due as `due` says; the payload says it too.
pub(crate) fn prepare(db: &Path, items: u64, due: impl Fn(u64) -> Timestamp) -> Fallible<()> {
    let store = SqliteStore::open(Config::at(db))?;
    let mut commit = Commit::new();
    for number in 0..items {
        let task = TaskId::new(format!("task {number}"))?;
        let due = due(number);
        let item = NewWorkItem::new("fought over")
            .task(task.clone())
            .available_at(due)
            .payload(due.unix_micros().to_string())
            .max_attempts(ATTEMPTS_MAX);
        commit = commit.part(NewTask::new(task, "fought over")).part(item);
    }
    store.commit(commit)?;
    Ok(())
}

/// Runs the processes, from one gate to the end of each.
pub(crate) fn run_rivals(run: &mut Run, rivals: Vec<Rival>, told: &mut Told) -> Fallible<()> {
    let Some(first) = rivals.first() else {
        return Ok(());
    };
    let gate = File::create(&first.gate)?;
    gate.lock()?;
    let mut victims = Vec::new();
    for rival in rivals {
        let name = rival.name.clone();
        victims.push((name.clone(), run.start(&spec(&name, &Role::Rival(rival))?)?));
    }
    for (_, victim) in &mut victims {
        victim.wait_for_line("ready", PATIENCE, |line| line == "ready")?;
    }
    gate.unlock()?;
    hear(victims, told)
}

/// Hears processes that are at work, each to its end.
pub(crate) fn hear(mut victims: Vec<(String, Victim)>, told: &mut Told) -> Fallible<()> {
    let deadline = Deadline::after(PATIENCE);
    while !victims.is_empty() {
        if deadline.passed() {
            return Err(Failure::new(format!("{} do not end", victims.len())));
        }
        let mut at_work = Vec::new();
        for (name, mut victim) in victims {
            // A little while for each: none is kept waiting by a full pipe.
            let ended = listen_to(&mut victim, LISTEN, |line| told.heed(&name, &line))?;
            if !ended {
                at_work.push((name, victim));
            }
        }
        victims = at_work;
    }
    Ok(())
}

/// How long a process is given each of its leases, in microseconds.
pub(crate) fn lease_of(rivals: &[Rival]) -> impl Fn(&str) -> Moment + use<> {
    let lease = |rival: &Rival| {
        let micros = i64::try_from(rival.lease_ms * 1000).unwrap_or(i64::MAX);
        (rival.name.clone(), micros)
    };
    let leases: BTreeMap<String, Moment> = rivals.iter().map(lease).collect();
    move |process| {
        let name = process.split(" (").next().unwrap_or(process);
        // Of nobody else a deadline is known.
        leases.get(name).copied().unwrap_or(0)
    }
}

/// Waits until every lease has run out by this store's clock, and takes them all
/// away; says how many that were.
pub(crate) fn sweep_the_rest(store: &Arc<SqliteStore>) -> Fallible<u64> {
    let deadline = Deadline::after(PATIENCE);
    let storage = Arc::clone(store) as Arc<dyn Storage>;
    let sweep = RecoverySweep::new(storage, SweepConfig::default());
    let mut recovered = 0;
    loop {
        recovered += sweep.scan_and_recover()?.recovered;
        match store.outlook(&WorkFilter::any())?.expires {
            None => return Ok(recovered),
            Some(wait) => thread::park_timeout(wait.min(LOOK)),
        }
        if deadline.passed() {
            return Err(Failure::new("a lease does not run out"));
        }
    }
}

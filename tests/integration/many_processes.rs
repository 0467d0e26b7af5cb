//! Many processes on one file: waiting is fair, numbers are gapless, and the
//! death of one, also of the one that holds the write lock, harms no other.
//!
//! A binary of its own, so that no other test runs beside the one that measures.

#![expect(clippy::print_stdout, reason = "measured figures are shown")]

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use agentos_core::{Clock, Storage, TaskStorage};
use agentos_process::Signal;
use agentos_store::sqlite::inspect;
use agentos_tests::{
    Gate, Open, Victim, append, at, fresh, new_task, numbers, task_id, wait_for_waiter,
};

/// The program that is started many times, stopped and killed.
const VICTIM: &str = env!("CARGO_BIN_EXE_agentos-test-victim");

const PROCESSES: usize = 20;

/// One test of this file at a time: they load the machine, and one measures.
static ALONE: Mutex<()> = Mutex::new(());

fn fill(role: &str, database: &Path, gate: &Gate, arguments: &[String]) -> Vec<Victim> {
    let mut victims: Vec<Victim> = (0..PROCESSES)
        .map(|index| {
            let mut all = vec![database.to_str().unwrap().to_string(), gate.path().into()];
            all.extend(
                arguments
                    .iter()
                    .map(|text| text.replace('#', &index.to_string())),
            );
            Victim::start(VICTIM, role, all)
        })
        .collect();
    for victim in &mut victims {
        victim.expect("ready");
    }
    victims
}

/// What five seconds of twenty committing processes looked like.
#[derive(Debug)]
struct Shares {
    slowest: u64,
    fastest: u64,
    worst_ms: u64,
}

impl Shares {
    fn are_fair(&self) -> bool {
        self.fastest <= 2 * self.slowest && self.worst_ms < 500
    }
}

/// Runs until the figures are within their bounds.
const RUNS_MAX: usize = 6;

/// Goal: no process starves another. Method: all commit as fast as they can for
/// five seconds with the default busy timeout; each counts its commits, its
/// longest wait and its errors. What else the machine does can only make the
/// figures worse, so one run within the bounds shows that the store keeps them.
/// An error counts in every run.
#[test]
fn twenty_processes_share_one_file_fairly() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut runs = Vec::new();
    while runs.len() < RUNS_MAX {
        let shares = commit_for_five_seconds();
        println!("20 processes, 5 s: {shares:?}");
        if shares.are_fair() {
            return;
        }
        runs.push(shares);
    }
    panic!("some process was starved in each run: {runs:?}");
}

fn commit_for_five_seconds() -> Shares {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("agent.db");
    drop(at(&database));
    let gate = Gate::closed(&directory.path().join("gate"));
    let victims = fill("commit", &database, &gate, &["5".into(), "task-#".into()]);
    gate.open();
    let (mut commits, mut worst_ms) = (Vec::new(), 0);
    for lines in victims.into_iter().map(Victim::finish) {
        let figures = lines[0].strip_prefix("done ").map(|figures| {
            let figures = figures.split(' ').map(|figure| figure.parse().unwrap());
            figures.collect::<Vec<u64>>()
        });
        let Some([count, worst_us, 0]) = figures.as_deref() else {
            panic!("an error within the default timeout: {lines:?}")
        };
        commits.push(*count);
        worst_ms = worst_ms.max(worst_us / 1000);
    }
    let store = at(&database);
    assert!(store.check_integrity().unwrap().is_sound());
    let stored = store.inspect().unwrap().rows["checkpoints"];
    assert_eq!(stored, commits.iter().sum::<u64>());
    Shares {
        slowest: *commits.iter().min().unwrap(),
        fastest: *commits.iter().max().unwrap(),
        worst_ms,
    }
}

/// Goal: the numbers of one task are 1, 2, 3, … whoever appends. Method: 20
/// processes append 20 checkpoints each to one task; each number that was said
/// was said once, and all of them are stored.
#[test]
fn twenty_processes_number_one_task_without_gaps() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let store = fresh();
    store.create_task(new_task("shared")).unwrap();
    let gate = Gate::closed(&store.directory().join("gate"));
    let victims = fill(
        "append",
        store.path(),
        &gate,
        &["20".into(), "shared".into()],
    );
    gate.open();
    let mut said: Vec<u64> = victims
        .into_iter()
        .flat_map(Victim::finish)
        .map(|line| line.parse().unwrap())
        .collect();
    said.sort_unstable();
    let all: Vec<u64> = (1..=400).collect();
    assert_eq!(said, all);
    assert_eq!(store.numbers("shared"), all);
}

/// A victim that stands inside its transaction, with the write lock held.
fn stopped_inside(store: &Open, point: &str) -> Victim {
    let path = store.path().to_str().unwrap();
    let victim = Victim::start(VICTIM, "stop-at", [point, "2", "write", path, "stopped"]);
    // The second hit is its first checkpoint: the task was the first commit.
    victim.wait_until_stopped();
    victim
}

/// Goal: the kernel gives the lock of a dead process back, before its commit
/// and after it. Method: a process is stopped inside its transaction; a commit
/// of this process waits; the process is killed; the commit goes through.
#[test]
fn a_process_killed_with_the_lock_held_blocks_nobody() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (point, survives) in [("store.before_commit", 0), ("store.after_commit", 1)] {
        let store = fresh();
        store.create_task(new_task("a")).unwrap();
        let victim = stopped_inside(&store, point);
        assert_eq!(
            inspect(store.path()).unwrap().locks.writer_pid,
            Some(victim.pid())
        );
        thread::scope(|scope| {
            let caller = scope.spawn(|| store.commit(append("a", "state").into()));
            wait_for_waiter(i32::try_from(std::process::id()).unwrap());
            assert!(!caller.is_finished(), "two held the lock");
            assert!(victim.kill().is_empty(), "nothing was acknowledged");
            caller.join().unwrap().unwrap();
        });
        assert_eq!(store.numbers("a"), [1], "{point}");
        assert_eq!(store.numbers("stopped").len(), survives, "{point}");
        assert!(store.check_integrity().unwrap().is_sound());
    }
}

/// A stopped process blocks the others until it goes on: that is said, and this
/// is what it looks like. It ends with its resumption, not with damage.
#[test]
fn a_process_stopped_with_the_lock_held_lets_others_in_when_it_goes_on() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    let mut victim = stopped_inside(&store, "store.before_commit");
    thread::scope(|scope| {
        let caller = scope.spawn(|| store.commit(append("a", "state").into()));
        wait_for_waiter(i32::try_from(std::process::id()).unwrap());
        victim.signal(Signal::Continue);
        caller.join().unwrap().unwrap();
    });
    assert!(victim.line().starts_with("1 stopped 0"));
    victim.kill();
    assert_eq!(store.numbers("a"), [1]);
}

/// Goal: an acknowledged write survives SIGKILL, and at most one more is there.
/// Method: four writers say each commit after it returned; they are killed
/// after a number of them; the file is compared with what they said.
#[test]
fn what_killed_writers_acknowledged_survives() {
    const WRITERS: usize = 4;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = match std::env::var("AGENTOS_TEST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => agentos_core::SystemClock
            .wall()
            .unix_micros()
            .unsigned_abs(),
    };
    println!("seed {seed}; again with AGENTOS_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("agent.db");
        let mut writers: Vec<Victim> = (0..WRITERS)
            .map(|index| {
                let task = format!("task-{index}");
                Victim::start(VICTIM, "write", [database.to_str().unwrap(), &task])
            })
            .collect();
        let mut said: Vec<Vec<String>> = writers
            .iter_mut()
            .map(|writer| (0..random.usize(5..40)).map(|_| writer.line()).collect())
            .collect();
        for (writer, said) in writers.into_iter().zip(&mut said) {
            said.extend(writer.kill());
        }
        let store = at(&database);
        for (index, said) in said.iter().enumerate() {
            let task = format!("task-{index}");
            let numbers = numbers(&store, &task);
            let extra = numbers.len() - said.len();
            assert!(extra <= 1, "{extra} of {task} were never acknowledged");
            assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
            let audits = store.audits(&task_id(&task), None, 1000).unwrap().items;
            let steps: Vec<_> = audits.iter().filter(|line| line.event == "step").collect();
            assert_eq!(steps.len(), numbers.len(), "checkpoint and line are one");
            for (number, (line, step)) in (1..).zip(said.iter().zip(steps)) {
                assert_eq!(*line, format!("{number} {}", step.reason.as_ref().unwrap()));
            }
        }
        assert!(store.check_integrity().unwrap().is_sound());
    }
}

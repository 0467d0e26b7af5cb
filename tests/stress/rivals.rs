//! Twenty processes that race for the same thousand items.

use std::collections::BTreeSet;

use agentos_core::{AttemptOutcome, Commit, LeaseStorage, NewWorkItem, Storage, WorkItemStatus};
use agentos_tests::{Gate, Victim, at};

use crate::{VICTIM, alone};

const PROCESSES: usize = 20;
const ITEMS: usize = 1000;

/// Runs until the shares are within their bound: what else the machine does can
/// only make them worse.
const RUNS_MAX: usize = 6;

/// Goal: each item is done exactly once, and no worker gets less than half of its
/// fair share. Method: twenty processes start at one instant, and claim and
/// complete one item after another until none is left. That each is done once must
/// hold in every run.
#[test]
fn twenty_processes_race_for_a_thousand_items() {
    let _alone = alone();
    let mut runs = Vec::new();
    while runs.len() < RUNS_MAX {
        let mut shares = race();
        shares.sort_unstable();
        println!("20 processes, 1,000 items: {shares:?}");
        if ITEMS / PROCESSES / 2 <= shares[0] {
            return;
        }
        runs.push(shares);
    }
    panic!("some worker got too little in each run: {runs:?}");
}

/// How many items each process got.
fn race() -> Vec<usize> {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("agent.db");
    let store = at(&database);
    let page = || NewWorkItem::new("page");
    let commit = (0..ITEMS).fold(Commit::new(), |commit, _| commit.part(page()));
    let receipt = store.commit(commit).unwrap();
    let all: BTreeSet<String> = receipt
        .enqueued()
        .map(|(item, _)| format!("{item} 1")) // under its first token
        .collect();
    drop(store);
    let gate = Gate::closed(&directory.path().join("gate"));
    let mut rivals: Vec<Victim> = (0..PROCESSES)
        .map(|index| {
            let name = format!("rival-{index}");
            let arguments = [database.to_str().unwrap(), gate.path(), &name];
            Victim::start(VICTIM, "claim", arguments)
        })
        .collect();
    for rival in &mut rivals {
        rival.expect("ready");
    }
    gate.open();
    let said: Vec<Vec<String>> = rivals.into_iter().map(Victim::finish).collect();
    let shares: Vec<usize> = said.iter().map(Vec::len).collect();
    assert_eq!(shares.iter().sum::<usize>(), ITEMS);
    let distinct: BTreeSet<String> = said.into_iter().flatten().collect();
    assert_eq!(distinct, all);
    let store = at(&database);
    let counts = store.count_work_items().unwrap();
    assert_eq!(counts[&WorkItemStatus::Succeeded], ITEMS as u64);
    let items = store.work_items(WorkItemStatus::Succeeded, None, 1000);
    for item in items.unwrap().items {
        let attempts = store.attempts(item.id).unwrap();
        let ends: Vec<_> = attempts.iter().filter_map(|one| one.end.as_ref()).collect();
        assert_eq!((attempts.len(), ends.len()), (1, 1), "{item:?}");
        assert_eq!(ends[0].outcome, AttemptOutcome::Succeeded);
    }
    assert!(store.check_integrity().unwrap().is_sound());
    shares
}

//! What operators run, on what a scenario left behind: every statement through
//! the `sqlite3` shell that they have, on a backup, the manual clean-up too, and
//! the doctor afterwards.

#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentos_checkpoints::{CheckpointConfig, CheckpointManager, Resume};
use agentos_core::{
    AppendCheckpoint, CheckpointStorage, CheckpointType, Commit, Fence, KeyFilter, KeyStatus,
    KeyStorage, KeySummary, LeaseStorage, Storage, TaskId, TaskStatus, TaskStorage, WorkItemStatus,
    WorkItemSummary,
};
use agentos_process::{CommandSpec, run};
use agentos_store::sqlite::{Config, SqliteStore};

const STATEMENTS: &str = include_str!("../../tests/fixtures/monitoring.sql");
/// What the clean-up leaves of each task.
const KEPT: usize = 100;

/// The statements, each with the number in the comment above it.
fn statements() -> Vec<(usize, String)> {
    let parts = STATEMENTS.split("\n-- ").skip(1);
    let numbered = parts.filter_map(|part| {
        let (heading, text) = part.split_once('\n')?;
        let number = heading.split_once(". ")?.0.parse().ok()?;
        Some((number, text.trim().to_owned()))
    });
    numbered.collect()
}

/// Whether there is a shell. CI installs one, and says that it must be there.
fn has_shell() -> bool {
    let found = run(&CommandSpec::new("sqlite3").arg("-version")).is_ok_and(|end| end.success());
    let needed = std::env::var_os("AGENTOS_NEEDS_SQLITE3").is_some();
    assert!(found || !needed, "there is no sqlite3 shell");
    found
}

/// What the shell answers, with foreign keys off, as an operator has them.
fn shell(database: &Path, sql: &str) -> Vec<String> {
    let spec = CommandSpec::new("sqlite3")
        .args(["-bail", "-batch"])
        .arg(database)
        .stdin_bytes(format!("PRAGMA foreign_keys = OFF;\n{sql}\n"));
    let finished = run(&spec).unwrap();
    let complaints = String::from_utf8_lossy(&finished.stderr).into_owned();
    assert!(
        finished.success() && complaints.is_empty(),
        "{sql}\n{complaints}"
    );
    let said = String::from_utf8(finished.stdout).unwrap();
    said.lines().map(str::to_owned).collect()
}

/// The databases that all scenarios leave, with the folder of each.
fn left_behind(target: &Path) -> Vec<PathBuf> {
    let spec = CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["chaos", "--all", "--quick", "--keep", "--seed", "21"])
        .env("CARGO_TARGET_DIR", target)
        .timeout(Duration::from_secs(300))
        .max_output(16 << 20);
    let finished = run(&spec).unwrap();
    let said = String::from_utf8_lossy(&finished.stdout).into_owned();
    assert!(finished.success(), "{said}");
    let mut databases = Vec::new();
    for kept in std::fs::read_dir(target.join("chaos-work")).unwrap() {
        for file in std::fs::read_dir(kept.unwrap().path().join("run")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "db") {
                databases.push(path);
            }
        }
    }
    databases.sort();
    databases
}

fn tasks(store: &SqliteStore) -> Vec<TaskId> {
    let of = |status| store.tasks(status, None, 1000).unwrap().items;
    let all = TaskStatus::ALL.iter().flat_map(|status| of(*status));
    all.map(|task| task.id).collect()
}

fn numbers(store: &SqliteStore, task: &TaskId) -> Vec<u64> {
    let page = store.checkpoints(task, None, 1000).unwrap();
    page.iter().map(|summary| summary.sequence.get()).collect()
}

fn last(store: &Arc<SqliteStore>, task: &TaskId, base: &Path) -> Option<u64> {
    let store = Arc::clone(store) as Arc<dyn Storage>;
    let manager = CheckpointManager::new(store, CheckpointConfig::new(base)).unwrap();
    match manager.resume(task).unwrap() {
        Resume::From(resumed) => Some(resumed.checkpoint.summary.sequence.get()),
        Resume::Nowhere { .. } => None,
    }
}

fn held(store: &SqliteStore) -> Vec<WorkItemSummary> {
    let page = store.work_items(WorkItemStatus::InProgress, None, 1000);
    page.unwrap().items
}

/// Renews every second lease for an hour: what a crash left has run out, and operators
/// also look at what has not.
fn renew_some(store: &SqliteStore) {
    let fence = |item: &WorkItemSummary| Fence {
        item: item.id,
        token: item.newest_token.unwrap(),
    };
    let fences: Vec<Fence> = held(store).iter().step_by(2).map(fence).collect();
    for answer in store.renew(&fences, Duration::from_secs(3600)).unwrap() {
        answer.unwrap();
    }
}

/// Of each holder, how many leases and how many minutes they last in the mean.
fn by_holder(held: &[WorkItemSummary]) -> BTreeMap<String, (usize, f64)> {
    let mut minutes: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for item in held {
        let holder = item.holder.as_ref().unwrap();
        let micros = holder.until.unix_micros() - holder.since.unix_micros();
        let name = holder.worker.id.as_str().to_owned();
        let all = minutes.entry(name).or_default();
        all.push(micros as f64 / 60e6);
    }
    let mean = |all: Vec<f64>| (all.len(), all.iter().sum::<f64>() / all.len() as f64);
    minutes
        .into_iter()
        .map(|(name, all)| (name, mean(all)))
        .collect()
}

/// Goal: everything that operators run works on what a crash left, and leaves it
/// sound. Method: take every database that the scenarios leave, and the backup that
/// was made in the middle of a kill storm; append until the clean-up has something to
/// do; renew some leases; back it up; run statement by statement, and compare with what
/// the store says; then the doctor, resume and an append.
#[test]
fn operators_statements_run_on_what_scenarios_leave_and_leave_it_sound() {
    if !has_shell() {
        println!("no sqlite3 shell here");
        return;
    }
    assert_eq!(
        statements().iter().map(|one| one.0).collect::<Vec<_>>(),
        (1..=10).collect::<Vec<_>>()
    );
    let target = tempfile::tempdir().unwrap();
    let databases = left_behind(target.path());
    assert!(databases.len() >= 10, "{databases:?}");
    let storm = databases
        .iter()
        .find(|path| path.ends_with("storm-backup.db"));
    let storm = SqliteStore::open(Config::at(storm.unwrap())).unwrap();
    let leases = held(&storm);
    assert!(leases.len() > 1, "a storm in which nobody works");
    drop(storm);
    // Of those that are alike one is enough.
    let is_twin = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("own-") && name != "own-1.db"
    };
    for database in databases.iter().filter(|path| !is_twin(path)) {
        let base = database.parent().unwrap().join("work");
        let base = if base.is_dir() {
            base
        } else {
            target.path().to_path_buf()
        };
        check(database, &base, target.path());
    }
}

fn keys(store: &SqliteStore) -> Vec<KeySummary> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.keys(&KeyFilter::default(), after, 1000).unwrap();
        all.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// What statement 5 says: how many entries of the model cache there are, how many of them
/// succeeded and how many failed. Of none it has no sums.
fn cached(keys: &[KeySummary]) -> String {
    let of_cache = |key: &&KeySummary| key.key.as_str().starts_with("llm-cache:");
    let cached: Vec<&KeySummary> = keys.iter().filter(of_cache).collect();
    let are = |status| {
        let count = cached.iter().filter(|key| key.view.status == status);
        count.count()
    };
    match cached.len() {
        0 => "0||".into(),
        total => format!(
            "{total}|{}|{}",
            are(KeyStatus::Succeeded),
            are(KeyStatus::Failed)
        ),
    }
}

/// What statement 4 says of each holder.
fn check_holders(said: &[String], holders: &BTreeMap<String, (usize, f64)>, name: &str) {
    assert_eq!(said.len(), holders.len(), "{name}: {said:?}");
    for line in said {
        let words: Vec<&str> = line.split('|').collect();
        let (leases, minutes) = holders[words[0]];
        assert_eq!(words[1], leases.to_string(), "{name}: {line}");
        // The shell counts in days, to some microseconds.
        let difference = (words[2].parse::<f64>().unwrap() - minutes).abs();
        assert!(difference < 1e-4, "{name}: {line}, and not {minutes}");
    }
}

fn check(database: &Path, base: &Path, folder: &Path) {
    let name = database.display();
    let copy = folder.join("copy.db");
    let (tasks, before, resumed, leases, keys, now) = {
        let store = Arc::new(SqliteStore::open(Config::at(database)).unwrap());
        let tasks = tasks(&store);
        for task in &tasks {
            let new = || AppendCheckpoint::new(task.clone(), CheckpointType::ErrorBoundary);
            let many = (0..30).fold(Commit::new(), |commit, _| commit.part(new()));
            store.commit(many).unwrap();
        }
        renew_some(&store);
        let before: Vec<_> = tasks.iter().map(|task| numbers(&store, task)).collect();
        let resumed: Vec<_> = tasks.iter().map(|task| last(&store, task, base)).collect();
        store.backup(&copy).unwrap();
        let keys = keys(&store);
        (tasks, before, resumed, held(&store), keys, store.now())
    };
    let until = |item: &WorkItemSummary| item.holder.as_ref().unwrap().until;
    let expired = leases.iter().filter(|item| until(item) < now).count();
    if database.ends_with("storm-backup.db") {
        // Those of the storm, and those of them that were renewed.
        assert!(0 < expired && expired < leases.len(), "{leases:?}");
    }
    let holders = by_holder(&leases);
    let count: usize = before.iter().map(Vec::len).sum();
    for (number, sql) in statements() {
        let said = shell(&copy, &sql);
        let sum = |column: usize| -> usize {
            let of = |line: &String| line.split('|').nth(column)?.parse::<usize>().ok();
            said.iter().filter_map(of).sum()
        };
        match number {
            1 | 2 => assert_eq!(sum(1), count, "{name}: {number}: {said:?}"),
            3 => assert_eq!(said, [expired.to_string()], "{name}"),
            4 => check_holders(&said, &holders, &name.to_string()),
            5 => assert_eq!(said, [cached(&keys)], "{name}"),
            // All of them were made just now.
            6 if keys.is_empty() => assert!(said.is_empty(), "{name}: {said:?}"),
            6 => assert_eq!(said, [format!("< 1 day|{}", keys.len())], "{name}"),
            7 => {
                let many = before.iter().filter(|numbers| numbers.len() > KEPT).count();
                assert_eq!(said.len(), many, "{name}: {said:?}");
            }
            8 => {
                let plan = said.join(" ");
                assert!(plan.contains("USING") && !plan.contains("SCAN"), "{plan}");
            }
            _ => assert!(said.is_empty(), "{name}: {number}: {said:?}"),
        }
    }
    let store = Arc::new(SqliteStore::open(Config::at(&copy)).unwrap());
    let report = store.doctor().unwrap();
    assert!(report.is_healthy(), "{name}: {report}");
    assert!(store.check_integrity().unwrap().is_sound(), "{name}");
    for (place, task) in tasks.iter().enumerate() {
        let kept = before[place].iter().take(KEPT).copied().collect::<Vec<_>>();
        assert_eq!(numbers(&store, task), kept, "{name}: {task}");
        assert_eq!(last(&store, task, base), resumed[place], "{name}: {task}");
        let new = AppendCheckpoint::new(task.clone(), CheckpointType::ErrorBoundary);
        store.commit(new.into()).unwrap();
        assert_eq!(numbers(&store, task)[0], before[place][0] + 1, "{name}");
    }
}

//! A death at every point of a step that does everything: rows of each kind, evidence, a
//! call in doubt, a model that is asked. What is left is whole commits, row by row.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use agentos_tests::{Victim, copy_database, lease_rows, leased_clock, open_leased};

use crate::VICTIM;

type Rows = BTreeMap<&'static str, Vec<String>>;

/// Points that only this test dies at.
const POINTS: [&str; 16] = [
    "audit.written",
    "checkpoint.verified",
    "evidence.before_directory_synced",
    "evidence.before_file_synced",
    "evidence.directory_synced",
    "evidence.file_synced",
    "model.answered",
    "model.before_asked",
    "task.created",
    "task.moved",
    "tool.before_probed",
    "tool.before_run",
    "tool.probed",
    "tool.ran",
    "work.failed",
    "work.requeued",
];

/// A place with an empty database and the file that the evidence speaks of.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    drop(open_leased(&path, &leased_clock()));
    fs::create_dir(directory.path().join("work")).unwrap();
    fs::write(directory.path().join("work/artifact"), "made").unwrap();
    (directory, path)
}

/// The rows that a death at this point leaves, on a copy.
fn death(directory: &Path, path: &Path, point: &str, hit: usize) -> Rows {
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = copy_database(path, elsewhere.path());
    let work = directory.join("work");
    let (hit, copy_text) = (hit.to_string(), copy.to_str().unwrap());
    let arguments = [point, &hit, "step", copy_text, work.to_str().unwrap()];
    Victim::start(VICTIM, "kill-at", arguments).dies();
    let store = open_leased(&copy, &leased_clock());
    assert!(store.check_integrity().unwrap().is_sound(), "{point} {hit}");
    drop(store);
    lease_rows(&copy)
}

/// Goal: a step that dies anywhere has made its first commits whole, and nothing of the
/// others. Method: a dry run names every point in order; a death right after each commit
/// says what the file has then; a death at every other point must leave one of these, by
/// how many commits were made before it.
#[test]
fn a_death_in_a_step_leaves_whole_commits() {
    let (directory, path) = place();
    let elsewhere = tempfile::tempdir().unwrap();
    let undisturbed = copy_database(&path, elsewhere.path());
    let work = directory.path().join("work");
    let arguments = [
        "step",
        undisturbed.to_str().unwrap(),
        work.to_str().unwrap(),
    ];
    let lines = Victim::start(VICTIM, "points", arguments).finish();
    assert!(lines.iter().any(|line| line == "answer"), "{lines:?}");
    let points: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("point "))
        .collect();
    let passed: BTreeSet<&str> = points.iter().copied().collect();
    for point in POINTS {
        assert!(passed.contains(point), "{point} is not passed: {points:?}");
    }
    let is_commit = |point: &&&str| **point == "store.after_commit";
    let commits = points.iter().filter(is_commit).count();
    let mut after = vec![lease_rows(&path)];
    after
        .extend((1..=commits).map(|hit| death(directory.path(), &path, "store.after_commit", hit)));
    assert_eq!(after.last(), Some(&lease_rows(&undisturbed)));
    let different: BTreeSet<&Rows> = after.iter().collect();
    assert_eq!(different.len(), commits + 1, "each commit changes the file");
    for (place, point) in points.iter().enumerate() {
        let before = &points[..=place];
        let hit = before.iter().filter(|one| *one == point).count();
        let made = before.iter().filter(is_commit).count();
        let found = death(directory.path(), &path, point, hit);
        assert_eq!(found, after[made], "killed at {point}, hit {hit}");
    }
}

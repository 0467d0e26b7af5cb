//! Bringing a file of an earlier version forward: a death at any point of it
//! leaves a whole version with all its data, which the next opener takes up.
//! (That each version is read back exactly: `crates/store/tests/upgrades.rs`.)

use std::path::{Path, PathBuf};

use agentos_core::{Storage, TaskStatus, TaskStorage};
use agentos_store::sqlite::SCHEMA_VERSION;
use agentos_tests::{Victim, at, numbers};

use crate::VICTIM;

/// A copy of the stored file of version 1.
fn old_file(directory: &Path) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = directory.join("agent.db");
    std::fs::copy(tests.join("../crates/store/tests/fixtures/v1.db"), &path).unwrap();
    path
}

/// Goal: as above. Method: a dry run names every point that the opening of the
/// old file passes; a process dies at each, by SIGKILL, the last of them after
/// the last migration.
#[test]
fn a_file_that_is_killed_on_its_way_to_the_next_version_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = old_file(directory.path());
    let points = Victim::start(VICTIM, "points", ["open", path.to_str().unwrap(), "-"]).finish();
    let points: Vec<&str> = points
        .iter()
        .filter_map(|line| line.strip_prefix("point "))
        .collect();
    for point in ["migrate.before", "migrate.before_commit", "migrate.after"] {
        assert!(points.contains(&point), "{points:?}");
    }
    for (at_point, point) in points.iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let path = old_file(directory.path());
        let hit = points[..=at_point]
            .iter()
            .filter(|other| *other == point)
            .count();
        let hit = hit.to_string();
        let arguments = [point, hit.as_str(), "open", path.to_str().unwrap(), "-"];
        Victim::start(VICTIM, "kill-at", arguments).dies();
        let store = at(&path);
        assert!(store.check_integrity().unwrap().is_sound(), "{point}");
        let running = store.tasks(TaskStatus::Running, None, 10).unwrap().items;
        assert_eq!(running.len(), 1, "{point}");
        let task = running[0].id.as_str();
        assert_eq!(numbers(&store, task), [1, 2, 3, 4], "{point}");
        assert_eq!(
            store.audits(&running[0].id, None, 10).unwrap().items.len(),
            3
        );
        assert_eq!(
            store.inspect().unwrap().pragmas["user_version"],
            i64::from(SCHEMA_VERSION)
        );
        let next = agentos_tests::append(task, "state");
        let receipt = store.commit(next.into()).unwrap();
        assert_eq!(receipt.appended().next().unwrap().sequence.get(), 5);
    }
}

//! Every named place to die is used: the names in the source of the crates are
//! exactly those at which some test of this project kills or stops a process.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use agentos_tests::{Victim, names};

use crate::VICTIM;

/// The names that tests die at, and where.
///
/// - `create.*`, `migrate.*`: `opening.rs` kills a creation at each.
/// - `backup.*`: `backup.rs` kills a backup at each.
/// - `ballast.*`: `disk_full.rs` kills a writer at each.
/// - `prune.*`, `upkeep.*`: `upkeep.rs` kills a pass at each.
/// - `key.*`: `key_crashes.rs` kills begins and outcomes at each.
/// - `lease.*`, `sweep.*`: `lease_crashes.rs` kills claims, renewals and sweeps at each,
///   and `recovery.rs` a scan of many batches.
/// - `store.*`: `many_processes.rs` stops and kills a writer at each.
const USED: [&str; 28] = [
    "backup.after_rename",
    "backup.before_rename",
    "backup.copied",
    "ballast.before_giving_up",
    "ballast.given_up",
    "create.after_rename",
    "create.before_rename",
    "create.empty",
    "key.begun",
    "key.finished",
    "lease.claimed",
    "lease.renewed",
    "migrate.after",
    "migrate.before",
    "migrate.before_commit",
    "prune.between_batches",
    "prune.checkpoints_deleted",
    "prune.rows_deleted",
    "store.after_commit",
    "store.before_commit",
    "sweep.between_batches",
    "sweep.recovered",
    "upkeep.before_optimized",
    "upkeep.between_batches",
    "upkeep.log_cut",
    "upkeep.log_moved",
    "upkeep.optimized",
    "upkeep.reclaimed",
];

fn collect(folder: &Path, found: &mut BTreeSet<String>) {
    const CALL: &str = "crash_point!(\"";
    for name in names(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            for rest in text.split(CALL).skip(1) {
                let name = rest.split('"').next().unwrap();
                assert!(found.insert(name.to_string()), "{name} is used twice");
            }
        }
    }
}

#[test]
fn every_crash_point_in_the_source_is_died_at_by_a_test() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut found = BTreeSet::new();
    for name in names(&crates) {
        collect(&crates.join(name).join("src"), &mut found);
    }
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, USED);
    // And a test names each of them, in text or by counting them in a dry run.
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration");
    for name in USED {
        let quoted = format!("\"{name}\"");
        let named = names(&tests)
            .iter()
            .filter(|file| file.ends_with(".rs") && *file != "crash_points.rs")
            .any(|file| {
                fs::read_to_string(tests.join(file))
                    .unwrap()
                    .contains(&quoted)
            });
        assert!(named, "{name} is named by no test");
    }
}

/// The points are passed in the order that the library promises.
#[test]
fn one_commit_passes_its_points_once() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("agent.db");
    let database = database.to_str().unwrap();
    Victim::start(VICTIM, "create", [database, "a"]).finish();
    let lines = Victim::start(VICTIM, "points", ["create", database, "a"]).finish();
    assert_eq!(
        lines,
        [
            "point store.before_commit",
            "point store.after_commit",
            "created"
        ]
    );
}

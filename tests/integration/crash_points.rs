//! Every named place to die is used: the names in the source of the crates are
//! exactly those at which some test of this project kills or stops a process.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use agentos_tests::{Victim, names};

use crate::VICTIM;

/// The names that tests die at, and where.
///
/// - `create.*`, `migrate.*`, `open.*`, `close.*`, and `ballast.*` while it is made:
///   `opening.rs` kills an opening and a closing at each.
/// - `backup.*`, and `upkeep.*` where a check is noted: `backup.rs` kills a backup at each.
/// - `ballast.*` when it is given up: `disk_full.rs` kills a writer at each.
/// - `log.*`, `prune.*`, `upkeep.*`: `upkeep.rs` kills a pass at each.
/// - `key.*`: `key_crashes.rs` kills begins and ends at each.
/// - `lease.*`, `sweep.*`, `work.*`: `lease_crashes.rs` kills claims, renewals, ends and
///   sweeps at each, and `recovery.rs` a scan of many batches.
/// - `audit.*`, `checkpoint.*`, `evidence.*`, `model.*`, `task.*`, `tool.*`:
///   `step_crashes.rs` kills a step that does everything at each.
/// - `store.*`: `many_processes.rs` stops and kills a writer at each.
const USED: [&str; 81] = [
    "audit.written",
    "backup.after_rename",
    "backup.before_clearing",
    "backup.before_rename",
    "backup.cleared",
    "backup.copied",
    "backup.directory_synced",
    "backup.empty",
    "backup.synced",
    "ballast.before_giving_up",
    "ballast.before_making",
    "ballast.empty",
    "ballast.filled",
    "ballast.given_up",
    "ballast.made",
    "checkpoint.appended",
    "checkpoint.verified",
    "close.before_log_moved",
    "close.log_moved",
    "create.after_rename",
    "create.before_clearing",
    "create.before_empty",
    "create.before_rename",
    "create.built",
    "create.cleared",
    "create.directory_synced",
    "create.empty",
    "evidence.before_directory_synced",
    "evidence.before_file_synced",
    "evidence.directory_synced",
    "evidence.file_synced",
    "key.abandoned",
    "key.begun",
    "key.finished",
    "key.left_in_doubt",
    "key.removed",
    "key.renewed",
    "key.resolved",
    "key.touched",
    "lease.claimed",
    "lease.renewed",
    "log.before_cut",
    "log.cut",
    "migrate.after",
    "migrate.before",
    "migrate.before_commit",
    "model.answered",
    "model.before_asked",
    "open.before_log",
    "open.before_side_files",
    "open.log_made",
    "open.side_files_made",
    "prune.between_batches",
    "prune.checkpoints_deleted",
    "prune.rows_deleted",
    "store.after_commit",
    "store.before_commit",
    "sweep.between_batches",
    "sweep.recovered",
    "task.created",
    "task.moved",
    "tool.before_probed",
    "tool.before_run",
    "tool.probed",
    "tool.ran",
    "upkeep.before_log_moved",
    "upkeep.before_noted",
    "upkeep.before_optimized",
    "upkeep.before_reclaimed",
    "upkeep.between_batches",
    "upkeep.log_cut",
    "upkeep.log_moved",
    "upkeep.noted",
    "upkeep.optimized",
    "upkeep.reclaimed",
    "work.cancelled",
    "work.completed",
    "work.enqueued",
    "work.failed",
    "work.released",
    "work.requeued",
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
            "point open.before_side_files",
            "point open.side_files_made",
            "point create.before_clearing",
            "point create.cleared",
            "point open.before_log",
            "point open.log_made",
            "point task.created",
            "point checkpoint.appended",
            "point store.before_commit",
            "point store.after_commit",
            "point close.before_log_moved",
            "point close.log_moved",
            "created"
        ]
    );
}

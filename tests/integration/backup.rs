//! Backup while others write: the copy is one moment of the store, whole and
//! sound; a killed backup leaves no half file; nothing of the store's own is
//! ever overwritten.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use agentos_core::{Commit, Digest, Storage, StorageError, TaskStorage};
use agentos_process::{CommandSpec, run};
use agentos_store::sqlite::{SqliteStore, inspect};
use agentos_tests::{Victim, append, at, config, fresh, names, new_task, numbers, task_id};

use crate::VICTIM;

fn digest(path: &Path) -> Digest {
    Digest::of(&fs::read(path).unwrap())
}

const TASKS: [&str; 3] = ["one", "two", "three"];

/// What must be true of a copy: `before` of each task was acknowledged before it
/// was begun.
fn judge(copy: &SqliteStore, before: &[u64]) -> Result<usize, String> {
    let mut copied = 0;
    let integrity = copy
        .check_integrity()
        .map_err(|error| format!("{error:?}"))?;
    if !integrity.is_sound() {
        return Err(format!("it is damaged: {:?}", integrity.problems));
    }
    for (task, before) in TASKS.iter().zip(before) {
        let found = numbers(copy, task);
        if found != (1..=found.len() as u64).collect::<Vec<_>>() {
            return Err(format!("{task} has gaps: {found:?}"));
        }
        if (found.len() as u64) < *before {
            let found = found.len();
            return Err(format!(
                "{before} of {task} were acknowledged, it has {found}"
            ));
        }
        let lines = copy.audits(&task_id(task), None, 1000).unwrap().items;
        let steps = lines.iter().filter(|line| line.event == "step").count();
        if steps != found.len().min(999) {
            return Err(format!("a commit of {task} was cut in two"));
        }
        copied += found.len();
    }
    Ok(copied)
}

/// Makes four copies while three processes write; each is judged as a store.
fn copies_under_load(copy: impl Fn(&SqliteStore, &Path)) -> Result<usize, String> {
    let store = fresh();
    let mut writers =
        TASKS.map(|task| Victim::start(VICTIM, "write", [store.path().to_str().unwrap(), task]));
    let mut copied = 0;
    for _ in 0..4 {
        let before: Vec<u64> = writers
            .iter_mut()
            .map(|writer| {
                let line = (0..20).map(|_| writer.line()).last().unwrap();
                line.split(' ').next().unwrap().parse().unwrap()
            })
            .collect();
        let opened = tempfile::tempdir().unwrap();
        let path = opened.path().join("agent.db");
        copy(&store, &path);
        let copy = SqliteStore::open(config(&path)).map_err(|error| format!("{error:?}"))?;
        copied += judge(&copy, &before)?;
        // A copy is a store: it takes commits.
        copy.commit(append(TASKS[0], "after").into()).unwrap();
    }
    for writer in writers {
        writer.kill();
    }
    Ok(copied)
}

/// Goal: a copy made under load is sound, and every task in it is a prefix that
/// has all that was acknowledged before the copy began.
#[test]
fn a_copy_made_while_processes_write_is_one_moment() {
    let copied = copies_under_load(|store, target| {
        let report = store.backup(target).unwrap();
        assert_eq!(report.path, target);
        assert_eq!(report.bytes, fs::metadata(target).unwrap().len());
        assert_eq!(names(target.parent().unwrap()), ["agent.db"]);
    });
    println!("four copies with {} checkpoints in all", copied.unwrap());
}

/// The canary of the check above: a backup that copies the main file alone, in a
/// process of its own, and forgets the log.
#[test]
fn a_backup_of_the_main_file_alone_is_caught() {
    let broken = copies_under_load(|store, target| {
        let copy = CommandSpec::new("cp").arg(store.path()).arg(target);
        assert!(run(&copy).unwrap().success());
    });
    let broken = broken.unwrap_err();
    assert!(broken.contains("were acknowledged"), "{broken}");
}

/// Goal: under the final name there is nothing, the old copy or the new one.
/// Method: kill the backup at each point it passes, without and with an earlier
/// copy there; then the next backup must work and leave nothing beside it.
#[test]
fn a_killed_backup_leaves_no_half_file() {
    let store = fresh();
    store.create_task(new_task("old")).unwrap();
    let path = store.path().to_str().unwrap().to_string();
    let dry = tempfile::tempdir().unwrap();
    let target = dry.path().join("copy.db");
    let arguments = ["backup", &path, target.to_str().unwrap()];
    let (points, _) = Victim::points(VICTIM, arguments);
    assert_eq!(
        points,
        [
            "backup.before_clearing",
            "backup.cleared",
            "backup.empty",
            "backup.copied",
            "backup.synced",
            "upkeep.before_noted",
            "upkeep.noted",
            "backup.before_rename",
            "backup.after_rename",
            "backup.directory_synced",
        ]
    );
    for point in points {
        for earlier in [false, true] {
            let elsewhere = tempfile::tempdir().unwrap();
            let target = elsewhere.path().join("copy.db");
            let old = earlier.then(|| {
                store.backup(&target).unwrap();
                digest(&target)
            });
            store
                .commit(Commit::from(agentos_core::AuditLine::new(
                    task_id("old"),
                    "new",
                )))
                .unwrap();
            let target_text = target.to_str().unwrap();
            Victim::start(
                VICTIM,
                "kill-at",
                [&point, "1", "backup", &path, target_text],
            )
            .dies();
            let renamed = ["backup.after_rename", "backup.directory_synced"].contains(&&*point);
            let found = target.exists().then(|| digest(&target));
            if renamed {
                assert!(found.is_some() && found != old, "{point}");
                assert!(inspect(&target).is_ok(), "{point}: the new copy is whole");
                for beside in ["copy.db-wal", "copy.db-shm"] {
                    let _ = fs::remove_file(elsewhere.path().join(beside));
                }
            } else {
                assert_eq!(found, old, "{point}");
            }
            store.backup(&target).unwrap();
            assert_eq!(names(elsewhere.path()), ["copy.db"], "after {point}");
            drop(at(&target));
        }
    }
}

#[test]
fn a_copy_is_as_private_as_the_store() {
    let store = fresh();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("copy.db");
    store.backup(&target).unwrap();
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o600);
}

/// A look at a copy must not stand in the way of the next backup.
#[test]
fn a_copy_that_was_looked_at_is_replaced_by_the_next() {
    let store = fresh();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("copy.db");
    store.backup(&target).unwrap();
    inspect(&target).unwrap();
    store.create_task(new_task("a")).unwrap();
    store.backup(&target).unwrap();
    assert!(at(&target).task(&task_id("a")).unwrap().is_some());
}

/// Goal: a backup never destroys the store. Method: each of its files is named
/// as the destination: directly, by a hard link and by a symbolic one; the
/// store must go on, with everything it had.
#[test]
fn the_files_of_the_store_are_refused_as_destinations() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    let directory = store.directory();
    let outside = tempfile::tempdir_in(directory.parent().unwrap()).unwrap();
    for name in [
        "agent.db",
        "agent.db-wal",
        "agent.db-shm",
        "agent.db.agentos-ballast",
        "agent.db.wlock",
        "agent.db.wturn",
    ] {
        let own = directory.join(name);
        let (hard, soft) = (outside.path().join("hard"), outside.path().join("soft"));
        fs::hard_link(&own, &hard).unwrap();
        symlink(&own, &soft).unwrap();
        for destination in [&own, &hard, &soft] {
            let answer = store.backup(destination);
            assert!(
                matches!(answer, Err(StorageError::Invalid(_))),
                "{}: {answer:?}",
                destination.display()
            );
        }
        fs::remove_file(hard).unwrap();
        fs::remove_file(soft).unwrap();
    }
    store.commit(append("a", "state").into()).unwrap();
    assert_eq!(store.numbers("a"), [1]);
    assert!(store.check_integrity().unwrap().is_sound());
}

/// The temporary name of a backup may be the name of the store itself.
#[test]
fn a_store_whose_name_a_backup_would_use_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db.part");
    let store = SqliteStore::open(config(&path)).unwrap();
    store.create_task(new_task("a")).unwrap();
    let answer = store.backup(&directory.path().join("agent.db"));
    assert!(
        matches!(answer, Ok(_) | Err(StorageError::Invalid(_))),
        "{answer:?}"
    );
    store.commit(append("a", "state").into()).unwrap();
    drop(store);
    assert_eq!(numbers(&at(&path), "a"), [1]);
}

/// The temporary name of a creation may be the name of another store.
#[test]
fn a_store_whose_name_a_creation_would_use_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("agent.db.new");
    at(&other).create_task(new_task("a")).unwrap();
    // Refusing is as good as choosing another name.
    drop(SqliteStore::open(config(directory.path().join("agent.db"))));
    assert!(at(&other).task(&task_id("a")).unwrap().is_some());
}

#[test]
fn a_destination_that_cannot_be_written_is_named_by_type() {
    let store = fresh();
    let elsewhere = tempfile::tempdir().unwrap();
    let absent = elsewhere.path().join("absent").join("copy.db");
    assert!(matches!(store.backup(&absent), Err(StorageError::Io(_))));
    // A database in use has its log beside it.
    let used = fresh();
    used.create_task(new_task("precious")).unwrap();
    assert!(matches!(
        store.backup(used.path()),
        Err(StorageError::Invalid(_))
    ));
    assert!(used.task(&task_id("precious")).unwrap().is_some());
}

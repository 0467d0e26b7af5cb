//! Bad files: not ours, too new, cut short or not writable. Each gives its typed
//! error and leaves every byte of the files as it was; beside a refused file no
//! new one appears.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use agentos_core::{Storage, StorageError};
use agentos_store::sqlite::{SCHEMA_VERSION, SqliteStore, dump, inspect};
use agentos_tests::{Victim, append, config, contents, fresh, names, new_task};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::VICTIM;

fn refused(path: &Path) -> StorageError {
    SqliteStore::open(config(path)).expect_err("the file must be refused")
}

/// Opens what must be refused; gives the error once it is sure that nothing in
/// the directory has changed.
fn refused_without_a_trace(path: &Path) -> StorageError {
    let directory = path.parent().unwrap();
    let before = contents(directory);
    let error = refused(path);
    assert_eq!(contents(directory), before, "after {error:?}");
    // Looking at it leaves no trace either.
    assert!(inspect(path).is_err());
    assert_eq!(contents(directory), before, "after looking");
    error
}

/// A closed store with two tasks and 40 checkpoints.
fn stored() -> (tempfile::TempDir, std::path::PathBuf) {
    let store = fresh();
    for task in ["a", "b"] {
        store.create_task(new_task(task)).unwrap();
        for number in 0..20_u8 {
            store
                .commit(append(task, vec![number; 700]).into())
                .unwrap();
        }
    }
    store.shut()
}

#[test]
fn files_that_are_no_database_are_refused() {
    for (bytes, what) in [
        (
            &b"Dear diary, today I was taken for a database.\n"[..],
            "text",
        ),
        (b"", "empty"),
        (b"S", "one byte"),
        (b"SQLite format 3\0", "only the magic"),
        (&[0; 4096], "zeros"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.db");
        fs::write(&path, bytes).unwrap();
        let error = refused_without_a_trace(&path);
        assert!(
            matches!(error, StorageError::NotOurs { .. }),
            "{what}: {error:?}"
        );
    }
}

#[test]
fn a_directory_in_the_place_of_the_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    fs::create_dir(&path).unwrap();
    assert!(matches!(refused(&path), StorageError::NotOurs { .. }));
    assert_eq!(names(directory.path()), ["agent.db"]);
}

/// The journal modes matter: a file in WAL mode makes files beside it as soon
/// as it is read the ordinary way.
#[test]
fn databases_of_others_are_refused_in_every_journal_mode() {
    for mode in ["DELETE", "WAL"] {
        for log_left in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("agent.db");
            let connection = Connection::open(&path).unwrap();
            connection
                .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, log_left)
                .unwrap();
            connection
                .execute_batch(&format!(
                    "PRAGMA journal_mode = {mode}; CREATE TABLE tasks (id); PRAGMA user_version = 1"
                ))
                .unwrap();
            connection.close().unwrap();
            let error = refused_without_a_trace(&path);
            assert!(
                matches!(error, StorageError::NotOurs { .. }),
                "{mode}, {log_left}: {error:?}"
            );
        }
    }
}

#[test]
fn a_newer_schema_is_refused_by_its_version() {
    let (directory, path) = stored();
    raw(&path, "PRAGMA user_version = 99");
    let before = contents(directory.path());
    let error = refused_without_a_trace(&path);
    assert!(
        matches!(
            error,
            StorageError::NewerSchema {
                found: 99,
                known: SCHEMA_VERSION
            }
        ),
        "{error:?}"
    );
    assert_eq!(contents(directory.path()), before);
}

/// The version of a file can stand in the write-ahead log alone. Then the file
/// looks like ours until the log is read, and neither may be changed.
#[test]
fn a_newer_schema_in_the_log_alone_is_refused() {
    let (directory, path) = stored();
    let connection = Connection::open(&path).unwrap();
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    connection
        .execute_batch("PRAGMA user_version = 99")
        .unwrap();
    connection.close().unwrap();
    let before = contents(directory.path());
    assert!(before.contains_key("agent.db-wal"));
    for _ in 0..2 {
        let error = refused(&path);
        assert!(
            matches!(
                error,
                StorageError::NewerSchema {
                    found: 99,
                    known: SCHEMA_VERSION
                }
            ),
            "{error:?}"
        );
        let after = contents(directory.path());
        for file in ["agent.db", "agent.db-wal"] {
            assert_eq!(after.get(file), before.get(file), "{file}");
        }
    }
}

#[test]
fn a_file_whose_migration_had_another_text_is_refused() {
    let (directory, path) = stored();
    raw(&path, "UPDATE schema_migrations SET digest = zeroblob(32)");
    let before = contents(directory.path());
    let error = refused(&path);
    let StorageError::NotOurs { reason } = error else {
        panic!("{error:?}")
    };
    assert!(reason.contains("0001_initial"), "{reason}");
    for (file, digest) in before {
        assert_eq!(contents(directory.path())[&file], digest, "{file}");
    }
}

#[test]
fn a_write_ahead_log_without_its_database_is_refused() {
    let (directory, path) = stored();
    fs::rename(&path, directory.path().join("agent.db-wal")).unwrap();
    let before = contents(directory.path());
    let error = refused(&path);
    let StorageError::Corrupt { what, .. } = error else {
        panic!("{error:?}")
    };
    assert!(what.contains("agent.db-wal"), "{what}");
    assert_eq!(contents(directory.path()), before);
}

/// Goal: a file that was cut short is refused, or what is left of it is right.
/// Method: cut at the borders of pages and anywhere, then ask for everything.
#[test]
fn a_truncated_database_is_refused_and_left_as_it_is() {
    let (_directory, path) = stored();
    let bytes = fs::read(&path).unwrap();
    let mut lengths = vec![1, 16, 99, 100, 512, 4095, 4096, 4097, 8192, bytes.len() - 1];
    lengths.extend((1..8).map(|part| bytes.len() / 8 * part));
    for length in lengths {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.db");
        fs::write(&path, &bytes[..length]).unwrap();
        println!("cut at {length} of {}", bytes.len());
        let error = refused(&path);
        let typed = matches!(
            error,
            StorageError::NotOurs { .. } | StorageError::Corrupt { .. }
        );
        assert!(typed, "{length} of {}: {error:?}", bytes.len());
        assert_eq!(fs::read(&path).unwrap(), bytes[..length], "at {length}");
    }
}

/// Goal: what cannot be written is `ReadOnly`, in a directory and in a file.
/// Method: a victim without rights (it gives them up where the test runs as
/// root) opens what it may read and not write.
#[test]
fn what_cannot_be_written_is_read_only() {
    const NOBODY: u32 = 65_534;
    let root = rustix::process::geteuid().is_root();
    let attempt = |path: &Path| -> Vec<String> {
        let path = path.to_str().unwrap();
        if root {
            Victim::start(VICTIM, "as-user", ["65534", "create", path, "c"]).finish()
        } else {
            Victim::start(VICTIM, "create", [path, "c"]).finish()
        }
    };
    let give = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        if root && path.is_file() {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    };
    // A new file in a directory that takes none.
    let directory = tempfile::tempdir().unwrap();
    give(directory.path(), 0o555);
    let new = directory.path().join("agent.db");
    assert_eq!(attempt(&new), ["refused ReadOnly"]);
    assert!(names(directory.path()).is_empty());
    // A file of ours in such a directory, with and without its side file.
    for keep_side_file in [false, true] {
        let (directory, path) = stored();
        let side_file = directory.path().join("agent.db.wlock");
        give(&path, 0o600);
        give(&side_file, 0o600);
        if !keep_side_file {
            fs::remove_file(&side_file).unwrap();
        }
        give(directory.path(), 0o555);
        let before = contents(directory.path());
        let said = attempt(&path);
        assert_eq!(said, ["refused ReadOnly"], "side file: {keep_side_file}");
        assert_eq!(contents(directory.path()), before);
        give(directory.path(), 0o755);
    }
    // A file of ours that may only be read, in a directory that takes others.
    let (directory, path) = stored();
    give(&path, 0o400);
    give(&directory.path().join("agent.db.wlock"), 0o600);
    give(directory.path(), 0o777);
    let before = fs::read(&path).unwrap();
    assert_eq!(attempt(&path), ["refused ReadOnly"]);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn dumping_what_is_not_ours_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    fs::write(&path, "no database").unwrap();
    let target = tempfile::tempdir().unwrap();
    let report = dump(
        &path,
        target.path(),
        agentos_store::sqlite::DumpOptions::default(),
    )
    .unwrap();
    assert_eq!(report.copy, None);
    assert!(!report.problems.is_empty());
    assert_eq!(names(directory.path()), ["agent.db"]);
}

fn raw(path: &Path, sql: &str) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.close().unwrap();
}

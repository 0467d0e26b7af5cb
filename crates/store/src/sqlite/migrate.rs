//! Migrations: forward only, one transaction each, never edited.
//!
//! `user_version` says which was applied last; `schema_migrations` keeps the
//! digest of the text of each. A file from a newer build, or one whose
//! migrations had another text, is refused before anything is changed.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use agentos_core::{Digest, StorageError, Timestamp, crash_point};
use rusqlite::{Connection, ffi, named_params};

use super::connection::pragma;
use super::error::{SqliteError, of, of_commit, of_sqlite};

/// One step of the schema.
pub(crate) struct Migration {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// All steps, in order; the first brings a file to version 1.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "0001_initial",
        sql: include_str!("migrations/0001_initial.sql"),
    },
    Migration {
        name: "0002_upkeep",
        sql: include_str!("migrations/0002_upkeep.sql"),
    },
    Migration {
        name: "0003_leases",
        sql: include_str!("migrations/0003_leases.sql"),
    },
    Migration {
        name: "0004_keys",
        sql: include_str!("migrations/0004_keys.sql"),
    },
];

/// Newest schema version of this build.
pub const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// Refuses a file from a newer build, and one whose applied migrations had
/// another text. Reads only.
pub(crate) fn check(
    connection: &Connection,
    migrations: &[Migration],
) -> Result<u32, StorageError> {
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    let found = version(connection)?;
    if found > known {
        return Err(StorageError::NewerSchema { found, known });
    }
    for (applied, migration) in (1..=found).zip(migrations) {
        let digest: Option<Vec<u8>> = connection
            .query_row(
                "SELECT (SELECT digest FROM schema_migrations WHERE version = ?1)",
                [applied],
                |row| row.get(0),
            )
            .map_err(|error| of(&error, "reading the applied migrations"))?;
        if digest.as_deref() != Some(Digest::of(migration.sql.as_bytes()).as_bytes()) {
            return Err(StorageError::NotOurs {
                reason: format!("its migration {} had another text", migration.name),
            });
        }
    }
    // A version that was set back, by whatever, would have steps applied twice.
    let recorded: bool = match found {
        0 => false,
        _ => connection
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM schema_migrations WHERE version > ?1)",
                [found],
                |row| row.get(0),
            )
            .map_err(|error| of(&error, "reading the applied migrations"))?,
    };
    if recorded {
        let detail = format!("it says {found}, and a later migration was applied");
        return Err(StorageError::corrupt("the schema version", detail));
    }
    Ok(found)
}

/// Name and text of every table, index and trigger.
type Schema = BTreeMap<String, String>;

/// Refuses a file whose tables, indexes or triggers are not those that the
/// migrations make: a changed letter there lets SQLite do something else than
/// what was promised. Objects that users added are theirs.
pub(crate) fn check_schema(connection: &Connection) -> Result<(), StorageError> {
    static EXPECTED: OnceLock<Schema> = OnceLock::new();
    let expected = match EXPECTED.get() {
        Some(expected) => expected,
        None => {
            let fresh = Connection::open_in_memory()
                .map_err(|error| of(&error, "opening a database in memory"))?;
            for migration in MIGRATIONS {
                fresh
                    .execute_batch(migration.sql)
                    .map_err(|error| of(&error, "making the schema in memory"))?;
            }
            let schema = read_schema(&fresh)?;
            EXPECTED.get_or_init(|| schema)
        }
    };
    let found = read_schema(connection)?;
    for (name, text) in expected {
        if found.get(name) != Some(text) {
            let detail = format!("{name} is not what the migrations make");
            return Err(StorageError::corrupt("the schema", detail));
        }
    }
    check_order(connection)
}

/// A number in the file's header says whether indexes may be in descending order. With a bit
/// of it changed SQLite reads such an index the other way round, and finds the oldest
/// checkpoint where the newest is.
fn check_order(connection: &Connection) -> Result<(), StorageError> {
    let descending: bool = connection
        .query_row(
            "SELECT max(\"desc\") FROM pragma_index_xinfo('idx_checkpoints_task_seq')",
            [],
            |row| row.get(0),
        )
        .map_err(|error| of(&error, "reading the schema"))?;
    if descending {
        return Ok(());
    }
    let detail = "its format knows no index in descending order";
    Err(StorageError::corrupt("the file's header", detail))
}

/// Reads the schema; what SQLite cannot parse of it is damage.
pub(crate) fn read_schema(connection: &Connection) -> Result<Schema, StorageError> {
    let read = || -> rusqlite::Result<Schema> {
        connection
            .prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    };
    read().map_err(|error| {
        let error = SqliteError::from(&error);
        match error.primary() {
            ffi::SQLITE_ERROR => StorageError::corrupt("the schema", error),
            _ => of_sqlite(error, "reading the schema"),
        }
    })
}

/// Brings a file forward. Killed at any moment it leaves a whole version.
pub(crate) fn migrate(
    connection: &Connection,
    migrations: &[Migration],
    now: Timestamp,
) -> Result<(), StorageError> {
    let applied = check(connection, migrations)?;
    for (version, migration) in (1_u32..).zip(migrations).skip(applied as usize) {
        crash_point!("migrate.before");
        let result = apply(connection, version, migration, now);
        if result.is_err() && !connection.is_autocommit() {
            // The error of the step matters more than one of the rollback.
            let _ = connection.execute_batch("ROLLBACK");
        }
        result?;
        crash_point!("migrate.after");
        tracing::info!(version, name = migration.name, "migration applied");
    }
    Ok(())
}

fn apply(
    connection: &Connection,
    version: u32,
    migration: &Migration,
    now: Timestamp,
) -> Result<(), StorageError> {
    let context = "applying a migration";
    connection
        .execute_batch("BEGIN IMMEDIATE")
        .map_err(|error| of(&error, context))?;
    connection.execute_batch(migration.sql).map_err(|error| {
        let error = SqliteError::from(&error);
        match error.primary() {
            // Something has the name of what the step makes.
            ffi::SQLITE_ERROR => StorageError::corrupt("the schema", error),
            _ => of_sqlite(error, context),
        }
    })?;
    connection
        .execute(
            "INSERT INTO schema_migrations (version, name, digest, applied_at)
             VALUES (:version, :name, :digest, :now)",
            named_params! {
                ":version": version,
                ":name": migration.name,
                ":digest": Digest::of(migration.sql.as_bytes()).as_bytes(),
                ":now": now.to_text(),
            },
        )
        .map_err(|error| of(&error, context))?;
    connection
        .execute_batch(&format!("PRAGMA user_version = {version}"))
        .map_err(|error| of(&error, context))?;
    crash_point!("migrate.before_commit");
    connection
        .execute_batch("COMMIT")
        .map_err(|error| of_commit(SqliteError::from(&error)))
}

/// Schema version of a file.
pub(crate) fn version(connection: &Connection) -> Result<u32, StorageError> {
    let version = pragma(connection, "user_version")?;
    u32::try_from(version).map_err(|_| StorageError::NotOurs {
        reason: format!("its schema version is {version}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_micros(0);
    const ONE: &[Migration] = &[Migration {
        name: MIGRATIONS[0].name,
        sql: MIGRATIONS[0].sql,
    }];
    const TWO: &[Migration] = &[
        Migration {
            name: MIGRATIONS[0].name,
            sql: MIGRATIONS[0].sql,
        },
        Migration {
            name: "0002_more",
            sql: "CREATE TABLE more (id INTEGER PRIMARY KEY);",
        },
    ];

    fn tables(connection: &Connection) -> Vec<String> {
        let mut statement = connection
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
            .unwrap();
        let names = statement.query_map([], |row| row.get(0)).unwrap();
        names.map(Result::unwrap).collect()
    }

    #[test]
    fn the_first_migration_makes_the_tables_that_operators_know() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, ONE, NOW).unwrap();
        let tables = tables(&connection);
        for name in [
            "tasks",
            "checkpoints",
            "work_items",
            "idempotency_keys",
            "task_audits",
        ] {
            assert!(tables.iter().any(|table| table == name), "{name}");
        }
        assert_eq!(version(&connection).unwrap(), 1);
    }

    /// With foreign keys off and on: an item keeps its newest attempts and takes
    /// them along, and the newest integrity checks stay.
    #[test]
    fn what_has_no_rule_of_retention_is_bounded_by_the_schema() {
        use agentos_core::limits::{ATTEMPTS_PER_ITEM_MAX, INTEGRITY_CHECKS_MAX};
        for keys in ["OFF", "ON"] {
            let connection = Connection::open_in_memory().unwrap();
            migrate(&connection, MIGRATIONS, NOW).unwrap();
            let sql = format!(
                "PRAGMA foreign_keys = {keys};
                 INSERT INTO work_items (work_item_id, work_type, status, max_attempts,
                     available_at, created_at, updated_at)
                 SELECT value, 'test', 'pending', 1, '{NOW}', '{NOW}', '{NOW}'
                 FROM generated(2);
                 INSERT INTO work_attempts (work_item_id, number, worker, incarnation, started_at)
                 SELECT 1, value, 'w', 'i', '{NOW}' FROM generated(3 * {ATTEMPTS_PER_ITEM_MAX})
                 UNION ALL SELECT 2, 1, 'w', 'i', '{NOW}';
                 INSERT INTO integrity_checks (problems, checked_at)
                 SELECT 0, '{NOW}' FROM generated({INTEGRITY_CHECKS_MAX} + 5);"
            );
            let series = |count: &str| {
                format!(
                    "(WITH RECURSIVE n(value) AS
                      (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {count})
                      SELECT value FROM n)"
                )
            };
            let mut parts = sql.split("generated(");
            let mut sql = parts.next().unwrap().to_string();
            for part in parts {
                let (count, rest) = part.split_once(')').unwrap();
                sql += &series(count);
                sql += rest;
            }
            connection.execute_batch(&sql).unwrap();
            let count = |table: &str| -> u32 {
                let sql = format!("SELECT count(*) FROM {table}");
                connection.query_row(&sql, [], |row| row.get(0)).unwrap()
            };
            assert_eq!(count("work_attempts"), ATTEMPTS_PER_ITEM_MAX + 1);
            // What is given back pushes nothing else out, and is bounded too.
            for number in 301..=501 {
                let released = format!(
                    "INSERT INTO work_attempts (work_item_id, number, worker, incarnation,
                         started_at, ended_at, outcome)
                     VALUES (1, {number}, 'w', 'i', '{NOW}', '{NOW}', 'released')"
                );
                connection.execute_batch(&released).unwrap();
            }
            assert_eq!(count("work_attempts"), 2 * ATTEMPTS_PER_ITEM_MAX + 1);
            let others = "work_attempts WHERE outcome IS NULL AND number > 200";
            assert_eq!(count(others), ATTEMPTS_PER_ITEM_MAX);
            assert_eq!(count("integrity_checks"), INTEGRITY_CHECKS_MAX);
            connection
                .execute_batch("DELETE FROM work_items WHERE work_item_id = 1")
                .unwrap();
            assert_eq!(count("work_attempts"), 1);
        }
    }

    #[test]
    fn an_older_file_is_brought_forward_once() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, ONE, NOW).unwrap();
        migrate(&connection, TWO, NOW).unwrap();
        migrate(&connection, TWO, NOW).unwrap();
        assert_eq!(version(&connection).unwrap(), 2);
        assert!(tables(&connection).iter().any(|table| table == "more"));
    }

    #[test]
    fn a_newer_file_is_refused_and_left_as_it_is() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, TWO, NOW).unwrap();
        let error = migrate(&connection, ONE, NOW).unwrap_err();
        assert!(matches!(
            error,
            StorageError::NewerSchema { found: 2, known: 1 }
        ));
        assert_eq!(version(&connection).unwrap(), 2);
    }

    /// Goal: whoever made an index of a name that a later version uses is told so
    /// by type, and the file stays as it is.
    #[test]
    fn a_name_that_is_taken_is_refused_and_leaves_the_version_before_it() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, ONE, NOW).unwrap();
        connection
            .execute_batch("CREATE TABLE more (mine TEXT)")
            .unwrap();
        let error = migrate(&connection, TWO, NOW).unwrap_err();
        assert!(
            matches!(&error, StorageError::Corrupt { what, .. } if what == "the schema"),
            "{error:?}"
        );
        assert_eq!(version(&connection).unwrap(), 1);
        assert!(connection.is_autocommit());
    }

    #[test]
    fn a_version_that_was_set_back_is_damage() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, TWO, NOW).unwrap();
        connection.execute_batch("PRAGMA user_version = 1").unwrap();
        let error = migrate(&connection, TWO, NOW).unwrap_err();
        assert!(
            matches!(&error, StorageError::Corrupt { what, .. } if what == "the schema version"),
            "{error:?}"
        );
    }

    #[test]
    fn an_edited_migration_is_refused() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, TWO, NOW).unwrap();
        let edited = [
            Migration {
                name: TWO[0].name,
                sql: TWO[0].sql,
            },
            Migration {
                name: "0002_more",
                sql: "CREATE TABLE more (id INTEGER);",
            },
        ];
        let error = migrate(&connection, &edited, NOW).unwrap_err();
        let StorageError::NotOurs { reason } = error else {
            panic!("{error:?}")
        };
        assert!(reason.contains("0002_more"), "{reason}");
    }

    #[test]
    fn a_migration_that_fails_leaves_the_version_before_it_whole() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, ONE, NOW).unwrap();
        let before = tables(&connection);
        let broken = [
            Migration {
                name: TWO[0].name,
                sql: TWO[0].sql,
            },
            Migration {
                name: "0002_broken",
                sql: "CREATE TABLE half (id INTEGER); INSERT INTO nowhere VALUES (1);",
            },
        ];
        migrate(&connection, &broken, NOW).unwrap_err();
        assert_eq!(tables(&connection), before);
        assert_eq!(version(&connection).unwrap(), 1);
        assert!(connection.is_autocommit());
    }
}

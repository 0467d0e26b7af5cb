//! Chores of the writer: work on the file itself, one at a time.
//!
//! Whatever a chore changes, it changes in one transaction, or SQLite can do
//! without it: killed anywhere it leaves a sound file.

use std::time::Duration;

use agentos_core::{Reclaimed, StorageError, Timestamp, crash_point};
use rusqlite::{Connection, named_params};

use super::connection::pragma;
use super::error::of;
use super::log_bound::cut;
use super::statements;

/// Pages that one step gives back: a fraction of a millisecond each with a slow
/// disk's cache cold, some ten microseconds with a warm one.
const PAGES_PER_STEP: i64 = 32;
/// How long the last step of shortening the log waits for readers.
const READERS_PATIENCE: Duration = Duration::from_millis(5);
/// With fewer rows than this a table is planned for as if nothing were known.
const SMALL_TABLE_ROWS: i64 = 10_000;
/// Most rows that ANALYZE looks at for each index.
const ANALYSIS_ROWS: i64 = 400;

/// Work of the writer that is no commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Gives pages back, and leaves so many bytes of them.
    Reclaim { keep_bytes: u64 },
    /// Lets SQLite analyze what has changed much.
    Optimize,
    /// Cuts the log, which is in the file already but for its end.
    CutLog,
    /// Notes that the file's integrity was checked.
    NoteIntegrity { problems: usize },
}

impl Chore {
    /// Whether it may use the room that is kept for a full disk.
    pub(crate) fn frees_space(self) -> bool {
        matches!(self, Chore::Reclaim { .. } | Chore::CutLog)
    }
}

/// Does a chore. On an error the caller rolls back what still stands.
pub(crate) fn run(
    connection: &Connection,
    chore: Chore,
    now: Timestamp,
) -> Result<Reclaimed, StorageError> {
    let nothing = Reclaimed {
        bytes: 0,
        more: false,
    };
    match chore {
        Chore::Reclaim { keep_bytes } => return reclaim(connection, keep_bytes),
        Chore::Optimize => {
            optimize(connection).map_err(|error| of(&error, "optimizing"))?;
            crash_point!("upkeep.optimized");
        }
        Chore::CutLog => {
            cut(connection, READERS_PATIENCE)?;
            crash_point!("upkeep.log_cut");
        }
        Chore::NoteIntegrity { problems } => {
            let problems = i64::try_from(problems).unwrap_or(i64::MAX);
            crash_point!("upkeep.before_noted");
            connection
                .prepare_cached(statements::INTEGRITY_NOTE)
                .and_then(|mut statement| {
                    statement
                        .execute(named_params! { ":problems": problems, ":now": now.to_text() })
                })
                .map_err(|error| of(&error, "noting an integrity check"))?;
            crash_point!("upkeep.noted");
        }
    }
    Ok(nothing)
}

/// Analyzes what has changed much, and forgets what that says of small tables.
/// A plan that is good for a few rows (read all of them) is a bad one as soon as
/// there are many, and tables grow faster than they are analyzed.
fn optimize(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; PRAGMA analysis_limit = {ANALYSIS_ROWS}; PRAGMA optimize;"
    ))?;
    let has_statistics: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1')",
        [],
        |row| row.get(0),
    )?;
    if has_statistics {
        // The first number of `stat` is that of the rows.
        connection.execute_batch(&format!(
            "DELETE FROM sqlite_stat1 WHERE CAST(stat AS INTEGER) < {SMALL_TABLE_ROWS};
             ANALYZE sqlite_schema;"
        ))?;
    }
    crash_point!("upkeep.before_optimized");
    connection.execute_batch("COMMIT")
}

fn reclaim(connection: &Connection, keep_bytes: u64) -> Result<Reclaimed, StorageError> {
    let page = pragma(connection, "page_size")?.max(1);
    let keep = i64::try_from(keep_bytes).unwrap_or(i64::MAX) / page;
    let before = pragma(connection, "freelist_count")?;
    let pages = (before - keep).min(PAGES_PER_STEP);
    if pages <= 0 {
        return Ok(Reclaimed {
            bytes: 0,
            more: false,
        });
    }
    crash_point!("upkeep.before_reclaimed");
    // One row a page; none of them says anything.
    connection
        .prepare(&format!("PRAGMA incremental_vacuum({pages})"))
        .and_then(|mut statement| {
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        })
        .map_err(|error| of(&error, "giving pages back"))?;
    crash_point!("upkeep.reclaimed");
    let after = pragma(connection, "freelist_count")?;
    Ok(Reclaimed {
        bytes: ((before - after).max(0) * page).unsigned_abs(),
        more: after > keep && after < before,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::migrate::{MIGRATIONS, migrate};
    use crate::sqlite::statements::growing;

    const NOW: Timestamp = Timestamp::from_unix_micros(0);

    /// Goal: what the planner learns from a small table does not make it, or an
    /// older shell, read whole tables later. Method: analyze a file with a few
    /// tasks and many audit lines; only what is known of the many stays.
    #[test]
    fn statistics_of_small_tables_are_forgotten() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, MIGRATIONS, NOW).unwrap();
        let before = growing(&connection);
        connection
            .execute_batch(&format!(
                "INSERT INTO tasks (task_id, task_type, status, created_at, updated_at)
                 SELECT value, 't', 'created', '2026-01-01 00:00:00.000000',
                     '2026-01-01 00:00:00.000000' FROM json_each('[1, 2, 3]');
                 INSERT INTO task_audits (task_id, event, created_at)
                 WITH RECURSIVE n(i) AS (
                     SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {SMALL_TABLE_ROWS})
                 SELECT i % 3, 'e', '2026-01-01 00:00:00.000000' FROM n;
                 ANALYZE"
            ))
            .unwrap();
        let known = || -> Vec<String> {
            let sql = "SELECT DISTINCT tbl FROM sqlite_stat1 ORDER BY tbl";
            let mut statement = connection.prepare(sql).unwrap();
            let tables = statement.query_map([], |row| row.get(0)).unwrap();
            tables.map(Result::unwrap).collect()
        };
        assert!(known().contains(&"tasks".to_owned()), "{:?}", known());
        run(&connection, Chore::Optimize, NOW).unwrap();
        assert_eq!(known(), ["task_audits"]);
        assert_eq!(growing(&connection), before);
    }
}

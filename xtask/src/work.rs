//! Reads what a file holds about work, row by row beside the store's own API: who
//! held what, how each attempt ended, and what is on record of each lost lease.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use agentos_chaos::Failure;
use agentos_core::Worker;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Params, Row};
use serde::{Deserialize, Serialize};

/// Others may be writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// A worker: its name, and which start of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Who {
    pub(crate) name: String,
    pub(crate) incarnation: String,
}

impl From<&Worker> for Who {
    fn from(worker: &Worker) -> Who {
        Who {
            name: worker.id.as_str().to_owned(),
            incarnation: worker.incarnation.as_str().to_owned(),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.incarnation)
    }
}

/// A claim of an item: which, by which token, by whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) item: i64,
    pub(crate) token: i64,
    pub(crate) who: Who,
}

/// A work item as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) id: i64,
    pub(crate) work_type: String,
    pub(crate) status: String,
    pub(crate) attempts: i64,
    pub(crate) losses: i64,
    /// Token of the newest claim; 0 when there was none.
    pub(crate) token: i64,
    pub(crate) holder: Option<Who>,
    /// When the lease runs out, in microseconds of the boot-time clock.
    pub(crate) deadline_us: Option<i64>,
    pub(crate) result: Option<Vec<u8>>,
    pub(crate) last_error: Option<String>,
}

/// An attempt as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Try {
    pub(crate) claim: Claim,
    /// How it ended; `None` while it goes on.
    pub(crate) outcome: Option<String>,
    pub(crate) error: Option<String>,
}

/// Everything about work that a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) items: BTreeMap<i64, Item>,
    /// By item and number.
    pub(crate) tries: Vec<Try>,
    /// The lost leases of which there are audit lines, in order.
    pub(crate) audited: Vec<Claim>,
    /// The lost leases of which there are error boundaries, in order.
    pub(crate) boundaries: Vec<Claim>,
}

impl Work {
    /// Reads a file that others may have open.
    pub(crate) fn read(db: &Path) -> Result<Work, Failure> {
        let connection = open(db)?;
        // Of one moment.
        let moment = connection.unchecked_transaction()?;
        let items: Vec<Item> = rows(
            &moment,
            "SELECT work_item_id, work_type, status, attempts, losses, lease_token, lease_holder,
                 lease_incarnation, lease_deadline_us, result, last_error
             FROM work_items ORDER BY work_item_id",
            [],
            |row| {
                let name: Option<String> = row.get(6)?;
                let incarnation: Option<String> = row.get(7)?;
                Ok(Item {
                    id: row.get(0)?,
                    work_type: row.get(1)?,
                    status: row.get(2)?,
                    attempts: row.get(3)?,
                    losses: row.get(4)?,
                    token: row.get(5)?,
                    holder: name
                        .zip(incarnation)
                        .map(|(name, incarnation)| Who { name, incarnation }),
                    deadline_us: row.get(8)?,
                    result: row.get(9)?,
                    last_error: row.get(10)?,
                })
            },
        )?;
        let tries = rows(
            &moment,
            "SELECT work_item_id, number, worker, incarnation, outcome, error
             FROM work_attempts ORDER BY work_item_id, number",
            [],
            |row| {
                Ok(Try {
                    claim: claim(row)?,
                    outcome: row.get(4)?,
                    error: row.get(5)?,
                })
            },
        )?;
        let audited = rows(
            &moment,
            "SELECT detail ->> 'work_item', detail ->> 'token', detail ->> 'worker',
                 detail ->> 'incarnation'
             FROM task_audits WHERE event = 'work_recovered' ORDER BY audit_id",
            [],
            claim,
        )?;
        let boundaries = rows(
            &moment,
            "SELECT metadata ->> 'work_item', metadata ->> 'token', metadata ->> 'worker',
                 metadata ->> 'incarnation'
             FROM checkpoints WHERE checkpoint_type = 'error_boundary' ORDER BY checkpoint_id",
            [],
            claim,
        )?;
        Ok(Work {
            items: items.into_iter().map(|item| (item.id, item)).collect(),
            tries,
            audited,
            boundaries,
        })
    }

    /// The attempts at an item, in order.
    pub(crate) fn tries_at(&self, item: i64) -> impl Iterator<Item = &Try> {
        self.tries.iter().filter(move |one| one.claim.item == item)
    }
}

/// Every row of every table: by its first column (and which of those with the same
/// it is), and by the names of its columns, as text.
pub(crate) type Rows = BTreeMap<String, BTreeMap<(String, usize), BTreeMap<String, String>>>;

/// Reads everything but what the store notes of its own checks.
pub(crate) fn everything(db: &Path) -> Result<Rows, Failure> {
    let connection = open(db)?;
    let moment = connection.unchecked_transaction()?;
    let tables: Vec<String> = rows(
        &moment,
        "SELECT name FROM sqlite_master
         WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'integrity_checks'",
        [],
        |row| row.get(0),
    )?;
    let mut everything = Rows::new();
    for table in tables {
        let text = |row: &Row<'_>| {
            let statement = row.as_ref();
            let column = |at| {
                let value: Value = row.get(at)?;
                let name = statement.column_name(at)?.to_owned();
                Ok((name, format!("{value:?}")))
            };
            let columns = 0..statement.column_count();
            columns.map(column).collect::<rusqlite::Result<Vec<_>>>()
        };
        let found = rows(&moment, &format!("SELECT * FROM \"{table}\""), [], text)?;
        let mut by_key = BTreeMap::new();
        for row in found {
            let first = row.first().map(|(_, value)| value.clone());
            let mut key = (first.unwrap_or_default(), 0);
            while by_key.contains_key(&key) {
                key.1 += 1;
            }
            by_key.insert(key, row.into_iter().collect());
        }
        everything.insert(table, by_key);
    }
    Ok(everything)
}

fn open(db: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Failure> {
    let mut statement = connection.prepare(sql)?;
    let found = statement.query_map(params, read)?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// From the first four columns.
fn claim(row: &Row<'_>) -> rusqlite::Result<Claim> {
    Ok(Claim {
        item: row.get(0)?,
        token: row.get(1)?,
        who: Who {
            name: row.get(2)?,
            incarnation: row.get(3)?,
        },
    })
}

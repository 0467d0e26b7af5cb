//! Evidence of a database, for people who look into a failure.
//!
//! Writes a copy of the database and a summary, for reading and as JSON. It
//! answers what it can of a damaged file and says what it could not. Payload
//! bytes (states, work items' payloads and results, recorded outcomes) are left
//! out, of the copy too, unless asked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use agentos_core::{InvalidInput, StorageError};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::backup::{copy, make_private, remove};
use super::create::rename_without_replacing;
use super::error::{of, of_io};
use super::inspect::{FileFacts, file_facts, inspect, open_read_only, row_counts};
use super::locks::{LockFacts, lock_facts};
use super::paths::{files, refuse_own, resolve};

/// What a dump contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DumpOptions {
    /// Keep payload bytes in the copy of the database.
    pub payloads: bool,
}

const COPY: &str = "database.db";
const COPY_PART: &str = "database.db.agentos-part";
const SUMMARY: &str = "summary.txt";
const SUMMARY_JSON: &str = "summary.json";

/// What a dump wrote.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DumpReport {
    /// The copy of the database; `None` when none could be made.
    pub copy: Option<PathBuf>,
    /// The summary for people.
    pub summary: PathBuf,
    /// The summary as JSON.
    pub json: PathBuf,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

/// Columns that hold payload bytes: emptied in the copy.
const PAYLOADS: &[(&str, &str)] = &[
    ("checkpoints", "snapshot"),
    ("work_items", "payload"),
    ("work_items", "result"),
    ("idempotency_keys", "outcome"),
    ("idempotency_keys", "request"),
];

/// Lists of the summary: name and statement. No payload column is among them.
const LISTS: &[(&str, &str)] = &[
    (
        "last_checkpoints",
        "SELECT task_id, sequence_number, checkpoint_type, verification, created_at, codec,
                state_version, state_bytes, lower(hex(state_digest)) AS state_digest,
                lower(hex(seal)) AS seal
         FROM checkpoints ORDER BY checkpoint_id DESC LIMIT 50",
    ),
    (
        "active_work_items",
        "SELECT work_item_id, task_id, work_type, status, priority, attempts, max_attempts,
                lease_holder, lease_token, lease_acquired_at, lease_expires_at, last_error
         FROM work_items WHERE status IN ('pending', 'in_progress')
         ORDER BY work_item_id DESC LIMIT 50",
    ),
    (
        "last_audits",
        "SELECT audit_id, task_id, event, from_status, to_status, reason, created_at
         FROM task_audits ORDER BY audit_id DESC LIMIT 50",
    ),
    (
        "keys",
        "SELECT CASE WHEN instr(idempotency_key, ':') > 0
                     THEN substr(idempotency_key, 1, instr(idempotency_key, ':'))
                     ELSE '' END AS prefix,
                status, COUNT(*) AS count, MIN(created_at) AS oldest, MAX(created_at) AS newest
         FROM idempotency_keys GROUP BY 1, 2",
    ),
    (
        "tasks",
        "SELECT status, COUNT(*) AS count FROM tasks GROUP BY status",
    ),
];

#[derive(Serialize)]
struct Summary {
    path: PathBuf,
    pragmas: BTreeMap<String, i64>,
    journal_mode: Option<String>,
    sqlite_version: String,
    files: Vec<FileFacts>,
    rows: BTreeMap<String, u64>,
    locks: LockFacts,
    integrity: Vec<String>,
    lists: BTreeMap<&'static str, Vec<Value>>,
    problems: Vec<String>,
}

/// Writes `database.db`, `summary.txt` and `summary.json` about the database at
/// `path` into `directory`, which is made when it is not there. Nothing that is
/// there already is replaced.
///
/// Opens the file read-only. Whatever of it cannot be read is named in
/// [`DumpReport::problems`]. While it looks at a store that nobody has open,
/// nobody can open it.
///
/// # Errors
///
/// [`StorageError::Invalid`] when `directory` has a file of one of these names;
/// [`StorageError::Io`], [`StorageError::ReadOnly`] or
/// [`StorageError::DiskFull`] when `directory` cannot be written.
pub fn dump(
    path: &Path,
    directory: &Path,
    options: DumpOptions,
) -> Result<DumpReport, StorageError> {
    let path = resolve(path)?;
    fs::create_dir_all(directory).map_err(|error| of_io(error, directory))?;
    let directory = &resolve(directory)?;
    for name in [COPY, COPY_PART, SUMMARY, SUMMARY_JSON] {
        let target = directory.join(name);
        refuse_own(&path, &target, "dump directory")?;
        if name != COPY_PART && fs::symlink_metadata(&target).is_ok() {
            let reason = format!("already contains {name}");
            return Err(InvalidInput::new("dump directory", reason).into());
        }
    }
    let mut summary = Summary {
        // Before any connection is opened: opening can change them.
        files: files(&path)
            .iter()
            .filter_map(|file| file_facts(file))
            .collect(),
        locks: lock_facts(&path),
        path: path.clone(),
        pragmas: BTreeMap::new(),
        journal_mode: None,
        sqlite_version: rusqlite::version().to_string(),
        rows: BTreeMap::new(),
        integrity: Vec::new(),
        lists: BTreeMap::new(),
        problems: Vec::new(),
    };
    let copied = copy_database(&path, directory, options, &mut summary.problems);
    match inspect(&path) {
        Ok(facts) => {
            summary.pragmas = facts.pragmas;
            summary.journal_mode = facts.journal_mode;
        }
        Err(error) => summary
            .problems
            .push(format!("inspecting: {}", chain(&error))),
    }
    match open_read_only(&path) {
        Ok(connection) => read_lists(&connection, &mut summary),
        Err(error) => summary.problems.push(format!("opening: {}", chain(&error))),
    }
    let report = DumpReport {
        copy: copied,
        summary: directory.join(SUMMARY),
        json: directory.join(SUMMARY_JSON),
        problems: summary.problems.clone(),
    };
    let text = serde_json::to_string_pretty(&summary)
        .map_err(|error| StorageError::Io(Box::new(error)))?;
    write_new(&report.json, &text)?;
    write_new(&report.summary, &readable(&summary))?;
    Ok(report)
}

fn write_new(path: &Path, text: &str) -> Result<(), StorageError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| of_io(error, path))
}

fn copy_database(
    path: &Path,
    directory: &Path,
    options: DumpOptions,
    problems: &mut Vec<String>,
) -> Option<PathBuf> {
    let target = directory.join(COPY);
    // Under its name there is never a copy that still holds payloads.
    let part = directory.join(COPY_PART);
    let make = || -> Result<(), StorageError> {
        remove(&part)?;
        let connection = open_read_only(path)?;
        make_private(&part)?;
        copy(&connection, &part).map_err(|error| of(&error, "copying the database"))?;
        if !options.payloads {
            empty_payloads(&part).map_err(|error| of(&error, "leaving payloads out"))?;
        }
        rename_without_replacing(&part, &target).map_err(|error| of_io(error, &target))
    };
    match make() {
        Ok(()) => Some(target),
        Err(error) => {
            problems.push(format!("copying the database: {}", chain(&error)));
            let _ = remove(&part); // the first error counts
            None
        }
    }
}

/// Overwrites payloads with zeros of the same length, and frees nothing that
/// still holds them.
fn empty_payloads(copy: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(copy)?;
    connection.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA secure_delete = ON")?;
    for (table, column) in PAYLOADS {
        connection.execute_batch(&format!(
            "UPDATE {table} SET {column} = zeroblob(length({column})) WHERE {column} IS NOT NULL"
        ))?;
    }
    // Free pages may hold payloads of rows that were deleted long ago.
    connection.execute_batch("VACUUM")?;
    connection.close().map_err(|(_, error)| error)
}

fn read_lists(connection: &Connection, summary: &mut Summary) {
    match row_counts(connection) {
        Ok(rows) => summary.rows = rows,
        Err(error) => summary.problems.push(format!("counting rows: {error}")),
    }
    match super::inspect::integrity(connection) {
        Ok(found) => summary.integrity = found.problems,
        Err(error) => summary
            .problems
            .push(format!("checking integrity: {error}")),
    }
    for (name, sql) in LISTS {
        match read_list(connection, sql) {
            Ok(list) => {
                summary.lists.insert(name, list);
            }
            Err(error) => summary.problems.push(format!("reading {name}: {error}")),
        }
    }
}

fn read_list(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<Value>> {
    let mut statement = connection.prepare(sql)?;
    let names: Vec<String> = statement
        .column_names()
        .into_iter()
        .map(ToString::to_string)
        .collect();
    let mut rows = statement.query([])?;
    let mut list = Vec::new();
    while let Some(row) = rows.next()? {
        let mut object = Map::new();
        for (index, name) in names.iter().enumerate() {
            let value = match row.get_ref(index)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(integer) => json!(integer),
                ValueRef::Real(real) => json!(real),
                ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
                ValueRef::Blob(bytes) => json!(format!("{} bytes", bytes.len())),
            };
            object.insert(name.clone(), value);
        }
        list.push(Value::Object(object));
    }
    Ok(list)
}

fn readable(summary: &Summary) -> String {
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        let _ = writeln!(text, "{title}");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
        text.push('\n');
    };
    section(
        "database",
        vec![
            summary.path.display().to_string(),
            format!("SQLite {}", summary.sqlite_version),
            format!(
                "journal_mode {}",
                summary.journal_mode.as_deref().unwrap_or("unknown")
            ),
        ],
    );
    section("problems", summary.problems.clone());
    section("integrity check", summary.integrity.clone());
    section(
        "pragmas",
        summary
            .pragmas
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect(),
    );
    section(
        "files",
        summary
            .files
            .iter()
            .map(|file| {
                let path = file.path.display();
                format!(
                    "{path}  {} bytes  {}  {}",
                    file.bytes, file.mode, file.modified_at
                )
            })
            .collect(),
    );
    section(
        "rows",
        summary
            .rows
            .iter()
            .map(|(name, rows)| format!("{name} {rows}"))
            .collect(),
    );
    section("locks", vec![format!("{:?}", summary.locks)]);
    for (name, list) in &summary.lists {
        section(name, list.iter().map(ToString::to_string).collect());
    }
    text
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

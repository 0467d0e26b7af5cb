//! Opens connections. Every pragma is set here and read back: SQLite takes an
//! unknown value for another without a word, and a promise made on a pragma
//! that did not take is no promise.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use agentos_core::{StorageError, crash_point};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::config::Durability;
use super::error::of;

/// "AGOS": tells our files from others.
pub(crate) const APPLICATION_ID: i32 = 0x4147_4f53;
/// First SQLite without the WAL-reset bug, which loses or damages committed
/// data when two connections share a write-ahead log (fixed in 3.51.3).
pub(crate) const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// Pages in the write-ahead log after which a commit moves them to the file.
const WAL_CHECKPOINT_PAGES: i64 = 4_000;
/// Most bytes to which the write-ahead log is cut back when it is begun anew.
const WAL_BYTES_KEPT: u64 = 64 << 20;
/// Page cache of a reader, in KiB (negative, as SQLite wants it).
const READER_CACHE: i64 = -65_536;
/// Prepared statements kept a connection: more than there are in all.
const STATEMENTS_KEPT: usize = 128;

/// Refuses a SQLite that damages what it stores.
pub(crate) fn check_version(found: i32) -> Result<(), StorageError> {
    if found < SQLITE_VERSION_MIN {
        return Err(StorageError::UnsafeEngine {
            reason: format!(
                "SQLite {found} has the WAL-reset bug; at least {SQLITE_VERSION_MIN} is needed"
            ),
        });
    }
    Ok(())
}

/// Opens an existing file for writing and leaves everything as it is: closing
/// it does not even move the write-ahead log into the file.
pub(crate) fn open_untouched(path: &Path, busy: Duration) -> Result<Connection, StorageError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.busy_timeout(busy)?;
        Ok(connection)
    };
    open().map_err(|error| of(&error, "opening the database"))
}

/// The settings of a writing connection; `log_bytes` bounds the write-ahead log.
fn writer_settings(durability: Durability, log_bytes: u64) -> [(&'static str, i64); 10] {
    let kept = i64::try_from(WAL_BYTES_KEPT.min(log_bytes / 8)).unwrap_or(i64::MAX);
    let [one, two, three, four] = COMMON;
    [
        ("synchronous", durability.synchronous()),
        ("foreign_keys", 1),
        ("wal_autocheckpoint", WAL_CHECKPOINT_PAGES),
        ("journal_size_limit", kept),
        ("fullfsync", 1), // macOS: its fsync does not reach the disk
        ("checkpoint_fullfsync", 1),
        one,
        two,
        three,
        four,
    ]
}

/// Makes a writer of a connection whose file was found to be ours.
pub(crate) fn set_up_writer(
    connection: &Connection,
    durability: Durability,
    log_bytes: u64,
) -> Result<(), StorageError> {
    let context = "setting up the writing connection";
    crash_point!("open.before_log");
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(|error| of(&error, context))?;
    crash_point!("open.log_made");
    if mode != "wal" {
        return Err(did_not_take("journal_mode", "wal", &mode));
    }
    for (name, value) in writer_settings(durability, log_bytes) {
        set(connection, name, value)?;
    }
    check_file(connection)?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)
        .and_then(|_| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false))
        .map_err(|error| of(&error, context))?;
    keep_statements(connection)
}

/// Statements are kept, and keep their plans. Without the guarantee SQLite plans a
/// statement anew whenever another number of rows is bound to its LIMIT, or another
/// value to a column of which ANALYZE took samples; that cost a claim a seventh of its
/// time, and one unlucky value could lead to another index than was tested.
fn keep_statements(connection: &Connection) -> Result<(), StorageError> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map(drop)
        .map_err(|error| of(&error, "keeping the plans of statements"))
}

/// Whether the file has what was chosen when it was made. Setting it again would
/// be a write.
fn check_file(connection: &Connection) -> Result<(), StorageError> {
    read_back(connection, "auto_vacuum", 2)
}

/// Whether a writer still has every setting.
pub(crate) fn check_writer(
    connection: &Connection,
    durability: Durability,
    log_bytes: u64,
) -> Result<(), StorageError> {
    let mode: String = connection
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .map_err(|error| of(&error, "reading a pragma"))?;
    if mode != "wal" {
        return Err(did_not_take("journal_mode", "wal", &mode));
    }
    check_file(connection)?;
    writer_settings(durability, log_bytes)
        .into_iter()
        .try_for_each(|(name, value)| read_back(connection, name, value))
}

/// Flags of a connection that only reads.
pub(crate) fn read_only() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Opens an existing file for reading.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StorageError> {
    Connection::open_with_flags(path, read_only()).map_err(|error| of(&error, "opening read-only"))
}

/// Makes a reader of a read-only connection.
pub(crate) fn set_up_reader(connection: &Connection, busy: Duration) -> Result<(), StorageError> {
    connection
        .busy_timeout(busy)
        .map_err(|error| of(&error, "setting up a reader"))?;
    set(connection, "query_only", 1)?;
    set(connection, "cache_size", READER_CACHE)?;
    for (name, value) in COMMON {
        set(connection, name, value)?;
    }
    keep_statements(connection)
}

/// The settings that every connection has.
const COMMON: [(&str, i64); 4] = [
    ("mmap_size", 0),      // with mmap, I/O errors become signals
    ("trusted_schema", 0), // the schema may come from a stranger's file
    ("cell_size_check", 1),
    ("temp_store", 2),
];

/// Sets a pragma and reads it back.
pub(crate) fn set(connection: &Connection, name: &str, value: i64) -> Result<(), StorageError> {
    connection
        .execute_batch(&format!("PRAGMA {name} = {value}"))
        .map_err(|error| of(&error, "setting a pragma"))?;
    read_back(connection, name, value)
}

fn read_back(connection: &Connection, name: &str, value: i64) -> Result<(), StorageError> {
    let found = match pragma(connection, name) {
        Ok(found) => found,
        // `mmap_size` answers with no row where mmap is compiled out.
        Err(_) if name == "mmap_size" => return Ok(()),
        Err(error) => return Err(error),
    };
    if found != value {
        return Err(did_not_take(name, &value.to_string(), &found.to_string()));
    }
    Ok(())
}

/// Reads a pragma that is a number.
pub(crate) fn pragma(connection: &Connection, name: &str) -> Result<i64, StorageError> {
    connection
        .query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
        .map_err(|error| of(&error, "reading a pragma"))
}

fn did_not_take(name: &str, wanted: &str, found: &str) -> StorageError {
    StorageError::UnsafeEngine {
        reason: format!("pragma {name} is {found} and not {wanted}, as it was set"),
    }
}

/// Opens a file read-only as it lies on the disk, without its write-ahead log
/// and without making any file beside it. For looking at what may not be ours,
/// and at backups.
pub(crate) fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    let flags = read_only() | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri(path, "immutable=1"), flags)
}

/// A path as SQLite's `file:` URI; every byte that could mean something else is
/// escaped.
fn uri(path: &Path, query: &str) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            write!(uri, "%{byte:02x}").expect("a string takes what is written");
        }
    }
    uri.push('?');
    uri.push_str(query);
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sqlite_with_the_wal_reset_bug_is_refused() {
        assert!(matches!(
            check_version(3_051_002),
            Err(StorageError::UnsafeEngine { .. })
        ));
        assert!(check_version(SQLITE_VERSION_MIN).is_ok());
        assert!(check_version(rusqlite::version_number()).is_ok());
    }

    #[test]
    fn a_pragma_that_did_not_take_is_named() {
        let connection = Connection::open_in_memory().unwrap();
        // SQLite takes an unknown value of `synchronous` for another.
        let error = set(&connection, "synchronous", 9).unwrap_err();
        let StorageError::UnsafeEngine { reason } = error else {
            panic!("{error:?}")
        };
        assert!(reason.contains("synchronous"), "{reason}");
    }

    /// A kill cannot tell one setting of `synchronous` from another: what the
    /// connection itself says is all there is.
    #[test]
    fn the_writer_has_every_setting() {
        let directory = tempfile::tempdir().unwrap();
        for (durability, synchronous) in [(Durability::Full, 2), (Durability::Relaxed, 1)] {
            let path = directory.path().join(format!("{durability:?}.db"));
            let busy = Duration::from_secs(1);
            let now = agentos_core::Timestamp::from_unix_micros(0);
            crate::sqlite::create::create(&path, now, busy).unwrap();
            let connection = open_untouched(&path, busy).unwrap();
            set_up_writer(&connection, durability, 1 << 30).unwrap();
            check_writer(&connection, durability, 1 << 30).unwrap();
            for (name, value) in [
                ("synchronous", synchronous),
                ("foreign_keys", 1),
                ("mmap_size", 0),
                ("auto_vacuum", 2),
                ("wal_autocheckpoint", WAL_CHECKPOINT_PAGES),
                ("journal_size_limit", 64 << 20),
                ("trusted_schema", 0),
                ("cell_size_check", 1),
                ("application_id", APPLICATION_ID.into()),
            ] {
                assert_eq!(pragma(&connection, name).unwrap(), value, "{name}");
            }
            let mode: String = connection
                .query_row("PRAGMA journal_mode", [], |row| row.get(0))
                .unwrap();
            assert_eq!(mode, "wal");
        }
    }

    /// Goal: no statement is planned anew because of what is bound to it. Method: run
    /// one whose LIMIT differs from call to call, and ask SQLite how often it planned;
    /// a connection as SQLite makes it shows that the question means something.
    #[test]
    fn a_kept_statement_keeps_its_plan() {
        let planned_anew = |connection: &Connection| -> i32 {
            let sql = crate::sqlite::statements::LEASES_EXPIRED;
            let mut statement = connection.prepare(sql).unwrap();
            for rows in 1..4 {
                let found: Vec<i64> = statement
                    .query_map(
                        rusqlite::named_params! {
                            ":boot": "b", ":now_us": 1, ":rows": rows, ":skip": 0
                        },
                        |row| row.get(0),
                    )
                    .unwrap()
                    .map(Result::unwrap)
                    .collect();
                assert_eq!(found, [0; 0]);
            }
            statement.get_status(rusqlite::StatementStatus::RePrepare)
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.db");
        let busy = Duration::from_secs(1);
        let now = agentos_core::Timestamp::from_unix_micros(0);
        crate::sqlite::create::create(&path, now, busy).unwrap();
        let writer = open_untouched(&path, busy).unwrap();
        assert_ne!(planned_anew(&writer), 0);
        set_up_writer(&writer, Durability::Full, 1 << 30).unwrap();
        assert_eq!(planned_anew(&writer), 0);
        let reader = open_reader(&path).unwrap();
        set_up_reader(&reader, busy).unwrap();
        assert_eq!(planned_anew(&reader), 0);
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(
            uri(Path::new("/a b/c?d#é%.db"), "x=1"),
            "file:/a%20b/c%3fd%23%c3%a9%25.db?x=1"
        );
    }
}

//! Idempotency keys: the store, and the floor beside it.
//!
//! Both work on files that were filled by the store. The floor knows each key; it
//! reads and writes the same columns and indexes, and digests the same bytes.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use agentos_core::{Digest, Incarnation, Storage, Worker, WorkerId};
use agentos_idempotency::{
    CacheConfig, GateConfig, IdempotencyStore, LlmAnswer, LlmOutputCache, LlmRequest, Role,
};
use agentos_store::sqlite::{Config, Durability, SqliteStore};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params};

use crate::raw;

const NOW: &str = "2026-01-29 00:00:01.000042";

/// Who owns the keys.
pub fn owner() -> Worker {
    Worker {
        id: WorkerId::new("bench").expect("a short name"),
        incarnation: Incarnation::new("01890a5d-ac96-774b-bcce-b302099a8057").expect("short"),
    }
}

/// The request of the model cache of this number: a prompt of about 1 KiB.
pub fn request(number: u64) -> LlmRequest {
    LlmRequest::chat("openai", "gpt-5")
        .message(Role::System, "You are a careful agent.")
        .message(
            Role::User,
            format!("{number}: {}", "0123456789abcdef".repeat(60)),
        )
        .temperature(0.0)
        .parameter("max_tokens", 512)
}

/// A gate over a store.
pub fn gate(store: &Arc<SqliteStore>) -> IdempotencyStore {
    let storage = Arc::clone(store) as Arc<dyn Storage>;
    IdempotencyStore::new(storage, GateConfig::new(owner())).expect("a good configuration")
}

/// A model cache over a store.
pub fn cache(store: &Arc<SqliteStore>) -> LlmOutputCache {
    LlmOutputCache::new(gate(store), CacheConfig::default()).expect("a good configuration")
}

/// Asks the cache, with an answer of so many bytes if it is not there.
pub fn ask(cache: &LlmOutputCache, request: &LlmRequest, bytes: usize) -> String {
    let generate = || Ok::<_, Infallible>(LlmAnswer::new("7".repeat(bytes)));
    cache
        .get_or_generate(request, generate)
        .expect("an answer")
        .body
}

/// Adds `count` recorded outcomes of so many bytes to a file, of keys that nobody asks
/// for.
pub fn add_others(path: &Path, count: u64, bytes: usize) {
    let connection = raw(path, Durability::Relaxed);
    connection
        .execute(
            &format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                 INSERT INTO idempotency_keys (idempotency_key, status, request_digest, token,
                     owner, owner_incarnation, lease_expires_at, lease_boot_id,
                     lease_deadline_us, created_at, updated_at, used_at)
                 SELECT 'llm-cache:' || lower(hex(randomblob(32))), 'pending', randomblob(32), 1,
                     'w', 'i', '{NOW}', 'b', 1, '{NOW}', '{NOW}', '{NOW}'
                 FROM n"
            ),
            [count.cast_signed()],
        )
        .expect("keys");
    connection
        .execute(
            "UPDATE idempotency_keys
                 SET status = 'succeeded', outcome = zeroblob(?1), outcome_bytes = ?1,
                     seal = zeroblob(32), expires_at = '2126-01-01 00:00:00.000000',
                     owner = NULL, owner_incarnation = NULL, lease_expires_at = NULL,
                     lease_boot_id = NULL, lease_deadline_us = NULL
                 WHERE status = 'pending'",
            [bytes as i64],
        )
        .expect("their outcomes");
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .expect("the log is moved");
}

/// A store on a file.
pub fn opened(path: &Path, durability: Durability) -> Arc<SqliteStore> {
    let config = Config::at(path).durability(durability);
    Arc::new(SqliteStore::open(config).expect("the store opens"))
}

/// The floor: raw connections to a file of the same schema.
pub struct KeyFloor {
    writer: Connection,
    reader: Connection,
    seal: [u8; 32],
}

impl KeyFloor {
    /// Opens it with the pragmas of the store's writer and readers.
    pub fn open(path: &Path, durability: Durability) -> KeyFloor {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(path, flags).expect("the file opens");
        reader
            .execute_batch("PRAGMA cache_size = -65536; PRAGMA mmap_size = 0;")
            .expect("the pragmas are taken");
        KeyFloor {
            writer: raw(path, durability),
            reader,
            seal: [7; 32],
        }
    }

    /// One prepared SELECT of the outcome's bytes, and their blake3.
    pub fn look_up(&self, key: &str) -> (Vec<u8>, Digest) {
        let bytes: Vec<u8> = self
            .reader
            .prepare_cached("SELECT outcome FROM idempotency_keys WHERE idempotency_key = ?1")
            .and_then(|mut statement| statement.query_row([key], |row| row.get(0)))
            .expect("the key is there");
        let digest = Digest::of(&bytes);
        (bytes, digest)
    }

    /// One prepared SELECT of all that the seal of an outcome covers, and its blake3, in
    /// one piece; the outcome apart, as it is to be given on.
    pub fn look_up_sealed(&self, key: &str) -> (Vec<u8>, Digest) {
        let mut gathered = Vec::with_capacity(4096);
        let outcome: Vec<u8> = self
            .reader
            .prepare_cached(
                "SELECT token, status, request_digest, task_id, operation, model, request, detail,
                     updated_at, expires_at, outcome
                 FROM idempotency_keys WHERE idempotency_key = ?1",
            )
            .and_then(|mut statement| {
                statement.query_row([key], |row| {
                    for column in 0..10 {
                        match row.get_ref(column)? {
                            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                                gathered.extend_from_slice(bytes);
                            }
                            ValueRef::Integer(number) => {
                                gathered.extend_from_slice(&number.to_le_bytes());
                            }
                            _ => {}
                        }
                    }
                    row.get(10)
                })
            })
            .expect("the key is there");
        gathered.extend_from_slice(&outcome);
        let digest = Digest::of(&gathered);
        (outcome, digest)
    }

    /// One transaction that begins a key; gives its number.
    pub fn begin(&self, key: &str) -> i64 {
        self.transaction(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO idempotency_keys (idempotency_key, status, request_digest, token,
                        owner, owner_incarnation, lease_expires_at, lease_boot_id,
                        lease_deadline_us, created_at, updated_at, used_at)
                     VALUES (?1, 'pending', ?2, 1, 'bench',
                        '01890a5d-ac96-774b-bcce-b302099a8057', ?3,
                        '01890a5d-ac96-774b-bcce-b302099a8057', 1, ?3, ?3, ?3)",
                )?
                .execute(params![key, self.seal, NOW])?;
            Ok(connection.last_insert_rowid())
        })
    }

    /// One transaction that records its outcome.
    pub fn finish(&self, key: i64, outcome: &[u8], expires_at: Option<&str>) {
        self.transaction(|connection| {
            connection
                .prepare_cached(
                    "UPDATE idempotency_keys
                     SET status = 'succeeded', outcome = ?2, outcome_bytes = ?3, seal = ?4,
                         expires_at = ?5, updated_at = ?6, used_at = ?6, owner = NULL,
                         owner_incarnation = NULL, lease_expires_at = NULL,
                         lease_boot_id = NULL, lease_deadline_us = NULL
                     WHERE key_id = ?1",
                )?
                .execute(params![
                    key,
                    outcome,
                    outcome.len() as i64,
                    self.seal,
                    expires_at,
                    NOW
                ])
        });
    }

    fn transaction<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> T {
        let run = |sql: &str| {
            let mut statement = self.writer.prepare_cached(sql).expect("a statement");
            statement.execute([]).expect("a transaction");
        };
        run("BEGIN IMMEDIATE");
        let done = work(&self.writer).expect("a write");
        run("COMMIT");
        done
    }
}

//! Work items and leases: the store, and the floor beside it.
//!
//! Both work on files that were filled by the same statements. The floor is told
//! which items and tokens there are, where the store has to look.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_core::{
    ClaimRequest, Clock, Commit, CompleteWork, Fence, FencingToken, Incarnation, LeaseStorage,
    Storage, SweepRequest, SystemClock, WorkItemId, Worker, WorkerId,
};
use agentos_store::sqlite::{Config, Durability, SqliteStore};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{State, make_tasks, raw};

/// Tasks of a file; every item belongs to one, and every one has a checkpoint.
const TASKS: usize = 100;
const LEASE: Duration = Duration::from_secs(3600);
const NOW: &str = "2026-01-29 00:00:01.000042";
const REASON: &str = "worker-0001 (01890a5d-ac96-774b-bcce-b302099a8057) held it until \
                      2026-01-29 00:00:01.000042, and the lease ran out";
const DETAIL: &str = r#"{"held_since":"2026-01-29 00:00:01.000042","held_until":"2026-01-29 00:00:01.000042","incarnation":"01890a5d-ac96-774b-bcce-b302099a8057","token":1,"work_item":12345,"worker":"worker-0001"}"#;
const WORKER: &str = "worker-0001";
const INCARNATION: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// What a file holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fill {
    /// Items that are due, of five priorities.
    pub pending: u32,
    /// Items of the highest priority that are due in a hundred years.
    pub delayed: u32,
}

impl Fill {
    /// Items that are due.
    pub fn pending(pending: u32) -> Fill {
        Fill {
            pending,
            ..Fill::default()
        }
    }

    fn make(self, path: &Path) {
        let config = Config::at(path).durability(Durability::Relaxed);
        let store = SqliteStore::open(config).expect("a new store opens");
        for task in make_tasks(&store, TASKS) {
            let bytes = agentos_core::Codec::Bincode
                .encode(&State::sample(7))
                .expect("the state can be encoded");
            let part = crate::part(&task, &bytes);
            store.commit(part.into()).expect("a checkpoint");
        }
        drop(store);
        let connection = raw(path, Durability::Relaxed);
        let insert = |count: u32, priority: &str, available_at: &str| {
            connection
                .execute(
                    &format!(
                        "WITH RECURSIVE n(i) AS (
                             SELECT 0 WHERE ?1 > 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
                         INSERT INTO work_items (task_id, work_type, status, priority,
                             max_attempts, available_at, created_at, updated_at, payload)
                         SELECT printf('task-%04d', i % {TASKS}), 'work', 'pending', {priority},
                             5, {available_at}, '{NOW}', '{NOW}', zeroblob(200)
                         FROM n"
                    ),
                    [count],
                )
                .expect("work items");
        };
        insert(self.delayed, "100", "'2126-01-01 00:00:00.000000'");
        let moment = "printf('2026-01-%02d %02d:%02d:%02d.000042',
            1 + i / 86400, i / 3600 % 24, i / 60 % 60, i % 60)";
        insert(self.pending, "i * 7 % 5", moment);
        settle(&connection);
    }
}

/// Moves the log into the file.
fn settle(connection: &Connection) {
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .expect("the log is moved");
}

/// Makes the first `count` items lost: they are held under leases that have run out.
/// By a connection of its own, so that nobody's cache is warmer for it.
fn lose(path: &Path, count: u32) {
    let connection = raw(path, Durability::Relaxed);
    let boot = SystemClock.boot().boot;
    connection
        .execute(
            &format!(
                "UPDATE work_items SET status = 'in_progress', attempts = 1, losses = 0,
                     last_error = NULL, available_at = '{NOW}', updated_at = '{NOW}',
                     lease_holder = '{WORKER}', lease_incarnation = '{INCARNATION}',
                     lease_token = lease_token + 1, lease_acquired_at = '{NOW}',
                     lease_expires_at = '{NOW}', lease_boot_id = ?1, lease_deadline_us = 1,
                     checkpoint_sequence = 1
                 WHERE work_item_id <= ?2"
            ),
            params![boot.as_str(), count],
        )
        .expect("lost leases");
    connection
        .execute(
            &format!(
                "INSERT INTO work_attempts (work_item_id, number, worker, incarnation, started_at)
                 SELECT work_item_id, lease_token, '{WORKER}', '{INCARNATION}', '{NOW}'
                 FROM work_items WHERE work_item_id <= ?1"
            ),
            [count],
        )
        .expect("their attempts");
    settle(&connection);
}

fn worker() -> Worker {
    Worker {
        id: WorkerId::new(WORKER).expect("a name"),
        incarnation: Incarnation::new(INCARNATION).expect("a name"),
    }
}

/// The store.
pub struct OurLeases {
    /// The store itself.
    pub store: SqliteStore,
    path: PathBuf,
    request: ClaimRequest,
}

impl OurLeases {
    /// Makes a file in `dir` and opens it.
    pub fn open(dir: &Path, durability: Durability, fill: Fill) -> OurLeases {
        let path = dir.join(format!("ours-{}-{}.db", fill.pending, fill.delayed));
        fill.make(&path);
        let config = Config::at(&path).durability(durability);
        OurLeases {
            store: SqliteStore::open(config).expect("the store opens"),
            path,
            request: ClaimRequest {
                lease: LEASE,
                ..ClaimRequest::new(worker())
            },
        }
    }

    /// Claims the most urgent item.
    pub fn claim(&self) -> Fence {
        let leases = self.store.claim(&self.request).expect("a claim");
        leases.first().expect("work that is due").fence
    }

    /// Renews leases in one commit.
    pub fn renew(&self, fences: &[Fence]) {
        let answers = self.store.renew(fences, LEASE).expect("answers");
        assert!(answers.iter().all(Result::is_ok));
    }

    /// Completes an item.
    pub fn complete(&self, fence: Fence) {
        let work = CompleteWork {
            fence,
            result: Some(b"done".to_vec()),
        };
        self.store
            .commit(Commit::under(fence).part(work))
            .expect("a completed item");
    }

    /// Makes the first items lost.
    pub fn lose(&self, count: u32) {
        lose(&self.path, count);
    }

    /// Takes all lost leases away, batch by batch.
    pub fn sweep(&self, count: u32, rows: u32) {
        let request = SweepRequest {
            rows,
            ..SweepRequest::default()
        };
        let mut recovered = 0;
        loop {
            let swept = self.store.sweep(&request).expect("a sweep");
            assert!(swept.failed.is_empty(), "{swept:?}");
            recovered += swept.recovered.len();
            if !swept.more {
                break;
            }
        }
        assert_eq!(recovered, count as usize);
    }

    /// A sweep that finds nothing.
    pub fn sweep_nothing(&self) {
        self.sweep(0, 256);
    }
}

/// The floor: a raw connection to such a file, with the store's pragmas.
pub struct LeaseFloor {
    connection: Connection,
    path: PathBuf,
    boot: String,
    deadline_us: std::cell::Cell<i64>,
}

/// Finds and takes the item in one statement; the columns are those of the store.
const CLAIM: &str = "
    UPDATE work_items
    SET status = 'in_progress', attempts = min(attempts + 1, max_attempts),
        lease_holder = ?1, lease_incarnation = ?2, lease_token = lease_token + 1,
        lease_acquired_at = ?3, lease_expires_at = ?4, lease_boot_id = ?5,
        lease_deadline_us = ?6,
        checkpoint_sequence = (
            SELECT sequence_number FROM checkpoints
            WHERE checkpoints.task_id = work_items.task_id
              AND state_bytes IS NOT NULL AND verification <> 'failed'
            ORDER BY sequence_number DESC LIMIT 1),
        updated_at = ?3
    WHERE work_item_id = (
        SELECT work_item_id FROM work_items INDEXED BY idx_work_items_status_priority
        WHERE status = 'pending' AND priority < 101
        ORDER BY priority DESC, available_at, work_item_id LIMIT 1)
      AND status = 'pending' AND available_at <= ?3
    RETURNING work_item_id, lease_token, work_type, task_id, priority, payload, attempts,
        max_attempts, checkpoint_sequence";

const BEGIN_ATTEMPT: &str = "
    INSERT INTO work_attempts (work_item_id, number, worker, incarnation, started_at)
    VALUES (?1, ?2, ?3, ?4, ?5)";

const RENEW: &str = "
    UPDATE work_items
    SET lease_expires_at = ?3, lease_boot_id = ?4, lease_deadline_us = ?5
    WHERE work_item_id = ?1 AND status = 'in_progress' AND lease_token = ?2";

const END: &str = "
    UPDATE work_items
    SET status = ?3, attempts = attempts, losses = losses + ?4,
        available_at = coalesce(?5, available_at), last_error = coalesce(?6, last_error),
        result = ?7, lease_holder = NULL, lease_incarnation = NULL, lease_acquired_at = NULL,
        lease_expires_at = NULL, lease_boot_id = NULL, lease_deadline_us = NULL,
        checkpoint_sequence = NULL, updated_at = ?8
    WHERE work_item_id = ?1 AND status = 'in_progress' AND lease_token = ?2";

const END_ATTEMPT: &str = "
    UPDATE work_attempts SET ended_at = ?3, outcome = ?4, error = ?5
    WHERE work_item_id = ?1 AND number = ?2 AND outcome IS NULL";

const AUDIT: &str = "
    INSERT INTO task_audits (task_id, event, from_status, to_status, reason, detail, created_at)
    VALUES (?1, 'work_recovered', 'in_progress', 'pending', ?2, ?3, ?4)";

const NEXT_NUMBER: &str = "
    UPDATE checkpoint_counters SET last_sequence = last_sequence + 1
    WHERE task_id = ?1 RETURNING last_sequence";

const BOUNDARY: &str = "
    INSERT INTO checkpoints (task_id, sequence_number, checkpoint_type, verification, created_at,
        codec, state_version, state_bytes, state_digest, seal, metadata, evidence, snapshot)
    VALUES (?1, ?2, 'error_boundary', 'unverified', ?3, NULL, NULL, NULL, NULL, ?4, ?5, NULL,
        NULL)";

impl LeaseFloor {
    /// Makes a file in `dir` and opens it raw.
    pub fn open(dir: &Path, durability: Durability, fill: Fill) -> LeaseFloor {
        let path = dir.join(format!("floor-{}-{}.db", fill.pending, fill.delayed));
        fill.make(&path);
        LeaseFloor {
            connection: raw(&path, durability),
            path,
            boot: SystemClock.boot().boot.as_str().to_owned(),
            deadline_us: std::cell::Cell::new(1_000_000_000),
        }
    }

    fn transaction<T>(&self, work: impl FnOnce() -> rusqlite::Result<T>) -> T {
        let run = |sql: &str| self.connection.prepare_cached(sql)?.execute([]).map(drop);
        run("BEGIN IMMEDIATE")
            .and_then(|()| work())
            .and_then(|done| run("COMMIT").map(|()| done))
            .expect("a transaction")
    }

    /// One `UPDATE … RETURNING` in a transaction of its own; with the row of its
    /// attempt as well, if wanted.
    pub fn claim(&self, with_attempt: bool) -> Fence {
        let deadline_us = self.deadline_us.get() + 1;
        self.deadline_us.set(deadline_us);
        let (item, token) = self.transaction(|| {
            let mut statement = self.connection.prepare_cached(CLAIM)?;
            let claimed = statement
                .query_row(
                    params![WORKER, INCARNATION, NOW, NOW, self.boot, deadline_us],
                    |row| {
                        let payload: Vec<u8> = row.get(5)?;
                        assert_eq!(payload.len(), 200);
                        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
                    },
                )
                .optional()?;
            let (item, token) = claimed.expect("work that is due");
            if with_attempt {
                self.connection
                    .prepare_cached(BEGIN_ATTEMPT)?
                    .execute(params![item, token, WORKER, INCARNATION, NOW])?;
            }
            Ok((item, token))
        });
        Fence {
            item: WorkItemId::new(item).expect("an item"),
            token: FencingToken::new(token).expect("a token"),
        }
    }

    /// One `UPDATE` for each lease, in one transaction.
    pub fn renew(&self, fences: &[Fence]) {
        let deadline_us = self.deadline_us.get() + 1;
        self.deadline_us.set(deadline_us);
        let expires_at = format!("2026-01-30 00:00:01.{:06}", deadline_us % 1_000_000);
        self.transaction(|| {
            let mut statement = self.connection.prepare_cached(RENEW)?;
            for Fence { item, token } in fences {
                let changed = statement.execute(params![
                    item.get(),
                    token.get(),
                    expires_at,
                    self.boot,
                    deadline_us
                ])?;
                assert_eq!(changed, 1);
            }
            Ok(())
        });
    }

    /// The two `UPDATE`s of a completion, in one transaction.
    pub fn complete(&self, fence: Fence) {
        let (item, token) = (fence.item.get(), fence.token.get());
        let none: Option<&str> = None;
        self.transaction(|| {
            let changed = self.connection.prepare_cached(END)?.execute(params![
                item,
                token,
                "succeeded",
                0,
                none,
                none,
                b"done",
                NOW
            ])?;
            assert_eq!(changed, 1);
            self.connection
                .prepare_cached(END_ATTEMPT)?
                .execute(params![item, token, NOW, "succeeded", none])
        });
    }

    /// Makes the first items lost; gives their tokens.
    pub fn lose(&self, count: u32) -> i64 {
        lose(&self.path, count);
        self.connection
            .query_row(
                "SELECT lease_token FROM work_items WHERE work_item_id = 1",
                [],
                |row| row.get(0),
            )
            .expect("a token")
    }

    /// The writes of a sweep over the first items, whose token is given, in
    /// transactions of `rows` items each.
    pub fn sweep(&self, count: u32, rows: u32, token: i64) {
        let no_blob: Option<&[u8]> = None;
        for first in (1..=count).step_by(rows as usize) {
            self.transaction(|| {
                for item in first..(first + rows).min(count + 1) {
                    let task = format!("task-{:04}", (item as usize - 1) % TASKS);
                    let changed = self.connection.prepare_cached(END)?.execute(params![
                        item, token, "pending", 1, NOW, REASON, no_blob, NOW
                    ])?;
                    assert_eq!(changed, 1);
                    self.connection
                        .prepare_cached(END_ATTEMPT)?
                        .execute(params![item, token, NOW, "expired", REASON])?;
                    self.connection
                        .prepare_cached(AUDIT)?
                        .execute(params![task, REASON, DETAIL, NOW])?;
                    let number: i64 = self
                        .connection
                        .prepare_cached(NEXT_NUMBER)?
                        .query_row([&task], |row| row.get(0))?;
                    self.connection
                        .prepare_cached(BOUNDARY)?
                        .execute(params![task, number, NOW, [7_u8; 32], DETAIL])?;
                }
                Ok(())
            });
        }
    }
}

//! Files of every past version open, and what they hold is read back exactly.
//!
//! `fixtures/v<version>.db` was written once by the build that introduced the
//! schema and is never written again. Each test works on a copy.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentos_core::{
    AppendCheckpoint, AttemptOutcome, AuditLine, BeginKey, Begun, CheckpointStorage,
    CheckpointType, ClaimRequest, Codec, Commit, CompleteWork, Digest, EvidenceOutcome,
    EvidenceResult, FailWork, FencingToken, FinishKey, IdempotencyKey, Incarnation, KeyStatus,
    KeyStorage, KeySummary, LeaseStorage, ManualClock, NewOutcome, NewTask, NewWorkItem, Retry,
    SequenceNumber, SetTaskStatus, Snapshot, Storage, SweepRequest, TaskId, TaskStatus,
    TaskStorage, Timestamp, Verification, WorkItemId, WorkItemStatus, Worker, WorkerId,
};
use agentos_store::sqlite::{Config, SqliteStore};
use serde_json::{Value, json};

const START: Timestamp = Timestamp::from_unix_micros(1_769_644_801_000_042);

/// Seals of the files of every version, in the order of its checkpoints: a later
/// build that computes them otherwise can no longer read what was stored.
const SEALS: [&str; 4] = [
    "ad1dd3d2fed9704be8ebf54e4f41116fa6762bbecafdaec6cc4229a230e25469",
    "f89c884bc5c6cea3bc1f8cb56338dcfa19ea68053663d46206c6f69548910a1a",
    "e1e8f0dea85c7b1e197c1aed1c0fabc1edc35b060fddc01c38d376adf4cca77d",
    "0dd6768dba839aa38a42102893f009d783f853b2c4be05d564b0b805820ebfb2",
];

fn fixture(version: u32) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(format!("v{version}.db"))
}

fn task() -> TaskId {
    TaskId::new("invoice 'é' 🦀").expect("a good id")
}

fn result() -> EvidenceResult {
    EvidenceResult {
        item: 0,
        kind: "file_digest".into(),
        outcome: EvidenceOutcome::Passed,
        reason: Some("as recorded".into()),
        checked_at: START,
    }
}

fn states() -> [Option<Snapshot>; 4] {
    [
        Some(Snapshot::new(Codec::Bincode, 1, vec![1, 7, 2, 1, b'a', 0])),
        Some(Snapshot::new(Codec::Json, 3, br#"{"step":2}"#.to_vec())),
        None,
        Some(Snapshot::new(
            Codec::Raw,
            0,
            (0..=255).cycle().take(9000).collect(),
        )),
    ]
}

/// Writes a file of the newest version with known content.
fn write(path: &Path) {
    let clock = Arc::new(ManualClock::at(START));
    let store = SqliteStore::open(Config::at(path).clock(Arc::clone(&clock))).expect("a store");
    let commit = |commit: Commit| {
        store.commit(commit).expect("a commit");
        clock.advance(Duration::from_secs(60));
    };
    let new = NewTask::new(task(), "bookkeeping").metadata(json!({"n": [1, -2.5, null], "x": 0.1}));
    commit(new.into());
    commit(
        SetTaskStatus::new(task(), TaskStatus::Running)
            .reason("picked up")
            .into(),
    );
    for (number, snapshot) in (1..).zip(states()) {
        let checkpoint_type = match snapshot {
            Some(_) => CheckpointType::IterationEnd,
            None => CheckpointType::ErrorBoundary,
        };
        let checkpoint = AppendCheckpoint {
            snapshot,
            evidence: Some(format!("{{\"items\": [{number}]}}")),
            verification: Verification::Verified,
            results: vec![result()],
            metadata: json!({ "number": number }),
            ..AppendCheckpoint::new(task(), checkpoint_type)
        };
        commit(checkpoint.into());
    }
    let line = AuditLine::new(task(), "noted").detail(json!({"by": "operator"}));
    commit(line.into());
    work(&store, &clock);
    keys(&store, &clock);
    drop(store);
    let connection = rusqlite::Connection::open(path).expect("a database");
    connection.execute_batch(WORK).expect("rows in SQL");
    connection.close().expect("a closed database");
}

fn worker() -> Worker {
    Worker {
        id: WorkerId::new("host 'é' 🦀").expect("a good id"),
        incarnation: Incarnation::new("start-1").expect("a good incarnation"),
    }
}

fn key(number: u32) -> IdempotencyKey {
    IdempotencyKey::new(format!("key 'é' 🦀 {number}")).expect("a good key")
}

fn begin(number: u32) -> BeginKey {
    BeginKey {
        task: Some(task()),
        operation: Some("pay".into()),
        model: Some("gpt".into()),
        kept_request: Some(b"\0request".to_vec()),
        detail: json!({ "number": number }),
        ..BeginKey::new(key(number), Digest::of(b"request"), worker())
    }
}

/// A success, a failure that expires, and one whose owner died.
fn keys(store: &SqliteStore, clock: &ManualClock) {
    for number in 1..=3 {
        let begun = store.begin_key(&begin(number)).expect("a beginning");
        let Begun::Execute(permit) = begun else {
            panic!("{begun:?}");
        };
        clock.advance(Duration::from_secs(1));
        let outcome = match number {
            1 => NewOutcome::success(b"\0outcome".to_vec()),
            2 => NewOutcome::failure(b"".to_vec()).ttl(Some(Duration::from_secs(60))),
            _ => continue,
        };
        let fence = permit.fence;
        store
            .commit(FinishKey { fence, outcome }.into())
            .expect("an outcome");
    }
}

/// An item that failed once and was then done, and one whose holder died.
fn work(store: &SqliteStore, clock: &ManualClock) {
    let new = NewWorkItem::new("page")
        .task(task())
        .priority(7)
        .payload(b"\0payload".to_vec())
        .max_attempts(3)
        .unique_key("page-1");
    let claim = || {
        let request = ClaimRequest::new(worker());
        store.claim(&request).expect("a claim").remove(0)
    };
    store.commit(new.into()).expect("an item");
    let fail = FailWork {
        fence: claim().fence,
        reason: "no such page".into(),
        retry: Retry::After(Duration::from_secs(60)),
    };
    store.commit(fail.into()).expect("a failure");
    clock.advance(Duration::from_secs(60));
    let complete = CompleteWork {
        fence: claim().fence,
        result: Some(Vec::new()),
    };
    store.commit(complete.into()).expect("a completion");
    store
        .commit(NewWorkItem::new("lost").into())
        .expect("an item");
    claim();
    clock.reboot();
    assert_eq!(
        store
            .sweep(&SweepRequest::default())
            .expect("a sweep")
            .found,
        1
    );
}

/// As versions before the third were written: a work item under a lease that
/// works from checkpoint 2, its attempts, and an integrity check.
const WORK: &str = "
    INSERT INTO work_items (work_item_id, task_id, work_type, status, attempts, max_attempts,
        available_at, created_at, updated_at)
    SELECT 7, task_id, 'page', 'pending', 2, 5, created_at, created_at, created_at FROM tasks;
    UPDATE work_items SET status = 'in_progress', lease_holder = 'w', lease_incarnation = 'i',
        lease_token = 2, lease_acquired_at = created_at, lease_expires_at = created_at,
        lease_boot_id = 'b', lease_deadline_us = 1, checkpoint_sequence = 2
    WHERE work_item_id = 7;
    INSERT INTO work_attempts (work_item_id, number, worker, incarnation, started_at, ended_at,
        outcome, error)
    SELECT 7, 1, 'w', 'h', created_at, created_at, 'failed', 'no such page' FROM tasks
    UNION ALL SELECT 7, 2, 'w', 'i', created_at, NULL, NULL, NULL FROM tasks;
    INSERT INTO integrity_checks (problems, checked_at) SELECT 0, created_at FROM tasks;";

/// Not a test: writes the file of the newest version when a migration was
/// added, with `AGENTOS_WRITE_FIXTURE=1`. Once, by the build that introduces the
/// version, and never again.
#[test]
fn write_the_fixture_of_the_newest_version() {
    if std::env::var_os("AGENTOS_WRITE_FIXTURE").is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    write(&path);
    let connection = rusqlite::Connection::open(&path).unwrap();
    let version = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    connection.close().unwrap();
    assert!(
        !fixture(version).exists(),
        "a fixture is never written again"
    );
    std::fs::copy(&path, fixture(version)).unwrap();
}

fn copy(version: u32) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    std::fs::copy(fixture(version), &path).unwrap();
    (directory, path)
}

#[test]
fn a_file_of_version_one_is_read_back_exactly() {
    is_read_back_exactly(1);
}

#[test]
fn a_file_of_version_two_is_read_back_exactly() {
    is_read_back_exactly(2);
    let (_directory, path) = copy(2);
    drop(SqliteStore::open(Config::at(&path)).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    let row: (i64, i64, i64, String) = connection
        .query_row(
            "SELECT checkpoint_sequence,
                 (SELECT count(*) FROM work_attempts WHERE work_item_id = 7 AND worker = 'w'),
                 (SELECT problems FROM integrity_checks),
                 (SELECT error FROM work_attempts WHERE outcome = 'failed')
             FROM work_items WHERE work_item_id = 7 AND status = 'in_progress'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap();
    assert_eq!(row, (2, 2, 0, "no such page".into()));
}

#[test]
fn a_file_of_version_three_is_read_back_exactly() {
    is_read_back_exactly(3);
    let (_directory, path) = copy(3);
    let store = SqliteStore::open(Config::at(&path)).unwrap();
    let item = |number| WorkItemId::new(number).unwrap();
    let done = store.work_item(item(1)).unwrap().unwrap();
    assert_eq!(done.payload, b"\0payload");
    assert_eq!(done.result, Some(Vec::new()));
    let summary = done.summary;
    assert_eq!(summary.work_type, "page");
    assert_eq!(summary.task, Some(task()));
    assert_eq!(summary.status, WorkItemStatus::Succeeded);
    assert_eq!((summary.priority, summary.max_attempts), (7, 3));
    assert_eq!(summary.unique_key.as_deref(), Some("page-1"));
    assert_eq!((summary.attempts, summary.losses), (2, 0));
    assert_eq!(summary.newest_token, FencingToken::new(2).ok());
    assert_eq!(summary.last_error.as_deref(), Some("no such page"));
    let ends = |number| -> Vec<_> {
        let attempts = store.attempts(item(number)).unwrap();
        assert!(attempts.iter().all(|attempt| attempt.worker == worker()));
        let ends = attempts.into_iter().filter_map(|attempt| attempt.end);
        ends.map(|end| (end.outcome, end.error)).collect()
    };
    let failed = (AttemptOutcome::Failed, Some("no such page".to_owned()));
    assert_eq!(ends(1), [failed, (AttemptOutcome::Succeeded, None)]);
    let lost = store.work_item(item(2)).unwrap().unwrap().summary;
    assert_eq!(lost.status, WorkItemStatus::Pending);
    assert_eq!((lost.attempts, lost.losses), (1, 1));
    assert_eq!(ends(2)[0].0, AttemptOutcome::Expired);
    let both = ClaimRequest {
        items: 9,
        ..ClaimRequest::new(worker())
    };
    // The lease of another boot is over, and its item has been due for longest.
    let claimed = store.claim(&both).unwrap();
    let claimed: Vec<_> = claimed
        .iter()
        .map(|lease| (lease.fence.item.get(), lease.fence.token.get()))
        .collect();
    assert_eq!(claimed, [(7, 3), (2, 2)]);
}

fn is_read_back_exactly(version: u32) {
    let (_directory, path) = copy(version);
    let store = SqliteStore::open(Config::at(&path)).unwrap();
    let found = store.task(&task()).unwrap().unwrap();
    assert_eq!(found.status, TaskStatus::Running);
    assert_eq!(found.task_type, "bookkeeping");
    assert_eq!(found.metadata, json!({"n": [1, -2.5, null], "x": 0.1}));
    assert_eq!(found.created_at, START);
    assert_eq!(found.updated_at, START.plus(Duration::from_secs(60)));
    for ((number, snapshot), seal) in (1..).zip(states()).zip(SEALS) {
        let sequence = SequenceNumber::new(number).unwrap();
        let found = store.checkpoint(&task(), sequence).unwrap().unwrap();
        assert_eq!(found.snapshot, snapshot);
        assert_eq!(found.evidence, Some(format!("{{\"items\": [{number}]}}")));
        assert_eq!(found.metadata, json!({ "number": number }));
        assert_eq!(found.summary.verification, Verification::Verified);
        assert_eq!(
            Some(found.summary.seal),
            Digest::parse_hex(seal),
            "{number}"
        );
        let moment = START.plus(Duration::from_secs(60 * (number + 1)));
        assert_eq!(found.summary.created_at, moment);
        assert_eq!(
            store.evidence_results(&task(), sequence).unwrap(),
            [result()]
        );
    }
    let lines = store.audits(&task(), None, 10).unwrap().items;
    let events: Vec<_> = lines
        .iter()
        .map(|line| (line.event.as_str(), line.to.as_deref(), line.detail.clone()))
        .collect();
    assert_eq!(
        events,
        [
            ("task_created", Some("created"), Value::Null),
            ("task_status", Some("running"), Value::Null),
            ("noted", None, json!({"by": "operator"})),
        ]
    );
    assert_eq!(lines[1].reason.as_deref(), Some("picked up"));
    assert!(store.check_integrity().unwrap().is_sound());
}

#[test]
fn keys_are_read_as_they_were_stored() {
    let (_directory, path) = copy(4);
    let store = SqliteStore::open(Config::at(&path)).unwrap();
    let found = |number| store.find_key(&key(number)).unwrap().unwrap();
    let first = found(1);
    assert_eq!(first.outcome.as_deref(), Some(&b"\0outcome"[..]));
    assert_eq!(first.kept_request.as_deref(), Some(&b"\0request"[..]));
    let KeySummary {
        view,
        task,
        operation,
        model,
        detail,
        expires_at,
        ..
    } = first.summary;
    assert_eq!(view.status, KeyStatus::Succeeded);
    assert_eq!(view.request, Digest::of(b"request"));
    assert_eq!((task, expires_at), (Some(self::task()), None));
    assert_eq!(
        (operation.as_deref(), model.as_deref()),
        (Some("pay"), Some("gpt"))
    );
    assert_eq!(detail, json!({ "number": 1 }));
    let second = found(2);
    assert_eq!(second.summary.view.status, KeyStatus::Failed);
    assert!(second.summary.view.expired);
    assert_eq!(second.outcome.as_deref(), Some(&b""[..]));
    let doubt = store.keys_in_doubt(None, 10).unwrap().items;
    assert_eq!(doubt.len(), 1);
    assert_eq!(doubt[0].key, key(3));
    let permit = doubt[0].view.permit.as_ref().unwrap();
    assert_eq!((&permit.owner, permit.left), (&worker(), None));
}

/// Goal: rows that were sealed without their token are read, and of a row that is
/// sealed with it no token is taken for another. Method: tokens are edited in rows of
/// the file that is there and in one that this build makes.
#[test]
fn both_forms_of_the_seal_hold_and_none_stands_for_the_other() {
    let (_directory, path) = copy(4);
    let store = SqliteStore::open(Config::at(&path)).unwrap();
    let Begun::Execute(permit) = store.begin_key(&begin(9)).unwrap() else {
        panic!("no permit")
    };
    let finish = FinishKey {
        fence: permit.fence,
        outcome: NewOutcome::success("new"),
    };
    store.commit(finish.into()).unwrap();
    let seen = |number| {
        let whole = store.find_key(&key(number));
        let hot = store.find_recorded(&key(number));
        match (whole, hot) {
            (Ok(Some(whole)), Ok(Some(hot))) => {
                assert_eq!(whole.outcome, Some(hot.outcome));
                assert_eq!(whole.summary.token, hot.view.token);
                Some(hot.view.token.get())
            }
            (Err(whole), Err(hot)) => {
                for error in [whole, hot] {
                    let is_corrupt = matches!(error, agentos_core::StorageError::Corrupt { .. });
                    assert!(is_corrupt, "{error:?}");
                }
                None
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([seen(1), seen(9)], [Some(1), Some(1)]);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("UPDATE idempotency_keys SET token = 99 WHERE status <> 'pending'")
        .unwrap();
    connection.close().unwrap();
    assert_eq!([seen(1), seen(9)], [Some(99), None]);
}

/// Goal: what others wrote before keys had permits and seals is neither executed
/// again in silence nor given as an answer.
#[test]
fn keys_of_an_older_version_are_in_doubt_or_damaged() {
    let (_directory, path) = copy(3);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "INSERT INTO idempotency_keys (idempotency_key, status, request_digest, owner,
                 created_at, updated_at, expires_at, outcome)
             SELECT key, 'pending', zeroblob(32), NULL, at, at, at, x'01' FROM (
                 SELECT 'pending' AS key, '2026-01-01 00:00:00.000000' AS at
                 UNION ALL SELECT 'done', '2026-01-01 00:00:00.000000');
             UPDATE idempotency_keys SET status = 'succeeded', expires_at = NULL
             WHERE idempotency_key = 'done'",
        )
        .unwrap();
    connection.close().unwrap();
    let store = SqliteStore::open(Config::at(&path)).unwrap();
    let in_doubt: Vec<_> = store
        .keys_in_doubt(None, 10)
        .unwrap()
        .items
        .into_iter()
        .map(|key| key.key.to_string())
        .collect();
    assert!(in_doubt.contains(&"pending".to_owned()), "{in_doubt:?}");
    let done = IdempotencyKey::new("done").unwrap();
    for refused in [
        store.find_key(&done).map(|_| ()),
        store.find_recorded(&done).map(|_| ()),
    ] {
        assert!(matches!(
            refused.unwrap_err(),
            agentos_core::StorageError::Corrupt { .. }
        ));
    }
}

#[test]
fn a_file_of_each_version_goes_on_where_it_ended() {
    for version in 1..=4 {
        goes_on_where_it_ended(version);
    }
}

fn goes_on_where_it_ended(version: u32) {
    let (_directory, path) = copy(version);
    let store = SqliteStore::open(Config::at(&path)).unwrap();
    let new = AppendCheckpoint::new(task(), CheckpointType::ManualCheckpoint);
    let receipt = store.commit(new.into()).unwrap();
    assert_eq!(receipt.appended().next().unwrap().sequence.get(), 5);
    let version = store.inspect().unwrap().pragmas["user_version"];
    assert_eq!(version, 4, "the newest version of this build");
}

/// Every version has its file: who adds a migration adds a fixture.
#[test]
fn every_version_has_a_fixture() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Config::at(directory.path().join("agent.db"))).unwrap();
    let newest = store.inspect().unwrap().pragmas["user_version"];
    for version in 1..=u32::try_from(newest).unwrap() {
        assert!(fixture(version).exists(), "version {version} has none");
    }
}

//! A file with leases of every kind, the actions that processes die in, and what
//! the tables of such a file must say of each other.
//!
//! The clock stands still, so that an action writes the same bytes whenever and
//! wherever it is done: its result can be compared row by row.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentos_core::{
    CancelWork, ClaimRequest, Clock, Commit, CompleteWork, FailWork, Fence, FencingToken,
    Incarnation, LeaseStorage, Lost, ManualClock, NewWorkItem, ReleaseWork, Retry, Storage,
    SweepRequest, WorkFilter, WorkItemId, Worker, WorkerId,
};
use agentos_store::sqlite::SqliteStore;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::{append, config, manual_clock, new_task, task_id};

/// What can be done to a file of [`leased_file`].
pub const LEASE_ACTIONS: [&str; 9] = [
    "claim", "renew", "sweep", "give-up", "complete", "fail", "bury", "release", "cancel",
];

/// Lease of the items that were lost.
const SHORT: Duration = Duration::from_secs(1);
/// Lease of those that are held.
const LONG: Duration = Duration::from_secs(3600);
/// How long after the file was made the actions happen.
const LATER: Duration = Duration::from_secs(10);

/// A worker of this name and start.
///
/// # Panics
///
/// When they are no names.
pub fn worker(id: &str, incarnation: &str) -> Worker {
    Worker {
        id: WorkerId::new(id).expect("a worker's name"),
        incarnation: Incarnation::new(incarnation).expect("a start's name"),
    }
}

/// The claim of this number of this item.
///
/// # Panics
///
/// When the numbers are none.
pub fn fence(item: i64, token: i64) -> Fence {
    Fence {
        item: WorkItemId::new(item).expect("an item"),
        token: FencingToken::new(token).expect("a token"),
    }
}

/// The clock at which the actions happen.
pub fn leased_clock() -> Arc<ManualClock> {
    let clock = manual_clock();
    clock.advance(LATER);
    clock
}

/// Opens a file of [`leased_file`] at that clock.
///
/// # Panics
///
/// When it cannot be opened.
pub fn open_leased(path: &Path, clock: &Arc<ManualClock>) -> SqliteStore {
    SqliteStore::open(config(path).clock(Arc::clone(clock))).expect("an open store")
}

/// Makes the file, closed, with its log in it.
///
/// - Items 1 to 3 were held by `old`, whose lease has run out: 1 has attempts left,
///   2 has none, 3 belongs to no task.
/// - Items 4 and 5 are held by `holder`, for an hour.
/// - Items 6 to 8 are pending: 6 is due, 7 belongs to no task, 8 is due later.
///
/// # Panics
///
/// When it cannot be made.
pub fn leased_file(path: &Path) {
    let store = open_leased(path, &manual_clock());
    let of_task = || NewWorkItem::new("work").task(task_id("a"));
    let enqueue = |items: Vec<NewWorkItem>| {
        let commit = items.into_iter().fold(Commit::new(), Commit::part);
        store.commit(commit).expect("enqueued work");
    };
    let claim = |id: &str, lease, items| {
        let request = ClaimRequest {
            lease,
            items,
            ..ClaimRequest::new(worker(id, "first"))
        };
        let leases = store.claim(&request).expect("leases");
        assert_eq!(leases.len(), items as usize);
    };
    let commit = Commit::new()
        .part(new_task("a"))
        .part(append("a", "one"))
        .part(append("a", "two"));
    store.commit(commit).expect("a task");
    enqueue(vec![
        of_task(),
        of_task().max_attempts(1),
        NewWorkItem::new("work"),
    ]);
    claim("old", SHORT, 3);
    enqueue(vec![of_task(), of_task()]);
    claim("holder", LONG, 2);
    enqueue(vec![
        of_task().priority(7).payload("urgent"),
        NewWorkItem::new("work"),
        of_task().delay(LONG),
    ]);
}

/// Does one of [`LEASE_ACTIONS`], in one commit. Gives what can be said once it has
/// been acknowledged.
///
/// # Panics
///
/// When it is refused, and when there is no such action.
pub fn lease_action(store: &SqliteStore, action: &str) -> String {
    let held = fence(4, 1);
    let (fence, reason) = (fence(5, 1), "the tool said no".to_string());
    let fail = |retry| FailWork {
        fence,
        reason: reason.clone(),
        retry,
    };
    let commit = |commit: Commit| {
        let receipt = store.commit(commit).expect("a commit");
        format!("{action}: {} parts", receipt.outcomes.len())
    };
    let sweep = |lost| {
        let request = SweepRequest {
            lost,
            ..SweepRequest::default()
        };
        let swept = store.sweep(&request).expect("a sweep");
        assert!(swept.failed.is_empty(), "{swept:?}");
        format!("{action}: {} of {}", swept.recovered.len(), swept.found)
    };
    match action {
        "claim" => {
            let request = ClaimRequest {
                items: 3,
                ..ClaimRequest::new(worker("new", "first"))
            };
            let leases = store.claim(&request).expect("leases");
            let fences = leases.iter().map(|lease| lease.fence);
            let told: Vec<_> = fences.map(|f| (f.item.get(), f.token.get())).collect();
            format!("claim: {told:?}")
        }
        "renew" => {
            let answers = store.renew(&[held, fence], LONG).expect("answers");
            let held = answers.iter().filter(|answer| answer.is_ok()).count();
            format!("renew: {held} of {}", answers.len())
        }
        "sweep" => sweep(Lost::Expired),
        "give-up" => sweep(Lost::EarlierStarts(worker("holder", "second"))),
        "complete" => commit(
            Commit::under(held)
                .part(append("a", "three"))
                .part(CompleteWork {
                    fence: held,
                    result: Some(b"done".to_vec()),
                })
                .part(NewWorkItem::new("next").task(task_id("a"))),
        ),
        "fail" => commit(Commit::under(fence).part(fail(Retry::default()))),
        "bury" => commit(Commit::under(fence).part(fail(Retry::Never))),
        "release" => commit(Commit::under(fence).part(ReleaseWork {
            fence,
            reason: None,
        })),
        "cancel" => commit(
            CancelWork {
                item: fence.item,
                reason: Some(reason),
            }
            .into(),
        ),
        _ => panic!("no such action: {action}"),
    }
}

/// Everything that an action may change: each table with its rows as text.
///
/// # Panics
///
/// When they cannot be read.
pub fn lease_rows(path: &Path) -> BTreeMap<&'static str, Vec<String>> {
    let connection = Connection::open(path).expect("a database");
    let tables = [
        "tasks",
        "checkpoints",
        "checkpoint_counters",
        "work_items",
        "work_attempts",
        "task_audits",
        "idempotency_keys",
        "key_counter",
    ];
    let rows = |table: &str| -> Vec<String> {
        let sql = format!("SELECT * FROM {table} ORDER BY 1");
        let mut statement = connection.prepare(&sql).expect("a statement");
        let names: Vec<String> = statement
            .column_names()
            .into_iter()
            .map(String::from)
            .collect();
        let rows = statement.query_map([], |row| {
            let text = |(place, name): (usize, &String)| match row.get_ref(place)? {
                ValueRef::Null => Ok(format!("{name}=NULL")),
                ValueRef::Integer(number) => Ok(format!("{name}={number}")),
                ValueRef::Real(number) => Ok(format!("{name}={number}")),
                ValueRef::Text(bytes) => Ok(format!("{name}={}", String::from_utf8_lossy(bytes))),
                ValueRef::Blob(bytes) => Ok(format!("{name}={bytes:02x?}")),
            };
            let texts = names.iter().enumerate().map(text);
            Ok(texts.collect::<rusqlite::Result<Vec<_>>>()?.join(" "))
        });
        let rows = rows.expect("rows");
        rows.collect::<Result<_, _>>().expect("readable rows")
    };
    tables
        .into_iter()
        .map(|table| (table, rows(table)))
        .collect()
}

/// What the tables say of each other: each statement finds what must not be, for
/// items that were never requeued.
const DISAGREEMENTS: [(&str, &str); 11] = [
    (
        "is held, and its attempt is not open",
        "SELECT work_item_id FROM work_items AS i WHERE status = 'in_progress' AND NOT EXISTS (
             SELECT 1 FROM work_attempts AS a
             WHERE a.work_item_id = i.work_item_id AND number = lease_token AND outcome IS NULL
               AND worker = lease_holder AND incarnation = lease_incarnation
               AND started_at = lease_acquired_at)",
    ),
    (
        "has an open attempt that is not its lease",
        "SELECT work_item_id FROM work_attempts JOIN work_items AS i USING (work_item_id)
         WHERE outcome IS NULL AND (i.status <> 'in_progress' OR number <> lease_token)",
    ),
    (
        "has another number of attempts than of claims",
        "SELECT work_item_id FROM work_items AS i WHERE lease_token <> (
             SELECT count(*) FROM work_attempts AS a WHERE a.work_item_id = i.work_item_id)",
    ),
    (
        "counts its attempts wrongly",
        "SELECT work_item_id FROM work_items AS i WHERE attempts <> (
             SELECT count(*) FROM work_attempts AS a
             WHERE a.work_item_id = i.work_item_id AND outcome IS NOT 'released')",
    ),
    (
        "counts its losses wrongly",
        "SELECT work_item_id FROM work_items AS i WHERE losses <> (
             SELECT count(*) FROM work_attempts AS a
             WHERE a.work_item_id = i.work_item_id AND outcome = 'expired')",
    ),
    (
        "has another error than its newest failure",
        "SELECT work_item_id FROM work_items AS i WHERE last_error IS NOT (
             SELECT error FROM work_attempts AS a
             WHERE a.work_item_id = i.work_item_id AND error IS NOT NULL
               AND outcome <> 'cancelled'
             ORDER BY number DESC LIMIT 1) AND status <> 'cancelled'",
    ),
    (
        "succeeded without one winning attempt, its newest",
        "SELECT work_item_id FROM work_items AS i
         WHERE (status = 'succeeded') <> (lease_token IS (
             SELECT number FROM work_attempts AS a
             WHERE a.work_item_id = i.work_item_id AND outcome = 'succeeded'))",
    ),
    (
        "lost a lease without one line that says so",
        "SELECT work_item_id FROM work_attempts AS a JOIN work_items USING (work_item_id)
         WHERE outcome = 'expired' AND 1 <> (
             SELECT count(*) FROM task_audits AS l
             WHERE event = 'work_recovered' AND from_status = 'in_progress'
               AND to_status IN ('pending', 'failed') AND reason = a.error
               AND l.task_id IS work_items.task_id AND l.created_at = a.ended_at
               AND detail ->> 'work_item' = a.work_item_id AND detail ->> 'token' = a.number
               AND detail ->> 'worker' = a.worker AND detail ->> 'held_since' = a.started_at)",
    ),
    (
        "lost a lease, and its task's history does not say so once",
        "SELECT work_item_id FROM work_attempts AS a JOIN work_items USING (work_item_id)
         WHERE outcome = 'expired' AND (work_items.task_id IS NOT NULL) <> (
             SELECT count(*) FROM checkpoints AS c
             WHERE checkpoint_type = 'error_boundary' AND c.task_id = work_items.task_id
               AND c.created_at = a.ended_at AND metadata ->> 'work_item' = a.work_item_id
               AND metadata ->> 'token' = a.number)",
    ),
    (
        "is said to have lost a lease that it did not lose",
        "SELECT said.item FROM (
             SELECT detail ->> 'work_item' AS item, detail ->> 'token' AS token
             FROM task_audits WHERE event = 'work_recovered'
             UNION ALL
             SELECT metadata ->> 'work_item', metadata ->> 'token'
             FROM checkpoints WHERE checkpoint_type = 'error_boundary') AS said
         WHERE NOT EXISTS (
             SELECT 1 FROM work_attempts AS a
             WHERE a.work_item_id = said.item AND number = said.token AND outcome = 'expired')",
    ),
    (
        "is the key of a task whose numbers have a gap",
        "SELECT task_key FROM tasks JOIN checkpoint_counters USING (task_id)
         WHERE last_sequence <> (SELECT count(*) FROM checkpoints AS c
                                 WHERE c.task_id = tasks.task_id)
            OR last_sequence <> (SELECT max(sequence_number) FROM checkpoints AS c
                                 WHERE c.task_id = tasks.task_id)",
    ),
];

/// In what the tables of a file disagree, in words; none when all is well.
///
/// # Panics
///
/// When they cannot be read.
pub fn disagreements(path: &Path) -> Vec<String> {
    let connection = Connection::open(path).expect("a database");
    let mut found = Vec::new();
    for (what, sql) in DISAGREEMENTS {
        let mut statement = connection.prepare(sql).expect("a statement");
        let rows = statement.query_map([], |row| row.get::<_, i64>(0));
        for row in rows.expect("rows") {
            found.push(format!("{} {what}", row.expect("a row")));
        }
    }
    found
}

/// Does all the work that there is and that there will be: sweeps, lets every lease
/// and every pause pass, and claims and completes until nothing is left.
///
/// # Panics
///
/// When anything is refused.
pub fn finish_work(store: &SqliteStore, clock: &ManualClock) {
    let swept = store.sweep(&SweepRequest::default()).expect("a sweep");
    assert!(swept.failed.is_empty(), "{swept:?}");
    clock.advance(2 * LONG);
    let request = ClaimRequest {
        items: 100,
        ..ClaimRequest::new(worker("last", "first"))
    };
    loop {
        let leases = store.claim(&request).expect("leases");
        if leases.is_empty() {
            let ahead = store.outlook(&WorkFilter::any()).expect("an outlook");
            assert_eq!(ahead.expires, None, "all leases are over");
            // A pause after a second loss.
            let Some(pause) = ahead.claimable else { break };
            clock.advance(pause);
        }
        for lease in &leases {
            assert_eq!(lease.acquired_at, clock.wall());
            let work = CompleteWork {
                fence: lease.fence,
                result: None,
            };
            store
                .commit(Commit::under(lease).part(work))
                .expect("completed work");
        }
    }
}

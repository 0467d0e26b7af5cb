//! What a claim, a sweep and all between them cost does not depend on how many
//! items wait: the same plans and the same counted steps at 1,000 and at 1,000,000.
//!
//! Steps of SQLite's virtual machine are counted and no time is measured. A look
//! at an index is the same number of them however large the index is; what grows
//! is its depth, by one page for some hundred times as many rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agentos_core::{
    ClaimRequest, Clock, LeaseStorage, Stopwatch, Storage, SystemClock, WorkFilter, Worker,
    WorkerId,
};
use agentos_tests::{at, new_task, task_id};
use rusqlite::{Connection, StatementStatus, ToSql, types::Value};
use tempfile::TempDir;

use crate::alone;

const FEW: u64 = 1_000;
const MANY: u64 = 1_000_000;

/// A file in which so many items wait: five types, seven priorities, half of them of
/// a task, a tenth for later; and above them priorities with work for later alone.
fn waiting(items: u64) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    let store = at(&path);
    store.create_task(new_task("a")).unwrap();
    drop(store);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000;")
        .unwrap();
    let watch = Stopwatch::start();
    let inserted = connection.execute(WAITING, [i64::try_from(items).unwrap()]);
    assert_eq!(inserted.unwrap() as u64, items);
    connection.close().unwrap();
    println!("{items} items made in {:?}", watch.elapsed());
    (directory, path)
}

const WAITING: &str = "
    WITH RECURSIVE
        moment(past, later) AS (SELECT
            strftime('%Y-%m-%d %H:%M:%S.', 'now', '-1 hour'),
            strftime('%Y-%m-%d %H:%M:%S.', 'now', '+1 hour')),
        n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
    INSERT INTO work_items (task_id, work_type, status, priority, max_attempts, available_at,
        created_at, updated_at, payload)
    SELECT CASE i % 2 WHEN 0 THEN 'a' END,
        'type-' || (i % 5),
        'pending',
        CASE WHEN i % 100 = 0 THEN 50 + i / 100 % 3 ELSE i % 7 - 3 END,
        5,
        CASE WHEN i % 10 = 0 THEN later ELSE past END || printf('%06d', i % 1000000),
        past || '000000',
        past || '000000',
        zeroblob(20)
    FROM n, moment";

fn sql(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/store/src/sqlite/sql");
    let path = folder.join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn plan(connection: &Connection, sql: &str) -> String {
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    let nulls = vec![Value::Null; statement.parameter_count()];
    let rows = statement.query_map(rusqlite::params_from_iter(nulls), |row| row.get(3));
    let rows = rows.unwrap().map(Result::unwrap);
    rows.collect::<Vec<String>>().join("; ")
}

/// What a statement did.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cost {
    plan: String,
    /// Rows that it gave or changed.
    rows: usize,
    /// Steps of the virtual machine.
    steps: i32,
    /// Steps over rows without an index, and sorts.
    scanned: i32,
}

/// Runs statements of the store and remembers what each cost.
struct Measured<'c> {
    connection: &'c Connection,
    costs: BTreeMap<String, Cost>,
}

impl Measured<'_> {
    /// Runs the statement of a file; gives the first row that it answers.
    fn run(&mut self, file: &str, parameters: &[(&str, &dyn ToSql)]) -> Option<Vec<Value>> {
        let sql = sql(file);
        let mut statement = self.connection.prepare(&sql).unwrap();
        let columns = statement.column_count();
        let (mut first, mut count) = (None, 0);
        if columns == 0 {
            count = statement.execute(parameters).unwrap();
        } else {
            let mut rows = statement.query(parameters).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let values = (0..columns).map(|column| row.get(column));
                let values: rusqlite::Result<Vec<Value>> = values.collect();
                first.get_or_insert(values.unwrap());
                count += 1;
            }
        }
        let cost = Cost {
            plan: plan(self.connection, &sql),
            rows: count,
            steps: statement.get_status(StatementStatus::VmStep),
            scanned: statement.get_status(StatementStatus::FullscanStep)
                + statement.get_status(StatementStatus::Sort),
        };
        // A statement that is run more than once: the dearest.
        let known = self.costs.entry(file.to_owned()).or_insert(cost.clone());
        if known.steps < cost.steps {
            *known = cost;
        }
        first
    }
}

/// The whole life of an item, as the store runs it, and what is undone at the end:
/// enqueued, found, claimed, renewed, completed; a lease that ran out is found and
/// taken away.
fn costs(path: &Path) -> BTreeMap<String, Cost> {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut measured = Measured {
        connection: &connection,
        costs: BTreeMap::new(),
    };
    let now = SystemClock.wall().to_text();
    let later = SystemClock
        .wall()
        .plus(std::time::Duration::from_secs(30))
        .to_text();
    let none: Option<String> = None;
    measured.run(
        "work/enqueue.sql",
        &[
            (":task", &"a"),
            (":type", &"type-1"),
            (":priority", &0),
            (":key", &"a key"),
            (":max_attempts", &5),
            (":available_at", &now),
            (":now", &now),
            (":payload", &b"payload".to_vec()),
        ],
    );
    measured.run("work/by_key.sql", &[(":key", &"a key")]);
    for of_this_boot in [true, false] {
        // Below each priority that has only work for later, as the claim goes.
        let mut at_most = i64::MAX;
        let item = loop {
            let found = measured
                .run("leases/find_any.sql", &[(":at_most", &at_most)])
                .unwrap();
            let [
                Value::Integer(item),
                Value::Integer(priority),
                Value::Text(at),
            ] = &found[..]
            else {
                panic!("{found:?}")
            };
            if *at <= now {
                break *item;
            }
            at_most = *priority - 1;
        };
        assert_eq!(at_most, 49, "three priorities were passed");
        let of_type: [(&str, &dyn ToSql); 2] = [(":type", &"type-1"), (":at_most", &at_most)];
        measured.run("leases/find_by_type.sql", &of_type);
        let of_task: [(&str, &dyn ToSql); 3] = [
            (":task", &"a"),
            (":type", &"type-1"),
            (":at_most", &at_most),
        ];
        measured.run("leases/find_by_task.sql", &of_task);
        let of_task: [(&str, &dyn ToSql); 2] = [(":task", &"a"), (":after", &"type-1")];
        measured.run("leases/next_type_of_task.sql", &of_task);
        let boot = if of_this_boot { "this boot" } else { "another" };
        measured.run(
            "leases/claim.sql",
            &[
                (":item", &item),
                (":worker", &"w"),
                (":incarnation", &"w-1"),
                (":now", &now),
                (":expires_at", &later),
                (":boot", &boot),
                (":deadline_us", &1000),
            ],
        );
        measured.run(
            "leases/begin_attempt.sql",
            &[
                (":item", &item),
                (":number", &1),
                (":worker", &"w"),
                (":incarnation", &"w-1"),
                (":now", &now),
            ],
        );
        measured.run("leases/held.sql", &[(":item", &item)]);
        measured.run(
            "leases/next_deadline.sql",
            &[(":boot", &"this boot"), (":now_us", &500)],
        );
        measured.run(
            "leases/expired.sql",
            &[
                (":boot", &"this boot"),
                (":now_us", &500),
                (":rows", &16),
                (":skip", &0),
            ],
        );
        if of_this_boot {
            measured.run(
                "leases/renew.sql",
                &[
                    (":item", &item),
                    (":token", &1),
                    (":expires_at", &later),
                    (":boot", &boot),
                    (":deadline_us", &2000),
                ],
            );
            measured.run(
                "leases/end.sql",
                &[
                    (":item", &item),
                    (":token", &1),
                    (":to", &"succeeded"),
                    (":attempts", &1),
                    (":available_at", &none),
                    (":error", &none),
                    (":result", &b"result".to_vec()),
                    (":now", &now),
                ],
            );
        } else {
            measured.run(
                "leases/end_expired.sql",
                &[
                    (":item", &item),
                    (":token", &1),
                    (":to", &"pending"),
                    (":available_at", &now),
                    (":error", &"lost"),
                    (":now", &now),
                    (":boot", &"this boot"),
                    (":now_us", &500),
                ],
            );
        }
        measured.run(
            "leases/end_attempt.sql",
            &[
                (":item", &item),
                (":number", &1),
                (":outcome", &"released"),
                (":error", &none),
                (":now", &now),
            ],
        );
    }
    let costs = measured.costs;
    connection.execute_batch("ROLLBACK").unwrap();
    connection.close().unwrap();
    costs
}

/// What a claim through the port takes, in all its parts.
fn claim(path: &Path) -> std::time::Duration {
    let store = at(path);
    let worker = Worker::start(WorkerId::new("w").unwrap());
    let mut claims: Vec<_> = (0..50)
        .map(|_| {
            let watch = Stopwatch::start();
            let lease = store
                .claim(&ClaimRequest::new(worker.clone()))
                .unwrap()
                .pop();
            let took = watch.elapsed();
            let lease = lease.unwrap();
            assert_eq!((lease.priority, lease.fence.token.get()), (3, 1));
            took
        })
        .collect();
    let of_task = ClaimRequest {
        filter: WorkFilter::types(["type-1", "type-2"]).of_task(task_id("a")),
        items: 10,
        ..ClaimRequest::new(worker)
    };
    assert_eq!(store.claim(&of_task).unwrap().len(), 10);
    claims.sort_unstable();
    claims[claims.len() / 2]
}

/// Goal: a claim costs the same at a million items as at a thousand. Method: every
/// statement between enqueuing and the end of a lease is explained, run and counted
/// on both files, before and after the planner got statistics of them.
#[test]
fn a_claim_is_the_same_index_probe_at_a_thousand_and_at_a_million() {
    let _alone = alone();
    let ((_few, few), (_many, many)) = (waiting(FEW), waiting(MANY));
    let small = costs(&few);
    let large = costs(&many);
    for (file, cost) in &small {
        println!(
            "{file}: {} steps, {} rows: {}",
            cost.steps, cost.rows, cost.plan
        );
        for slow in ["SCAN work", "SCAN checkpoints", "SCAN tasks", "TEMP B-TREE"] {
            assert!(!cost.plan.contains(slow), "{file}: {}", cost.plan);
        }
        assert_eq!(cost.scanned, 0, "{file}");
        assert_eq!(large.get(file), Some(cost), "{file}");
    }
    let probe = |file: &str| small[file].plan.clone();
    for (file, index) in [
        ("leases/find_any.sql", "idx_work_items_status_priority"),
        ("leases/find_by_type.sql", "idx_work_items_due"),
        ("leases/find_by_task.sql", "idx_work_items_task_due"),
        ("leases/expired.sql", "idx_work_items_deadline"),
    ] {
        let plan = probe(file);
        assert!(plan.contains(index), "{file}: {plan}");
    }
    for path in [&few, &many] {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch("PRAGMA analysis_limit = 1000; ANALYZE;")
            .unwrap();
        connection.close().unwrap();
    }
    assert_eq!(costs(&few), small, "statistics change nothing");
    assert_eq!(costs(&many), small, "statistics change nothing");
    println!(
        "a claim: {:?} of {FEW}, {:?} of {MANY}",
        claim(&few),
        claim(&many)
    );
}

/// The canary of the test above: without its index a claim costs what there is.
#[test]
fn a_missing_index_is_counted() {
    let _alone = alone();
    let (_directory, path) = waiting(10 * FEW);
    let connection = Connection::open(&path).unwrap();
    let mut measured = Measured {
        connection: &connection,
        costs: BTreeMap::new(),
    };
    // The bound of the id would let SQLite walk the table by its key, which it does not
    // count as a scan.
    let unindexed = sql("leases/find_any.sql")
        .replace("INDEXED BY", "NOT INDEXED --")
        .replace("AND work_item_id > 0", "");
    let mut statement = connection.prepare(&unindexed).unwrap();
    statement
        .query_row(&[(":at_most", &i64::MAX)], |_| Ok(()))
        .unwrap();
    let scanned = statement.get_status(StatementStatus::FullscanStep);
    let steps = statement.get_status(StatementStatus::VmStep);
    measured.run("leases/find_any.sql", &[(":at_most", &i64::MAX)]);
    let indexed = &measured.costs["leases/find_any.sql"];
    assert!(FEW < scanned.unsigned_abs().into(), "{scanned}");
    assert!(
        100 * indexed.steps < steps,
        "{indexed:?}, {steps} without it"
    );
}

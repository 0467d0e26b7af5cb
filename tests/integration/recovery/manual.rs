//! The statements of the operators' manual: each runs as it stands there, and those
//! about work give true answers.

use std::time::Duration;

use agentos_core::{
    ClaimRequest, Commit, FailWork, LeaseStorage, NewWorkItem, Retry, Storage, WorkFilter,
    WorkItemStatus,
};
use agentos_tests::{at, new_task, task_id};
use rusqlite::Connection;
use rusqlite::types::Value;

use super::{LEASE, Shared, held, worker};

const MANUAL: &str = include_str!("../../../docs/OPERATIONS.md");

/// The statements of the manual, in order.
fn statements() -> Vec<String> {
    let blocks = MANUAL.split("```sql").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    let uncommented = blocks.flat_map(str::lines).map(|line| {
        let code = line.split("--").next().unwrap();
        format!("{}\n", code.trim())
    });
    let all: String = uncommented.collect();
    let statements = all.split(';').map(str::trim);
    statements
        .filter(|statement| !statement.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Every row that a statement answers.
fn rows(connection: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = connection.prepare(sql).unwrap_or_else(|error| {
        panic!("{sql}: {error}");
    });
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect());
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

/// Goal: what an operator copies from the manual works. Method: a file with items
/// that are held, lost for good, and dead by their handler's word; all statements
/// are run on it at rest; then it is opened again.
#[test]
fn the_statements_of_the_manual_run_and_tell_the_truth() {
    let shared = Shared::new();
    let store = &*shared.store;
    let lost = held(store, 2, worker("w", 1));
    for attempt in 1..=5 {
        assert_eq!(shared.sweep(10).unwrap().recovered, 0);
        shared.clock.advance(3600 * LEASE); // beyond each pause
        let swept = shared.sweep(10).unwrap();
        assert_eq!(
            (swept.recovered, swept.dead_lettered),
            (2, 2 * u64::from(attempt == 5))
        );
        shared.clock.advance(3600 * LEASE);
        let again = ClaimRequest {
            items: 2,
            lease: LEASE,
            ..ClaimRequest::new(worker("w", attempt + 1))
        };
        store.claim(&again).unwrap();
    }
    store.create_task(new_task("b")).unwrap();
    let new = |work_type: &str| NewWorkItem::new(work_type).task(task_id("b"));
    store
        .commit(Commit::new().part(new("mail")).part(new("page")))
        .unwrap();
    let claim = |work_type: &str| {
        let request = ClaimRequest {
            filter: WorkFilter::types([work_type]),
            ..ClaimRequest::new(worker("w", 9))
        };
        store.claim(&request).unwrap().pop().unwrap()
    };
    let fail = FailWork {
        fence: claim("mail").fence,
        reason: "no such address".into(),
        retry: Retry::Never,
    };
    store.commit(fail.into()).unwrap();
    let holding = claim("page");
    let path = store.path().to_path_buf();
    store.close();
    let connection = Connection::open(&path).unwrap();
    let found: Vec<_> = statements()
        .into_iter()
        .map(|sql| {
            let rows = rows(&connection, &sql);
            (sql, rows)
        })
        .collect();
    let answer = |word: &str| {
        let mut answers = found.iter().filter(|(sql, _)| sql.contains(word));
        let answer = answers.next().unwrap_or_else(|| panic!("{word} is gone"));
        assert!(answers.next().is_none(), "{word} stands twice");
        &answer.1
    };
    let text = |text: &str| Value::Text(text.into());
    let stuck = answer("ORDER BY lease_expires_at");
    assert_eq!((stuck.len(), stuck[0].len()), (1, 8));
    assert_eq!(stuck[0][0], Value::Integer(holding.fence.item.get()));
    assert_eq!(stuck[0][3], text("w"));
    let dead = answer("JOIN work_attempts");
    let groups: Vec<_> = dead.iter().map(|row| row[..3].to_vec()).collect();
    let group =
        |work_type, outcome, items| vec![text(work_type), text(outcome), Value::Integer(items)];
    assert_eq!(
        groups,
        [group("page", "expired", 2), group("mail", "failed", 1)]
    );
    assert_eq!(dead[1][4], text("no such address"));
    connection.close().unwrap();
    // The last of them took the type `page` out of the dead letter.
    let store = at(&path);
    for lease in &lost {
        let item = store.work_item(lease.fence.item).unwrap().unwrap().summary;
        assert_eq!((item.status, item.attempts), (WorkItemStatus::Pending, 0));
        assert_eq!(store.attempts(item.id).unwrap().len(), 5);
    }
    let request = ClaimRequest {
        items: 3,
        lease: Duration::from_secs(60),
        ..ClaimRequest::new(worker("w", 10))
    };
    let claimed = store.claim(&request).unwrap();
    // With them the one whose lease of long ago has run out.
    let mut tokens: Vec<_> = claimed
        .iter()
        .map(|lease| lease.fence.token.get())
        .collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [2, 6, 6]);
}

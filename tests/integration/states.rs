//! The three state machines: the database accepts exactly the transitions that
//! core knows, whoever asks, and tasks move through the store with an audit
//! line for each step.

use agentos_core::records::audit::{TASK_CREATED, TASK_STATUS};
use agentos_core::{
    Commit, KeyStatus, NewTask, PartOutcome, SetTaskStatus, Storage, StorageError, Task, TaskId,
    TaskStatus, TaskStorage, WorkItemStatus,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{append, config, fresh, manual_clock, new_task, task_id};
use rusqlite::{Connection, named_params};
use serde_json::{Value, json};

/// A state machine as core knows it, and how its rows are made and moved in SQL.
struct Machine {
    table: &'static str,
    states: Vec<&'static str>,
    initial: &'static str,
    can_become: fn(&str, &str) -> bool,
    insert: &'static str,
    /// Changes the status to `:to`, and whatever has to change with it.
    update: &'static str,
}

const NOW: &str = "2026-01-29 00:00:01.000042";

macro_rules! machine {
    ($status:ident, $table:literal, $insert:literal, $update:literal) => {
        Machine {
            table: $table,
            states: $status::ALL.iter().map(|status| status.as_str()).collect(),
            initial: $status::INITIAL.as_str(),
            can_become: |from, to| {
                let parse = |word| $status::parse(word).unwrap();
                parse(from).can_become(parse(to))
            },
            insert: $insert,
            update: $update,
        }
    };
}

fn machines() -> [Machine; 3] {
    [
        machine!(
            TaskStatus,
            "tasks",
            "INSERT INTO tasks (task_id, task_type, status, created_at, updated_at)
             VALUES ('a', 'test', :status, :now, :now)",
            "UPDATE tasks SET status = :to, updated_at = :now"
        ),
        machine!(
            WorkItemStatus,
            "work_items",
            "INSERT INTO work_items (work_type, status, max_attempts, available_at, created_at,
                updated_at, lease_holder, lease_incarnation, lease_acquired_at, lease_expires_at,
                lease_boot_id, lease_deadline_us)
             SELECT 'test', :status, 3, :now, :now, :now, held, held, moment, moment, held, number
             FROM (SELECT iif(:status = 'in_progress', 'me', NULL) AS held,
                          iif(:status = 'in_progress', :now, NULL) AS moment,
                          iif(:status = 'in_progress', 1, NULL) AS number)",
            "UPDATE work_items SET status = :to, updated_at = :now,
                lease_token = lease_token + (:to = 'in_progress'),
                lease_holder = iif(:to = 'in_progress', 'me', NULL),
                lease_incarnation = iif(:to = 'in_progress', 'me', NULL),
                lease_acquired_at = iif(:to = 'in_progress', :now, NULL),
                lease_expires_at = iif(:to = 'in_progress', :now, NULL),
                lease_boot_id = iif(:to = 'in_progress', 'boot', NULL),
                lease_deadline_us = iif(:to = 'in_progress', 1, NULL)"
        ),
        machine!(
            KeyStatus,
            "idempotency_keys",
            "INSERT INTO idempotency_keys (idempotency_key, status, request_digest, created_at,
                updated_at, used_at, token, owner, owner_incarnation, lease_expires_at,
                lease_boot_id, lease_deadline_us, outcome, outcome_bytes, seal)
             SELECT 'llm-cache:a', :status, zeroblob(32), :now, :now, :now, 1, held, held,
                iif(:status = 'pending', :now, NULL), held, iif(:status = 'pending', 1, NULL),
                iif(:status = 'pending', NULL, x''), iif(:status = 'pending', NULL, 0),
                iif(:status = 'pending', NULL, zeroblob(32))
             FROM (SELECT iif(:status = 'pending', 'me', NULL) AS held)",
            "UPDATE idempotency_keys SET status = :to, updated_at = :now,
                token = token + (:to = 'pending'),
                owner = iif(:to = 'pending', 'me', NULL),
                owner_incarnation = iif(:to = 'pending', 'me', NULL),
                lease_expires_at = iif(:to = 'pending', :now, NULL),
                lease_boot_id = iif(:to = 'pending', 'boot', NULL),
                lease_deadline_us = iif(:to = 'pending', 1, NULL),
                outcome = iif(:to = 'pending', NULL, x''),
                outcome_bytes = iif(:to = 'pending', NULL, 0),
                seal = iif(:to = 'pending', NULL, zeroblob(32))"
        ),
    ]
}

impl Machine {
    fn insert(&self, connection: &Connection, status: &str) -> rusqlite::Result<usize> {
        connection.execute(
            self.insert,
            named_params! { ":status": status, ":now": NOW },
        )
    }

    fn update(&self, connection: &Connection, to: &str) -> rusqlite::Result<usize> {
        connection.execute(self.update, named_params! { ":to": to, ":now": NOW })
    }

    /// The shortest way from the initial state, found in core's rules.
    fn way_to(&self, target: &str) -> Vec<&'static str> {
        let mut ways = vec![vec![self.initial]];
        loop {
            if let Some(way) = ways.iter().find(|way| way.last() == Some(&target)) {
                return way[1..].to_vec();
            }
            ways = ways
                .iter()
                .flat_map(|way| {
                    let from = way[way.len() - 1];
                    let nexts = self.states.iter().filter(|to| (self.can_become)(from, to));
                    nexts.map(|to| [way.as_slice(), &[*to]].concat())
                })
                .collect();
            assert!(ways[0].len() <= self.states.len(), "no way to {target}");
        }
    }
}

/// Goal: the rules stand in core once, and no shell can break them. Method: for
/// every pair of states, lead a row to the first by legal steps, with foreign
/// keys off, and try the second.
#[test]
fn the_database_accepts_exactly_the_transitions_that_core_knows() {
    let (_directory, path) = fresh().shut();
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch("PRAGMA foreign_keys = OFF")
        .unwrap();
    let mut pairs = 0;
    for machine in machines() {
        for from in &machine.states {
            for to in &machine.states {
                connection.execute_batch("BEGIN").unwrap();
                machine.insert(&connection, machine.initial).unwrap();
                for step in machine.way_to(from) {
                    machine.update(&connection, step).unwrap();
                }
                let answer = machine.update(&connection, to);
                // To the state it is in already is no transition: nothing moves.
                let legal = from == to || (machine.can_become)(from, to);
                assert_eq!(
                    answer.is_ok(),
                    legal,
                    "{}: {from} to {to}: {answer:?}",
                    machine.table
                );
                connection.execute_batch("ROLLBACK").unwrap();
                pairs += 1;
            }
        }
    }
    assert_eq!(pairs, 25 + 25 + 9);
}

#[test]
fn rows_begin_in_the_initial_state_and_in_no_other() {
    let (_directory, path) = fresh().shut();
    let connection = Connection::open(path).unwrap();
    for machine in machines() {
        for status in machine.states.iter().copied().chain(["", "Running"]) {
            connection.execute_batch("BEGIN").unwrap();
            let answer = machine.insert(&connection, status);
            assert_eq!(
                answer.is_ok(),
                status == machine.initial,
                "{}: {status:?}: {answer:?}",
                machine.table
            );
            connection.execute_batch("ROLLBACK").unwrap();
        }
    }
}

#[test]
fn a_fencing_token_and_a_sequence_counter_never_go_back() {
    let store = fresh();
    store.create_task(new_task("a")).unwrap();
    store.commit(append("a", "state").into()).unwrap();
    let (_directory, path) = store.shut();
    let connection = Connection::open(path).unwrap();
    let [_, items, _] = machines();
    items.insert(&connection, "pending").unwrap();
    connection
        .execute("UPDATE work_items SET lease_token = 5", [])
        .unwrap();
    for refused in [
        "UPDATE work_items SET lease_token = 4",
        "UPDATE checkpoint_counters SET last_sequence = 1",
        "UPDATE checkpoint_counters SET last_sequence = 0",
    ] {
        assert!(connection.execute(refused, []).is_err(), "{refused}");
    }
}

/// Goal: the store moves a task as core's rules say, for each pair, and writes
/// one audit line a step with the reason, in order.
#[test]
fn tasks_move_through_the_store_with_an_audit_line_a_step() {
    let directory = tempfile::tempdir().unwrap();
    let clock = manual_clock();
    let path = directory.path().join("agent.db");
    let store = SqliteStore::open(config(&path).clock(clock.clone())).unwrap();
    let [machine, ..] = machines();
    for from in TaskStatus::ALL {
        for to in TaskStatus::ALL {
            let id = format!("{from} to {to}");
            store.create_task(new_task(&id)).unwrap();
            let mut steps = vec![(TASK_CREATED, None, "created".to_string(), None)];
            let mut at_state = TaskStatus::INITIAL;
            for step in machine.way_to(from.as_str()) {
                clock.advance(std::time::Duration::from_secs(1));
                let step = TaskStatus::parse(step).unwrap();
                let change = SetTaskStatus::new(task_id(&id), step).reason("on the way");
                let receipt = store.commit(change.into()).unwrap();
                let outcome = PartOutcome::TaskStatusSet {
                    from: at_state,
                    to: step,
                };
                assert_eq!(receipt.outcomes, [outcome]);
                steps.push((
                    TASK_STATUS,
                    Some(at_state.to_string()),
                    step.to_string(),
                    Some("on the way".to_string()),
                ));
                at_state = step;
            }
            let answer = store.commit(SetTaskStatus::new(task_id(&id), *to).into());
            let task = store.task(&task_id(&id)).unwrap().unwrap();
            if from.can_become(*to) {
                answer.unwrap();
                assert_eq!(task.status, *to);
                steps.push((TASK_STATUS, Some(from.to_string()), to.to_string(), None));
            } else {
                let Err(StorageError::IllegalTransition { from: f, to: t, .. }) = answer else {
                    panic!("{id}: {answer:?}")
                };
                assert_eq!((f, t), (from.as_str(), to.as_str()));
                assert_eq!(task.status, *from);
            }
            let audits = store.audits(&task.id, None, 100).unwrap().items;
            let found: Vec<_> = audits
                .iter()
                .map(|line| {
                    let to = line.to.clone().unwrap();
                    (
                        line.event.as_str(),
                        line.from.clone(),
                        to,
                        line.reason.clone(),
                    )
                })
                .collect();
            assert_eq!(found, steps);
            assert!(audits.is_sorted_by_key(|line| line.created_at));
            assert_eq!(audits.last().unwrap().created_at, task.updated_at);
        }
    }
}

#[test]
fn the_same_task_twice_is_one_task_and_another_of_its_id_a_conflict() {
    let store = fresh();
    let task = NewTask::new(task_id("a"), "test").metadata(json!({"x": [1, 0.1, "é"]}));
    let first = store.create_task(task.clone()).unwrap();
    assert_eq!(store.create_task(task.clone()).unwrap(), first);
    // Also once it has moved on.
    store
        .commit(SetTaskStatus::new(task_id("a"), TaskStatus::Running).into())
        .unwrap();
    let again = store.create_task(task.clone()).unwrap();
    assert_eq!(again.status, TaskStatus::Running);
    for other in [
        task.clone().metadata(Value::Null),
        task.clone().metadata(json!({"x": [1, 0.2, "é"]})),
        NewTask::new(task_id("a"), "other").metadata(task.metadata.clone()),
    ] {
        let answer = store.create_task(other);
        assert!(
            matches!(answer, Err(StorageError::Conflict { what: "task", .. })),
            "{answer:?}"
        );
    }
    assert_eq!(
        store.audits(&task_id("a"), None, 10).unwrap().items.len(),
        2
    );
}

/// Goal: a list shown page by page has every row once, also when rows are added
/// and leave the state in between.
#[test]
fn lists_are_paged_without_gaps_and_repetitions() {
    let store = fresh();
    let ids: Vec<TaskId> = (0..25).map(|n| task_id(&format!("task-{n}"))).collect();
    for id in &ids {
        store.create_task(NewTask::new(id.clone(), "test")).unwrap();
    }
    for rows in [1, 7, 25, 26] {
        let (mut seen, mut after): (Vec<Task>, _) = (Vec::new(), None);
        loop {
            let page = store.tasks(TaskStatus::Created, after, rows).unwrap();
            assert!(page.items.len() <= rows as usize);
            seen.extend(page.items);
            assert!(seen.len() <= ids.len(), "the list does not end");
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert!(
            seen.iter().map(|task| &task.id).eq(&ids),
            "{rows} rows a page"
        );
    }
    let first = store.tasks(TaskStatus::Created, None, 10).unwrap();
    store
        .commit(
            Commit::new()
                .part(SetTaskStatus::new(ids[9].clone(), TaskStatus::Running))
                .part(new_task("newcomer")),
        )
        .unwrap();
    let rest = store.tasks(TaskStatus::Created, first.next, 100).unwrap();
    let rest: Vec<_> = rest.items.into_iter().map(|task| task.id).collect();
    assert_eq!(rest.len(), 16);
    assert_eq!((&rest[0], &rest[15]), (&ids[10], &task_id("newcomer")));
    assert!(matches!(
        store.tasks(TaskStatus::Created, None, 1001),
        Err(StorageError::LimitExceeded(_))
    ));
}

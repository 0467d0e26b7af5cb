//! A death at every point of a claim, a renewal, a sweep and of everything that
//! ends a lease: what is left is wholly what was before, or wholly what an
//! undisturbed process leaves, row by row; and the work is finished by others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use agentos_core::{LeaseStorage, WorkItemStatus};
use agentos_tests::{
    LEASE_ACTIONS, Victim, copy_database, disagreements, finish_work, lease_action, lease_rows,
    leased_clock, leased_file, open_leased,
};
use rusqlite::Connection;

use crate::VICTIM;

type Rows = BTreeMap<&'static str, Vec<String>>;

fn leased() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    leased_file(&path);
    assert_eq!(disagreements(&path), [""; 0]);
    (directory, path)
}

/// The points that an undisturbed process passes, and what it says then.
fn undisturbed(action: &str, path: &Path) -> (Vec<String>, String) {
    let arguments = ["lease", path.to_str().unwrap(), action];
    let (points, mut words) = Victim::points(VICTIM, arguments);
    (points, words.pop().unwrap())
}

/// The rows that are in one of the two only.
fn changes(expected: &Rows, found: &Rows) -> Vec<String> {
    let all = |rows: &Rows| -> BTreeSet<String> {
        rows.iter()
            .flat_map(|(table, rows)| rows.iter().map(move |row| format!("{table}: {row}")))
            .collect()
    };
    let (expected, found) = (all(expected), all(found));
    let missing = expected.difference(&found).map(|row| format!("- {row}"));
    let unexpected = found.difference(&expected).map(|row| format!("+ {row}"));
    missing.chain(unexpected).collect()
}

/// What each action does to the file when nobody dies: so that "after" means
/// something, and not just what some action happened to do.
#[test]
fn each_action_does_what_its_name_says() {
    let before = "pending 3, in_progress 5, succeeded 0, failed 0, cancelled 0";
    for (action, said, states) in [
        (
            "claim",
            "claim: [(6, 1), (1, 2), (3, 2)]",
            "pending 2, in_progress 5, succeeded 0, failed 1, cancelled 0",
        ),
        ("renew", "renew: 2 of 2", before),
        (
            "sweep",
            "sweep: 3 of 3",
            "pending 5, in_progress 2, succeeded 0, failed 1, cancelled 0",
        ),
        (
            "give-up",
            "give-up: 2 of 2",
            "pending 5, in_progress 3, succeeded 0, failed 0, cancelled 0",
        ),
        (
            "complete",
            "complete: 3 parts",
            "pending 4, in_progress 4, succeeded 1, failed 0, cancelled 0",
        ),
        (
            "fail",
            "fail: 1 parts",
            "pending 4, in_progress 4, succeeded 0, failed 0, cancelled 0",
        ),
        (
            "bury",
            "bury: 1 parts",
            "pending 3, in_progress 4, succeeded 0, failed 1, cancelled 0",
        ),
        (
            "release",
            "release: 1 parts",
            "pending 4, in_progress 4, succeeded 0, failed 0, cancelled 0",
        ),
        (
            "cancel",
            "cancel: 1 parts",
            "pending 3, in_progress 4, succeeded 0, failed 0, cancelled 1",
        ),
    ] {
        let (_directory, path) = leased();
        let rows = lease_rows(&path);
        let store = open_leased(&path, &leased_clock());
        assert_eq!(lease_action(&store, action), said);
        let counts = store.count_work_items().unwrap();
        let counts: Vec<String> = WorkItemStatus::ALL
            .iter()
            .map(|status| format!("{status} {}", counts[status]))
            .collect();
        assert_eq!(counts.join(", "), states, "after {action}");
        drop(store);
        assert_ne!(lease_rows(&path), rows, "{action} changes the file");
        assert_eq!(disagreements(&path), [""; 0], "after {action}");
    }
}

/// Goal: whoever dies in the middle of taking, keeping, ending or sweeping a lease
/// leaves no half of it: item, attempt, audit line and error boundary agree. Method:
/// a dry run counts the points that an action passes; a process dies at each, by
/// SIGKILL, on a copy of a file whose clock stands still. Before COMMIT has returned
/// every row is as it was, afterwards every row is as an undisturbed process leaves
/// it. Then others do the action, where it is not done, and all the work.
#[test]
fn a_death_while_a_lease_changes_hands_leaves_all_of_the_change_or_none() {
    let (_directory, path) = leased();
    let before = lease_rows(&path);
    let mut deaths: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for action in LEASE_ACTIONS {
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = copy_database(&path, elsewhere.path());
        let (points, said) = undisturbed(action, &copy);
        let after = lease_rows(&copy);
        assert_ne!(before, after, "{action}");
        for point in points {
            let point = point.as_str();
            let elsewhere = tempfile::tempdir().unwrap();
            let copy = copy_database(&path, elsewhere.path());
            let arguments = [point, "1", "lease", copy.to_str().unwrap(), action];
            let words = Victim::start(VICTIM, "kill-at", arguments).dies();
            assert_eq!(words, [""; 0], "{action} at {point}");
            deaths.entry(point.to_owned()).or_default().push(action);

            let clock = leased_clock();
            let store = open_leased(&copy, &clock);
            assert!(store.check_integrity().unwrap().is_sound());
            let committed = point == "store.after_commit";
            let expected = if committed { &after } else { &before };
            let found = changes(expected, &lease_rows(&copy));
            assert_eq!(found, [""; 0], "{action}, killed at {point}");
            assert_eq!(disagreements(&copy), [""; 0], "{action} at {point}");
            if !committed {
                assert_eq!(lease_action(&store, action), said);
                let found = changes(&after, &lease_rows(&copy));
                assert_eq!(found, [""; 0], "{action} after {point}");
            }
            finish_work(&store, &clock);
            assert_finished(&store, action);
            drop(store);
            assert_eq!(disagreements(&copy), [""; 0], "{action} at {point}");
        }
    }
    let sweeps = ["claim", "sweep", "give-up"];
    let expected: [(&str, &[&str]); 11] = [
        ("checkpoint.appended", &["complete"]),
        ("lease.claimed", &["claim"]),
        ("lease.renewed", &["renew"]),
        ("store.after_commit", &LEASE_ACTIONS),
        ("store.before_commit", &LEASE_ACTIONS),
        ("sweep.recovered", &sweeps),
        ("work.cancelled", &["cancel"]),
        ("work.completed", &["complete"]),
        ("work.enqueued", &["complete"]),
        ("work.failed", &["fail", "bury"]),
        ("work.released", &["release"]),
    ];
    let deaths: Vec<(&str, &[&str])> = deaths
        .iter()
        .map(|(point, actions)| (point.as_str(), actions.as_slice()))
        .collect();
    assert_eq!(deaths, expected);
}

/// Every item that can succeed has.
fn assert_finished(store: &impl LeaseStorage, action: &str) {
    let mut counts = store.count_work_items().unwrap();
    counts.retain(|_, count| *count > 0);
    // Item 2 had one attempt, and it was lost.
    let mut expected =
        BTreeMap::from([(WorkItemStatus::Failed, 1), (WorkItemStatus::Succeeded, 7)]);
    let mut ends_as = |status| {
        *expected.entry(status).or_default() += 1;
        *expected.entry(WorkItemStatus::Succeeded).or_default() -= 1;
    };
    match action {
        "bury" => ends_as(WorkItemStatus::Failed),
        "cancel" => ends_as(WorkItemStatus::Cancelled),
        // It enqueued another.
        "complete" => *expected.entry(WorkItemStatus::Succeeded).or_default() += 1,
        _ => {}
    }
    assert_eq!(counts, expected, "{action}");
}

/// The canary of the comparison between the tables: each way in which half of a
/// change could be left, made by hand.
#[test]
fn half_a_change_is_noticed() {
    let (_directory, path) = leased();
    drop(lease_action(&open_leased(&path, &leased_clock()), "sweep"));
    for (change, complaint) in [
        (
            "DELETE FROM work_attempts WHERE work_item_id = 4",
            "4 is held, and its attempt is not open",
        ),
        (
            "UPDATE work_attempts SET outcome = NULL, ended_at = NULL, error = NULL
             WHERE work_item_id = 1",
            "1 has an open attempt that is not its lease",
        ),
        (
            "UPDATE work_items SET lease_token = 2 WHERE work_item_id = 6",
            "6 has another number of attempts than of claims",
        ),
        (
            "UPDATE work_items SET attempts = 0 WHERE work_item_id = 1",
            "1 counts its attempts wrongly",
        ),
        (
            "UPDATE work_items SET losses = 0 WHERE work_item_id = 1",
            "1 counts its losses wrongly",
        ),
        (
            "UPDATE work_items SET last_error = NULL WHERE work_item_id = 3",
            "3 has another error than its newest failure",
        ),
        (
            "UPDATE work_items SET status = 'succeeded', lease_holder = NULL,
                 lease_incarnation = NULL, lease_acquired_at = NULL, lease_expires_at = NULL,
                 lease_boot_id = NULL, lease_deadline_us = NULL WHERE work_item_id = 4",
            "4 succeeded without one winning attempt, its newest",
        ),
        (
            "DELETE FROM task_audits WHERE detail ->> 'work_item' = 3",
            "3 lost a lease without one line that says so",
        ),
        (
            "DELETE FROM checkpoints WHERE metadata ->> 'work_item' = 2",
            "2 lost a lease, and its task's history does not say so once",
        ),
        (
            "DELETE FROM work_attempts WHERE work_item_id = 2",
            "2 is said to have lost a lease that it did not lose",
        ),
        (
            "DELETE FROM checkpoints WHERE sequence_number = 1",
            "1 is the key of a task whose numbers have a gap",
        ),
    ] {
        assert_eq!(disagreements(&path), [""; 0]);
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = copy_database(&path, elsewhere.path());
        let connection = Connection::open(&copy).unwrap();
        let changed = connection.execute(change, []).unwrap();
        assert_eq!(changed, 1, "{change}");
        connection.close().unwrap();
        let found = disagreements(&copy);
        assert!(
            found.iter().any(|what| what == complaint),
            "{complaint:?} was not noticed: {found:?}"
        );
    }
}

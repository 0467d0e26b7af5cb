//! Keys among many processes: one executes, the others replay; and a death at every
//! point at which a key changes leaves it absent, pending or recorded, and nothing of
//! what was to be committed with it by halves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agentos_core::{Begun, KeyStatus, KeyStorage};
use agentos_tests::{
    Gate, KEY_ACTIONS, Victim, at, begin_key, copy_database, key_action, keyed_file, lease_rows,
    leased_clock, open_leased,
};

use crate::VICTIM;

const PROCESSES: usize = 8;
const THREADS: usize = 8;
const KEYS: usize = 5;

/// Goal: of callers in any number of threads and processes one executes, and all
/// others get what it recorded. Method: 8 processes of 8 threads each ask for the same
/// five keys, begun at one instant.
#[test]
fn of_many_processes_and_threads_one_executes() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("agent.db");
    drop(at(&database));
    let gate = Gate::closed(&directory.path().join("gate"));
    let mut victims: Vec<Victim> = (0..PROCESSES)
        .map(|process| {
            let database = database.to_str().unwrap().to_owned();
            let (threads, keys) = (THREADS.to_string(), KEYS.to_string());
            let name = format!("process-{process}");
            let gate = gate.path().to_owned();
            Victim::start(VICTIM, "once", [database, gate, threads, keys, name])
        })
        .collect();
    for victim in &mut victims {
        victim.expect("ready");
    }
    gate.open();
    let mut executed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut replayed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in victims.into_iter().flat_map(Victim::finish) {
        let (what, rest) = line.split_once(' ').unwrap();
        let (key, outcome) = rest.rsplit_once(' ').unwrap();
        let told = match what {
            "executed" => &mut executed,
            "replayed" => &mut replayed,
            _ => panic!("{line}"),
        };
        told.entry(key.into()).or_default().push(outcome.into());
    }
    let store = at(&database);
    for number in 0..KEYS {
        let key = format!("key {number}");
        let [owner] = &executed[&key][..] else {
            panic!("{key} was executed by {:?}", executed[&key])
        };
        assert_eq!(replayed[&key].len(), PROCESSES * THREADS - 1, "{key}");
        assert!(replayed[&key].iter().all(|outcome| outcome == owner));
        let entry = store.find_key(&begin_key(&key, "x").key).unwrap().unwrap();
        assert_eq!(entry.outcome.as_deref(), Some(owner.as_bytes()));
        assert_eq!(entry.summary.token.get(), 1, "{key}");
    }
    assert_eq!((executed.len(), replayed.len()), (KEYS, KEYS));
}

fn keyed() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    keyed_file(&path);
    (directory, path)
}

/// State of each key: whether it is pending, in doubt or recorded, and as what.
fn states(path: &Path) -> BTreeMap<String, String> {
    let store = open_leased(path, &leased_clock());
    let page = store.keys(&Default::default(), None, 1000).unwrap();
    let state = |summary: agentos_core::KeySummary| {
        let entry = store.find_key(&summary.key).unwrap().unwrap();
        let state = match (summary.view.status, &summary.view.permit) {
            (KeyStatus::Pending, Some(holder)) if holder.left.is_some() => "pending".into(),
            (KeyStatus::Pending, Some(_)) => "in doubt".into(),
            (status, None) => {
                format!(
                    "{status} {}",
                    String::from_utf8(entry.outcome.unwrap()).unwrap()
                )
            }
            other => panic!("{other:?}"),
        };
        (summary.key.to_string(), state)
    };
    page.items.into_iter().map(state).collect()
}

/// What each action does when nobody dies: so that "after" means something.
#[test]
fn each_action_does_what_its_name_says() {
    let (_directory, path) = keyed();
    let before = states(&path);
    let expected = [
        ("failed", "failed no"),
        ("held", "pending"),
        ("lost", "in doubt"),
        ("recorded", "succeeded yes"),
        ("under", "pending"),
    ];
    let owned = |(key, state): (&str, &str)| (key.to_owned(), state.to_owned());
    assert_eq!(before, expected.map(owned).into());
    for (action, key, state) in [
        ("begin", "new", Some("pending")),
        ("begin-again", "recorded", Some("pending")),
        ("take-over", "lost", Some("pending")),
        ("renew", "lost", Some("pending")),
        ("finish", "held", Some("succeeded answer")),
        ("finish-step", "under", Some("succeeded answer")),
        ("abandon", "held", None),
        ("doubt", "held", Some("in doubt")),
        ("resolve", "lost", Some("succeeded answer")),
        ("remove", "failed", None),
        ("touch", "recorded", Some("succeeded yes")),
    ] {
        let (_directory, path) = keyed();
        let rows = lease_rows(&path);
        key_action(&open_leased(&path, &leased_clock()), action);
        assert_ne!(lease_rows(&path), rows, "{action} changes the file");
        let mut expected = before.clone();
        match state {
            Some(state) => expected.insert(key.into(), state.into()),
            None => expected.remove(key),
        };
        if action == "remove" {
            expected.remove("recorded");
        }
        assert_eq!(states(&path), expected, "{action}");
    }
}

/// Goal: whoever dies while a key changes leaves all of the change or none. Method: a
/// dry run counts the points that an action passes; a process dies at each, by SIGKILL,
/// on a copy of a file whose clock stands still. Before COMMIT has returned every row
/// is as it was, afterwards every row is as an undisturbed process leaves it; and where
/// it is not done, another does it.
#[test]
fn a_death_while_a_key_changes_leaves_all_of_the_change_or_none() {
    let (_directory, path) = keyed();
    let before = lease_rows(&path);
    let mut deaths: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for action in KEY_ACTIONS {
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = copy_database(&path, elsewhere.path());
        let arguments = ["key", copy.to_str().unwrap(), action];
        let (points, said) = Victim::points(VICTIM, arguments);
        let [said] = &said[..] else {
            panic!("{said:?}")
        };
        let after = lease_rows(&copy);
        assert_ne!(before, after, "{action}");
        for point in points {
            let point = point.as_str();
            let elsewhere = tempfile::tempdir().unwrap();
            let copy = copy_database(&path, elsewhere.path());
            let arguments = [point, "1", "key", copy.to_str().unwrap(), action];
            let words = Victim::start(VICTIM, "kill-at", arguments).dies();
            assert_eq!(words, [""; 0], "{action} at {point}");
            deaths.entry(point.to_owned()).or_default().push(action);

            let store = open_leased(&copy, &leased_clock());
            assert!(store.check_integrity().unwrap().is_sound());
            let committed = point == "store.after_commit";
            let expected = if committed { &after } else { &before };
            assert_eq!(&lease_rows(&copy), expected, "{action}, killed at {point}");
            if !committed {
                assert_eq!(&key_action(&store, action), said);
                assert_eq!(lease_rows(&copy), after, "{action} after {point}");
            }
        }
    }
    let begins = ["begin", "begin-again", "take-over"];
    let expected: [(&str, &[&str]); 12] = [
        ("checkpoint.appended", &["finish-step"]),
        ("key.abandoned", &["abandon"]),
        ("key.begun", &begins),
        ("key.finished", &["finish", "finish-step"]),
        ("key.left_in_doubt", &["doubt"]),
        ("key.removed", &["remove"]),
        ("key.renewed", &["renew"]),
        ("key.resolved", &["resolve"]),
        ("key.touched", &["touch"]),
        ("store.after_commit", &KEY_ACTIONS),
        ("store.before_commit", &KEY_ACTIONS),
        ("work.completed", &["finish-step"]),
    ];
    let deaths: Vec<(&str, &[&str])> = deaths
        .iter()
        .map(|(point, actions)| (point.as_str(), actions.as_slice()))
        .collect();
    assert_eq!(deaths, expected);
}

/// A death between the begin and the outcome is told as in doubt, once the permit has
/// run out, and not before.
#[test]
fn who_dies_with_a_permit_leaves_it_in_flight_and_then_in_doubt() {
    let (_directory, path) = keyed();
    let arguments = [
        "store.after_commit",
        "1",
        "key",
        path.to_str().unwrap(),
        "begin",
    ];
    Victim::start(VICTIM, "kill-at", arguments).dies();
    let clock = leased_clock();
    let store = open_leased(&path, &clock);
    let begin = begin_key("new", "another");
    let begun = store.begin_key(&begin).unwrap();
    let Begun::InFlight(holder) = begun else {
        panic!("{begun:?}")
    };
    clock.advance(holder.left.unwrap());
    let begun = store.begin_key(&begin).unwrap();
    assert!(matches!(begun, Begun::InDoubt(_)), "{begun:?}");
}

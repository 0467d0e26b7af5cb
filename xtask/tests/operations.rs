//! The commands for operators: the doctor, the smoke test, the soak.

use std::fs;
use std::path::Path;

use agentos_process::{CommandSpec, Finished, Outcome};
use agentos_store::sqlite::{Config, SqliteStore};
use serde_json::Value;

fn xtask<'a>(arguments: impl IntoIterator<Item = &'a str>, target: &Path) -> Finished {
    let spec = CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .env("CARGO_TARGET_DIR", target)
        .timeout(std::time::Duration::from_secs(240))
        .max_output(16 << 20);
    agentos_process::run(&spec).unwrap()
}

fn said(finished: &Finished) -> String {
    let (out, error) = (&finished.stdout, &finished.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(error)
    )
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_doctor_looks_at_a_store_and_says_how_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.db");
    SqliteStore::open(Config::at(&file)).unwrap().close();
    let doctor = |options: &[&str]| {
        let arguments = ["doctor", text(&file)]
            .into_iter()
            .chain(options.iter().copied());
        xtask(arguments, directory.path())
    };
    let finished = doctor(&["--full", "--strict"]);
    assert_eq!(
        finished.outcome,
        Outcome::Exited { code: 0 },
        "{}",
        said(&finished)
    );
    assert_eq!(said(&finished).lines().count(), 11);
    let finished = doctor(&["--json", "--full"]);
    let report: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(report["checks"][0]["condition"], "engine");
    assert_eq!(report["checks"][0]["finding"], "fine");
    assert_eq!(report["integrity"]["problems"], Value::Array(Vec::new()));
    // A warning counts only if it is to count.
    fs::remove_file(directory.path().join("agent.db.agentos-ballast")).unwrap();
    fs::create_dir(directory.path().join("agent.db.agentos-ballast")).unwrap();
    let finished = doctor(&[]);
    assert_eq!(
        finished.outcome,
        Outcome::Exited { code: 0 },
        "{}",
        said(&finished)
    );
    assert!(
        said(&finished).contains("warning  ballast"),
        "{}",
        said(&finished)
    );
    let finished = doctor(&["--strict"]);
    assert_eq!(
        finished.outcome,
        Outcome::Exited { code: 1 },
        "{}",
        said(&finished)
    );
}

#[test]
fn the_doctor_makes_no_file_and_refuses_what_is_not_ours() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent.db");
    let finished = xtask(["doctor", text(&absent)], directory.path());
    assert_eq!(finished.outcome, Outcome::Exited { code: 2 });
    let foreign = directory.path().join("notes.txt");
    fs::write(&foreign, "not a database").unwrap();
    let finished = xtask(["doctor", text(&foreign)], directory.path());
    assert_eq!(finished.outcome, Outcome::Exited { code: 2 });
    assert!(
        said(&finished).contains("not a database of this system"),
        "{}",
        said(&finished)
    );
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1);
}

#[test]
fn the_smoke_test_passes_here_and_leaves_nothing() {
    let target = tempfile::tempdir().unwrap();
    let place = tempfile::tempdir().unwrap();
    let finished = xtask(["smoke", text(place.path()), "--seed", "31"], target.path());
    assert_eq!(
        finished.outcome,
        Outcome::Exited { code: 0 },
        "{}",
        said(&finished)
    );
    assert_eq!(said(&finished).lines().last(), Some("3 passed, 0 failed"));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    let absent = place.path().join("absent");
    let finished = xtask(["smoke", text(&absent)], target.path());
    assert_eq!(finished.outcome, Outcome::Exited { code: 2 });
}

/// The soak's own checks, in a few seconds.
#[test]
fn a_short_soak_stays_within_its_bounds() {
    let target = tempfile::tempdir().unwrap();
    let arguments = ["soak", "--seconds", "6", "--seed", "32", "--json", "-"];
    let finished = xtask(arguments, target.path());
    assert_eq!(
        finished.outcome,
        Outcome::Exited { code: 0 },
        "{}",
        said(&finished)
    );
    let report: Value = serde_json::from_slice(&finished.stdout).unwrap();
    let metrics = &report["scenarios"][0]["metrics"];
    for figure in ["kills", "commits", "pruned", "reads"] {
        assert!(metrics[figure].as_u64().unwrap() > 0, "{figure}: {metrics}");
    }
    for figure in ["file_bytes", "log_bytes", "descriptors", "memory_bytes"] {
        assert!(
            metrics[figure][0].as_u64().unwrap() > 0,
            "{figure}: {metrics}"
        );
    }
}

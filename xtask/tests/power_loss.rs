//! Power cuts: the scenario passes, a violation can be seen again by its line, and each
//! way of being broken is caught by the same checks.

use std::path::Path;
use std::time::Duration;

use agentos_process::{CommandSpec, Finished, Outcome};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(300);

fn run(arguments: &[&str], artifacts: &Path) -> Finished {
    let spec = CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["chaos", "power-loss"])
        .args(arguments)
        .arg("--artifacts")
        .arg(artifacts)
        .timeout(PATIENCE)
        .max_output(16 << 20);
    agentos_process::run(&spec).unwrap()
}

fn json(finished: &Finished) -> Value {
    serde_json::from_slice(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&finished.stdout)))
}

fn reasons(report: &Value) -> Vec<String> {
    let reasons = report["scenarios"][0]["reasons"].as_array().unwrap();
    let text = |reason: &Value| reason.as_str().unwrap().to_owned();
    reasons.iter().map(text).collect()
}

/// Goal: each check sees what it is for. Method: a broken miller, or a drive that lies;
/// the checks do not know of it.
fn is_caught(canary: &str, word: &str) -> Vec<String> {
    let artifacts = tempfile::tempdir().unwrap();
    let arguments = [
        "--quick",
        "--seed",
        "16",
        "--json",
        "-",
        "--timeout",
        "280",
        "--canary",
        canary,
    ];
    let finished = run(&arguments, artifacts.path());
    let report = json(&finished);
    assert_eq!(finished.outcome, Outcome::Exited { code: 1 }, "{report}");
    assert_eq!(report["scenarios"][0]["verdict"], "violated");
    let reasons = reasons(&report);
    let named = reasons.iter().any(|reason| reason.contains(word));
    assert!(named, "{canary}: {reasons:#?}");
    reasons
}

#[test]
fn nothing_is_lost_and_everything_is_counted() {
    let artifacts = tempfile::tempdir().unwrap();
    let arguments = ["--quick", "--seed", "16", "--json", "-", "--timeout", "280"];
    let finished = run(&arguments, artifacts.path());
    let report = json(&finished);
    assert_eq!(finished.outcome, Outcome::Exited { code: 0 }, "{report}");
    let metrics = &report["scenarios"][0]["metrics"];
    let figure = |name: &str| metrics[name].as_u64().unwrap();
    assert!(
        figure("records") > 1000 && figure("syncs") > 50,
        "{metrics}"
    );
    assert!(
        figure("cuts") > 200 && figure("acknowledged") > 500,
        "{metrics}"
    );
    assert!(
        figure("distinct") > 100 && figure("images") >= figure("distinct"),
        "{metrics}"
    );
    assert!(
        figure("recoveries") == 3 && figure("nested") > 10,
        "{metrics}"
    );
}

#[test]
fn syncs_that_are_switched_off_are_caught() {
    is_caught("sync-off", "was acknowledged");
}

#[test]
fn relaxed_durability_that_is_claimed_as_full_is_caught() {
    is_caught("relaxed-as-full", "was acknowledged");
}

#[test]
fn a_drive_that_lies_about_its_syncs_is_caught() {
    is_caught("sync-lies", "was acknowledged");
}

#[test]
fn an_artifact_that_is_not_synced_is_caught() {
    is_caught("artifact-unsynced", "is not as it was");
}

#[test]
fn two_transactions_for_one_commit_are_caught() {
    is_caught("audit-apart", "its checkpoints are");
}

/// Goal: an acknowledgement before the sync is caught, and the line that a violation
/// prints shows it again, from what was kept.
#[test]
fn an_early_acknowledgement_is_caught_and_seen_again() {
    let reasons = is_caught("ack-before-commit", "was acknowledged and is lost");
    let line = reasons[0]
        .rsplit_once("cargo xtask chaos power-loss ")
        .unwrap()
        .1;
    let words: Vec<&str> = line.trim_end_matches(')').split(' ').collect();
    let artifacts = tempfile::tempdir().unwrap();
    let again = run(&words, artifacts.path());
    let printed = String::from_utf8_lossy(&again.stdout);
    assert_eq!(again.outcome, Outcome::Exited { code: 1 }, "{printed}");
    assert!(
        printed.contains("was acknowledged and is lost"),
        "{printed}"
    );
    assert_eq!(printed.lines().last(), Some("violated"));
}

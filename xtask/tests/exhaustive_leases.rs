//! The exhaustive command on the scenarios about leases: each is struck at a few points and
//! calls and passes, and a way of being broken is found in each.

use std::path::Path;
use std::time::Duration;

use agentos_process::{CommandSpec, Outcome};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a command and reads the JSON that it writes; checks its exit code.
fn report(words: &str, artifacts: &Path, code: i32) -> Value {
    let spec = CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .args(words.split(' '))
        .args(["--json", "-", "--artifacts"])
        .arg(artifacts)
        .timeout(PATIENCE)
        .max_output(64 << 20);
    let finished = agentos_process::run(&spec).unwrap();
    let out = String::from_utf8_lossy(&finished.stdout);
    let err = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(
        finished.outcome,
        Outcome::Exited { code },
        "{words}\n{err}\n{out}"
    );
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {err}\n{out}"))
}

/// Goal: what only a crash shows is found at a named point, and one line shows it again.
/// Method: a canary that is sound as long as nobody is struck.
fn a_crash_shows(name: &str, canary: &str) {
    a_crash_shows_at(name, canary, "--size 1");
}

/// What only a crash shows is found, with a size and a budget.
fn a_crash_finds(name: &str, canary: &str, options: &str, artifacts: &Path) -> Value {
    let words =
        format!("chaos {name} --exhaustive --points {options} --seed 8141 --canary {canary}");
    let found = report(&words, artifacts, 1);
    // Nothing is wrong as long as nobody is struck.
    let dry = &found["subjects"][0]["dry"];
    assert_eq!(dry[0]["verdict"], "passed", "{name}: {dry}");
    found
}

/// As [`a_crash_shows`], with a size and a budget.
fn a_crash_shows_at(name: &str, canary: &str, options: &str) {
    let artifacts = tempfile::tempdir().unwrap();
    let found = a_crash_finds(name, canary, options, artifacts.path());
    let replays = found["summary"]["replays"].as_array().unwrap();
    let [replay] = replays.as_slice() else {
        panic!("{name}: {replays:?}");
    };
    let violation = &found["subjects"][0]["violations"][0];
    let strike = violation["strike"].as_str().unwrap();
    assert!(strike.starts_with("point:"), "{violation}");
    let words = replay.as_str().unwrap();
    let words = words.strip_prefix("cargo xtask ").unwrap();
    report(words, artifacts.path(), 1);
}

/// Goal: the check is worth something. Method: a canary that needs no crash to be wrong;
/// the run that nobody strikes is violated, for one of these reasons.
fn nobody_needs_to_be_struck(name: &str, canary: &str, reasons: &[&str]) {
    let artifacts = tempfile::tempdir().unwrap();
    let words = format!("chaos {name} --exhaustive --points --seed 8141 --canary {canary}");
    let found = report(&words, artifacts.path(), 1).to_string();
    let names = reasons.iter().any(|reason| found.contains(reason));
    assert!(names, "{canary}: {found}");
}

#[test]
fn a_few_strikes_of_every_kind_break_nothing() {
    let artifacts = tempfile::tempdir().unwrap();
    let words =
        "chaos 3 4 8 9 10 --exhaustive --points --calls --faults --size 1 --budget 9 --seed 8141";
    let found = report(words, artifacts.path(), 0);
    let lines = found["summary"]["subjects"].as_array().unwrap();
    assert_eq!(lines.len(), 5);
    for line in lines {
        assert_eq!(line["strikes"], 9, "{line}");
        assert_eq!(line["violated"], 0, "{line}");
        assert!(line["hit"].as_u64() > Some(0), "{line}");
    }
}

#[test]
fn a_renewal_that_is_acknowledged_before_its_commit_is_found() {
    a_crash_shows("lease-expiration", "ack-before-commit");
}

#[test]
fn a_sweep_that_takes_away_first_and_records_later_is_found() {
    a_crash_shows("recovery-sweep", "sweep-by-key");
}

#[test]
fn a_sweep_that_records_in_a_second_transaction_is_found() {
    let budget = "--budget 24 --shrink-runs 5";
    a_crash_shows_at("clock-jump", "sweep-apart", &format!("--size 6 {budget}"));
    // Who of those who race takes a lease away is decided by the race: with that many leases
    // the struck one does now and then, and a single strike need not show it again.
    let artifacts = tempfile::tempdir().unwrap();
    let options = format!("--size 16 {budget}");
    let found = a_crash_finds("sweep-race", "sweep-apart", &options, artifacts.path());
    let words = found["subjects"][0]["violations"].to_string();
    assert!(words.contains("audit lines"), "{words}");
}

#[test]
fn a_write_before_the_lease_is_looked_at_is_found() {
    a_crash_shows("zombie-worker", "write-then-undo");
}

#[test]
fn steps_that_are_done_again_after_a_takeover_are_found() {
    a_crash_shows("kill-storm", "redo-steps");
}

#[test]
fn a_loss_that_does_not_count_is_found() {
    a_crash_shows("poison-item", "loss-not-counted");
}

#[test]
fn writes_under_a_lost_lease_are_found() {
    let reasons = ["is new: ", "the answer: Accepted"];
    nobody_needs_to_be_struck("zombie-worker", "no-fence", &reasons);
}

#[test]
fn leases_that_end_too_early_are_found_whatever_clocks_do() {
    let reasons = ["before its deadline"];
    nobody_needs_to_be_struck("clock-jump", "sweep-early", &reasons);
}

#[test]
fn losses_without_a_record_are_found_in_a_race() {
    let reasons = ["audit lines", "closed attempts"];
    nobody_needs_to_be_struck("sweep-race", "sweep-unrecorded", &reasons);
}

//! Subjects of calls in doubt, of many who ask the same, of upkeep and of a store's life:
//! each is worth something, since a way of being broken is found by striking its victim at
//! every point.

use std::path::Path;
use std::time::Duration;

use agentos_process::{CommandSpec, Finished, Outcome};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(180);

fn chaos(arguments: &[&str], artifacts: &Path) -> Finished {
    let spec = CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("chaos")
        .args(arguments)
        .args(["--json", "-", "--artifacts"])
        .arg(artifacts)
        .timeout(PATIENCE)
        .max_output(64 << 20);
    agentos_process::run(&spec).unwrap()
}

/// Goal: the subject's check is worth something. Method: a canary breaks the victim and
/// nothing else; some strike in this way, or already nobody's, must show it, for this
/// reason.
fn is_found(subject: &str, way: &str, canary: &str, size: &str, reason: &str) {
    found(subject, way, canary, size, reason);
}

/// The same, and nothing is wrong as long as nobody is struck.
fn is_found_by_a_crash(subject: &str, canary: &str, size: &str, reason: &str) {
    let report = found(subject, "--points", canary, size, reason);
    let dry = &report["dry"][0];
    assert_eq!(dry["verdict"], "passed", "{subject} {canary}: {dry}");
}

/// What is said of the subject.
fn found(subject: &str, way: &str, canary: &str, size: &str, reason: &str) -> Value {
    let artifacts = tempfile::tempdir().unwrap();
    let words = [subject, "--exhaustive", way, "--canary", canary];
    let more = ["--size", size, "--seed", "13"];
    let more = [&more[..], &["--budget", "150", "--shrink-runs", "5"]].concat();
    let finished = chaos(&[&words[..], &more[..]].concat(), artifacts.path());
    let out = String::from_utf8_lossy(&finished.stdout);
    let err = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(
        finished.outcome,
        Outcome::Exited { code: 1 },
        "{subject} {canary}: {err}\n{out}"
    );
    let report: Value = serde_json::from_str(&out).unwrap();
    let subject = &report["subjects"][0];
    let words = subject.to_string();
    assert!(words.contains(reason), "{canary}: {words}");
    subject.clone()
}

/// The intent of a call is not written before it is executed.
#[test]
fn a_call_that_is_not_begun_before_it_is_executed_is_found() {
    is_found(
        "in-doubt",
        "--points",
        "begin-unwritten",
        "1",
        "the world has",
    );
}

/// Likewise of a command: who died between its effect and its outcome runs it twice.
#[test]
fn a_command_that_is_not_begun_before_it_runs_is_found() {
    let reason = "had its effect 2 times";
    is_found("tool-replay", "--points", "begin-unwritten", "1", reason);
}

/// Likewise of an answer: who is told of it before it is kept pays twice.
#[test]
fn an_answer_that_is_acknowledged_before_it_is_kept_is_found() {
    let reason = "calls to the server";
    is_found_by_a_crash("llm-cache", "ack-before-commit", "2", reason);
    is_found_by_a_crash("single-flight", "ack-before-commit", "6", reason);
}

/// A checkpoint that is written anew is gone in between.
#[test]
fn a_checkpoint_that_is_taken_away_and_put_back_is_found() {
    let reason = "was acknowledged and is not there";
    is_found_by_a_crash("concurrent-checkpoints", "rewrite-apart", "2", reason);
}

/// Two look whether a key is free before one of them takes it.
#[test]
fn a_look_and_a_write_that_are_two_things_are_found() {
    is_found(
        "single-flight",
        "--points",
        "check-then-act",
        "2",
        "calls to the server",
    );
}

/// A copy that is written over the earlier one is half of either for a while.
#[test]
fn a_backup_that_is_written_over_the_one_before_is_found() {
    is_found(
        "kill-during-upkeep",
        "--calls",
        "copy-over",
        "2",
        "in the backup: it does not open",
    );
}

/// A checkpoint and the line that tells of it are one commit.
#[test]
fn two_commits_that_should_be_one_are_found() {
    let reason = "the newest checkpoint is Some";
    is_found("store-lifecycle", "--points", "audit-apart", "1", reason);
    let reason = "verify has its rows";
    is_found("every-row", "--points", "audit-apart", "2", reason);
}

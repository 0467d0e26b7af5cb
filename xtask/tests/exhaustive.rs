//! The exhaustive command as its users see it: what it refuses, that the unbroken victims
//! pass, and that each way of being broken is found and shown again by one line.

use std::path::Path;
use std::time::Duration;

use agentos_process::{CommandSpec, Finished, Outcome};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(300);

fn run(arguments: &[&str]) -> Finished {
    let spec = CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .timeout(PATIENCE)
        .max_output(64 << 20);
    agentos_process::run(&spec).unwrap()
}

fn code(finished: &Finished) -> i32 {
    match finished.outcome {
        Outcome::Exited { code } => code,
        other => panic!("{other:?}"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command and reads the JSON that it writes; checks its exit code.
fn report(words: &str, artifacts: &Path, expected: i32) -> Value {
    let artifacts = artifacts.to_str().unwrap();
    let mut arguments: Vec<&str> = words.split(' ').collect();
    arguments.extend(["--json", "-", "--artifacts", artifacts]);
    let finished = run(&arguments);
    let (out, err) = (text(&finished.stdout), text(&finished.stderr));
    assert_eq!(code(&finished), expected, "{words}\n{err}\n{out}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {err}\n{out}"))
}

/// Runs what must find a violation, and then the line that shows it again. Gives the
/// strike.
fn found_and_shown_again(words: &str, size: u64) -> String {
    let artifacts = tempfile::tempdir().unwrap();
    let found = report(words, artifacts.path(), 1);
    let replays = found["summary"]["replays"].as_array().unwrap();
    let [replay] = replays.as_slice() else {
        panic!("{replays:?}");
    };
    let violation = &found["subjects"][0]["violations"][0];
    assert_eq!(violation["confirmed"], true, "{violation}");
    assert_eq!(violation["size"], size, "{violation}");
    assert!(violation["evidence"].is_string(), "{violation}");

    let line = replay.as_str().unwrap();
    let words = line.strip_prefix("cargo xtask ").unwrap();
    let again = report(words, artifacts.path(), 1);
    let shown = &again["subjects"][0]["violations"][0];
    assert_eq!(shown["replay"], line);
    assert_eq!(again["subjects"][0]["runs"].as_array().unwrap().len(), 1);
    violation["strike"].as_str().unwrap().to_owned()
}

#[test]
fn a_name_that_cannot_be_struck_is_refused_with_those_that_can() {
    for wish in ["no-such-scenario", "99"] {
        let finished = run(&["chaos", wish, "--exhaustive"]);
        assert_eq!(code(&finished), 2);
        let words = text(&finished.stderr);
        let begin = format!(
            "error: {wish:?} cannot be struck exhaustively; these can: 1 kill-9-recovery, "
        );
        assert!(words.starts_with(&begin), "{words}");
        assert!(finished.stdout.is_empty());
    }
}

#[test]
fn options_that_mean_nothing_together_are_refused() {
    for words in [
        "chaos 1 --points",
        "chaos 1 --strike none",
        "chaos 1 --exhaustive --quick",
        "chaos 1 --exhaustive --strike kill:3",
        "chaos 1 --exhaustive --strike none --points",
        "chaos 1 --exhaustive --size 0",
        "chaos --exhaustive --strike none",
        "chaos 1 --exhaustive --html /no-such-folder/page.html",
    ] {
        let finished = run(&words.split(' ').collect::<Vec<_>>());
        assert_eq!(code(&finished), 2, "{words}");
    }
}

/// Goal: nobody takes the sound product for a canary that is not caught.
#[test]
fn a_canary_that_one_of_them_would_ignore_is_refused() {
    for words in [
        "chaos tool-replay --canary retry-in-doubt",
        "chaos 1 2 --quick --canary ack-late",
        "chaos tool-replay --exhaustive --points --budget 1 --canary pending-is-absent",
        "chaos --exhaustive --points --budget 1 --canary audit-apart",
        "chaos power-loss --exhaustive --canary skip-doubt",
        "stability --runs 1 --quick --scenario 1 --canary skip-number",
    ] {
        let finished = run(&words.split(' ').collect::<Vec<_>>());
        assert_eq!(code(&finished), 2, "{words}");
        let error = text(&finished.stderr);
        assert!(error.contains("does not know the canary "), "{error}");
        assert!(finished.stdout.is_empty());
    }
}

#[test]
fn a_strike_that_nobody_makes_again_passes_and_one_that_is_not_reached_says_so() {
    let artifacts = tempfile::tempdir().unwrap();
    let words = "chaos 1 --exhaustive --size 1 --seed 8141 --strike";
    let none = report(&format!("{words} none"), artifacts.path(), 0);
    assert_eq!(none["subjects"][0]["passed"], 1);
    let point = report(
        &format!("{words} point:store.before_commit#2"),
        artifacts.path(),
        0,
    );
    assert_eq!(
        point["subjects"][0]["runs"][0]["hit"],
        "store.before_commit"
    );
    let missed = report(&format!("{words} point:nowhere#1"), artifacts.path(), 2);
    let problem = missed["subjects"][0]["problems"][0].as_str().unwrap();
    assert_eq!(problem, "point:nowhere#1 was not reached");
}

#[test]
fn who_is_not_broken_passes_a_sample_in_every_way_and_all_reports_are_written() {
    let artifacts = tempfile::tempdir().unwrap();
    let page = artifacts.path().join("page.html");
    let words = format!(
        "chaos 1 6 --exhaustive --points --calls --size 1 --budget 8 --seed 8141 --html {}",
        page.display()
    );
    let found = report(&words, artifacts.path(), 0);
    assert_eq!(found["seed"], 8141);
    let lines = found["summary"]["subjects"].as_array().unwrap();
    assert_eq!(lines.len(), 2);
    for (line, name) in lines.iter().zip(["kill-9-recovery", "tool-replay"]) {
        assert_eq!(line["subject"], name);
        assert_eq!(line["strikes"], 8, "{line}");
        assert_eq!(line["violated"], 0, "{line}");
        assert!(line["hit"].as_u64() > Some(0), "{line}");
        assert!(line["points"].as_u64() > Some(3), "{line}");
        assert!(line["calls"].as_u64() > Some(20), "{line}");
        let own = artifacts.path().join(format!("page-{name}.html"));
        assert!(own.is_file() && page.is_file());
    }
    // Points that nobody hits are told only of a run of all.
    assert_eq!(found["summary"]["points_declared"], Value::Null);
}

#[test]
fn calls_that_are_only_to_fail_are_counted_in_the_summary() {
    let artifacts = tempfile::tempdir().unwrap();
    let words = "chaos 6 --exhaustive --faults --size 1 --budget 1 --seed 8141";
    let found = report(words, artifacts.path(), 0);
    let line = &found["summary"]["subjects"][0];
    assert!(line["calls"].as_u64() > Some(20), "{line}");
    assert_eq!(line["calls"], found["subjects"][0]["calls"]);
}

#[test]
fn an_acknowledgement_before_the_commit_is_found_at_a_point_and_shrunk() {
    let words = "chaos 1 --exhaustive --points --size 2 --seed 8141 --canary ack-before-commit";
    // Inside the transaction of the first commit after an acknowledgement.
    let strike = found_and_shown_again(words, 1);
    assert_eq!(strike, "point:checkpoint.appended#1");
}

#[test]
fn a_completion_in_two_transactions_is_found_at_a_point_and_shrunk() {
    for canary in ["complete-apart", "success-apart"] {
        let words = format!(
            "chaos end-to-end --exhaustive --points --size 1 --seed 8141 --canary {canary}"
        );
        let strike = found_and_shown_again(&words, 1);
        assert!(strike.starts_with("point:store."), "{strike}");
    }
}

#[test]
fn an_artifact_that_has_its_name_before_it_is_written_is_found_at_a_call_and_shrunk() {
    let words = "chaos 1 --exhaustive --calls --size 1 --seed 8141 --budget 40 --shrink-runs 10 --canary rename-before-write";
    let strike = found_and_shown_again(words, 1);
    assert!(strike.starts_with("call:"), "{strike}");
}

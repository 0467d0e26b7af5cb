//! The scenarios about calls that are cut off by a kill: they do what they say, and
//! their checks are worth something.

use std::time::Duration;

use agentos_process::{CommandSpec, Finished, Outcome};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(180);

fn chaos(arguments: &[&str]) -> Finished {
    let spec = CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("chaos")
        .args(arguments)
        .args(["--json", "-"])
        .timeout(PATIENCE)
        .max_output(16 << 20);
    agentos_process::run(&spec).unwrap()
}

/// The report of the one scenario that was run.
fn scenario(finished: &Finished) -> Value {
    let report: Value = serde_json::from_slice(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&finished.stderr)));
    report["scenarios"][0].clone()
}

/// A run that must pass; gives its figures.
fn figures(arguments: &[&str]) -> Value {
    let finished = chaos(arguments);
    let scenario = scenario(&finished);
    assert_eq!(scenario["verdict"], "passed", "{scenario}");
    scenario["metrics"].clone()
}

fn figure(metrics: &Value, name: &str) -> u64 {
    let value = metrics[name].as_u64();
    value.unwrap_or_else(|| panic!("{name} of {metrics}"))
}

/// Goal: the checks are worth something. Method: a canary breaks the store or the
/// victims and nothing else; the unchanged scenario must call it violated, for one of
/// these reasons: which comes first, the seed and the scheduler say.
fn is_caught(name: &str, canary: &str, reasons: &[&str]) {
    let artifacts = tempfile::tempdir().unwrap();
    let folder = artifacts.path().to_str().unwrap();
    let seed = ["--quick", "--seed", "13", "--canary", canary];
    let finished = chaos(&[&[name], &seed[..], &["--artifacts", folder]].concat());
    let scenario = scenario(&finished);
    assert_eq!(
        finished.outcome,
        Outcome::Exited { code: 1 },
        "{canary}: {scenario}"
    );
    assert_eq!(scenario["verdict"], "violated");
    let given = scenario["reasons"].to_string();
    let names = reasons.iter().any(|reason| given.contains(reason));
    assert!(names, "{canary}: {given}");
    let evidence = std::path::Path::new(scenario["evidence"].as_str().unwrap());
    assert!(evidence.join("dump").is_dir(), "{evidence:?}");
}

/// Goal: every place and every policy come together. Method: the figures of a whole run,
/// which follow from the promises and from nothing else.
#[test]
fn calls_are_killed_at_every_place_under_every_policy() {
    let metrics = figures(&["in-doubt", "--seed", "31", "--timeout", "170"]);
    assert_eq!(
        (figure(&metrics, "calls"), figure(&metrics, "kills")),
        (50, 50)
    );
    assert_eq!(figure(&metrics, "in_doubt"), 35);
    // All that was in doubt, but for what was to be retried.
    assert_eq!(figure(&metrics, "resolved"), 28);
    // Of ten calls so many had no effect, one, and two.
    for (name, effects) in [
        ("retry_effects", [0, 6, 4]),
        ("verify_effects", [0, 10, 0]),
        ("ask_happened_effects", [3, 7, 0]),
        ("ask_did_not_happen_effects", [0, 6, 4]),
        ("fail_effects", [3, 7, 0]),
    ] {
        assert_eq!(metrics[name], Value::from(effects.to_vec()), "{name}");
    }
}

#[test]
fn a_short_run_kills_once_at_every_place() {
    let metrics = figures(&["in-doubt", "--quick", "--seed", "32"]);
    assert_eq!(
        (figure(&metrics, "calls"), figure(&metrics, "kills")),
        (10, 10)
    );
    assert_eq!(figure(&metrics, "in_doubt"), 7);
    assert_eq!(metrics["verify_effects"], Value::from(vec![0, 2, 0]));
}

/// Goal: payers are killed while they pay. Method: the figures of a few runs.
#[test]
fn payers_are_killed_while_they_pay_and_each_request_is_paid_for_once() {
    let (mut kills, mut in_flight) = (0, 0);
    for arguments in [
        &["single-flight", "--seed", "31"][..],
        &["single-flight", "--quick", "--seed", "32"],
        &["single-flight", "--quick", "--seed", "33"],
    ] {
        let metrics = figures(arguments);
        let cut_off = figure(&metrics, "in_flight_at_kills");
        let calls = figure(&metrics, "server_calls");
        assert!((20..=20 + cut_off).contains(&calls), "{metrics}");
        // Whoever was not killed has an answer to each of 20 requests in each of 5 threads.
        assert!(figure(&metrics, "answers") >= 10 * 5 * 20, "{metrics}");
        assert!(figure(&metrics, "awaited") > 0, "{metrics}");
        assert_eq!(figure(&metrics, "kills"), figure(&metrics, "restarts"));
        kills += figure(&metrics, "kills");
        in_flight += cut_off;
    }
    assert!(kills >= 3 && in_flight >= 1, "{kills} kills, {in_flight}");
}

#[test]
fn a_ledger_that_records_after_the_effect_is_caught() {
    let reasons = [
        "effects, and must be",
        "at the kill the world has",
        "\\\" First\\\", and must be InDoubt",
        "the world has [",
    ];
    is_caught("in-doubt", "begin-unwritten", &reasons);
}

#[test]
fn a_ledger_for_which_pending_is_absent_is_caught() {
    let reasons = [
        "effects, and must be",
        "and must be InDoubt(",
        "and must be GivenUp",
        "second-1 TakenOver",
    ];
    is_caught("in-doubt", "pending-is-absent", &reasons);
}

#[test]
fn a_ledger_that_skips_what_is_in_doubt_is_caught() {
    let reason = "second-1 was told Some(Replayed(\\\"\\\")), and must be";
    is_caught("in-doubt", "skip-doubt", &[reason]);
}

#[test]
fn a_begin_that_is_not_atomic_is_caught() {
    let reason = "calls to the server, and at most";
    is_caught("single-flight", "check-then-act", &[reason]);
}

#[test]
fn a_cache_that_does_not_wait_for_the_one_who_pays_is_caught() {
    let reason = "calls to the server, and at most";
    is_caught("single-flight", "do-not-wait", &[reason]);
}

#[test]
fn a_cache_that_gives_the_answer_of_another_request_is_caught() {
    let reason = "was answered wrongly to request";
    is_caught("single-flight", "ignore-temperature", &[reason]);
}

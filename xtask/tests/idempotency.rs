//! The scenarios about what is done once: they measure what they say, and their checks
//! are worth something.

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

/// Goal: the checks are worth something. Method: a canary breaks the victims and nothing
/// else; the unchanged scenario must call it violated, for all of these reasons.
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
    for reason in reasons {
        assert!(given.contains(reason), "{canary}, {reason}: {given}");
    }
    let evidence = std::path::Path::new(scenario["evidence"].as_str().unwrap());
    assert!(evidence.join("dump").is_dir(), "{evidence:?}");
}

#[test]
fn a_thousand_answers_are_paid_for_once() {
    let metrics = figures(&["llm-cache", "--seed", "31"]);
    for name in ["misses", "hits", "server_calls"] {
        assert_eq!(metrics[name], 1000, "{name} of {metrics}");
    }
    assert_eq!(metrics["hit_rate"], 0.5);
    assert!(metrics["tokens_saved"].as_u64().unwrap() > 1000);
    for name in ["first_pass_ms", "second_pass_ms"] {
        assert!(metrics[name].as_f64().unwrap() > 0.0, "{name} of {metrics}");
    }
}

#[test]
fn five_hundred_commands_run_once() {
    let metrics = figures(&["tool-replay", "--seed", "31"]);
    for name in ["executions", "replays"] {
        assert_eq!(metrics[name], 500, "{name} of {metrics}");
    }
    assert_eq!(metrics["replay_rate"], 0.5);
    for name in ["first_pass_ms", "second_pass_ms"] {
        assert!(metrics[name].as_f64().unwrap() > 0.0, "{name} of {metrics}");
    }
}

#[test]
fn a_cache_that_ignores_the_temperature_is_caught() {
    // Which of two that differ in it comes first is a matter of threads.
    let reasons = [
        "was recorded",
        "the first pass gives",
        "was asked 0 times for",
    ];
    is_caught("llm-cache", "ignore-temperature", &reasons);
}

#[test]
fn a_cache_that_keeps_nothing_is_caught() {
    let reasons = [
        "the second pass says that 0 was done",
        "after the second pass the server was asked 2 times for",
        "tokens saved of the second pass: (0, 100, 0.0, 0)",
    ];
    is_caught("llm-cache", "forget-answers", &reasons);
}

#[test]
fn a_cache_that_changes_a_byte_is_caught() {
    is_caught("llm-cache", "change-answers", &["the second pass gives"]);
}

#[test]
fn a_payer_that_pays_twice_is_caught() {
    let reason = "after the first pass the server was asked 2 times for";
    is_caught("llm-cache", "pay-twice", &[reason]);
}

#[test]
fn a_ledger_that_forgets_calls_is_caught() {
    let reasons = [
        "the second pass says that 10 was done",
        "after the second pass command 10 had its effect 2 times",
        "replay rate of the second pass: (6, 54, 0.9)",
    ];
    is_caught("tool-replay", "forget-calls", &reasons);
}

#[test]
fn a_ledger_that_runs_what_it_replays_is_caught() {
    let reason = "after the second pass command 0 had its effect 2 times";
    is_caught("tool-replay", "run-on-replay", &[reason]);
}

#[test]
fn a_ledger_that_replays_nothing_of_what_came_out_is_caught() {
    is_caught("tool-replay", "replay-nothing", &["the second pass gives"]);
}

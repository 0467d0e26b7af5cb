//! The scenario about a whole agent: it does what it says, and its checks are worth
//! something.

use std::time::Duration;

use agentos_process::{CommandSpec, Finished, Outcome};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(180);

fn end_to_end(arguments: &[&str]) -> Finished {
    let spec = CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["chaos", "end-to-end", "--json", "-"])
        .args(arguments)
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

/// Goal: kills reach what they are to reach. Method: the figures of a few runs; which
/// place a kill hits is up to the scheduler, so what may happen is summed up.
#[test]
fn kills_cut_questions_and_tools_and_cost_no_more_than_they_may() {
    let (mut in_doubt, mut server_calls, mut iterations) = (0, 0, 0);
    for seed in ["51", "52", "53", "54"] {
        let scenario = scenario(&end_to_end(&["--quick", "--seed", seed]));
        assert_eq!(scenario["verdict"], "passed", "{scenario}");
        let metrics = &scenario["metrics"];
        let figure = |name: &str| metrics[name].as_u64().unwrap();
        assert_eq!(figure("effects"), figure("iterations"), "{metrics}");
        assert_eq!(figure("rings"), 2 * figure("iterations"), "{metrics}");
        let paid = figure("iterations") + figure("paid_again");
        assert_eq!(figure("server_calls"), paid, "{metrics}");
        assert!(figure("paid_again") <= figure("kills"), "{metrics}");
        assert!(figure("in_doubt") <= figure("kills"), "{metrics}");
        assert!(3 <= figure("claims"), "{metrics}");
        in_doubt += figure("in_doubt");
        server_calls += figure("server_calls");
        iterations += figure("iterations");
    }
    assert!(0 < in_doubt && iterations <= server_calls);
}

/// Goal: the checks are worth something. Method: each canary breaks the agent and nothing
/// else; the unchanged scenario must call it violated, for this reason.
fn is_caught(canary: &str, reason: &str) {
    let artifacts = tempfile::tempdir().unwrap();
    let folder = artifacts.path().to_str().unwrap();
    assert!(is_violated(canary, reason, "13", folder), "{canary}");
}

/// The same, where a kill must come between two system calls: one of a few runs is enough.
fn is_caught_soon(canary: &str, reason: &str) {
    let artifacts = tempfile::tempdir().unwrap();
    let folder = artifacts.path().to_str().unwrap();
    let mut seeds = ["13", "14", "15", "16"].into_iter();
    assert!(
        seeds.any(|seed| is_violated(canary, reason, seed, folder)),
        "{canary}"
    );
}

/// Whether a run is violated. If it is, then for this reason, and with evidence.
fn is_violated(canary: &str, reason: &str, seed: &str, folder: &str) -> bool {
    let arguments = [
        "--quick",
        "--seed",
        seed,
        "--canary",
        canary,
        "--artifacts",
        folder,
    ];
    let finished = end_to_end(&arguments);
    let scenario = scenario(&finished);
    if scenario["verdict"] != "violated" {
        return false;
    }
    let code = Outcome::Exited { code: 1 };
    assert_eq!(finished.outcome, code, "{canary}: {scenario}");
    let given = scenario["reasons"].to_string();
    assert!(given.contains(reason), "{canary}: {given}");
    let evidence = std::path::Path::new(scenario["evidence"].as_str().unwrap());
    assert!(evidence.join("dump").is_dir(), "{evidence:?}");
    true
}

#[test]
fn an_agent_without_a_cache_is_caught() {
    is_caught("pay-again", "was paid again, by");
}

#[test]
fn an_agent_without_a_ledger_is_caught() {
    is_caught("forget-effects", "the ledger knows the calls []");
}

#[test]
fn a_ledger_that_records_afterwards_is_caught() {
    is_caught_soon("record-after", "and must be Some");
}

#[test]
fn running_again_what_is_in_doubt_is_caught() {
    is_caught_soon("retry-in-doubt", "and must be Some");
}

#[test]
fn a_retry_that_is_taken_for_another_call_is_caught() {
    is_caught("keep-failed-turn", "of the bell is");
}

#[test]
fn an_outcome_in_a_commit_of_its_own_is_caught() {
    is_caught("outcome-apart", "the outcome of call 1 was committed at");
}

#[test]
fn an_acknowledgement_between_outcome_and_checkpoint_is_caught() {
    is_caught("ack-between", "the outcome of call 1 was committed at");
}

#[test]
fn a_completion_in_a_commit_of_its_own_is_caught() {
    is_caught("complete-apart", "completed apart from the last checkpoint");
}

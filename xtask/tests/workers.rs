//! The scenarios about many workers on one file: they do what they say, and their
//! checks are worth something.

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
/// these reasons.
fn is_caught(name: &str, canary: &str, reasons: &[&str]) {
    let artifacts = tempfile::tempdir().unwrap();
    let folder = artifacts.path().to_str().unwrap();
    let seed = ["--seed", "13", "--canary", canary, "--artifacts", folder];
    let finished = chaos(&[&[name], &seed[..]].concat());
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

/// Goal: the storm is one. Method: the figures of a few short runs.
#[test]
fn a_storm_kills_and_stops_workers_that_hold_leases() {
    let mut sums = [0; 4];
    for seed in ["31", "32", "33"] {
        let metrics = figures(&["kill-storm", "--quick", "--seed", seed]);
        assert_eq!(figure(&metrics, "items"), 60);
        assert!(figure(&metrics, "steps_done") >= 180, "{metrics}");
        assert_eq!(figure(&metrics, "kills"), figure(&metrics, "restarts"));
        let names = ["kills", "stops", "leases_lost", "leases_in_backup"];
        for (sum, name) in sums.iter_mut().zip(names) {
            *sum += figure(&metrics, name);
        }
    }
    assert!(sums.iter().all(|sum| *sum > 0), "{sums:?}");
}

#[test]
fn clocks_jump_and_leases_are_renewed_meanwhile() {
    // Where deadlines jump, chance decides whether a short run completes anything.
    let seeds = ["31", "32", "33", "34"];
    let runs = seeds.map(|seed| figures(&["clock-jump", "--quick", "--seed", seed]));
    for name in [
        "wall_jumps",
        "claimed",
        "renewed",
        "deadline_jumps",
        "completed",
        "late_takeovers",
    ] {
        let sum: u64 = runs.iter().map(|metrics| figure(metrics, name)).sum();
        assert!(sum > 0, "{name} of {runs:?}");
    }
}

#[test]
fn a_race_of_sweeps_recovers_and_renews() {
    let metrics = figures(&["sweep-race", "--quick", "--seed", "31"]);
    for name in ["renewed", "refused", "recovered", "swept"] {
        assert!(figure(&metrics, name) > 0, "{name} of {metrics}");
    }
    // Nobody completes anything: each lease that was given is lost in the end.
    let claimed = figure(&metrics, "claimed");
    assert_eq!(figure(&metrics, "recovered"), claimed, "{metrics}");
}

#[test]
fn a_store_without_a_fence_does_not_weather_the_storm() {
    // Which rule a zombie breaks depends on when it comes alive.
    let reasons = ["Fenced: item", "RefusedForGood: item", "WritesStay: item"];
    is_caught("kill-storm", "no-fence", &reasons);
}

#[test]
fn a_store_that_refuses_what_it_has_written_is_caught() {
    is_caught("kill-storm", "write-then-refuse", &["WritesStay: item"]);
}

#[test]
fn workers_that_do_every_step_again_after_a_takeover_are_caught() {
    is_caught("kill-storm", "redo-steps", &["was done again under lease"]);
}

#[test]
fn workers_that_commit_a_step_without_doing_it_are_caught() {
    is_caught("kill-storm", "skip-step", &["and was not done"]);
}

#[test]
fn leases_that_follow_the_wall_clock_are_caught() {
    is_caught(
        "clock-jump",
        "leases-by-wall-clock",
        &["before its deadline"],
    );
}

#[test]
fn a_store_without_a_fence_has_two_winners_when_clocks_jump() {
    is_caught("clock-jump", "no-fence", &["Fenced: item"]);
}

#[test]
fn a_sweep_that_chooses_first_and_changes_later_is_caught() {
    is_caught("sweep-race", "sweep-by-key", &["before its deadline"]);
}

#[test]
fn a_sweep_that_takes_leases_too_early_is_caught() {
    is_caught("sweep-race", "sweep-early", &["before its deadline"]);
}

#[test]
fn a_heartbeat_for_whoever_holds_the_item_is_caught() {
    is_caught("sweep-race", "renew-by-id", &["Fenced: item"]);
}

#[test]
fn a_sweep_that_counts_what_it_did_not_recover_is_caught() {
    is_caught(
        "sweep-race",
        "sweep-counts-twice",
        &["was taken away twice"],
    );
}

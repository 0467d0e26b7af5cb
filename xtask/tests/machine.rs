//! The scenarios of the machine that misbehaves: what they measure, and that they catch
//! what is broken.

use std::path::Path;
use std::time::Duration;

use agentos_process::{CommandSpec, Finished, Outcome};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

fn run(arguments: &[&str]) -> Finished {
    let spec = CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .timeout(PATIENCE)
        .max_output(16 << 20);
    agentos_process::run(&spec).unwrap()
}

fn json(finished: &Finished) -> Value {
    serde_json::from_slice(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&finished.stdout)))
}

/// The figures of a run that passes.
fn figures(scenario: &str, seed: &str) -> Value {
    let finished = run(&["chaos", scenario, "--seed", seed, "--json", "-"]);
    let report = json(&finished);
    assert_eq!(finished.outcome, Outcome::Exited { code: 0 }, "{report}");
    report["scenarios"][0]["metrics"].clone()
}

fn figure(figures: &Value, name: &str) -> u64 {
    let found = figures[name].as_u64();
    found.unwrap_or_else(|| panic!("{name} of {figures}"))
}

/// Goal: the checks are worth something. Method: each canary breaks the victim or its store
/// and nothing else; the unchanged scenario must call it violated for this reason, and keep
/// evidence and a line that shows it again.
fn is_caught(scenario: &str, canary: &str, reason: &str) {
    // A stall of the machine may hide what is slow, and how much memory a build needs may
    // spare the commits: then another seed shows it.
    let seeds: &[&str] = match scenario {
        "slow-disk" | "too-many" => &["13", "14", "15"],
        _ => &["13"],
    };
    // Of a few failing calls, or a few limits, none may meet a commit.
    let quick = match (scenario, canary) {
        ("io-error", _) | ("too-many", "ack-failure") => "",
        _ => " --quick",
    };
    let artifacts = tempfile::tempdir().unwrap();
    let artifacts_arg = artifacts.path().to_str().unwrap();
    let mut tried = Vec::new();
    for seed in seeds {
        let mut arguments = vec!["chaos", scenario, "--seed", seed, "--canary", canary];
        arguments.extend(quick.split_whitespace());
        arguments.extend(["--artifacts", artifacts_arg, "--json", "-"]);
        let finished = run(&arguments);
        let report = json(&finished);
        if finished.outcome != (Outcome::Exited { code: 1 }) {
            tried.push(report);
            continue;
        }
        let violated = &report["scenarios"][0];
        assert_eq!(violated["verdict"], "violated");
        let told = violated["reasons"].to_string();
        assert!(told.contains(reason), "{canary}, {reason}: {violated}");
        let evidence = Path::new(violated["evidence"].as_str().unwrap());
        let replay = std::fs::read_to_string(evidence.join("replay.txt")).unwrap();
        let line = format!("cargo xtask chaos {scenario} --seed {seed}{quick} --canary {canary}");
        assert!(replay.contains(&line), "{replay}");
        return;
    }
    panic!("{canary} is not caught: {tried:?}");
}

/// Goal: bits are flipped where they matter. Method: the figures of a run: in each way of
/// meeting damage that the scenario knows, some flip was met so.
#[test]
fn flipped_bits_are_met_in_every_way() {
    let figures = figures("bit-rot", "31");
    assert_eq!(figure(&figures, "flips"), 220);
    for name in [
        "log_flips",
        "unopened",
        "refused",
        "asked_again",
        "fell_back",
        "plain_changed",
        "log_cut",
    ] {
        assert!(0 < figure(&figures, name), "{name}: {figures}");
    }
}

#[test]
fn a_store_that_seals_whatever_it_finds_is_caught() {
    is_caught("bit-rot", "seal-anew", "is another one");
}

#[test]
fn a_resume_that_does_not_fall_back_is_caught() {
    is_caught("bit-rot", "stop-at-damage", "can be loaded");
}

/// Goal: the disk is really full, at many places. Method: the figures of a run.
#[test]
fn a_disk_is_full_at_many_places() {
    let figures = figures("disk-full", "31");
    assert_eq!(figure(&figures, "rounds"), 24);
    assert!(12 < figure(&figures, "met_full"), "{figures}");
    assert!(0 < figure(&figures, "died"), "{figures}");
    assert_eq!(figure(&figures, "acked"), 24 * 13);
}

#[test]
fn a_program_that_acknowledges_what_found_no_room_is_caught() {
    is_caught("disk-full", "ack-failure", "steps were acknowledged, and");
}

#[test]
fn a_store_that_does_not_say_that_the_disk_is_full_is_caught() {
    is_caught(
        "disk-full",
        "untyped-errors",
        "a full disk was told as Internal",
    );
}

#[test]
fn a_store_that_keeps_no_room_for_a_full_disk_is_caught() {
    is_caught("disk-full", "no-ballast", "the renewals of its lease");
}

/// Goal: calls really fail. Method: the figures of a run.
#[test]
fn a_disk_fails_at_many_calls() {
    let figures = figures("io-error", "31");
    assert_eq!(figure(&figures, "rounds"), 16);
    assert!(6 < figure(&figures, "hit"), "{figures}");
    for name in ["refused", "unknown"] {
        assert!(0 < figure(&figures, name), "{name}: {figures}");
    }
}

#[test]
fn a_program_that_takes_a_failed_commit_for_a_success_is_caught() {
    is_caught(
        "io-error",
        "ack-failure",
        "is acknowledged, and the log was",
    );
}

#[test]
fn a_store_that_does_not_say_that_the_disk_failed_is_caught() {
    is_caught("io-error", "untyped-errors", "it was told Internal");
}

/// Goal: syncs are slow, and somebody waits for them. Method: the figures of a run.
#[test]
fn syncs_are_slow_and_deadlines_pass() {
    let figures = figures("slow-disk", "31");
    let delay = figure(&figures, "sync_delay_ms");
    assert!((40..=70).contains(&delay), "{figures}");
    assert!(figures["takeover_ms"].as_f64().unwrap() >= delay as f64);
    assert_eq!(figure(&figures, "calls"), 8);
    for name in ["busy", "commits_beside"] {
        assert!(0 < figure(&figures, name), "{name}: {figures}");
    }
}

#[test]
fn a_heartbeat_that_renews_too_late_is_caught() {
    is_caught("slow-disk", "renew-late", "of its leases were lost");
}

#[test]
fn a_caller_that_waits_longer_than_it_may_is_caught() {
    is_caught("slow-disk", "wait-longer", "longer than it may");
}

#[test]
fn a_takeover_that_comes_late_on_a_slow_disk_is_caught() {
    is_caught("slow-disk", "expire-late", "after the lease ran out");
}

/// Goal: limits are met in every way. Method: the figures of a run.
#[test]
fn limits_hinder_some_and_not_others() {
    let figures = figures("too-many", "31");
    assert_eq!(figure(&figures, "rounds"), 12);
    for name in ["unhindered", "refused", "gave_up", "died"] {
        assert!(0 < figure(&figures, name), "{name}: {figures}");
    }
}

/// Goal: a read for which the system has no thread is refused, and does not panic. Method:
/// threads whose stacks are larger than any memory cannot be started.
#[test]
fn a_read_without_a_thread_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let clerk = serde_json::json!({
        "db": path("rows.db"), "world": path("world.log"), "steps": 1, "canary": null,
    });
    let role = serde_json::json!({ "Stubborn": { "clerk": clerk, "tries": 2 } });
    let spec = CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["victim", &role.to_string()])
        .env("RUST_MIN_STACK", (1_u64 << 46).to_string())
        .timeout(PATIENCE);
    let finished = agentos_process::run(&spec).unwrap();
    let said = String::from_utf8(finished.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    let refused = "refused Io input/output error";
    assert_eq!(lines, [refused, refused, "gives up"]);
    assert_eq!(finished.outcome, Outcome::Exited { code: 0 });
}

#[test]
fn a_program_that_acknowledges_what_it_had_no_descriptor_for_is_caught() {
    is_caught("too-many", "ack-failure", "steps were acknowledged, and");
}

#[test]
fn a_program_that_hangs_when_it_is_refused_is_caught() {
    is_caught("too-many", "hang-on-error", "it hangs");
}

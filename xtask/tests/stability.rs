//! The loop as its users see it: what it prints, how it exits, what Ctrl-C does.

use std::path::Path;
use std::time::Duration;

use agentos_core::Deadline;
use agentos_process::{Child, CommandSpec, Finished, NextLine, Outcome, Signal, Sink};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(240);

fn xtask(arguments: &[&str]) -> CommandSpec {
    CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .timeout(PATIENCE)
        .max_output(16 << 20)
}

/// Runs the loop with a target folder of its own.
fn stability(target: &TempDir, arguments: &[&str]) -> Finished {
    let spec = xtask(&[&["stability"], arguments].concat());
    agentos_process::run(&spec.env("CARGO_TARGET_DIR", target.path())).unwrap()
}

fn stdout(finished: &Finished) -> String {
    String::from_utf8(finished.stdout.clone()).unwrap()
}

fn code(finished: &Finished) -> Outcome {
    finished.outcome
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn a_clean_loop_passes_and_writes_every_report() {
    let target = TempDir::new().unwrap();
    let file = |name: &str| target.path().join(name).to_str().unwrap().to_owned();
    let (html, junit) = (file("s.html"), file("s.xml"));
    let finished = stability(
        &target,
        &[
            "--runs",
            "3",
            "--scenario",
            "1",
            "--quick",
            "--seed",
            "11",
            "--json",
            "-",
            "--html",
            &html,
            "--junit",
            &junit,
        ],
    );
    let live = String::from_utf8_lossy(&finished.stderr).into_owned();
    assert_eq!(code(&finished), Outcome::Exited { code: 0 }, "{live}");
    assert!(live.starts_with("seed 11\n"), "{live}");
    assert!(live.contains("[3/3] 3 passed, 0 violated, 0 inconclusive"));
    let report: Value = serde_json::from_slice(&finished.stdout).unwrap();
    for (field, expected) in [("runs", 3), ("total", 3), ("passed", 3), ("violated", 0)] {
        assert_eq!(report[field], expected, "{field}");
    }
    assert_eq!(report["gate"]["holds"], true);
    assert_eq!(report["pass_rate"], 1.0);
    let bound = report["lower_bound_95"].as_f64().unwrap();
    assert!((bound - 0.05_f64.cbrt()).abs() < 1e-9, "{bound}");
    assert!(report["sync_us"].as_u64().unwrap() > 0);
    let scenario = &report["scenarios"][0];
    assert_eq!(scenario["name"], "kill-9-recovery");
    let kills = scenario["kill_points"].as_array().unwrap();
    assert_eq!(kills.len(), 3);
    for kill in kills {
        // The first five iterations are never cut off, and the last never.
        let kill = kill.as_f64().unwrap();
        assert!(0.1 < kill && kill < 1.0, "{kill}");
    }
    let page = std::fs::read_to_string(html).unwrap();
    assert_eq!(page.matches("<span class=\"p\"").count(), 3);
    assert!(page.contains(env!("CARGO_PKG_VERSION")));
    let junit = std::fs::read_to_string(junit).unwrap();
    assert_eq!(junit.matches("<testcase").count(), 3);
    assert_eq!(entries(&target.path().join("chaos-work")), 0);
}

/// Goal: a broken product is noticed, named, kept, and comes back alone. Method:
/// victims that acknowledge without writing; the replay lines are then run.
#[test]
fn a_canary_breaks_the_gate_and_every_seed_replays() {
    let target = TempDir::new().unwrap();
    let arguments = [
        "--runs",
        "2",
        "--scenario",
        "kill-9-recovery",
        "--quick",
        "--seed",
        "13",
        "--timeout",
        "50",
        "--canary",
        "ack-without-write",
    ];
    let finished = stability(&target, &arguments);
    let printed = stdout(&finished);
    assert_eq!(code(&finished), Outcome::Exited { code: 1 }, "{printed}");
    assert_eq!(printed.lines().last(), Some("0 passed, 2 failed"));
    assert_eq!(entries(&target.path().join("chaos-failures")), 2);
    let report = printed.split_once("====").unwrap().1;
    let after = |prefix: &str| -> Vec<String> {
        let lines = report
            .lines()
            .filter_map(|line| line.trim().strip_prefix(prefix));
        lines.map(str::to_owned).collect()
    };
    let evidence = after("evidence: ");
    assert_eq!(evidence.len(), 2, "{printed}");
    for folder in &evidence {
        assert!(Path::new(folder).join("dump/agent/database.db").is_file());
    }
    let replays = after("replay: cargo xtask ");
    assert_eq!(replays.len(), 2, "{printed}");
    for (replay, folder) in replays.iter().zip(&evidence) {
        let options = "--quick --timeout 50 --canary ack-without-write";
        assert!(replay.ends_with(options), "{replay}");
        let words: Vec<&str> = replay.split(' ').collect();
        let seed = words[3];
        assert!(
            folder.ends_with(&format!("-seed-{seed}")),
            "{folder} {seed}"
        );
        let spec = xtask(&words).env("CARGO_TARGET_DIR", target.path());
        let again = agentos_process::run(&spec).unwrap();
        assert_eq!(again.outcome, Outcome::Exited { code: 1 });
        assert!(stdout(&again).starts_with(&format!("seed {seed}\n")));
    }
}

#[test]
fn the_gate_is_what_was_asked_for() {
    let target = TempDir::new().unwrap();
    let mut arguments = vec![
        "--runs",
        "1",
        "--scenario",
        "1",
        "--quick",
        "--seed",
        "13",
        "--canary",
        "forget-resume",
    ];
    arguments.extend(["--min-pass-rate", "0"]);
    let finished = stability(&target, &arguments);
    let printed = stdout(&finished);
    assert_eq!(code(&finished), Outcome::Exited { code: 0 }, "{printed}");
    assert_eq!(printed.lines().last(), Some("0 passed, 1 failed"));
}

#[test]
fn errors_of_the_command_line_are_found_before_anything_runs() {
    let target = TempDir::new().unwrap();
    for arguments in [
        ["--runs", "0"],
        ["--runs", "100001"],
        ["--jobs", "0"],
        ["--jobs", "257"],
        ["--min-pass-rate", "1.01"],
        ["--min-pass-rate", "NaN"],
        ["--timeout", "0"],
        ["--scenario", "no-such"],
        ["--html", "/no/such/place.html"],
        ["--junit", "/"],
        ["--json", "/no/such/place.json"],
    ] {
        let finished = stability(&target, &arguments);
        assert_eq!(
            code(&finished),
            Outcome::Exited { code: 2 },
            "{arguments:?}"
        );
        assert!(!finished.stderr.is_empty() && finished.stdout.is_empty());
    }
    assert_eq!(entries(target.path()), 0);
}

/// Processes, by id, whose environment names `marker`, which they inherit.
fn processes_about(marker: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(marker) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

/// Goal: Ctrl-C tells what is known and leaves nothing behind. Method: a loop
/// that would take hours is interrupted when some runs have ended and a victim
/// of another is at work.
#[test]
fn an_interrupted_loop_prints_what_is_known() {
    let target = TempDir::new().unwrap();
    let marker = target.path().to_str().unwrap().to_owned();
    let json = target.path().join("s.json");
    let spec = xtask(&[
        "stability",
        "--runs",
        "30",
        "--scenario",
        "1",
        "--jobs",
        "2",
        "--seed",
        "14",
        "--json",
        json.to_str().unwrap(),
    ]);
    let mut child = Child::spawn(&spec.env("CARGO_TARGET_DIR", &marker), Sink::Null).unwrap();
    let deadline = Deadline::after(PATIENCE);
    let mut lines: Vec<String> = Vec::new();
    let mut interrupted = false;
    loop {
        assert!(!deadline.passed(), "{lines:?}");
        match child.next_line(Duration::from_millis(5)).unwrap() {
            NextLine::Eof => break,
            NextLine::TimedOut => {}
            NextLine::Line(line) => lines.push(String::from_utf8(line).unwrap()),
        }
        let some_ended = lines.iter().any(|line| line.starts_with("[3/30]"));
        // The command itself, and at least a guardian and its victim.
        if some_ended && !interrupted && processes_about(&marker).len() > 2 {
            child.signal(Signal::Interrupt).unwrap();
            interrupted = true;
        }
    }
    let exit = child.wait(PATIENCE).unwrap().unwrap();
    assert_eq!(exit.to_string(), "exit code 130", "{lines:?}");
    let last = lines.last().unwrap();
    let passed: u64 = last
        .strip_suffix(" passed, 0 failed")
        .unwrap()
        .parse()
        .unwrap();
    assert!((3..30).contains(&passed), "{last}");
    let before = &lines[lines.len() - 2];
    assert_eq!(*before, format!("interrupted after {passed} of 30 runs"));
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(
        (&report["passed"], &report["interrupted"]),
        (&passed.into(), &true.into())
    );

    assert_eq!(entries(&target.path().join("chaos-work")), 0);
    while !processes_about(&marker).is_empty() {
        assert!(!deadline.passed(), "left: {:?}", processes_about(&marker));
        std::thread::yield_now();
    }
}

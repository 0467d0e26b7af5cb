//! The forms of the report: other programs read the one, people the other.

use std::path::{Path, PathBuf};

use agentos_chaos::report::{json, terminal};
use agentos_chaos::{Metrics, Report, ScenarioReport, Toll, Verdict};

fn result(id: u32, name: &str, verdict: Verdict) -> ScenarioReport {
    let mut metrics = Metrics::default();
    metrics.set("found", 13);
    metrics.set("acked", 12);
    let violated = verdict == Verdict::Violated;
    ScenarioReport {
        id,
        name: name.to_owned(),
        verdict,
        duration_ms: 1234,
        metrics,
        replay: format!("cargo xtask chaos {name} --seed 7"),
        evidence: violated.then(|| PathBuf::from("kept/here")),
        reasons: Vec::from_iter((verdict != Verdict::Passed).then(|| "a reason".to_owned())),
        kill_points: Vec::from_iter((id == 1).then_some(0.5)),
        toll: Toll {
            victims: 3,
            sigkills: 2,
            acks: 12,
        },
    }
}

fn report() -> Report {
    Report {
        seed: 7,
        interrupted: false,
        scenarios: vec![
            result(1, "kill", Verdict::Passed),
            result(2, "flip", Verdict::Violated),
            result(3, "fill", Verdict::Inconclusive),
        ],
    }
}

#[test]
fn the_json_has_exactly_this_shape() {
    let expected = r#"{
  "seed": 7,
  "scenarios": [
    {
      "id": 1,
      "name": "kill",
      "verdict": "passed",
      "duration_ms": 1234,
      "metrics": {
        "found": 13,
        "acked": 12
      },
      "replay": "cargo xtask chaos kill --seed 7",
      "evidence": null,
      "reasons": [],
      "kill_points": [
        0.5
      ],
      "victims": 3,
      "sigkills": 2,
      "acks": 12
    },
    {
      "id": 2,
      "name": "flip",
      "verdict": "violated",
      "duration_ms": 1234,
      "metrics": {
        "found": 13,
        "acked": 12
      },
      "replay": "cargo xtask chaos flip --seed 7",
      "evidence": "kept/here",
      "reasons": [
        "a reason"
      ],
      "kill_points": [],
      "victims": 3,
      "sigkills": 2,
      "acks": 12
    },
    {
      "id": 3,
      "name": "fill",
      "verdict": "inconclusive",
      "duration_ms": 1234,
      "metrics": {
        "found": 13,
        "acked": 12
      },
      "replay": "cargo xtask chaos fill --seed 7",
      "evidence": null,
      "reasons": [
        "a reason"
      ],
      "kill_points": [],
      "victims": 3,
      "sigkills": 2,
      "acks": 12
    }
  ],
  "passed": 1,
  "failed": 1,
  "inconclusive": 1,
  "interrupted": false
}
"#;
    assert_eq!(json::render(&report()).unwrap(), expected);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    json::write(&report(), &file).unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), expected);
    assert!(json::write(&report(), Path::new("/no/such/place")).is_err());
}

#[test]
fn the_table_ends_with_a_line_of_its_own() {
    let text = terminal::render(&report());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[lines.len() - 1], "1 passed, 1 failed");
    assert_eq!(lines[lines.len() - 2], "inconclusive: fill");
    assert!(text.ends_with("failed\n"));
    assert!(lines.contains(&"  evidence: kept/here"), "{text}");
    assert!(lines.contains(&"  replay: cargo xtask chaos flip --seed 7"));
    let row = lines.iter().find(|line| line.contains("1 kill")).unwrap();
    for cell in ["passed", "1.2 s", "found=13 acked=12"] {
        assert!(row.contains(cell), "{row}");
    }
    assert_eq!(report().exit_code(), 1);
}

#[test]
fn when_all_passed_nothing_is_named() {
    let report = Report {
        seed: 7,
        interrupted: false,
        scenarios: vec![result(1, "kill", Verdict::Passed)],
    };
    let text = terminal::render(&report);
    assert!(text.ends_with("\n\n1 passed, 0 failed\n"), "{text}");
    assert!(!text.contains("replay") && !text.contains("inconclusive"));
    assert_eq!(report.exit_code(), 0);
}

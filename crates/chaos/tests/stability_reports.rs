//! The forms of a loop's report: a table, JSON, JUnit and HTML.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agentos_chaos::report::stability::{
    FailedRun, RunRecord, ScenarioTally, StabilityReport, html, json, junit, terminal,
};
use agentos_chaos::{Toll, Verdict, run_seed};
use serde_json::Value;

const SEED: u64 = 8141;
/// What a name or a reason may look like at its worst.
const NASTY: &str = "a <b> & \"c\" 'd' ]]> \u{1b}[31m </script> https://example.org";

fn tally(id: u32, name: &str, verdicts: &[Verdict]) -> ScenarioTally {
    let numbered = || (1..).zip(verdicts);
    let records = numbered().map(|(run, verdict)| RunRecord {
        run,
        verdict: *verdict,
        duration_ms: 1000 + u64::from(run),
    });
    let failures = numbered().filter(|(_, verdict)| **verdict != Verdict::Passed);
    let failures = failures.map(|(run, verdict)| {
        let seed = run_seed(SEED, u64::from(run));
        FailedRun {
            run,
            seed,
            verdict: *verdict,
            reasons: vec![NASTY.to_owned(), "another".to_owned()],
            replay: format!("cargo xtask chaos {name} --seed {seed}"),
            evidence: (*verdict == Verdict::Violated).then(|| PathBuf::from("kept/<here>")),
        }
    });
    ScenarioTally {
        id,
        name: name.to_owned(),
        goal: format!("{name} is written as it is"),
        records: records.collect(),
        kill_points: vec![0.1, 0.5, 1.0],
        toll: Toll {
            victims: 9,
            sigkills: 6,
            acks: 40,
        },
        sums: BTreeMap::from([("cuts".to_owned(), 7)]),
        failures: failures.collect(),
    }
}

/// 3 + 1 passed, 1 violated, 1 inconclusive.
fn report() -> StabilityReport {
    use Verdict::{Inconclusive, Passed, Violated};
    StabilityReport {
        seed: SEED,
        runs: 4,
        jobs: 2,
        interrupted: false,
        min_pass_rate: 1.0,
        sync_us: Some(321),
        scenarios: vec![
            tally(1, "kill", &[Passed, Violated, Passed, Passed]),
            tally(2, NASTY, &[Passed, Inconclusive]),
        ],
    }
}

fn empty() -> StabilityReport {
    StabilityReport {
        scenarios: vec![tally(1, "kill", &[])],
        sync_us: None,
        interrupted: true,
        ..report()
    }
}

#[test]
fn the_table_ends_with_a_line_of_its_own() {
    let text = terminal::render(&report());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[lines.len() - 1], "4 passed, 1 failed");
    assert_eq!(lines[lines.len() - 2], "inconclusive: 1");
    assert_eq!(lines[lines.len() - 3], "not run: 2 of 8");
    assert_eq!(lines[lines.len() - 4], "gate: no violation: broken");
    let sync = "sync latency: 321 µs (4 KiB, median)";
    assert_eq!(lines[lines.len() - 5], sync);
    let seed = run_seed(SEED, 2);
    assert!(lines.contains(&format!("kill run 2, seed {seed}: violated").as_str()));
    assert!(lines.contains(&format!("  replay: cargo xtask chaos kill --seed {seed}").as_str()));
    assert!(lines.contains(&"  evidence: kept/<here>"), "{text}");
    let row = lines.iter().find(|line| line.contains("1 kill")).unwrap();
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    // 3 of 4: the exact bound is 0.2486.
    let expected = [
        "1 kill", "4", "3", "1", "0", "1.0 s", "1.0 s", "1.0 s", "24.86 %",
    ];
    assert_eq!(cells, expected);
}

#[test]
fn an_interrupted_table_says_so() {
    let text = terminal::render(&empty());
    assert!(text.ends_with("interrupted after 0 of 4 runs\n0 passed, 0 failed\n"));
    assert!(!text.contains("sync latency"));
}

#[test]
fn the_json_has_exactly_these_fields() {
    let report = report();
    let read: Value = serde_json::from_str(&json::render(&report).unwrap()).unwrap();
    let keys =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let mut expected = [
        "seed",
        "runs",
        "jobs",
        "interrupted",
        "total",
        "passed",
        "violated",
        "inconclusive",
        "pass_rate",
        "lower_bound_95",
        "gate",
        "sync_us",
        "scenarios",
    ];
    expected.sort_unstable();
    assert_eq!(keys(&read), expected);
    assert_eq!(keys(&read["gate"]), ["holds", "min_pass_rate"]);
    let mut expected = [
        "id",
        "name",
        "runs",
        "passed",
        "violated",
        "inconclusive",
        "pass_rate",
        "lower_bound_95",
        "p50_ms",
        "p95_ms",
        "max_ms",
        "kill_points",
        "victims",
        "sigkills",
        "acks",
        "sums",
        "failures",
    ];
    expected.sort_unstable();
    let scenario = &read["scenarios"][0];
    assert_eq!(keys(scenario), expected);
    let failure = &scenario["failures"][0];
    let expected = ["evidence", "reasons", "replay", "run", "seed", "verdict"];
    assert_eq!(keys(failure), expected);

    for (field, expected) in [
        ("seed", Value::from(SEED)),
        ("runs", 4.into()),
        ("jobs", 2.into()),
        ("interrupted", false.into()),
        ("total", 6.into()),
        ("passed", 4.into()),
        ("violated", 1.into()),
        ("inconclusive", 1.into()),
        ("pass_rate", 0.8.into()),
        ("sync_us", 321.into()),
    ] {
        assert_eq!(read[field], expected, "{field}");
    }
    assert_eq!(scenario["pass_rate"], 0.75);
    assert_eq!(
        (&scenario["runs"], &scenario["p50_ms"]),
        (&4.into(), &1002.into())
    );
    assert_eq!(
        (&scenario["p95_ms"], &scenario["max_ms"]),
        (&1004.into(), &1004.into())
    );
    assert_eq!(scenario["kill_points"], serde_json::json!([0.1, 0.5, 1.0]));
    assert_eq!(
        (&scenario["sigkills"], &scenario["acks"]),
        (&6.into(), &40.into())
    );
    assert_eq!(scenario["sums"], serde_json::json!({ "cuts": 7 }));
    assert_eq!(
        (&failure["run"], &failure["verdict"]),
        (&2.into(), &"violated".into())
    );
    assert_eq!(failure["seed"], run_seed(SEED, 2));
}

#[test]
fn what_is_not_known_is_null() {
    let read: Value = serde_json::from_str(&json::render(&empty()).unwrap()).unwrap();
    for value in [
        &read["pass_rate"],
        &read["sync_us"],
        &read["scenarios"][0]["p50_ms"],
    ] {
        assert!(value.is_null(), "{read}");
    }
    assert_eq!(read["lower_bound_95"], 0.0);
    assert_eq!(read["interrupted"], true);
}

#[test]
fn the_junit_report_is_xml_with_a_case_for_every_run() {
    let text = junit::render(&report()).unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "testsuites");
    let counts = |node: roxmltree::Node<'_, '_>| {
        ["tests", "failures", "errors"].map(|name| node.attribute(name).unwrap().to_owned())
    };
    assert_eq!(counts(root), ["6", "1", "1"]);
    let suites: Vec<_> = root.children().filter(|node| node.is_element()).collect();
    assert_eq!(counts(suites[0]), ["4", "1", "0"]);
    assert_eq!(counts(suites[1]), ["2", "0", "1"]);
    assert_eq!(suites[0].attribute("time"), Some("4.010"));
    let readable = NASTY.replace('\u{1b}', "\u{fffd}");
    assert_eq!(suites[1].attribute("name"), Some(readable.as_str()));

    let all = |name: &str| -> Vec<roxmltree::Node<'_, '_>> {
        let named = root.descendants().filter(|node| node.has_tag_name(name));
        named.collect()
    };
    assert_eq!(all("testcase").len(), 6);
    assert_eq!((all("failure").len(), all("error").len()), (1, 1));
    let (failure, seed) = (all("failure")[0], run_seed(SEED, 2));
    assert_eq!(failure.attribute("message"), Some(readable.as_str()));
    let case = failure.parent().unwrap();
    assert_eq!(
        case.attribute("name").unwrap(),
        format!("run 2 seed {seed}")
    );
    assert_eq!(case.attribute("classname"), Some("kill"));
    assert_eq!(case.attribute("time"), Some("1.002"));
    let words = failure.text().unwrap();
    assert!(words.contains(&format!("replay: cargo xtask chaos kill --seed {seed}")));
    assert!(words.contains("evidence: kept/<here>"), "{words}");
}

#[test]
fn the_page_opens_without_a_network_and_is_escaped() {
    let mut report = report();
    let facts = [("commit".to_owned(), "<c>".to_owned())];
    let page = html::render(&report, &facts);
    for foreign in [
        "<script", "<link", "<img", "<iframe", "@import", "url(", "src=", "href=",
    ] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(!page.contains("<b>") && !page.contains("<c>") && !page.contains("<here>"));
    assert!(page.contains("a &lt;b&gt; &amp; &quot;c&quot;"), "{page}");
    assert!(page.contains("&lt;c&gt;"));
    // The only addresses are those in the words of the scenario.
    for tally in &mut report.scenarios {
        tally.name = "plain".to_owned();
        tally.goal.clear();
        tally.failures.clear();
    }
    assert!(!html::render(&report, &[]).contains("://"));
}

#[test]
fn the_page_has_a_cell_for_every_run_with_seed_and_verdict() {
    let report = report();
    let page = html::render(&report, &[]);
    for tally in &report.scenarios {
        for record in &tally.records {
            let (run, verdict) = (record.run, record.verdict);
            let seed = run_seed(SEED, u64::from(run));
            let title = format!("title=\"run {run}, seed {seed}: {verdict} in 1.0 s\"");
            assert!(page.contains(&title), "{title}");
        }
    }
    assert_eq!(page.matches("<span class=\"p\"").count(), 4);
    assert_eq!(page.matches("<span class=\"v\"").count(), 1);
    assert_eq!(page.matches("<span class=\"i\"").count(), 1);
    for letter in [">P</span>", ">V</span>", ">I</span>"] {
        assert!(page.contains(letter), "{letter}");
    }
    // Two charts of 20 bars for each scenario.
    assert_eq!(page.matches("<svg").count(), 4);
    assert_eq!(page.matches("<rect").count(), 80);
    assert!(page.contains("3 kills") && page.contains("321 µs"));
}

#[test]
fn of_very_many_runs_only_those_that_did_not_pass_have_a_cell() {
    let mut verdicts = vec![Verdict::Passed; 20_000];
    verdicts[9000] = Verdict::Violated;
    let report = StabilityReport {
        runs: 20_000,
        scenarios: vec![tally(1, "kill", &verdicts)],
        ..report()
    };
    let page = html::render(&report, &[]);
    assert_eq!(page.matches("<span class=\"v\"").count(), 1);
    assert!(!page.contains("<span class=\"p\""));
    assert!(page.contains("Of 20000 runs only those that did not pass."));
    assert!(page.contains("title=\"run 9001, seed"));
    let junit = junit::render(&report).unwrap();
    assert_eq!(junit.matches("<testcase").count(), 20_000);
}

#[test]
fn runs_that_are_missing_without_an_interruption_are_named() {
    let report = StabilityReport {
        interrupted: false,
        ..empty()
    };
    assert!(terminal::render(&report).contains("not run: 4 of 4"));
    assert_eq!(report.exit_code(), 2);
}

#[test]
fn a_page_about_nothing_is_a_page() {
    let page = html::render(&empty(), &[]);
    assert!(page.contains("Interrupted after 0 of 4 runs."));
    assert!(page.contains("not measured") && page.contains("None."));
}

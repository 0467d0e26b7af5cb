//! The report of a loop for programs. Fields are only ever added, never
//! renamed.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use super::{FailedRun, ScenarioTally, StabilityReport};
use crate::report::Toll;

#[derive(Serialize)]
struct Form<'report> {
    seed: u64,
    runs: u32,
    jobs: usize,
    interrupted: bool,
    total: u64,
    passed: u64,
    violated: u64,
    inconclusive: u64,
    pass_rate: Option<f64>,
    lower_bound_95: f64,
    gate: Gate,
    sync_us: Option<u64>,
    scenarios: Vec<ScenarioForm<'report>>,
}

#[derive(Serialize)]
struct Gate {
    min_pass_rate: f64,
    holds: bool,
}

#[derive(Serialize)]
struct ScenarioForm<'report> {
    id: u32,
    name: &'report str,
    runs: u64,
    passed: u64,
    violated: u64,
    inconclusive: u64,
    pass_rate: Option<f64>,
    lower_bound_95: f64,
    p50_ms: Option<u64>,
    p95_ms: Option<u64>,
    max_ms: Option<u64>,
    kill_points: &'report [f64],
    #[serde(flatten)]
    toll: Toll,
    sums: &'report BTreeMap<String, u64>,
    failures: &'report [FailedRun],
}

/// The report as JSON, with a newline at its end. `pass_rate` is null when
/// nothing was judged, the times are null when nothing came to its end.
///
/// # Errors
///
/// When a path is not UTF-8.
pub fn render(report: &StabilityReport) -> io::Result<String> {
    let counts = report.counts();
    let form = Form {
        seed: report.seed,
        runs: report.runs,
        jobs: report.jobs,
        interrupted: report.interrupted,
        total: counts.total(),
        passed: counts.passed,
        violated: counts.violated,
        inconclusive: counts.inconclusive,
        pass_rate: counts.pass_rate(),
        lower_bound_95: counts.lower_bound_95(),
        gate: Gate {
            min_pass_rate: report.min_pass_rate,
            holds: report.is_judged() && report.gate_holds(),
        },
        sync_us: report.sync_us,
        scenarios: report.scenarios.iter().map(scenario).collect(),
    };
    let mut text = serde_json::to_string_pretty(&form)?;
    text.push('\n');
    Ok(text)
}

fn scenario(tally: &ScenarioTally) -> ScenarioForm<'_> {
    let counts = tally.counts();
    let times = tally.times_ms();
    ScenarioForm {
        id: tally.id,
        name: &tally.name,
        runs: counts.total(),
        passed: counts.passed,
        violated: counts.violated,
        inconclusive: counts.inconclusive,
        pass_rate: counts.pass_rate(),
        lower_bound_95: counts.lower_bound_95(),
        p50_ms: times.map(|times| times.0),
        p95_ms: times.map(|times| times.1),
        max_ms: times.map(|times| times.2),
        kill_points: &tally.kill_points,
        toll: tally.toll,
        sums: &tally.sums,
        failures: &tally.failures,
    }
}

//! The report of a drive for programs. Fields are only ever added, never
//! renamed.

use std::io;

use serde::Serialize;
use serde_json::Value;

use super::super::stability;
use super::{ChaosReport, Covered, Fate, StrikeRun, Violation};

#[derive(Serialize)]
struct Form<'report> {
    subject: &'report str,
    goal: &'report str,
    seed: u64,
    size: u64,
    jobs: usize,
    interrupted: bool,
    exit_code: u8,
    calls: u64,
    derived: usize,
    planned: usize,
    passed: usize,
    violated: usize,
    inconclusive: usize,
    missed: usize,
    never_hit: Vec<&'report str>,
    problems: &'report [String],
    coverage: &'report [Covered],
    violations: &'report [Violation],
    dry: &'report [StrikeRun],
    runs: &'report [StrikeRun],
    stability: Option<Value>,
    duration_ms: u64,
}

/// The report as JSON, with a newline at its end: what the report has under the
/// names of its fields, with `passed`, `violated`, `inconclusive` and `missed`
/// as counts of struck runs, and `exit_code`.
///
/// # Errors
///
/// When a path is not UTF-8.
pub fn render(report: &ChaosReport) -> io::Result<String> {
    let stability = match &report.stability {
        Some(stability) => Some(serde_json::from_str(&stability::json::render(stability)?)?),
        None => None,
    };
    let form = Form {
        subject: &report.subject,
        goal: &report.goal,
        seed: report.seed,
        size: report.size,
        jobs: report.jobs,
        interrupted: report.interrupted,
        exit_code: report.exit_code(),
        calls: report.calls,
        derived: report.derived,
        planned: report.runs.len(),
        passed: report.count(Fate::Passed),
        violated: report.count(Fate::Violated),
        inconclusive: report.count(Fate::Inconclusive),
        missed: report.count(Fate::Missed),
        never_hit: report.never_hit(),
        problems: &report.problems,
        coverage: &report.coverage,
        violations: &report.violations,
        dry: &report.dry,
        runs: &report.runs,
        stability,
        duration_ms: report.duration_ms,
    };
    let mut text = serde_json::to_string_pretty(&form)?;
    text.push('\n');
    Ok(text)
}

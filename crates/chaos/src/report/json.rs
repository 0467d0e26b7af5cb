//! The report for programs. Fields are only ever added, never renamed.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::{Report, ScenarioReport};
use crate::verdict::Verdict;

#[derive(Serialize)]
struct Form<'report> {
    seed: u64,
    scenarios: &'report [ScenarioReport],
    passed: usize,
    failed: usize,
    inconclusive: usize,
    interrupted: bool,
}

/// The report as JSON, with a newline at its end:
/// `{"seed", "scenarios": [{"id", "name", "verdict", "duration_ms", "metrics",
/// "replay", "evidence", "reasons", "kill_points"}], "passed", "failed", "inconclusive",
/// "interrupted"}`,
/// where `verdict` is `passed`, `violated` or `inconclusive`, and `evidence` a
/// path or null.
///
/// # Errors
///
/// When a path is not UTF-8.
pub fn render(report: &Report) -> io::Result<String> {
    let form = Form {
        seed: report.seed,
        scenarios: &report.scenarios,
        passed: report.count(Verdict::Passed),
        failed: report.count(Verdict::Violated),
        inconclusive: report.count(Verdict::Inconclusive),
        interrupted: report.interrupted,
    };
    let mut text = serde_json::to_string_pretty(&form)?;
    text.push('\n');
    Ok(text)
}

/// Writes the report to a file, or to standard output when the path is `-`.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(report: &Report, path: &Path) -> io::Result<()> {
    let text = render(report)?;
    if path == Path::new("-") {
        io::stdout().lock().write_all(text.as_bytes())
    } else {
        std::fs::write(path, text)
    }
}

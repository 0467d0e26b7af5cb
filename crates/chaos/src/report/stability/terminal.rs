//! The report of a loop for people: a table, every failing seed with the line
//! that replays it, and a closing line that stands alone.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

use super::super::terminal::seconds;
use super::{Counts, FailedRun, ScenarioTally, StabilityReport, percent};

/// Reasons of one run that are shown; the evidence has all.
const REASONS_MAX: usize = 3;

/// The report as text. The last line is `N passed, N failed`; what was violated
/// counts as failed, and what was inconclusive is named on a line above.
pub fn render(report: &StabilityReport) -> String {
    let counts = report.counts();
    let mut text = format!("{}\n", table(report).trim_fmt());
    // Writing to a String cannot fail.
    for tally in &report.scenarios {
        for failure in &tally.failures {
            tell(&mut text, tally, failure);
        }
    }
    let unnamed = report.unnamed_failures();
    if unnamed > 0 {
        let _ = writeln!(text, "\n… and {unnamed} more");
    }
    text.push('\n');
    if let Some(sync_us) = report.sync_us {
        let _ = writeln!(text, "sync latency: {sync_us} µs (4 KiB, median)");
    }
    let _ = writeln!(text, "gate: {}", gate(report));
    let (total, planned) = (counts.total(), report.planned());
    if report.interrupted {
        let _ = writeln!(text, "interrupted after {total} of {planned} runs");
    } else if total < planned {
        let _ = writeln!(text, "not run: {} of {planned}", planned - total);
    }
    if counts.inconclusive > 0 {
        let _ = writeln!(text, "inconclusive: {}", counts.inconclusive);
    }
    let _ = writeln!(text, "{} passed, {} failed", counts.passed, counts.violated);
    text
}

fn table(report: &StabilityReport) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_NO_BORDERS).set_header([
        "scenario",
        "runs",
        "passed",
        "violated",
        "inconclusive",
        "p50",
        "p95",
        "max",
        "pass rate at least (95 %)",
    ]);
    for tally in &report.scenarios {
        let name = format!("{} {}", tally.id, tally.name);
        table.add_row(row(name, tally.counts(), tally.times_ms()));
    }
    if report.scenarios.len() > 1 {
        table.add_row(row("all".to_owned(), report.counts(), None));
    }
    table
}

fn row(name: String, counts: Counts, times: Option<(u64, u64, u64)>) -> [String; 9] {
    let time = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), seconds);
    [
        name,
        counts.total().to_string(),
        counts.passed.to_string(),
        counts.violated.to_string(),
        counts.inconclusive.to_string(),
        time(times.map(|times| times.0)),
        time(times.map(|times| times.1)),
        time(times.map(|times| times.2)),
        percent(counts.lower_bound_95()),
    ]
}

fn tell(text: &mut String, tally: &ScenarioTally, failure: &FailedRun) {
    let (run, seed, verdict) = (failure.run, failure.seed, failure.verdict);
    let _ = writeln!(text, "\n{} run {run}, seed {seed}: {verdict}", tally.name);
    for reason in failure.reasons.iter().take(REASONS_MAX) {
        let _ = writeln!(text, "  {reason}");
    }
    let more = failure.reasons.len().saturating_sub(REASONS_MAX);
    if more > 0 {
        let _ = writeln!(text, "  … and {more} more reasons");
    }
    if let Some(evidence) = &failure.evidence {
        let _ = writeln!(text, "  evidence: {}", evidence.display());
    }
    let _ = writeln!(text, "  replay: {}", failure.replay);
}

/// What the gate asks for, and whether it got it.
pub(crate) fn gate(report: &StabilityReport) -> String {
    let rule = if report.min_pass_rate >= 1.0 {
        "no violation".to_owned()
    } else {
        let rate = report.min_pass_rate;
        format!("a pass rate of at least {rate}, of each scenario and of all")
    };
    let state = if !report.is_judged() {
        "nothing was judged"
    } else if report.gate_holds() {
        "holds"
    } else {
        "broken"
    };
    format!("{rule}: {state}")
}

//! The report for people: a table, what failed and how to see it again, and a
//! closing line that stands alone.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

use super::Report;
use crate::verdict::Verdict;

/// The report as text. The last line is `N passed, N failed`; what was violated
/// counts as failed, and what was inconclusive is named on a line above.
pub fn render(report: &Report) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_NO_BORDERS)
        .set_header(["scenario", "verdict", "time", "figures"]);
    for scenario in &report.scenarios {
        table.add_row([
            format!("{} {}", scenario.id, scenario.name),
            scenario.verdict.to_string(),
            seconds(scenario.duration_ms),
            scenario.metrics.to_string(),
        ]);
    }
    let mut text = format!("{}\n", table.trim_fmt());
    // Writing to a String cannot fail.
    for scenario in &report.scenarios {
        if scenario.verdict == Verdict::Passed {
            continue;
        }
        let _ = writeln!(text, "\n{} {}", scenario.name, scenario.verdict);
        for reason in &scenario.reasons {
            let _ = writeln!(text, "  {reason}");
        }
        if let Some(evidence) = &scenario.evidence {
            let _ = writeln!(text, "  evidence: {}", evidence.display());
        }
        let _ = writeln!(text, "  replay: {}", scenario.replay);
    }
    let unjudged: Vec<&str> = report
        .of(Verdict::Inconclusive)
        .map(|scenario| scenario.name.as_str())
        .collect();
    text.push('\n');
    if report.interrupted {
        text.push_str("interrupted: the other scenarios did not run to their end\n");
    }
    if !unjudged.is_empty() {
        let _ = writeln!(text, "inconclusive: {}", unjudged.join(", "));
    }
    let _ = writeln!(
        text,
        "{} passed, {} failed",
        report.count(Verdict::Passed),
        report.count(Verdict::Violated)
    );
    text
}

/// `1.2 s`.
pub(crate) fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

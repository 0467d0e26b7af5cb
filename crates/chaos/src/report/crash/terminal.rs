//! The report of a drive for people: what was covered, every violation with the
//! line that shows it again, and a closing line that stands alone.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

use super::super::stability;
use super::super::terminal::seconds;
use super::{ChaosReport, Fate, Violation};
use crate::verdict::Verdict;

/// Reasons of one run that are shown; the evidence has all.
const REASONS_MAX: usize = 3;

/// Runs of one kind that are shown by name.
const NAMED_MAX: usize = 10;

/// The report as text. The last line is `N passed, N failed`; what was missed
/// or not judged is named on a line above.
pub fn render(report: &ChaosReport) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}: {}", report.subject, report.goal);
    let _ = writeln!(
        text,
        "seed {}, size {}, {} at a time, {} of {} strikes in {}",
        report.seed,
        report.size,
        report.jobs,
        report.runs.len(),
        report.derived,
        seconds(report.duration_ms),
    );
    for dry in report
        .dry
        .iter()
        .filter(|dry| dry.verdict != Verdict::Passed)
    {
        let _ = writeln!(text, "\ndry run {}", dry.verdict);
        reasons(&mut text, &dry.reasons);
        let _ = writeln!(text, "  replay: {}", dry.replay);
        if let Some(evidence) = &dry.evidence {
            let _ = writeln!(text, "  evidence: {}", evidence.display());
        }
    }
    if !report.coverage.is_empty() {
        let _ = writeln!(text, "\n{}", table(report).trim_fmt());
    }
    for violation in &report.violations {
        tell(&mut text, violation);
    }
    unjudged(&mut text, report);
    if let Some(stability) = &report.stability {
        let _ = write!(
            text,
            "\nmany seeded kills\n{}",
            stability::terminal::render(stability)
        );
    }
    text.push('\n');
    let never_hit = report.never_hit();
    if !never_hit.is_empty() {
        let _ = writeln!(text, "never hit: {}", never_hit.join(", "));
    }
    for problem in &report.problems {
        let _ = writeln!(text, "not shown: {problem}");
    }
    if report.interrupted {
        text.push_str("interrupted: not all strikes were made\n");
    }
    for (fate, word) in [
        (Fate::Missed, "missed"),
        (Fate::Inconclusive, "inconclusive"),
    ] {
        let count = report.count(fate);
        if count > 0 {
            let _ = writeln!(text, "{word}: {count}");
        }
    }
    let (passed, failed) = (report.count(Fate::Passed), report.count(Fate::Violated));
    let _ = writeln!(text, "{passed} passed, {failed} failed");
    text
}

fn table(report: &ChaosReport) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_NO_BORDERS).set_header([
        "strike", "at", "counted", "planned", "hit", "missed", "violated",
    ]);
    for one in &report.coverage {
        table.add_row([
            one.family.to_string(),
            one.name.clone(),
            one.counted.to_string(),
            one.planned.to_string(),
            one.hit.to_string(),
            one.missed.to_string(),
            one.violated.to_string(),
        ]);
    }
    table
}

fn tell(text: &mut String, violation: &Violation) {
    let Violation { found, count, .. } = violation;
    let _ = writeln!(
        text,
        "\n{} violated, {count} of this kind; the first is {} at size {}",
        found.strike.family(),
        found.strike,
        found.size,
    );
    if let Some(place) = &found.place {
        let _ = writeln!(text, "  hit: {place}");
    }
    let again = if violation.confirmed {
        "seen again"
    } else {
        "not seen again"
    };
    let _ = writeln!(
        text,
        "  smallest: {} at size {}, {again}, after {} runs",
        violation.strike, violation.size, violation.runs,
    );
    reasons(text, &violation.reasons);
    if let Some(evidence) = &violation.evidence {
        let _ = writeln!(text, "  evidence: {}", evidence.display());
    }
    let _ = writeln!(text, "  replay: {}", violation.replay);
}

fn reasons(text: &mut String, reasons: &[String]) {
    for reason in reasons.iter().take(REASONS_MAX) {
        let _ = writeln!(text, "  {reason}");
    }
    let more = reasons.len().saturating_sub(REASONS_MAX);
    if more > 0 {
        let _ = writeln!(text, "  … and {more} more reasons");
    }
}

fn unjudged(text: &mut String, report: &ChaosReport) {
    let unjudged = report
        .runs
        .iter()
        .filter(|run| run.fate() == Fate::Inconclusive);
    for run in unjudged.take(NAMED_MAX) {
        let _ = writeln!(text, "\n{} inconclusive", run.strike);
        reasons(text, &run.reasons);
        let _ = writeln!(text, "  replay: {}", run.replay);
    }
}

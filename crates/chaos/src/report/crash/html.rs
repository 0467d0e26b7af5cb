//! The report of a drive as one HTML file that opens without a network.
//!
//! Looks like the report of the stability loop, and like it has no script and
//! nothing from elsewhere. Everything is escaped.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{ChaosReport, Fate, StrikeRun, Violation};
use crate::report::charts::histogram;
use crate::report::stability::html::STYLE;
use crate::report::terminal::seconds;
use crate::statistics::histogram as bins;
use crate::verdict::Verdict;

/// Parts of the work that the plot has.
const BINS: usize = 40;

/// Runs that get a cell each; of longer drives only those that did not pass.
const CELLS_MAX: usize = 10_000;

/// The report as a page. `facts` are shown in their order: what was tested,
/// where and when.
pub fn render(report: &ChaosReport, facts: &[(String, String)]) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Chaos: " (report.subject) ", seed " (report.seed) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Chaos: " (report.subject) }
                (summary(report, facts))
                h2 { "Coverage" }
                (coverage(report))
                h2 { "Where the victims were struck" }
                (positions(report))
                h2 { "Runs" }
                p { "One cell a run, in the order of the plan. P passed, V violated, I inconclusive, M missed." }
                (cells(report))
                h2 { "Violations" }
                @if report.violations.is_empty() { p { "None." } }
                @for violation in &report.violations { (violated(violation)) }
                @if !report.dry.iter().all(|dry| dry.verdict == Verdict::Passed) {
                    h2 { "Dry run" }
                    @for dry in &report.dry { (plain(dry)) }
                }
            }
        }
    };
    let mut text = page.into_string();
    text.push('\n');
    text
}

fn summary(report: &ChaosReport, facts: &[(String, String)]) -> Markup {
    let never_hit = report.never_hit();
    html! {
        p.sum { (report.count(Fate::Passed)) " passed, " (report.count(Fate::Violated)) " failed" }
        @if report.interrupted { p { "Interrupted: not all strikes were made." } }
        @for problem in &report.problems { p { "Not shown: " (problem) } }
        @if !never_hit.is_empty() { p { "Never hit: " (never_hit.join(", ")) } }
        dl {
            dt { "guarantee" } dd { (report.goal) }
            dt { "strikes" } dd { (report.runs.len()) " of " (report.derived) " that the dry run gave" }
            dt { "missed" } dd { (report.count(Fate::Missed)) }
            dt { "inconclusive" } dd { (report.count(Fate::Inconclusive)) }
            dt { "seed" } dd { (report.seed) }
            dt { "size" } dd { (report.size) }
            dt { "time" } dd { (seconds(report.duration_ms)) ", " (report.jobs) " at a time" }
            @if let Some(stability) = &report.stability {
                @let counts = stability.counts();
                dt { "many seeded kills" }
                dd { (counts.passed) " passed, " (counts.violated) " failed, "
                    (counts.inconclusive) " inconclusive" }
            }
            @for (name, fact) in facts { dt { (name) } dd { (fact) } }
        }
    }
}

fn coverage(report: &ChaosReport) -> Markup {
    html! {
        div.wide { table {
            thead { tr {
                @for head in ["strike", "at", "counted", "planned", "hit", "missed", "violated"] {
                    th { (head) }
                }
            } }
            tbody {
                @for one in &report.coverage { tr {
                    td { (one.family) } td { (one.name) } td { (one.counted) } td { (one.planned) }
                    td { (one.hit) } td { (one.missed) } td { (one.violated) }
                } }
            }
        } }
    }
}

fn positions(report: &ChaosReport) -> Markup {
    let runs = report.runs.iter().filter_map(|run| run.position);
    let loops = report
        .stability
        .iter()
        .flat_map(|stability| &stability.scenarios);
    let loops = loops.flat_map(|tally| tally.kill_points.iter().copied());
    let all: Vec<f64> = runs.chain(loops).collect();
    let counts = bins(all.iter().copied(), 1.0, BINS);
    html! {
        @if all.is_empty() { p { "Nothing was acknowledged, so nobody knows." } }
        @else {
            figure {
                (histogram(&counts, |place| format!("{place:.2}"), "strikes over the work"))
                figcaption { (all.len()) " strikes, by how far the work was: 0 its beginning, 1 its end" }
            }
        }
    }
}

fn cells(report: &ChaosReport) -> Markup {
    let all = report.runs.len() <= CELLS_MAX;
    let shown = |run: &&StrikeRun| all || run.fate() != Fate::Passed;
    html! {
        div.cells {
            @for run in report.runs.iter().filter(shown).take(CELLS_MAX) {
                @let (class, letter) = match run.fate() {
                    Fate::Passed => ("p", "P"),
                    Fate::Violated => ("v", "V"),
                    Fate::Inconclusive => ("i", "I"),
                    Fate::Missed => ("i", "M"),
                };
                span class=(class) title={ (run.strike) } { (letter) }
            }
        }
    }
}

fn violated(violation: &Violation) -> Markup {
    let found = &violation.found;
    html! {
        h3 { (violation.strike) " at size " (violation.size) }
        p {
            "Found as " (found.strike) " at size " (found.size)
            @if let Some(place) = &found.place { " (" (place) ")" }
            ", " (violation.count) " of this kind; "
            @if violation.confirmed { "seen again." } @else { "not seen again." }
        }
        ul { @for reason in &violation.reasons { li { (reason) } } }
        pre { (violation.replay) }
        @if let Some(evidence) = &violation.evidence { p { "evidence: " (evidence.display()) } }
    }
}

fn plain(run: &StrikeRun) -> Markup {
    html! {
        h3 { (run.verdict) }
        ul { @for reason in &run.reasons { li { (reason) } } }
        pre { (run.replay) }
    }
}

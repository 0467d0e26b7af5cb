//! The report of a loop as one HTML file that opens without a network.
//!
//! No script, no style sheet, no font and no image from elsewhere. A verdict is
//! told by a letter and not by colour alone, and colours follow the reader's
//! light or dark setting. Everything is escaped.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::terminal::gate;
use super::{Counts, FailedRun, RunRecord, ScenarioTally, StabilityReport, percent, percent_up};
use crate::report::charts::histogram;
use crate::report::terminal::seconds;
use crate::statistics::{as_float, histogram as bins};
use crate::verdict::Verdict;

/// Runs of one scenario that get a cell each; of longer loops only the runs that
/// did not pass, since a browser has to show it.
const CELLS_MAX: usize = 10_000;

/// Parts of the range that a chart has.
const BINS: usize = 20;

/// What every page of a report looks like.
pub(in crate::report) const STYLE: &str = "
:root { color-scheme: light dark; --ok: #2f7d46; --bad: #b3261e; --odd: #8a6100; --line: #8888; --bar: #3b6ea8; }
@media (prefers-color-scheme: dark) { :root { --ok: #2c6b3f; --bad: #a8322b; --odd: #7a5a10; --bar: #7aa7dc; } }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; } h2 { margin-top: 2.5rem; } h3 { margin-bottom: .3rem; }
.wide { overflow-x: auto; } .cells { display: flex; flex-wrap: wrap; gap: 2px; }
.cells span { width: 1.1rem; height: 1.1rem; font: 11px/1.1rem monospace; text-align: center; color: #fff; border-radius: 2px; }
.p { background: var(--ok); } .v { background: var(--bad); } .i { background: var(--odd); }
.sum { font-size: 1.3rem; font-weight: 600; } .bar { fill: var(--bar); } .axis { stroke: currentColor; }
.chart { max-width: 100%; height: auto; overflow: visible; } .chart text { font-size: 12px; fill: currentColor; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem 3rem; } figure { margin: 0; } figcaption { font-size: 13px; }
dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1rem; } dd { margin: 0; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8882; padding: .5rem; margin: .3rem 0; }
";

/// The report as a page. `facts` are shown in their order: what was tested,
/// where and when.
pub fn render(report: &StabilityReport, facts: &[(String, String)]) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Stability, seed " (report.seed) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Stability" }
                (summary(report, facts))
                h2 { "Scenarios" }
                (table(report))
                h2 { "Verdicts" }
                p { "One cell a run, in the order of their numbers. P passed, V violated, I inconclusive." }
                @for tally in &report.scenarios { (matrix(report, tally)) }
                h2 { "Times and kills" }
                @for tally in &report.scenarios { (charts(tally)) }
                h2 { "Runs that did not pass" }
                (failures(report))
            }
        }
    };
    let mut text = page.into_string();
    text.push('\n');
    text
}

fn summary(report: &StabilityReport, facts: &[(String, String)]) -> Markup {
    let counts = report.counts();
    let bound = percent_up(1.0 - counts.lower_bound_95());
    html! {
        p.sum { (counts.passed) " passed, " (counts.violated) " failed" }
        @if counts.inconclusive > 0 { p { (counts.inconclusive) " inconclusive" } }
        @if report.interrupted {
            p { "Interrupted after " (counts.total()) " of " (report.planned()) " runs." }
        }
        dl {
            dt { "gate" } dd { (gate(report)) }
            dt { "rate of failure" } dd { "below " (bound) " at 95 % confidence, all scenarios together" }
            dt { "seed" } dd { (report.seed) }
            dt { "runs" } dd { (report.runs) " of each scenario, " (report.jobs) " at a time" }
            dt { "sync latency" }
            dd {
                @match report.sync_us {
                    Some(sync_us) => { (sync_us) " µs, median of overwrites of 4 KiB with fsync" }
                    None => "not measured",
                }
            }
            @for (name, fact) in facts { dt { (name) } dd { (fact) } }
        }
    }
}

fn table(report: &StabilityReport) -> Markup {
    html! {
        div.wide { table {
            thead { tr {
                @for head in ["scenario", "runs", "passed", "violated", "inconclusive", "p50", "p95",
                    "max", "pass rate", "at least (95 %)", "kills"] { th { (head) } }
            } }
            tbody {
                @for tally in &report.scenarios {
                    @let name = format!("{} {}", tally.id, tally.name);
                    (row(&name, tally.counts(), tally.times_ms(), tally.kill_points.len()))
                }
                @if report.scenarios.len() > 1 {
                    @let kills = report.scenarios.iter().map(|tally| tally.kill_points.len()).sum();
                    (row("all", report.counts(), None, kills))
                }
            }
        } }
    }
}

fn row(name: &str, counts: Counts, times: Option<(u64, u64, u64)>, kills: usize) -> Markup {
    let time = |time: Option<u64>| time.map_or_else(|| "–".to_owned(), seconds);
    html! {
        tr {
            td { (name) } td { (counts.total()) } td { (counts.passed) } td { (counts.violated) }
            td { (counts.inconclusive) }
            td { (time(times.map(|times| times.0))) }
            td { (time(times.map(|times| times.1))) }
            td { (time(times.map(|times| times.2))) }
            td { (counts.pass_rate().map_or_else(|| "–".to_owned(), percent)) }
            td { (percent(counts.lower_bound_95())) } td { (kills) }
        }
    }
}

fn matrix(report: &StabilityReport, tally: &ScenarioTally) -> Markup {
    let all = tally.records.len() <= CELLS_MAX;
    let shown = tally
        .records
        .iter()
        .filter(|record| all || record.verdict != Verdict::Passed)
        .take(CELLS_MAX);
    html! {
        h3 { (tally.id) " " (tally.name) }
        p { (tally.goal) }
        @if !all { p { "Of " (tally.records.len()) " runs only those that did not pass." } }
        div.cells { @for record in shown { (cell(report, *record)) } }
    }
}

fn cell(report: &StabilityReport, record: RunRecord) -> Markup {
    let (class, letter) = match record.verdict {
        Verdict::Passed => ("p", "P"),
        Verdict::Violated => ("v", "V"),
        Verdict::Inconclusive => ("i", "I"),
    };
    let seed = report.seed_of(record.run);
    let (run, verdict, time) = (record.run, record.verdict, seconds(record.duration_ms));
    html! {
        span class=(class) title={ "run " (run) ", seed " (seed) ": " (verdict) " in " (time) } {
            (letter)
        }
    }
}

fn charts(tally: &ScenarioTally) -> Markup {
    let times = tally
        .records
        .iter()
        .map(|record| as_float(record.duration_ms));
    let slowest = tally.times_ms().map_or(0, |times| times.2);
    let by_time = bins(times, as_float(slowest), BINS);
    // Milliseconds are far below 2^53.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a time is not negative"
    )]
    let time = |place: f64| seconds((as_float(slowest) * place) as u64);
    let kills = tally.kill_points.len();
    let by_kill = bins(tally.kill_points.iter().copied(), 1.0, BINS);
    html! {
        h3 { (tally.id) " " (tally.name) }
        div.charts {
            figure {
                (histogram(&by_time, time, "times of the runs"))
                figcaption { "runs by the time they took" }
            }
            @if kills > 0 {
                figure {
                    (histogram(&by_kill, |place| format!("{place:.2}"), "kills over the work"))
                    figcaption { (kills) " kills, by how far the work was: 0 its beginning, 1 its end" }
                }
            } @else {
                p { "No kill was reported." }
            }
        }
    }
}

fn failures(report: &StabilityReport) -> Markup {
    let unnamed = report.unnamed_failures();
    let none = report
        .scenarios
        .iter()
        .all(|tally| tally.failures.is_empty());
    html! {
        @if none { p { "None." } }
        @for tally in &report.scenarios {
            @for failure in &tally.failures { (failed(tally, failure)) }
        }
        @if unnamed > 0 { p { "… and " (unnamed) " more." } }
    }
}

fn failed(tally: &ScenarioTally, failure: &FailedRun) -> Markup {
    html! {
        h3 { (tally.name) " run " (failure.run) ", seed " (failure.seed) ": " (failure.verdict) }
        ul { @for reason in &failure.reasons { li { (reason) } } }
        pre { (failure.replay) }
        @if let Some(evidence) = &failure.evidence { p { "evidence: " (evidence.display()) } }
    }
}

//! What the runs of all subjects come to: one line each, and what they are together.

use std::fmt::Write as _;
use std::path::PathBuf;

use agentos_chaos::report::crash::{Covered, Fate};
use agentos_chaos::{ChaosReport, Family};
use maud::{DOCTYPE, html};
use serde_json::{Value, json};

use super::points::Points;

/// One subject's figures, or those of all together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Line {
    subject: String,
    size: u64,
    /// Different points that the dry run reached, and how often all of them.
    points: usize,
    reached: u64,
    calls: u64,
    planned: usize,
    hit: usize,
    missed: usize,
    inconclusive: usize,
    violated: usize,
    ms: u64,
    code: u8,
}

impl Line {
    fn of(report: &ChaosReport) -> Line {
        let of = |family| {
            let lines = report.coverage.iter();
            lines.filter(move |line: &&Covered| line.family == family && line.counted > 0)
        };
        let counted = |family| of(family).map(|line| line.counted).sum();
        let dry = report.dry.iter().filter(|run| run.fate() == Fate::Violated);
        Line {
            subject: report.subject.clone(),
            size: report.size,
            points: of(Family::Point).count(),
            reached: counted(Family::Point),
            calls: report.calls,
            planned: report.runs.len(),
            hit: report.runs.iter().filter(|run| run.hit.is_some()).count(),
            missed: report.count(Fate::Missed),
            inconclusive: report.count(Fate::Inconclusive),
            violated: report.count(Fate::Violated) + dry.count(),
            ms: report.duration_ms,
            code: report.exit_code(),
        }
    }

    fn add(&mut self, other: &Line) {
        self.reached += other.reached;
        self.calls += other.calls;
        self.planned += other.planned;
        self.hit += other.hit;
        self.missed += other.missed;
        self.inconclusive += other.inconclusive;
        self.violated += other.violated;
        self.ms += other.ms;
    }

    /// In the order of [`HEADS`].
    fn cells(&self) -> [String; 9] {
        [
            self.subject.clone(),
            self.points.to_string(),
            self.reached.to_string(),
            self.calls.to_string(),
            self.planned.to_string(),
            self.hit.to_string(),
            self.missed.to_string(),
            self.violated.to_string(),
            format!("{:.1}", self.ms as f64 / 1000.0),
        ]
    }
}

const HEADS: [&str; 9] = [
    "subject", "points", "reached", "calls", "strikes", "hit", "missed", "violated", "s",
];

/// What all came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    lines: Vec<Line>,
    together: Line,
    /// Of a run of all subjects at points.
    points: Option<Points>,
    /// The lines that show violations again.
    replays: Vec<String>,
}

impl Tally {
    pub(super) fn of(reports: &[ChaosReport], points: Option<Points>) -> Tally {
        let lines: Vec<Line> = reports.iter().map(Line::of).collect();
        let mut together = Line {
            subject: format!("{} together", lines.len()),
            ..Line::default()
        };
        lines.iter().for_each(|line| together.add(line));
        let names = reports.iter().flat_map(|report| &report.coverage);
        let names = names.filter(|line| line.family == Family::Point && line.counted > 0);
        let names: std::collections::BTreeSet<_> = names.map(|line| &line.name).collect();
        together.points = names.len();
        let dry = |report: &ChaosReport| -> Vec<String> {
            let dry = report.dry.iter();
            let violated = dry.filter(|run| run.fate() == Fate::Violated);
            violated.map(|run| run.replay.clone()).collect()
        };
        let found = |report: &ChaosReport| -> Vec<String> {
            let found = report.violations.iter();
            found.map(|found| found.replay.clone()).collect()
        };
        let replays = reports
            .iter()
            .flat_map(|one| [dry(one), found(one)].concat());
        Tally {
            lines,
            together,
            points,
            replays: replays.collect(),
        }
    }

    fn never_hit(&self) -> &[String] {
        self.points.as_ref().map_or(&[], |points| &points.never_hit)
    }

    /// A violation, or a point that was never hit, weighs most, then an interruption,
    /// then what was not judged.
    pub(super) fn exit_code(&self, interrupted: bool) -> u8 {
        let codes = || self.lines.iter().map(|line| line.code);
        if codes().any(|code| code == 1) || !self.never_hit().is_empty() {
            return 1;
        }
        if interrupted {
            return 130;
        }
        codes().max().unwrap_or(2)
    }

    /// As text. The last line is `N passed, N failed`, of strikes.
    pub(super) fn render(&self) -> String {
        let rows = self.lines.iter().chain([&self.together]).map(Line::cells);
        let rows: Vec<[String; 9]> = [HEADS.map(str::to_owned)].into_iter().chain(rows).collect();
        let widths: Vec<usize> = (0..HEADS.len())
            .map(|at| {
                rows.iter()
                    .map(|row| row[at].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        // Writing to a String cannot fail.
        for row in &rows {
            let _ = write!(text, "{:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                let _ = write!(text, "  {cell:>width$}");
            }
            text.push('\n');
        }
        text.push('\n');
        if let Some(points) = &self.points {
            let _ = match points.never_hit.as_slice() {
                [] => writeln!(
                    text,
                    "all {} points of the sources were hit",
                    points.declared
                ),
                missing => writeln!(
                    text,
                    "of {} points of the sources no subject hits {}",
                    points.declared,
                    missing.join(", ")
                ),
            };
        }
        for replay in &self.replays {
            let _ = writeln!(text, "replay: {replay}");
        }
        let Line {
            planned,
            missed,
            inconclusive,
            violated,
            ..
        } = self.together;
        let passed = planned.saturating_sub(missed + inconclusive + violated);
        let _ = writeln!(text, "{passed} passed, {violated} failed");
        text
    }

    pub(super) fn to_json(&self) -> Value {
        let line = |line: &Line| {
            json!({
                "subject": line.subject,
                "size": line.size,
                "points": line.points,
                "points_reached": line.reached,
                "calls": line.calls,
                "strikes": line.planned,
                "hit": line.hit,
                "missed": line.missed,
                "inconclusive": line.inconclusive,
                "violated": line.violated,
                "duration_ms": line.ms,
                "exit_code": line.code,
            })
        };
        json!({
            "subjects": self.lines.iter().map(line).collect::<Vec<_>>(),
            "points_declared": self.points.as_ref().map(|points| points.declared),
            "points_never_hit": self.points.as_ref().map(|points| &points.never_hit),
            "replays": self.replays,
        })
    }

    /// A page that leads to those of the subjects, which are in the same order.
    pub(super) fn page(&self, links: &[PathBuf]) -> String {
        let rows = self.lines.iter().zip(links);
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    title { "Chaos, exhaustively" }
                    style { "body { font: 15px system-ui, sans-serif; margin: 2rem; } td, th { padding: .2rem .7rem; text-align: right; } td:first-child, th:first-child { text-align: left; }" }
                }
                body {
                    h1 { "Chaos, exhaustively" }
                    @if let Some(points) = &self.points {
                        p { (points.declared) " points in the sources; never hit: "
                            @if points.never_hit.is_empty() { "none" } @else { (points.never_hit.join(", ")) } }
                    }
                    table {
                        tr { @for head in HEADS { th { (head) } } }
                        @for (line, link) in rows {
                            tr {
                                td { a href=(link.display()) { (line.subject) } }
                                @for cell in line.cells().iter().skip(1) { td { (cell) } }
                            }
                        }
                        tr { @for cell in self.together.cells() { td { (cell) } } }
                    }
                    @for replay in &self.replays { pre { (replay) } }
                }
            }
        };
        let mut text = page.into_string();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(subject: &str, code: u8) -> Line {
        Line {
            subject: subject.to_owned(),
            points: 2,
            planned: 10,
            hit: 9,
            missed: 1,
            ms: 1234,
            code,
            ..Line::default()
        }
    }

    fn tally(codes: &[u8], never_hit: Option<&[&str]>) -> Tally {
        let lines: Vec<Line> = codes.iter().map(|code| line("a", *code)).collect();
        let mut together = Line::default();
        lines.iter().for_each(|line| together.add(line));
        Tally {
            lines,
            together,
            points: never_hit.map(|names| Points {
                declared: 3,
                never_hit: names.iter().map(|name| (*name).to_owned()).collect(),
            }),
            replays: Vec::new(),
        }
    }

    #[test]
    fn a_broken_promise_weighs_most_and_a_point_that_nobody_hits_is_one() {
        assert_eq!(tally(&[0, 0], None).exit_code(false), 0);
        assert_eq!(tally(&[0, 0], Some(&[])).exit_code(false), 0);
        assert_eq!(tally(&[0, 2], None).exit_code(false), 2);
        assert_eq!(tally(&[0, 1, 2], None).exit_code(true), 1);
        assert_eq!(tally(&[0, 130], None).exit_code(true), 130);
        assert_eq!(tally(&[0, 2], None).exit_code(true), 130);
        assert_eq!(tally(&[0, 0], Some(&["b"])).exit_code(false), 1);
        // Nobody was struck at all.
        assert_eq!(tally(&[], None).exit_code(false), 2);
    }

    #[test]
    fn the_text_has_a_line_for_each_and_ends_with_the_count() {
        let text = tally(&[0, 0], Some(&["b", "c"])).render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        assert!(lines[1].starts_with("a"), "{text}");
        assert_eq!(lines[5], "of 3 points of the sources no subject hits b, c");
        assert_eq!(lines[6], "18 passed, 0 failed");
    }
}

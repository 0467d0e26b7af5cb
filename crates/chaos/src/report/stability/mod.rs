//! What a loop of many runs brought, and its forms.
//!
//! Of a run only its number, verdict and time are kept; its seed follows from
//! the loop's. Details stay of runs that did not pass, in bounded number.

pub mod html;
pub mod json;
pub mod junit;
pub mod terminal;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::{ScenarioReport, Toll};
use crate::prng::run_seed;
use crate::statistics::{as_float, lower_bound_95, percentile};
use crate::verdict::{EXIT_INTERRUPTED, Verdict};

/// Runs of one scenario and one verdict whose details are kept; the others are
/// counted, and their seeds are known.
const FAILURES_MAX: usize = 1000;

/// Kill points of one scenario that are kept.
const KILL_POINTS_MAX: usize = 1_000_000;

/// The result of a loop.
#[derive(Debug, Clone, PartialEq)]
pub struct StabilityReport {
    /// The loop's seed, printed first.
    pub seed: u64,
    /// Runs of each scenario that were asked for.
    pub runs: u32,
    /// How many ran at a time.
    pub jobs: usize,
    /// Whether it ended early because somebody wanted it to.
    pub interrupted: bool,
    /// The pass rate that the gate asks for; 1 allows no violation.
    pub min_pass_rate: f64,
    /// The median time of a small write with `fsync`, in microseconds, before
    /// and after the runs; `None` when it could not be measured.
    pub sync_us: Option<u64>,
    /// One tally a scenario, in order.
    pub scenarios: Vec<ScenarioTally>,
}

/// All runs of one scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct ScenarioTally {
    /// The scenario's number.
    pub id: u32,
    /// The scenario's name.
    pub name: String,
    /// The guarantee.
    pub goal: String,
    /// The runs that came to their end, by number.
    pub records: Vec<RunRecord>,
    /// How far the work was at each kill, 0 to 1.
    pub kill_points: Vec<f64>,
    /// What all of them took.
    pub toll: Toll,
    /// The sum of each figure, over the runs in which it is a whole number.
    pub sums: BTreeMap<String, u64>,
    /// Details of runs that did not pass, by number; the first 1,000 that ended
    /// of each verdict.
    pub failures: Vec<FailedRun>,
}

/// What is kept of every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRecord {
    /// Its number, from 1.
    pub run: u32,
    /// What is to be said about the guarantee.
    pub verdict: Verdict,
    /// How long it took.
    pub duration_ms: u64,
}

/// What is kept of a run that did not pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedRun {
    /// Its number, from 1.
    pub run: u32,
    /// Its seed.
    pub seed: u64,
    /// Violated or inconclusive.
    pub verdict: Verdict,
    /// Why.
    pub reasons: Vec<String>,
    /// The command that makes the same choices again, without the other runs.
    pub replay: String,
    /// Where the evidence of a violation is.
    pub evidence: Option<PathBuf>,
}

/// Runs by verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Every check held.
    pub passed: u64,
    /// A guarantee was broken.
    pub violated: u64,
    /// Not judged.
    pub inconclusive: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Passed => &mut self.passed,
            Verdict::Violated => &mut self.violated,
            Verdict::Inconclusive => &mut self.inconclusive,
        } += 1;
    }

    /// All runs that came to their end.
    pub fn total(self) -> u64 {
        self.judged() + self.inconclusive
    }

    fn judged(self) -> u64 {
        self.passed + self.violated
    }

    /// Passes among the judged; `None` when nothing was judged.
    pub fn pass_rate(self) -> Option<f64> {
        (self.judged() > 0).then(|| as_float(self.passed) / as_float(self.judged()))
    }

    /// What the pass rate is at least, at 95 % confidence; see
    /// [`lower_bound_95`].
    pub fn lower_bound_95(self) -> f64 {
        lower_bound_95(self.passed, self.judged())
    }

    fn holds(self, min_pass_rate: f64) -> bool {
        self.pass_rate().is_none_or(|rate| rate >= min_pass_rate)
    }
}

impl ScenarioTally {
    /// Of a scenario that did not run yet.
    pub(crate) fn new(id: u32, name: &str, goal: &str) -> ScenarioTally {
        ScenarioTally {
            id,
            name: name.to_owned(),
            goal: goal.to_owned(),
            records: Vec::new(),
            kill_points: Vec::new(),
            toll: Toll::default(),
            sums: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    /// Takes note of one run.
    pub(crate) fn add(&mut self, run: u32, seed: u64, report: ScenarioReport) {
        let verdict = report.verdict;
        self.records.push(RunRecord {
            run,
            verdict,
            duration_ms: report.duration_ms,
        });
        let room = KILL_POINTS_MAX - self.kill_points.len();
        self.kill_points
            .extend(report.kill_points.into_iter().take(room));
        self.toll += report.toll;
        for (name, figure) in report.metrics.iter() {
            if let Some(figure) = figure.as_u64() {
                let sum = self.sums.entry(name.to_owned()).or_default();
                *sum = sum.saturating_add(figure);
            }
        }
        let known = |failure: &&FailedRun| failure.verdict == verdict;
        if verdict != Verdict::Passed && self.failures.iter().filter(known).count() < FAILURES_MAX {
            self.failures.push(FailedRun {
                run,
                seed,
                verdict,
                reasons: report.reasons,
                replay: report.replay,
                evidence: report.evidence,
            });
        }
    }

    /// Runs end in any order; a report has them by number.
    pub(crate) fn sort(&mut self) {
        self.records.sort_unstable_by_key(|record| record.run);
        self.failures.sort_by_key(|failure| failure.run);
    }

    /// Its runs by verdict.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for record in &self.records {
            counts.add(record.verdict);
        }
        counts
    }

    /// Times of the median, of 95 in 100 and of the slowest, in milliseconds;
    /// `None` when no run came to its end.
    pub fn times_ms(&self) -> Option<(u64, u64, u64)> {
        let mut times: Vec<u64> = self.records.iter().map(|run| run.duration_ms).collect();
        times.sort_unstable();
        let slowest = *times.last()?;
        Some((percentile(&times, 50)?, percentile(&times, 95)?, slowest))
    }

    /// Details of a run, where they were kept.
    pub(crate) fn failure(&self, run: u32) -> Option<&FailedRun> {
        let place = self.failures.binary_search_by_key(&run, |one| one.run);
        self.failures.get(place.ok()?)
    }
}

impl StabilityReport {
    /// All runs by verdict.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for record in self.scenarios.iter().flat_map(|tally| &tally.records) {
            counts.add(record.verdict);
        }
        counts
    }

    /// How many runs were asked for in all.
    pub fn planned(&self) -> u64 {
        u64::from(self.runs) * self.scenarios.len() as u64
    }

    /// Whether the pass rate of all runs together, and of each scenario alone,
    /// is what the gate asks for. What was not judged is neither.
    pub fn gate_holds(&self) -> bool {
        let each = self.scenarios.iter().map(ScenarioTally::counts);
        each.chain([self.counts()])
            .all(|counts| counts.holds(self.min_pass_rate))
    }

    /// Whether any run was judged at all: else the gate says nothing.
    pub fn is_judged(&self) -> bool {
        let counts = self.counts();
        counts.passed + counts.violated > 0
    }

    /// 1 when the gate is broken, or when an interrupted loop knows of a
    /// violation; else 130 after an interruption; else 2 when anything was
    /// inconclusive or did not run; else 0.
    pub fn exit_code(&self) -> u8 {
        let counts = self.counts();
        if !self.gate_holds() || (self.interrupted && counts.violated > 0) {
            1
        } else if self.interrupted {
            EXIT_INTERRUPTED
        } else if counts.inconclusive > 0 || counts.total() < self.planned() || counts.total() == 0
        {
            2
        } else {
            0
        }
    }

    /// The seed of a run, the same for every scenario.
    pub fn seed_of(&self, run: u32) -> u64 {
        run_seed(self.seed, u64::from(run))
    }

    /// Runs that did not pass and whose details were not kept.
    fn unnamed_failures(&self) -> u64 {
        let counts = self.counts();
        let named: usize = self.scenarios.iter().map(|one| one.failures.len()).sum();
        (counts.violated + counts.inconclusive).saturating_sub(named as u64)
    }
}

/// Hundredths of a percent are not rounded over by this: 0.57 is 57 %.
const ROUNDING_SLACK: f64 = 1e-6;

/// `98.33 %`, rounded down: only what has no exception is 100 %.
fn percent(rate: f64) -> String {
    format!("{:.2} %", (rate * 1e4 + ROUNDING_SLACK).floor() / 100.0)
}

/// `0.86 %`, rounded up: no bound looks better than it is.
fn percent_up(rate: f64) -> String {
    let hundredths = (rate * 1e4 - ROUNDING_SLACK).max(0.0).ceil();
    format!("{:.2} %", hundredths / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_never_rounded_to_the_better_side() {
        assert_eq!(percent(0.999_99), "99.99 %");
        assert_eq!(percent(1.0), "100.00 %");
        assert_eq!(percent(0.57), "57.00 %");
        assert_eq!(percent_up(1.0 - lower_bound_95(350, 350)), "0.86 %");
        assert_eq!(percent_up(0.0), "0.00 %");
    }
}

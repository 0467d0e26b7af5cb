//! What a drive of strikes brought, and its forms.
//!
//! What was planned and what was really hit are counted apart: a strike that was
//! never reached is *missed*, which is neither a pass nor a violation.

pub mod html;
pub mod json;
pub mod terminal;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::stability::StabilityReport;
use crate::crash::strike::{Family, Strike};
use crate::verdict::{EXIT_INTERRUPTED, Verdict, exit_code};

/// The result of a drive.
#[derive(Debug, Clone, PartialEq)]
pub struct ChaosReport {
    /// The subject's name.
    pub subject: String,
    /// The guarantee.
    pub goal: String,
    /// The seed that every choice came from.
    pub seed: u64,
    /// The size of the workload.
    pub size: u64,
    /// How many ran at a time.
    pub jobs: usize,
    /// Whether it ended early because somebody wanted it to.
    pub interrupted: bool,
    /// The runs that nobody struck, from which the strikes were derived.
    pub dry: Vec<StrikeRun>,
    /// System calls that the dry run counted, whether they were to be killed at or to
    /// fail.
    pub calls: u64,
    /// Strikes that were derived, before any was left out for the budget.
    pub derived: usize,
    /// The runs that were struck, in the order of the plan.
    pub runs: Vec<StrikeRun>,
    /// What was counted, planned and hit.
    pub coverage: Vec<Covered>,
    /// One a kind of strikes that violated, shrunk.
    pub violations: Vec<Violation>,
    /// Why this does not show what was asked for.
    pub problems: Vec<String>,
    /// Many seeded kills, where they were asked for.
    pub stability: Option<StabilityReport>,
    /// How long all took.
    pub duration_ms: u64,
}

/// One run under one strike.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StrikeRun {
    /// How it was to be struck.
    pub strike: Strike,
    /// The size of the workload.
    pub size: u64,
    /// What the strike was planned for: a point's name, a kind of call.
    pub planned: String,
    /// What was really hit, in the same words; `None` when nothing was.
    pub hit: Option<String>,
    /// The same with its place: which call on which file.
    pub place: Option<String>,
    /// How often it was tried.
    pub tries: u32,
    /// What is to be said about the guarantee.
    pub verdict: Verdict,
    /// Why it is not passed.
    pub reasons: Vec<String>,
    /// How far the work was, 0 to 1.
    pub position: Option<f64>,
    /// How long the last try took.
    pub duration_ms: u64,
    /// The line that runs it again.
    pub replay: String,
    /// Where the evidence of a violation is.
    pub evidence: Option<PathBuf>,
}

/// What is to be counted of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was struck, and every check held.
    Passed,
    /// A guarantee was broken, whether the strike was reached or not.
    Violated,
    /// The machine got in the way.
    Inconclusive,
    /// The strike was not reached.
    Missed,
}

impl StrikeRun {
    /// What is to be counted of it.
    pub fn fate(&self) -> Fate {
        match self.verdict {
            Verdict::Violated => Fate::Violated,
            Verdict::Inconclusive => Fate::Inconclusive,
            Verdict::Passed if self.hit.is_none() && self.strike != Strike::None => Fate::Missed,
            Verdict::Passed => Fate::Passed,
        }
    }
}

/// What was counted, planned and hit under one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Covered {
    /// The kind of strike.
    pub family: Family,
    /// A point's name, a kind of call.
    pub name: String,
    /// How often it came in the dry run.
    pub counted: u64,
    /// Strikes that were planned for it.
    pub planned: u64,
    /// Strikes that really hit it.
    pub hit: u64,
    /// Planned strikes that hit nothing.
    pub missed: u64,
    /// Violations among those that hit it, or that were planned for it and hit
    /// nothing.
    pub violated: u64,
}

/// A violation, as small as it gets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Violation {
    /// The first violated run of this kind.
    pub found: StrikeRun,
    /// How many runs of this kind were violated.
    pub count: u64,
    /// The earliest strike of the smallest size that shows one.
    pub strike: Strike,
    /// The smallest size.
    pub size: u64,
    /// Whether it showed once more when it was run again.
    pub confirmed: bool,
    /// What was wrong then, or when it was found.
    pub reasons: Vec<String>,
    /// The line that shows it again.
    pub replay: String,
    /// Where its evidence is.
    pub evidence: Option<PathBuf>,
    /// Runs that the shrinking took.
    pub runs: u32,
}

/// Counts by name, from what the dry run counted and what came of the runs.
pub(crate) fn coverage(
    counted: &BTreeMap<(Family, String), u64>,
    runs: &[StrikeRun],
) -> Vec<Covered> {
    let mut all: BTreeMap<(Family, String), Covered> = BTreeMap::new();
    for (key, count) in counted {
        line(&mut all, key.0, &key.1).counted = *count;
    }
    for run in runs {
        let family = run.strike.family();
        let fate = run.fate();
        let planned = line(&mut all, family, &run.planned);
        planned.planned += 1;
        planned.missed += u64::from(fate == Fate::Missed);
        let met = line(&mut all, family, run.hit.as_ref().unwrap_or(&run.planned));
        met.hit += u64::from(run.hit.is_some());
        met.violated += u64::from(fate == Fate::Violated);
    }
    all.into_values().collect()
}

fn line<'all>(
    all: &'all mut BTreeMap<(Family, String), Covered>,
    family: Family,
    name: &str,
) -> &'all mut Covered {
    all.entry((family, name.to_owned()))
        .or_insert_with(|| Covered {
            family,
            name: name.to_owned(),
            counted: 0,
            planned: 0,
            hit: 0,
            missed: 0,
            violated: 0,
        })
}

impl ChaosReport {
    /// How many struck runs came to this.
    pub fn count(&self, fate: Fate) -> usize {
        self.runs.iter().filter(|run| run.fate() == fate).count()
    }

    /// Points that the dry run counted and strikes were planned for, and at which
    /// nobody ever died.
    pub fn never_hit(&self) -> Vec<&str> {
        self.coverage
            .iter()
            .filter(|one| {
                one.family == Family::Point && one.counted > 0 && one.planned > 0 && one.hit == 0
            })
            .map(|one| one.name.as_str())
            .collect()
    }

    /// 1 when anything was violated, or when a point that the dry run counted
    /// was never hit; else 130 after an interruption; else 2 when anything was
    /// not judged; else 0.
    pub fn exit_code(&self) -> u8 {
        let verdicts = self.dry.iter().chain(&self.runs).map(|run| run.verdict);
        let stability = self
            .stability
            .as_ref()
            .map_or(0, StabilityReport::exit_code);
        match exit_code(verdicts) {
            1 => 1,
            _ if stability == 1 || !self.never_hit().is_empty() => 1,
            _ if self.interrupted => EXIT_INTERRUPTED,
            2 => 2,
            _ if stability != 0 || !self.problems.is_empty() => 2,
            code => code,
        }
    }

    /// For tests.
    ///
    /// # Panics
    ///
    /// With the report as text, unless the exit code is 0.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.exit_code() == 0, "\n{}", terminal::render(self));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(strike: &str, planned: &str, hit: Option<&str>, verdict: Verdict) -> StrikeRun {
        StrikeRun {
            strike: strike.parse().unwrap(),
            size: 1,
            planned: planned.to_owned(),
            hit: hit.map(str::to_owned),
            place: None,
            tries: 1,
            verdict,
            reasons: Vec::new(),
            position: None,
            duration_ms: 0,
            replay: String::new(),
            evidence: None,
        }
    }

    fn report(counted: &[(Family, &str, u64)], runs: Vec<StrikeRun>) -> ChaosReport {
        let counted = counted
            .iter()
            .map(|(family, name, count)| ((*family, (*name).to_owned()), *count))
            .collect();
        ChaosReport {
            subject: "subject".to_owned(),
            goal: String::new(),
            seed: 1,
            size: 1,
            jobs: 1,
            interrupted: false,
            dry: vec![run("none", "", None, Verdict::Passed)],
            calls: 0,
            derived: runs.len(),
            coverage: coverage(&counted, &runs),
            runs,
            violations: Vec::new(),
            problems: Vec::new(),
            stability: None,
            duration_ms: 0,
        }
    }

    /// Counted, planned, hit, missed, violated.
    fn figures(report: &ChaosReport, name: &str) -> [u64; 5] {
        let one = report.coverage.iter().find(|one| one.name == name).unwrap();
        [one.counted, one.planned, one.hit, one.missed, one.violated]
    }

    #[test]
    fn coverage_is_counted_over_what_was_really_hit() {
        let runs = vec![
            run(
                "call:1/1#1:before",
                "write file",
                Some("write file"),
                Verdict::Passed,
            ),
            run(
                "call:1/1#2:before",
                "write file",
                Some("fsync file"),
                Verdict::Violated,
            ),
            run("call:1/1#3:before", "write file", None, Verdict::Passed),
            run("call:1/1#4:before", "write file", None, Verdict::Violated),
        ];
        let report = report(&[(Family::Call, "write file", 9)], runs);
        assert_eq!(figures(&report, "write file"), [9, 4, 1, 1, 1]);
        assert_eq!(figures(&report, "fsync file"), [0, 0, 1, 0, 1]);
        assert_eq!(report.count(Fate::Missed), 1);
        assert_eq!(report.exit_code(), 1);
    }

    #[test]
    fn a_point_that_was_planned_and_never_died_at_fails_the_drive() {
        let point = |name: &str, hit| run(&format!("point:{name}#1"), name, hit, Verdict::Passed);
        let counted = [(Family::Point, "a", 1), (Family::Point, "b", 1)];
        let missed = report(&counted, vec![point("a", Some("a")), point("b", None)]);
        assert_eq!((missed.never_hit(), missed.exit_code()), (vec!["b"], 1));
        // What the budget left out was not planned.
        let sampled = report(&counted, vec![point("a", Some("a"))]);
        assert_eq!((sampled.never_hit(), sampled.exit_code()), (vec![], 0));
    }

    #[test]
    fn a_violation_weighs_most_and_what_was_not_shown_is_no_pass() {
        let one = |verdict| run("kill:1acks+1us", "any moment", Some("any moment"), verdict);
        let code = |change: &dyn Fn(&mut ChaosReport)| {
            let mut report = report(&[], vec![one(Verdict::Passed)]);
            change(&mut report);
            report.exit_code()
        };
        assert_eq!(code(&|_| {}), 0);
        assert_eq!(code(&|report| report.problems.push(String::new())), 2);
        assert_eq!(
            code(&|report| report.runs.push(one(Verdict::Inconclusive))),
            2
        );
        assert_eq!(code(&|report| report.interrupted = true), EXIT_INTERRUPTED);
        let violated = |report: &mut ChaosReport| {
            report.interrupted = true;
            report.problems.push(String::new());
            report.runs.push(one(Verdict::Inconclusive));
            report.runs.push(one(Verdict::Violated));
        };
        assert_eq!(code(&violated), 1);
        let dry = |report: &mut ChaosReport| report.dry[0].verdict = Verdict::Violated;
        assert_eq!(code(&dry), 1);
        assert_eq!(code(&|report| report.dry.clear()), 0);
    }
}

//! What a drive does, and in which order: a dry run, the strikes that follow from
//! it, the smallest of what they showed, and many seeded kills.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::attempt::{self, Task};
use super::derive::{self, Planned};
use super::drive::{Batch, Drive, Dry, Wanted};
use super::strike::{Family, Strike};
use crate::prng::{Prng, scenario_seed};
use crate::report::crash::{ChaosReport, Fate, StrikeRun, Violation, coverage};
use crate::report::stability::StabilityReport;
use crate::report::terminal::seconds;
use crate::stability::Stability;
use crate::verdict::Verdict;

/// What is to be done.
pub(super) struct Plan {
    pub(super) drive: Drive,
    pub(super) kills: u32,
    pub(super) points: bool,
    pub(super) calls: bool,
    pub(super) faults: bool,
    pub(super) budget: usize,
    pub(super) stability: Option<u32>,
    pub(super) shrink_runs: u32,
}

impl Plan {
    pub(super) fn live(&self, text: &str) {
        self.drive.runner.live().line(text);
    }

    /// One strike alone.
    pub(super) fn again(&self, strike: &Strike, report: &mut ChaosReport) {
        let tries = Drive::tries_of(strike);
        let Some(run) = self.drive.again(strike, report.size, tries) else {
            return;
        };
        self.tell(&run);
        report.derived = 1;
        report.coverage = coverage(&BTreeMap::new(), std::slice::from_ref(&run));
        match run.fate() {
            Fate::Violated => report.violations.push(as_found(&run)),
            Fate::Missed => report.problems.push(format!("{strike} was not reached")),
            Fate::Passed | Fate::Inconclusive => {}
        }
        report.runs.push(run);
    }

    /// A dry run, and all that follows from it.
    pub(super) fn all(&self, report: &mut ChaosReport) {
        let wanted = Wanted {
            points: self.points,
            calls: self.calls || self.faults,
        };
        let Some(dry) = self.drive.dry(report.size, wanted, true) else {
            return;
        };
        report.dry.clone_from(&dry.runs);
        report.calls = dry.calls.len() as u64;
        let counted = dry.counted(self.calls, self.faults);
        report.coverage = coverage(&counted, &[]);
        dry.runs.iter().for_each(|run| self.tell(run));
        if !dry.passed() {
            return;
        }
        let (planned, derived) = self.strikes(&dry, report);
        report.derived = derived;
        let acks = dry.ack_times.len();
        let batch = Batch {
            size: report.size,
            acks,
            keeps_evidence: true,
            first_only: false,
        };
        let bar = self.drive.runner.live().bar(planned.len() as u64);
        let mut progress = Progress::new(planned.len());
        report.runs = self.drive.batch(&planned, batch, |run| {
            bar.suspend(|| self.tell(run));
            bar.inc(1);
            if let Some(line) = progress.line(run.fate())
                && !self.drive.runner.live().is_terminal()
            {
                self.live(&line);
            }
        });
        bar.finish_and_clear();
        report.coverage = coverage(&counted, &report.runs);
        report.problems.extend(problems(self, &dry, report));
        self.shrink(report);
        if let Some(runs) = self.stability {
            report.stability = Some(self.stability(runs, &dry, report.size));
        }
    }

    /// The strikes that are to be made, and how many there are in all.
    fn strikes(&self, dry: &Dry, report: &ChaosReport) -> (Vec<Planned>, usize) {
        let mut rng = Prng::seeded(scenario_seed(report.seed, &report.subject));
        let mut planned = derive::kills(self.kills, &dry.ack_times, dry.ended, &mut rng);
        let mut listed = derive::points(&dry.points);
        if self.calls {
            listed.extend(derive::calls(&dry.calls));
        }
        if self.faults {
            listed.extend(derive::faults(&dry.calls));
        }
        let derived = planned.len() + listed.len();
        planned.extend(derive::sample(listed, self.budget, &mut rng));
        (planned, derived)
    }

    /// One violation of each kind, as small as it gets.
    fn shrink(&self, report: &mut ChaosReport) {
        for family in [Family::Point, Family::Call, Family::Fail, Family::Kill] {
            let mut violated = report
                .runs
                .iter()
                .filter(|run| run.fate() == Fate::Violated && run.strike.family() == family);
            let Some(first) = violated.next().cloned() else {
                continue;
            };
            let count = 1 + violated.count() as u64;
            let violation = self.drive.shrink(first, count, self.shrink_runs);
            self.live(&format!("replay: {}", violation.replay));
            report.violations.push(violation);
        }
    }

    fn stability(&self, runs: u32, dry: &Dry, size: u64) -> StabilityReport {
        let (times, ended) = (dry.ack_times.clone(), dry.ended);
        let name = self.drive.subject.name.clone();
        let choose = move |seed| {
            let mut rng = Prng::seeded(scenario_seed(seed, &name));
            derive::kill_within(&times, ended, &mut rng)
        };
        let (line, subject) = (
            Arc::clone(&self.drive.replay),
            self.drive.subject.name.clone(),
        );
        let replay = move |strike: &Strike, seed| line(&subject, strike, size, seed);
        let task = Task {
            strike: Strike::None,
            size,
            patience: self.drive.patience,
            counts: false,
            traces: false,
            acks: Some(dry.ack_times.len()),
        };
        let scenario = attempt::killing(&self.drive.subject, task, choose, replay);
        Stability::new(Arc::clone(&self.drive.runner))
            .runs(runs)
            .jobs(self.drive.jobs)
            .run(&[&scenario])
    }

    fn tell(&self, run: &StrikeRun) {
        if run.verdict == Verdict::Passed {
            return;
        }
        let time = seconds(run.duration_ms);
        let mut lines = vec![format!("{}: {} in {time}", run.strike, run.verdict)];
        lines.extend(run.reasons.first().map(|reason| format!("  {reason}")));
        lines.push(format!("  replay: {}", run.replay));
        self.live(&lines.join("\n"));
    }
}

/// Counts what came of the runs so far.
struct Progress {
    planned: usize,
    done: usize,
    violated: usize,
    missed: usize,
}

impl Progress {
    fn new(planned: usize) -> Progress {
        Progress {
            planned,
            done: 0,
            violated: 0,
            missed: 0,
        }
    }

    /// One more run has ended; a line for each tenth of all.
    fn line(&mut self, fate: Fate) -> Option<String> {
        let tenth = |done: usize| done * 10 / self.planned.max(1);
        let before = tenth(self.done);
        let after = tenth(self.done + 1);
        self.done += 1;
        self.violated += usize::from(fate == Fate::Violated);
        self.missed += usize::from(fate == Fate::Missed);
        let Progress {
            planned,
            done,
            violated,
            missed,
        } = self;
        (after > before).then(|| format!("[{done}/{planned}] {violated} violated, {missed} missed"))
    }
}

/// A violation that nobody tried to make smaller.
fn as_found(run: &StrikeRun) -> Violation {
    Violation {
        found: run.clone(),
        count: 1,
        strike: run.strike.clone(),
        size: run.size,
        confirmed: true,
        reasons: run.reasons.clone(),
        replay: run.replay.clone(),
        evidence: run.evidence.clone(),
        runs: 1,
    }
}

/// Why the runs do not show what was asked for.
fn problems(plan: &Plan, dry: &Dry, report: &ChaosReport) -> Vec<String> {
    let mut problems = dry.unseen.clone();
    if dry.points.is_cut {
        problems.push("a process reached more points than are read".to_owned());
    }
    if plan.points && dry.points.reached.is_empty() {
        problems.push(
            "no crash point was reached: is the program built with the feature crash-points?"
                .to_owned(),
        );
    }
    if (plan.calls || plan.faults) && dry.calls.is_empty() {
        problems.push("no system call that could be struck was made".to_owned());
    }
    for family in [Family::Kill, Family::Call, Family::Fail] {
        let all = report.coverage.iter().filter(|one| one.family == family);
        let (planned, hit) = all.fold((0, 0), |(planned, hit), one| {
            (planned + one.planned, hit + one.hit)
        });
        // What the victim does next time is not what it did: too little was shown.
        if hit * 2 < planned {
            let hit = match hit {
                0 => "none was".to_owned(),
                hit => format!("only {hit} were"),
            };
            problems.push(format!("of {planned} {family} strikes {hit} reached"));
        }
    }
    if report.runs.is_empty() && plan.stability.is_none() && problems.is_empty() {
        problems.push("nobody was struck".to_owned());
    }
    problems
}

//! The stability loop: every scenario many times, each run with a seed of its
//! own, tallied.
//!
//! Runs are shared out in the order of their numbers, so that an interrupted
//! loop knows about as much of every scenario. A run that was interrupted is
//! not counted; a run in which the harness itself panicked is inconclusive.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use indicatif::ProgressBar;

use crate::disk;
use crate::pool;
use crate::prng::run_seed;
use crate::report::stability::{Counts, ScenarioTally, StabilityReport};
use crate::report::terminal::seconds;
use crate::report::{ScenarioReport, Toll};
use crate::runner::{Ran, Runner};
use crate::scenario::Scenario;
use crate::statistics::percentile;
use crate::verdict::{Metrics, Verdict};

/// Runs of each scenario that a loop makes at most.
pub const RUNS_MAX: u32 = 100_000;

/// Runs at a time, at most.
pub const JOBS_MAX: usize = 256;

/// Violations of one scenario whose evidence is kept: each has a copy of what
/// the product left behind, and a disk has an end.
const EVIDENCE_MAX: u32 = 100;

/// Where there is no terminal, a line tells of the progress so often.
const PROGRESS_LINES: u64 = 10;

/// A loop over the scenarios; built step by step.
pub struct Stability {
    runner: Arc<Runner>,
    runs: u32,
    jobs: usize,
    min_pass_rate: f64,
}

impl fmt::Debug for Stability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stability")
            .field("runner", &self.runner)
            .field("runs", &self.runs)
            .field("jobs", &self.jobs)
            .field("min_pass_rate", &self.min_pass_rate)
            .finish()
    }
}

impl Stability {
    /// A loop of 50 runs, one at a time, that allows no violation. The runner's
    /// seed is the loop's; its timeout is that of each run; its directories,
    /// dump, replay line, console and interruption are used as they are.
    pub fn new(runner: impl Into<Arc<Runner>>) -> Stability {
        Stability {
            runner: runner.into(),
            runs: 50,
            jobs: 1,
            min_pass_rate: 1.0,
        }
    }

    /// How often each scenario runs: 1 to [`RUNS_MAX`].
    #[must_use]
    pub fn runs(mut self, runs: u32) -> Stability {
        self.runs = runs.clamp(1, RUNS_MAX);
        self
    }

    /// How many run at a time: 1 to [`JOBS_MAX`].
    #[must_use]
    pub fn jobs(mut self, jobs: usize) -> Stability {
        self.jobs = jobs.clamp(1, JOBS_MAX);
        self
    }

    /// The pass rate, 0 to 1, that the gate asks for.
    #[must_use]
    pub fn min_pass_rate(mut self, rate: f64) -> Stability {
        self.min_pass_rate = rate.clamp(0.0, 1.0);
        self
    }

    /// Runs all, until the last or an interruption.
    pub fn run(&self, scenarios: &[&Scenario]) -> StabilityReport {
        let live = self.runner.live();
        live.line(&format!("seed {}", self.runner.seed()));
        let mut sync_times = self.sync_times();
        let tallies = scenarios
            .iter()
            .map(|one| ScenarioTally::new(one.id, &one.name, &one.goal))
            .collect();
        let mut ledger = Ledger::new(self, tallies);
        let desk = Desk::new(self.runs, scenarios);
        let work = || self.work(&desk);
        let heed = |ended| ledger.write(ended);
        pool::spread(live, self.jobs, "agentos-stability", work, heed);
        let mut tallies = ledger.end();
        tallies.iter_mut().for_each(ScenarioTally::sort);
        sync_times.extend(self.sync_times());
        sync_times.sort_unstable();
        let missing = desk.planned()
            > tallies
                .iter()
                .map(|tally| tally.records.len() as u64)
                .sum::<u64>();
        StabilityReport {
            seed: self.runner.seed(),
            runs: self.runs,
            jobs: self.jobs,
            interrupted: self.runner.is_interrupted() && missing,
            min_pass_rate: self.min_pass_rate,
            sync_us: percentile(&sync_times, 50),
            scenarios: tallies,
        }
    }

    fn sync_times(&self) -> Vec<u64> {
        disk::sync_times_us(self.runner.work()).unwrap_or_else(|error| {
            let dir = self.runner.work().display();
            let words = format!("sync latency in {dir} not measured: {error}");
            self.runner.live().line(&words);
            Vec::new()
        })
    }

    /// Runs what is to be run next; `None` when nothing is.
    fn work(&self, desk: &Desk<'_>) -> Option<Ended> {
        let (place, run) = desk.next()?;
        let (scenario, evidence) = desk.scenarios.get(place)?;
        let seed = run_seed(self.runner.seed(), u64::from(run));
        let keeps = || evidence.fetch_add(1, Ordering::Relaxed) < EVIDENCE_MAX;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            self.runner
                .run_one(scenario, seed, &keeps, Box::new(|_| {}))
        }));
        let ran = match ran {
            Ok(ran) => ran?,
            Err(_) => panicked(scenario, seed),
        };
        Some(Ended {
            place,
            run,
            seed,
            ran,
        })
    }
}

/// What is to be run next, and how much evidence each scenario has given.
struct Desk<'scenarios> {
    scenarios: Vec<(&'scenarios Scenario, AtomicU32)>,
    runs: u32,
    next: AtomicU64,
}

impl<'scenarios> Desk<'scenarios> {
    fn new(runs: u32, scenarios: &[&'scenarios Scenario]) -> Desk<'scenarios> {
        Desk {
            scenarios: scenarios.iter().map(|one| (*one, 0.into())).collect(),
            runs,
            next: 0.into(),
        }
    }

    fn planned(&self) -> u64 {
        u64::from(self.runs) * self.scenarios.len() as u64
    }

    /// A scenario's place and the number of the run.
    fn next(&self) -> Option<(usize, u32)> {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        if ticket >= self.planned() {
            return None;
        }
        let width = self.scenarios.len() as u64;
        let place = usize::try_from(ticket % width).ok()?;
        Some((place, u32::try_from(ticket / width).ok()? + 1))
    }
}

/// A run that came to its end.
struct Ended {
    place: usize,
    run: u32,
    seed: u64,
    ran: Ran,
}

/// The harness's own panic says nothing about the product.
pub(crate) fn panicked(scenario: &Scenario, seed: u64) -> Ran {
    let report = ScenarioReport {
        id: scenario.id,
        name: scenario.name.clone(),
        verdict: Verdict::Inconclusive,
        duration_ms: 0,
        metrics: Metrics::default(),
        replay: match &scenario.replay {
            Some(line) => line(seed),
            None => format!("{} --seed {seed}", scenario.name),
        },
        evidence: None,
        reasons: vec!["the harness panicked".to_owned()],
        kill_points: Vec::new(),
        toll: Toll::default(),
    };
    let notes = Vec::new();
    Ran { report, notes }
}

/// Where results are written down, and told as they come.
struct Ledger<'run> {
    runner: &'run Runner,
    bar: ProgressBar,
    planned: u64,
    counts: Counts,
    tallies: Vec<ScenarioTally>,
}

impl<'run> Ledger<'run> {
    fn new(stability: &'run Stability, tallies: Vec<ScenarioTally>) -> Ledger<'run> {
        let planned = u64::from(stability.runs) * tallies.len() as u64;
        Ledger {
            runner: &stability.runner,
            bar: stability.runner.live().bar(planned),
            planned,
            counts: Counts::default(),
            tallies,
        }
    }

    fn write(&mut self, ended: Ended) {
        self.counts.add(ended.ran.report.verdict);
        self.tell(&ended);
        if let Some(tally) = self.tallies.get_mut(ended.place) {
            tally.add(ended.run, ended.seed, ended.ran.report);
        }
    }

    fn end(self) -> Vec<ScenarioTally> {
        self.bar.finish_and_clear();
        self.tallies
    }

    fn tell(&self, ended: &Ended) {
        let (live, report) = (self.runner.live(), &ended.ran.report);
        let done = self.counts.total();
        if report.verdict != Verdict::Passed {
            let (name, run, verdict) = (&report.name, ended.run, report.verdict);
            let time = seconds(report.duration_ms);
            let mut lines = vec![format!("{name} run {run}: {verdict} in {time}")];
            lines.extend(report.reasons.first().map(|reason| format!("  {reason}")));
            lines.push(format!("  replay: {}", report.replay));
            let notes = ended.ran.notes.iter();
            lines.extend(notes.map(|note| format!("  {note}")));
            self.bar.suspend(|| live.line(&lines.join("\n")));
        }
        let Counts {
            passed,
            violated,
            inconclusive,
        } = self.counts;
        let so_far = format!("{passed} passed, {violated} violated, {inconclusive} inconclusive");
        let tenth = |done: u64| done * PROGRESS_LINES / self.planned.max(1);
        if !live.is_terminal() && tenth(done) > tenth(done - 1) {
            live.line(&format!("[{done}/{}] {so_far}", self.planned));
        }
        self.bar.inc(1);
        self.bar.set_message(so_far);
    }
}

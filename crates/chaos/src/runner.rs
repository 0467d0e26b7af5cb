//! Runs scenarios one after the other, each in a fresh directory.
//!
//! The seed is printed before anything can fail. An error, a panic or a passed
//! deadline of a scenario becomes its verdict and never ends the run. The
//! deadline is cooperative: all waits of the harness respect it, a scenario's
//! own loops must look at [`Run::remaining`]. A scenario that was interrupted
//! leaves nothing behind and is not in the report.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_core::Stopwatch;

use crate::evidence::{self, Dump, DumpError, Failed};
use crate::interrupt::Interrupt;
use crate::report::live::{Console, Live};
use crate::report::terminal::seconds;
use crate::report::{Report, ScenarioReport, Toll};
use crate::scenario::{Run, RunSettings, Scenario};
use crate::verdict::{Outcome, Verdict};
use crate::wreck::Wreck;

/// How long a scenario may take when nothing else is said.
pub const SCENARIO_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// Hears how far a scenario is.
pub(crate) type Progress = Box<dyn Fn(&str) + Send>;

/// Names the command that runs one scenario again.
type Replay = dyn Fn(&str, u64) -> String + Send + Sync;

/// Runs scenarios; built step by step.
pub struct Runner {
    seed: u64,
    quick: bool,
    verbose: bool,
    keep: bool,
    timeout: Duration,
    work_dir: PathBuf,
    artifacts: PathBuf,
    replay: Box<Replay>,
    dump: Option<Box<Dump>>,
    interrupt: Interrupt,
    live: Live,
}

/// One scenario that ran, and what its user should know of its directory.
pub(crate) struct Ran {
    pub(crate) report: ScenarioReport,
    pub(crate) notes: Vec<String>,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner")
            .field("seed", &self.seed)
            .field("timeout", &self.timeout)
            .field("work_dir", &self.work_dir)
            .field("artifacts", &self.artifacts)
            .finish_non_exhaustive()
    }
}

impl Runner {
    /// A runner that takes every choice from `seed`, keeps evidence under
    /// `target/chaos-failures`, and prints to standard output.
    pub fn new(seed: u64) -> Runner {
        Runner {
            seed,
            quick: false,
            verbose: false,
            keep: false,
            timeout: SCENARIO_TIMEOUT_DEFAULT,
            work_dir: std::env::temp_dir(),
            artifacts: PathBuf::from("target/chaos-failures"),
            replay: Box::new(|name, seed| format!("{name} --seed {seed}")),
            dump: None,
            interrupt: Interrupt::new(),
            live: Live::new(Console::Stdout),
        }
    }

    /// Asks scenarios for their short version.
    #[must_use]
    pub fn quick(mut self, quick: bool) -> Runner {
        self.quick = quick;
        self
    }

    /// Prints progress as lines also where there is no terminal.
    #[must_use]
    pub fn verbose(mut self, verbose: bool) -> Runner {
        self.verbose = verbose;
        self
    }

    /// Keeps the directories of all runs, not only of violated ones.
    #[must_use]
    pub fn keep(mut self, keep: bool) -> Runner {
        self.keep = keep;
        self
    }

    /// How long each scenario may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Runner {
        self.timeout = timeout;
        self
    }

    /// Where the directories of runs are made; the system's place for
    /// temporary files unless said otherwise.
    #[must_use]
    pub fn work_dir(mut self, dir: impl Into<PathBuf>) -> Runner {
        self.work_dir = dir.into();
        self
    }

    /// Where the evidence of violations goes.
    #[must_use]
    pub fn artifacts(mut self, dir: impl Into<PathBuf>) -> Runner {
        self.artifacts = dir.into();
        self
    }

    /// How a user runs one scenario (its name, the seed) again.
    #[must_use]
    pub fn replay(mut self, line: impl Fn(&str, u64) -> String + Send + Sync + 'static) -> Runner {
        self.replay = Box::new(line);
        self
    }

    /// What to keep of the product's data on a violation: called with the run's
    /// directory and an empty one to write into. All victims are dead by then.
    #[must_use]
    pub fn dump(
        mut self,
        dump: impl Fn(&Path, &Path) -> Result<(), DumpError> + Send + Sync + 'static,
    ) -> Runner {
        self.dump = Some(Box::new(dump));
        self
    }

    /// Stops when this is raised. The scenario under way is not reported.
    #[must_use]
    pub fn interrupt(mut self, interrupt: Interrupt) -> Runner {
        self.interrupt = interrupt;
        self
    }

    /// Where the live lines go.
    #[must_use]
    pub fn console(mut self, console: Console) -> Runner {
        self.live = Live::new(console);
        self
    }

    /// Runs the scenarios in order, until the last or an interruption.
    pub fn run(&self, scenarios: &[&Scenario]) -> Report {
        self.live.line(&format!("seed {}", self.seed));
        let count = scenarios.len();
        let mut reports = Vec::with_capacity(count);
        for (scenario, number) in scenarios.iter().zip(1..) {
            match self.run_shown(scenario, &format!("[{number}/{count}]")) {
                Some(report) => reports.push(report),
                None => break,
            }
        }
        Report {
            seed: self.seed,
            interrupted: reports.len() < count,
            scenarios: reports,
        }
    }

    /// Runs one scenario and says so; `None` when it was interrupted.
    fn run_shown(&self, scenario: &Scenario, place: &str) -> Option<ScenarioReport> {
        let title = format!("{place} {}", scenario.name);
        if !self.live.is_terminal() {
            self.live.line(&format!("{title}: {}", scenario.goal));
        }
        let bar = self.live.spinner(&title);
        let (progress_bar, live, name) = (bar.clone(), self.live.clone(), title.clone());
        let as_lines = self.verbose && !self.live.is_terminal();
        let progress = Box::new(move |message: &str| {
            progress_bar.set_message(format!("{name}: {message}"));
            if as_lines {
                live.line(&format!("{name}: {message}"));
            }
        });
        let ran = self.run_one(scenario, self.seed, &|| true, progress);
        bar.finish_and_clear();
        let Some(Ran { report, notes }) = ran else {
            self.live.line(&format!("{title}: interrupted"));
            return None;
        };
        for note in notes {
            self.live.line(&note);
        }
        let time = seconds(report.duration_ms);
        self.live
            .line(&format!("{title}: {} in {time}", report.verdict));
        Some(report)
    }

    /// Runs one scenario in a directory of its own and prints nothing; `None`
    /// when it was interrupted. The evidence of a violation is kept if
    /// `keeps_evidence` says so.
    pub(crate) fn run_one(
        &self,
        scenario: &Scenario,
        seed: u64,
        keeps_evidence: &dyn Fn() -> bool,
        progress: Progress,
    ) -> Option<Ran> {
        if self.interrupt.is_raised() {
            return None;
        }
        let watch = Stopwatch::start();
        let (outcome, wreck) = self.judge(scenario, seed, progress);
        // Whatever it found: an interruption changes how a scenario ends.
        if self.interrupt.is_raised() {
            return None;
        }
        let report = ScenarioReport {
            id: scenario.id,
            name: scenario.name.clone(),
            verdict: outcome.verdict,
            duration_ms: millis(watch.elapsed()),
            metrics: outcome.metrics,
            replay: match &scenario.replay {
                Some(line) => line(seed),
                None => (self.replay)(&scenario.name, seed),
            },
            evidence: None,
            reasons: outcome.reasons,
            kill_points: outcome.kill_points,
            toll: wreck
                .as_ref()
                .map_or_else(Toll::default, |wreck| Toll::of(&wreck.transcripts)),
        };
        let notes = Vec::new();
        let mut ran = Ran { report, notes };
        if let Some(wreck) = wreck {
            self.clear_up(scenario, seed, wreck, &mut ran, keeps_evidence);
        }
        Some(ran)
    }

    /// Runs one scenario to its outcome, with what it left behind.
    fn judge(
        &self,
        scenario: &Scenario,
        seed: u64,
        progress: Progress,
    ) -> (Outcome, Option<Wreck>) {
        let mut wreck = match Wreck::new(&self.work_dir) {
            Ok(wreck) => wreck,
            Err(error) => {
                let mut outcome = Outcome::passed();
                let dir = self.work_dir.display();
                outcome.not_judged(format!("no directory for the run in {dir}: {error}"));
                return (outcome, None);
            }
        };
        let mut run = Run::new(
            &scenario.name,
            RunSettings {
                seed,
                quick: self.quick,
                verbose: self.verbose,
                timeout: self.timeout,
                interrupt: self.interrupt.clone(),
                dir: wreck.run_dir(),
                log_dir: wreck.log_dir(),
                progress,
            },
        );
        // A panic leaves behind what the run's directory and transcripts hold;
        // both are read only as evidence.
        let result = catch_unwind(AssertUnwindSafe(|| scenario.run(&mut run)));
        wreck.transcripts = run.transcripts();

        let mut outcome = match result {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(failure)) => {
                let mut outcome = Outcome::passed();
                match failure.verdict() {
                    Verdict::Inconclusive => outcome.not_judged(failure.reason()),
                    Verdict::Passed | Verdict::Violated => outcome.violate(failure.reason()),
                }
                outcome
            }
            Err(panic) => {
                let mut outcome = Outcome::passed();
                outcome.violate(format!("a check panicked: {}", message_of(&*panic)));
                outcome
            }
        };
        if run.is_over() && outcome.verdict == Verdict::Passed {
            let limit = seconds(millis(self.timeout));
            outcome.violate(format!("it took longer than its timeout of {limit}"));
        }
        (outcome, Some(wreck))
    }

    /// Keeps the evidence of a violation, and removes what nobody needs.
    fn clear_up(
        &self,
        scenario: &Scenario,
        seed: u64,
        wreck: Wreck,
        ran: &mut Ran,
        keeps_evidence: &dyn Fn() -> bool,
    ) {
        let report = &mut ran.report;
        let evident = report.verdict == Verdict::Violated && keeps_evidence();
        if evident {
            let failed = Failed {
                id: scenario.id,
                name: &scenario.name,
                goal: &scenario.goal,
                seed,
                replay: &report.replay,
                verdict: report.verdict,
                reasons: &report.reasons,
                metrics: &report.metrics,
                duration_ms: report.duration_ms,
                transcripts: &wreck.transcripts,
                run_dir: &wreck.run_dir(),
                log_dir: &wreck.log_dir(),
            };
            match evidence::keep(&self.artifacts, self.dump.as_deref(), &failed) {
                Ok(folder) => report.evidence = Some(folder),
                Err(error) => {
                    let dir = self.artifacts.display();
                    let reason = format!("no evidence could be kept in {dir}: {error}");
                    report.reasons.push(reason);
                }
            }
        }
        if evident || self.keep {
            let kept = wreck.root.keep();
            ran.notes.push(format!("kept {}", kept.display()));
        } else if let Err(error) = wreck.root.close() {
            ran.notes.push(format!("a run's directory stays: {error}"));
        }
    }

    /// Everything follows from this seed instead.
    pub(crate) fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// The seed that everything follows from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn work(&self) -> &Path {
        &self.work_dir
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupt.is_raised()
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

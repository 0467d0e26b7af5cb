//! The driver: what is asked for, step by step.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use agentos_core::Stopwatch;
use agentos_tracer::Fault;

use super::drive::{Drive, Replay};
use super::limits::{PATIENCE_DEFAULT, SHRINK_RUNS_MAX, STRIKES_MAX};
use super::plan::Plan;
use super::replay;
use super::strike::Strike;
use super::subject::Subject;
use crate::prng::fresh_seed;
use crate::report::crash::ChaosReport;
use crate::report::live::Console;
use crate::runner::{Runner, millis};
use crate::stability::JOBS_MAX;

/// Strikes a subject in all the ways that are asked for; built step by step.
pub struct Chaos {
    runner: Runner,
    subject: Arc<Subject>,
    kills: u32,
    points: bool,
    calls: bool,
    faults: Vec<Fault>,
    budget: usize,
    jobs: usize,
    stability: Option<u32>,
    shrink_runs: u32,
    patience: Duration,
    size: Option<u64>,
    strike: Option<Strike>,
    replay: Arc<Replay>,
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos")
            .field("subject", &self.subject)
            .field("runner", &self.runner)
            .finish_non_exhaustive()
    }
}

impl Chaos {
    /// Strikes nothing yet. Takes a fresh seed, prints nothing, keeps evidence
    /// under `target/chaos-failures`, and uses every processor.
    pub fn new(subject: Subject) -> Chaos {
        // The name of a test is the name of its thread.
        let thread = std::thread::current();
        let test = thread.name().filter(|name| *name != "main");
        let test = test.unwrap_or(&subject.name).to_owned();
        Chaos {
            runner: Runner::new(fresh_seed()).console(Console::Silent),
            subject: Arc::new(subject),
            kills: 0,
            points: false,
            calls: false,
            faults: Vec::new(),
            budget: STRIKES_MAX,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            stability: None,
            shrink_runs: SHRINK_RUNS_MAX,
            patience: PATIENCE_DEFAULT,
            size: None,
            strike: None,
            replay: Arc::new(move |_, strike, size, seed| replay::line(&test, strike, size, seed)),
        }
    }

    /// Takes every choice from this seed, also those of the checks.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Chaos {
        self.runner.set_seed(seed);
        self
    }

    /// Kills at so many seeded moments, at most [`STRIKES_MAX`].
    #[must_use]
    pub fn kills(mut self, count: u32) -> Chaos {
        self.kills = count.min(u32::try_from(STRIKES_MAX).unwrap_or(u32::MAX));
        self
    }

    /// Kills at every named point, each time it is reached. The program is to be
    /// built with the feature `crash-points`.
    ///
    /// Each process counts for itself, and the first one whose count is reached dies,
    /// the others live. So of several processes that reach a point for the `n`-th time
    /// only the first is ever struck there: which one that is, is the scheduler's, and a
    /// process that always comes later is never struck there. Name points that only one
    /// kind of process reaches, or strike by [`every_syscall`](Self::every_syscall),
    /// which tells processes apart.
    #[must_use]
    pub fn every_point(mut self) -> Chaos {
        self.points = true;
        self
    }

    /// Kills before and after every system call that changes files or talks to
    /// others.
    #[must_use]
    pub fn every_syscall(mut self) -> Chaos {
        self.calls = true;
        self
    }

    /// Lets each such call fail, in every way that is sensible for it.
    #[must_use]
    pub fn faults(mut self) -> Chaos {
        self.faults = Fault::ALL.to_vec();
        self
    }

    /// The same in these ways only.
    #[must_use]
    pub fn faults_of(mut self, faults: impl IntoIterator<Item = Fault>) -> Chaos {
        self.faults = faults.into_iter().collect();
        self
    }

    /// Makes at most so many of the strikes at points and calls. Which ones is
    /// seeded; every point and kind of call comes before any comes twice.
    #[must_use]
    pub fn budget(mut self, strikes: usize) -> Chaos {
        self.budget = strikes.min(STRIKES_MAX);
        self
    }

    /// How many run at a time: 1 to [`JOBS_MAX`].
    #[must_use]
    pub fn jobs(mut self, jobs: usize) -> Chaos {
        self.jobs = jobs.clamp(1, JOBS_MAX);
        self
    }

    /// Kills at a seeded moment in so many more runs, each with a seed of its
    /// own, and says what their counts prove.
    #[must_use]
    pub fn stability(mut self, runs: u32) -> Chaos {
        self.stability = Some(runs);
        self
    }

    /// The size of the workload; the subject's own unless said otherwise.
    #[must_use]
    pub fn size(mut self, size: u64) -> Chaos {
        self.size = Some(size);
        self
    }

    /// Makes exactly this strike and nothing else: a violation is shown again.
    /// The variables of the environment that do so are not read then.
    #[must_use]
    pub fn strike(mut self, strike: Strike) -> Chaos {
        self.strike = Some(strike);
        self
    }

    /// How long the victim may take to end, [`PATIENCE_DEFAULT`] unless said
    /// otherwise. The check has the rest of the run's timeout.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Chaos {
        self.patience = patience;
        self
    }

    /// Runs that making one violation small may take, [`SHRINK_RUNS_MAX`] unless
    /// said otherwise; with 0 it stays as it was found.
    #[must_use]
    pub fn shrink_runs(mut self, runs: u32) -> Chaos {
        self.shrink_runs = runs;
        self
    }

    /// Where the evidence of violations goes.
    #[must_use]
    pub fn artifacts(mut self, dir: impl Into<PathBuf>) -> Chaos {
        self.runner = self.runner.artifacts(dir);
        self
    }

    /// Where the live lines go.
    #[must_use]
    pub fn console(mut self, console: Console) -> Chaos {
        self.runner = self.runner.console(console);
        self
    }

    /// Makes the runs with this runner: its seed, timeout, directories, dump,
    /// console and interruption. Its replay line is not used.
    #[must_use]
    pub fn runner(mut self, runner: Runner) -> Chaos {
        self.runner = runner;
        self
    }

    /// How a user runs one strike again: the subject's name, the strike, the size
    /// and the seed. Without this, the line sets variables of the environment and
    /// runs the test in whose thread the driver was made.
    #[must_use]
    pub fn replay(
        mut self,
        line: impl Fn(&str, &Strike, u64, u64) -> String + Send + Sync + 'static,
    ) -> Chaos {
        self.replay = Arc::new(line);
        self
    }

    /// Does it all.
    pub fn run(self) -> ChaosReport {
        let watch = Stopwatch::start();
        let asked = match &self.strike {
            Some(_) => Ok(None),
            None => replay::asked(|name| std::env::var(name).ok()),
        };
        let (seed, size) = (self.runner.seed(), self.size.unwrap_or(self.subject.size));
        let mut report = ChaosReport {
            subject: self.subject.name.clone(),
            goal: self.subject.goal.clone(),
            seed,
            size,
            jobs: self.jobs,
            interrupted: false,
            dry: Vec::new(),
            calls: 0,
            derived: 0,
            runs: Vec::new(),
            coverage: Vec::new(),
            violations: Vec::new(),
            problems: Vec::new(),
            stability: None,
            duration_ms: 0,
        };
        let asked = match asked {
            Ok(asked) => asked,
            Err(problem) => {
                report.problems.push(problem);
                return report;
            }
        };
        let mut strike = self.strike.clone();
        if let Some(asked) = asked {
            report.seed = asked.seed.unwrap_or(seed);
            report.size = asked.size.unwrap_or(size);
            strike = Some(asked.strike);
        }
        let faults = !self.faults.is_empty();
        let plan = Plan {
            drive: Drive {
                runner: Arc::new(self.runner),
                subject: self.subject,
                seed: report.seed,
                patience: self.patience,
                jobs: self.jobs,
                faults: self.faults,
                replay: self.replay,
                evidence: AtomicU32::new(0),
            },
            kills: self.kills,
            points: self.points,
            calls: self.calls,
            faults,
            budget: self.budget,
            stability: self.stability,
            shrink_runs: self.shrink_runs,
        };
        plan.live(&format!("seed {}", report.seed));
        match strike {
            Some(strike) => plan.again(&strike, &mut report),
            None => plan.all(&mut report),
        }
        report.interrupted = plan.drive.runner.is_interrupted();
        report.duration_ms = millis(watch.elapsed());
        report
    }
}

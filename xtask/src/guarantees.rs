//! `cargo xtask guarantees`: what backs each promise, written into `docs/GUARANTEES.md`.
//!
//! It runs every scenario with seeds of its own, again and again until its time is over,
//! strikes a sample of every subject's points and system calls in each round, and lets
//! every canary be caught. What came of it is kept as JSON beside the document, and the
//! part of the document between two marks is written from that. `--check` runs nothing: it
//! fails when the document says something else than the JSON does, names a scenario that
//! there is not, or publishes a violation or a canary that was not caught.

mod page;
mod promises;
mod record;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use agentos_chaos::report::facts;
use agentos_chaos::{
    Chaos, Console, Interrupt, Runner, Scenario, Stability, StabilityReport, fresh_seed, run_seed,
};
use agentos_core::Deadline;

use self::promises::{Trial, trials};
use self::record::{Record, Tried, Withstood};
use crate::chaos;
use crate::cli::GuaranteesArgs;
use crate::{scenarios, subjects};

/// Runs of each canary: how a machine stalls may hide one once.
const CANARY_RUNS: u32 = 3;
/// Strikes of each subject in a round.
const STRIKES_PER_ROUND: usize = 24;

pub(crate) fn run(arguments: &GuaranteesArgs) -> Result<ExitCode, Box<dyn Error>> {
    let document = workspace().join("docs/GUARANTEES.md");
    let record = workspace().join("docs/guarantees.json");
    if arguments.check {
        let wrong = check(&fs::read_to_string(document)?, &fs::read_to_string(record)?)?;
        for line in &wrong {
            chaos::show(&format!("{line}\n"))?;
        }
        return Ok(ExitCode::from(u8::from(!wrong.is_empty())));
    }
    let text = fs::read_to_string(&document)?;
    page::put(&text, "").ok_or("docs/GUARANTEES.md has no marks to write between")?;
    let interrupt = chaos::interrupt()?;
    let Some(found) = Campaign::new(arguments, interrupt).run()? else {
        return Ok(ExitCode::from(130));
    };
    let part = page::part(&found);
    chaos::show(&format!("\n{part}"))?;
    let wrong = wrongs(&found);
    for line in &wrong {
        chaos::show(&format!("{line}\n"))?;
    }
    if !arguments.dry {
        fs::write(record, found.to_json()?)?;
        // Somebody may have worked on it meanwhile.
        let text = fs::read_to_string(&document)?;
        let text = page::put(&text, &part).ok_or("the marks are gone")?;
        fs::write(document, text)?;
    }
    Ok(ExitCode::from(u8::from(!wrong.is_empty())))
}

/// The workspace whose documents these are.
fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// What is wrong with the published document.
fn check(document: &str, record: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let record: Record = serde_json::from_str(record)?;
    let mut wrong = wrongs(&record);
    if page::put(document, &page::part(&record)).as_deref() != Some(document) {
        wrong.push("docs/GUARANTEES.md does not say what docs/guarantees.json does".to_owned());
    }
    Ok(wrong)
}

/// Why a record is not to be published.
fn wrongs(record: &Record) -> Vec<String> {
    let mut wrong = Vec::new();
    let known: Vec<String> = scenarios::all(None)
        .into_iter()
        .map(|scenario| scenario.name)
        .chain(subjects::all(None).iter().map(|one| one.name().to_owned()))
        .collect();
    for one in &record.scenarios {
        let name = &one.name;
        if !known.contains(name) {
            wrong.push(format!("{name} is no scenario"));
        }
        if one.violated > 0 {
            wrong.push(format!("{name}: {} violations", one.violated));
        }
        if one.runs == 0 && one.kills() == 0 {
            wrong.push(format!("{name} was never run"));
        }
    }
    for name in known {
        if record.scenario(&name).is_none() {
            wrong.push(format!("{name} was not run"));
        }
    }
    for trial in trials() {
        let (scenario, canary) = (trial.scenario, trial.canary.name());
        let is_it = |one: &&Tried| one.scenario == scenario && one.canary == canary;
        match record.trials.iter().find(is_it) {
            None => wrong.push(format!("{canary} was not tried in {scenario}")),
            Some(tried) if tried.caught == 0 => {
                wrong.push(format!("{canary} was not caught by {scenario}"));
            }
            Some(_) => {}
        }
    }
    wrong
}

/// All runs of one record.
struct Campaign<'a> {
    arguments: &'a GuaranteesArgs,
    interrupt: Interrupt,
    seed: u64,
    deadline: Deadline,
    scenarios: Vec<Withstood>,
}

impl Campaign<'_> {
    fn new(arguments: &GuaranteesArgs, interrupt: Interrupt) -> Campaign<'_> {
        Campaign {
            arguments,
            interrupt,
            seed: arguments.seed.unwrap_or_else(fresh_seed),
            deadline: Deadline::after(Duration::from_secs(arguments.minutes * 60)),
            scenarios: Vec::new(),
        }
    }

    /// `None` when it was interrupted.
    fn run(mut self) -> Result<Option<Record>, Box<dyn Error>> {
        chaos::show(&format!("seed {}\n", self.seed))?;
        let artifacts = chaos::target_dir().join("guarantees-canaries");
        let trials = self.try_canaries(&artifacts)?;
        // They are evidence against what was broken on purpose.
        let _ = fs::remove_dir_all(&artifacts);
        let (mut rounds, mut sync_us) = (0, None);
        while !self.interrupt.is_raised() {
            let report = self.seeded_runs(rounds);
            sync_us = report.sync_us.or(sync_us);
            for tally in &report.scenarios {
                self.withstood(&tally.name).add_runs(tally);
            }
            self.strikes(rounds);
            rounds += 1;
            let violated: u64 = self.scenarios.iter().map(|one| one.violated).sum();
            chaos::show(&format!(
                "round {rounds}: {violated} violations so far, {} s\n",
                self.deadline.waited().as_secs()
            ))?;
            if self.deadline.passed() {
                break;
            }
        }
        if self.interrupt.is_raised() {
            return Ok(None);
        }
        let seed = self.seed;
        let minutes = self.arguments.minutes;
        Ok(Some(Record {
            command: format!("cargo xtask guarantees --minutes {minutes} --seed {seed}"),
            facts: facts(env!("CARGO_PKG_VERSION")),
            seed,
            rounds,
            seconds: self.deadline.waited().as_secs(),
            sync_us,
            scenarios: self.scenarios,
            trials,
        }))
    }

    fn withstood(&mut self, name: &str) -> &mut Withstood {
        let place = self.scenarios.iter().position(|one| one.name == name);
        let place = place.unwrap_or_else(|| {
            self.scenarios.push(Withstood::of(name));
            self.scenarios.len() - 1
        });
        &mut self.scenarios[place]
    }

    fn runner(&self, seed: u64) -> Runner {
        let timeout = Duration::from_secs(self.arguments.timeout);
        chaos::runner_at(
            seed,
            self.interrupt.clone(),
            self.arguments.artifacts.clone(),
        )
        .timeout(timeout)
        .console(Console::Silent)
    }

    fn jobs(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Each scenario a few times, with seeds that no other round has.
    fn seeded_runs(&self, round: u64) -> StabilityReport {
        let all = scenarios::all(None);
        let all: Vec<&Scenario> = all.iter().collect();
        let runner = self
            .runner(run_seed(self.seed, round))
            .replay(|name, seed| format!("cargo xtask chaos {name} --seed {seed}"))
            .console(Console::Stdout);
        Stability::new(runner)
            .runs(self.arguments.runs)
            .jobs(self.jobs())
            .run(&all)
    }

    /// A sample of each subject's points and calls.
    fn strikes(&mut self, round: u64) {
        let seed = run_seed(self.seed, round);
        for subject in subjects::all(None) {
            if self.interrupt.is_raised() {
                return;
            }
            let name = subject.name().to_owned();
            let timeout = Duration::from_secs(self.arguments.timeout);
            let report = Chaos::new(subject)
                .runner(self.runner(seed))
                .patience(timeout * 2 / 3)
                .every_point()
                .every_syscall()
                .budget(STRIKES_PER_ROUND)
                .jobs(self.jobs())
                .replay(move |name, strike, size, seed| {
                    format!(
                        "cargo xtask chaos {name} --exhaustive --strike {strike} --size {size} --seed {seed}"
                    )
                })
                .run();
            for violation in &report.violations {
                let _ = chaos::show(&format!("{name}: {}\n", violation.replay));
            }
            self.withstood(&name).add_strikes(&report);
        }
    }

    /// Every canary, in runs that must be violated.
    fn try_canaries(&self, artifacts: &Path) -> Result<Vec<Tried>, Box<dyn Error>> {
        let trials = trials();
        let broken = |trial: &Trial| {
            let all = scenarios::all(Some(trial.canary)).into_iter();
            let mut named = all.filter(|one| one.name == trial.scenario);
            named.next().ok_or("a trial names no scenario")
        };
        let broken: Vec<Scenario> = trials.iter().map(broken).collect::<Result<_, _>>()?;
        let chosen: Vec<&Scenario> = broken.iter().collect();
        chaos::show(&format!("{} canaries\n", chosen.len()))?;
        let runner = self.runner(self.seed).artifacts(artifacts);
        let report = Stability::new(runner)
            .runs(CANARY_RUNS)
            .jobs(self.jobs())
            .run(&chosen);
        let tried = trials.iter().zip(&report.scenarios);
        Ok(tried
            .map(|(trial, tally)| Tried {
                scenario: trial.scenario.to_owned(),
                canary: trial.canary.name(),
                runs: tally.counts().total(),
                caught: tally.counts().violated,
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is published is what was run, and nothing in it is bad. Method: the
    /// documents as they stand.
    #[test]
    fn the_published_guarantees_are_those_of_the_record() {
        let read = |name: &str| fs::read_to_string(workspace().join("docs").join(name)).unwrap();
        let wrong = check(&read("GUARANTEES.md"), &read("guarantees.json")).unwrap();
        assert_eq!(wrong, Vec::<String>::new());
    }

    /// Goal: a document that says something else, or a bad record, is noticed.
    #[test]
    fn what_must_not_be_published_is_named() {
        let read = |name: &str| fs::read_to_string(workspace().join("docs").join(name)).unwrap();
        let (document, json) = (read("GUARANTEES.md"), read("guarantees.json"));
        let wrong_with = |change: &dyn Fn(&mut Record)| {
            let mut record: Record = serde_json::from_str(&json).unwrap();
            change(&mut record);
            check(&document, &record.to_json().unwrap()).unwrap()
        };
        let other = "docs/GUARANTEES.md does not say what docs/guarantees.json does";
        let wrong = wrong_with(&|record| record.scenarios[0].violated = 1);
        assert_eq!(wrong, ["kill-9-recovery: 1 violations", other]);
        let first: Record = serde_json::from_str(&json).unwrap();
        let (canary, scenario) = (&first.trials[0].canary, &first.trials[0].scenario);
        let wrong = wrong_with(&|record| record.trials[0].caught = 0);
        let expected = format!("{canary} was not caught by {scenario}");
        assert_eq!(wrong, [expected.as_str(), other]);
        let wrong = wrong_with(&|record| record.scenarios[0].name = "nothing".into());
        let expected = [
            "nothing is no scenario",
            other,
            "kill-9-recovery was not run",
        ];
        assert!(
            expected
                .iter()
                .all(|one| wrong.iter().any(|line| line == one))
        );
        let wrong = wrong_with(&|record| drop(record.trials.remove(0)));
        let expected = format!("{canary} was not tried in {scenario}");
        assert_eq!(wrong, [expected.as_str(), other]);
    }
}

//! A scenario: an id, a name, a goal, and the code that breaks something on
//! purpose and then checks what must be true.
//!
//! The code gets a [`Run`]: a fresh directory, seeded choices and a deadline.
//! It reads the wreck, not the logs, and says what it found as an
//! [`Outcome`]; an error or a panic ends it early.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_process::Spawner;

use crate::clock::End;
use crate::error::{Failure, HarnessError};
use crate::interrupt::Interrupt;
use crate::prng::{Prng, scenario_seed};
use crate::supervisor::{Victim, VictimSpec};
use crate::transcript::{Shared, Transcript};
use crate::verdict::Outcome;

/// What a scenario's code returns.
pub type ScenarioResult = Result<Outcome, Failure>;

/// The code of a scenario.
type Code = dyn Fn(&mut Run) -> ScenarioResult + Send + Sync;

/// Names the command that runs a scenario again with a seed.
type ReplayLine = dyn Fn(u64) -> String + Send + Sync;

/// One thing to break and the guarantee that must hold all the same.
pub struct Scenario {
    /// Its number, for people who select by number.
    pub id: u32,
    /// Its name, in a form that fits a file name and a command line.
    pub name: String,
    /// The guarantee, in one sentence.
    pub goal: String,
    /// The line that runs it again, where the runner's own would not.
    pub(crate) replay: Option<Box<ReplayLine>>,
    code: Box<Code>,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("goal", &self.goal)
            .finish_non_exhaustive()
    }
}

impl Scenario {
    /// A scenario with its code.
    pub fn new(
        id: u32,
        name: impl Into<String>,
        goal: impl Into<String>,
        code: impl Fn(&mut Run) -> ScenarioResult + Send + Sync + 'static,
    ) -> Scenario {
        Scenario {
            id,
            name: name.into(),
            goal: goal.into(),
            replay: None,
            code: Box::new(code),
        }
    }

    /// The same under a line of its own that runs it again.
    pub(crate) fn with_replay(
        mut self,
        line: impl Fn(u64) -> String + Send + Sync + 'static,
    ) -> Scenario {
        self.replay = Some(Box::new(line));
        self
    }

    pub(crate) fn run(&self, run: &mut Run) -> ScenarioResult {
        (self.code)(run)
    }
}

/// The scenarios that `wanted` names by number or name, in the order of `all`
/// and each once; all of them when `wanted` is empty.
///
/// # Errors
///
/// [`UnknownScenario`] for the first that does not exist.
pub fn select<'all>(
    all: &'all [Scenario],
    wanted: &[String],
) -> Result<Vec<&'all Scenario>, UnknownScenario> {
    let is = |scenario: &Scenario, wish: &String| {
        *wish == scenario.name || wish.parse() == Ok(scenario.id)
    };
    for wish in wanted {
        if !all.iter().any(|scenario| is(scenario, wish)) {
            return Err(UnknownScenario(wish.clone()));
        }
    }
    Ok(all
        .iter()
        .filter(|scenario| wanted.is_empty() || wanted.iter().any(|wish| is(scenario, wish)))
        .collect())
}

/// There is no scenario of this number or name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no scenario is called {0:?}")]
pub struct UnknownScenario(pub String);

/// What a scenario gets to work with.
pub struct Run {
    /// Its seeded choices.
    pub rng: Prng,
    seed: u64,
    quick: bool,
    verbose: bool,
    dir: PathBuf,
    log_dir: PathBuf,
    /// Directories that were made beside the run's own.
    apart: Vec<PathBuf>,
    end: End,
    victims: Vec<Shared>,
    progress: Box<dyn Fn(&str) + Send>,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("seed", &self.seed)
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// What the runner decided for a [`Run`].
pub(crate) struct RunSettings {
    pub(crate) seed: u64,
    pub(crate) quick: bool,
    pub(crate) verbose: bool,
    pub(crate) timeout: Duration,
    pub(crate) interrupt: Interrupt,
    pub(crate) dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    pub(crate) progress: Box<dyn Fn(&str) + Send>,
}

impl Run {
    pub(crate) fn new(name: &str, settings: RunSettings) -> Run {
        Run {
            rng: Prng::seeded(scenario_seed(settings.seed, name)),
            seed: settings.seed,
            quick: settings.quick,
            verbose: settings.verbose,
            dir: settings.dir,
            log_dir: settings.log_dir,
            apart: Vec::new(),
            end: End::new(settings.timeout, settings.interrupt),
            victims: Vec::new(),
            progress: settings.progress,
        }
    }

    /// The seed that was printed; [`rng`](Run::rng) follows from it and the
    /// scenario's name.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A fresh, empty directory. It is removed afterwards, unless the scenario
    /// was violated or it is to be kept.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a short version is wanted.
    pub fn quick(&self) -> bool {
        self.quick
    }

    /// Whether details are wanted.
    pub fn verbose(&self) -> bool {
        self.verbose
    }

    /// What is left of the scenario's time. Victims' waits never go beyond it;
    /// long loops must look at it. A scenario that overruns it is violated.
    /// Nothing is left after an interruption; what the scenario then says is
    /// heeded by nobody.
    pub fn remaining(&self) -> Duration {
        self.end.remaining()
    }

    /// Whether the scenario's time is over, or somebody wants it to stop.
    pub fn is_over(&self) -> bool {
        self.end.remaining().is_zero()
    }

    /// Says how far it is.
    pub fn progress(&self, message: impl AsRef<str>) {
        (self.progress)(message.as_ref());
    }

    /// Starts a victim whose words, end and standard error become part of the
    /// evidence, whatever happens to the scenario.
    ///
    /// # Errors
    ///
    /// As [`Victim::start`].
    pub fn start(&mut self, spec: &VictimSpec) -> Result<Victim, HarnessError> {
        self.start_with(spec, None)
    }

    /// As [`start`](Self::start), by a spawner that takes charge of the victim:
    /// a tracer, for one.
    ///
    /// # Errors
    ///
    /// As [`Victim::start`], and [`HarnessError::Machine`] when the spawner is
    /// to blame.
    pub fn start_by(
        &mut self,
        spec: &VictimSpec,
        spawner: &mut dyn Spawner,
    ) -> Result<Victim, HarnessError> {
        self.start_with(spec, Some(spawner))
    }

    fn start_with(
        &mut self,
        spec: &VictimSpec,
        spawner: Option<&mut dyn Spawner>,
    ) -> Result<Victim, HarnessError> {
        let number = self.victims.len() + 1;
        let spec = match spec.log() {
            Some(_) => spec.clone(),
            None => {
                let file = format!("{number}-{}.stderr", file_name(spec.name()));
                spec.clone().stderr_log(self.log_dir.join(file))
            }
        };
        let transcript = Shared::new(spec.name());
        let victim = Victim::start_for(&spec, transcript.clone(), self.end.clone(), spawner)?;
        self.victims.push(transcript);
        Ok(victim)
    }

    /// Makes [`dir`](Run::dir) fresh and empty once more, and removes what was made
    /// beside it. Nothing may run there any more.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        for apart in self.apart.drain(..) {
            std::fs::remove_dir_all(apart)?;
        }
        std::fs::remove_dir_all(&self.dir)?;
        std::fs::create_dir(&self.dir)
    }

    /// A fresh, empty directory beside [`dir`](Run::dir), of which the victims'
    /// code knows nothing.
    pub(crate) fn apart(&mut self, name: &str) -> io::Result<PathBuf> {
        let dir = std::path::absolute(self.dir.with_file_name(name))?;
        std::fs::create_dir(&dir)?;
        self.apart.push(dir.clone());
        Ok(dir)
    }

    /// What the victims of this run have printed so far, in the order of their
    /// start.
    pub fn transcripts(&self) -> Vec<Transcript> {
        self.victims
            .iter()
            .map(|shared| shared.lock().clone())
            .collect()
    }
}

/// A name as one component of a path.
pub(crate) fn file_name(name: &str) -> String {
    let keep = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let name: String = name
        .chars()
        .take(80)
        .map(|letter| if keep(letter) { letter } else { '_' })
        .collect();
    if name.starts_with('.') || name.is_empty() {
        format!("_{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenarios() -> Vec<Scenario> {
        let scenario = |id, name| Scenario::new(id, name, "", |_| Ok(Outcome::passed()));
        vec![scenario(1, "one"), scenario(2, "two"), scenario(12, "2b")]
    }

    fn ids(wanted: &[&str]) -> Result<Vec<u32>, UnknownScenario> {
        let wanted: Vec<String> = wanted.iter().map(|wish| (*wish).to_owned()).collect();
        let all = scenarios();
        let ids = select(&all, &wanted)?.iter().map(|one| one.id).collect();
        Ok(ids)
    }

    #[test]
    fn scenarios_are_selected_by_number_or_name() {
        assert_eq!(ids(&[]), Ok(vec![1, 2, 12]));
        assert_eq!(ids(&["two", "1", "2"]), Ok(vec![1, 2]));
        assert_eq!(ids(&["2b"]), Ok(vec![12]));
        assert_eq!(ids(&["1", "3"]), Err(UnknownScenario("3".to_owned())));
    }

    #[test]
    fn a_name_becomes_one_component_of_a_path() {
        assert_eq!(file_name("writer-1"), "writer-1");
        assert_eq!(file_name("../a b"), "_.._a_b");
        assert_eq!(file_name(""), "_");
    }
}

//! What a run of scenarios brought, and its forms: for people and for programs.
//!
//! The only folder of this crate that prints.

mod charts;
pub mod crash;
mod facts;
pub mod json;
pub(crate) mod live;
pub mod stability;
pub mod terminal;

use std::ops::AddAssign;
use std::path::PathBuf;

use serde::Serialize;

pub use facts::facts;

use crate::transcript::Transcript;
use crate::verdict::{EXIT_INTERRUPTED, Metrics, Verdict, exit_code};

/// One scenario's result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScenarioReport {
    /// The scenario's number.
    pub id: u32,
    /// The scenario's name.
    pub name: String,
    /// What is to be said about its guarantee.
    pub verdict: Verdict,
    /// How long it took.
    pub duration_ms: u64,
    /// Its figures.
    pub metrics: Metrics,
    /// The command that makes the same choices again.
    pub replay: String,
    /// Where the evidence of a violation is.
    pub evidence: Option<PathBuf>,
    /// Why it is not passed.
    pub reasons: Vec<String>,
    /// How far the work was at each kill, 0 to 1.
    pub kill_points: Vec<f64>,
    /// What it took.
    #[serde(flatten)]
    pub toll: Toll,
}

/// What a run took, counted from what its victims said and how they ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Toll {
    /// Victims that were started.
    pub victims: u64,
    /// Of them, those that SIGKILL ended, whoever sent it.
    pub sigkills: u64,
    /// Acknowledgements that were read.
    pub acks: u64,
}

impl Toll {
    pub(crate) fn of(transcripts: &[Transcript]) -> Toll {
        let killed = |one: &&Transcript| one.exit.is_some_and(|exit| exit.is_sigkill());
        let acks = |one: &Transcript| {
            let lines = one.lines.iter();
            lines
                .filter(|line| line.starts_with(&one.ack_prefix))
                .count()
        };
        Toll {
            victims: transcripts.len() as u64,
            sigkills: transcripts.iter().filter(killed).count() as u64,
            acks: transcripts.iter().map(acks).sum::<usize>() as u64,
        }
    }
}

impl AddAssign for Toll {
    fn add_assign(&mut self, other: Toll) {
        self.victims += other.victims;
        self.sigkills += other.sigkills;
        self.acks += other.acks;
    }
}

/// The results of all scenarios of a run, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The seed that was printed first.
    pub seed: u64,
    /// Whether it ended before the last scenario, because somebody wanted it to.
    pub interrupted: bool,
    /// One result a scenario that came to its end.
    pub scenarios: Vec<ScenarioReport>,
}

impl Report {
    /// How many scenarios came to this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.of(verdict).count()
    }

    /// 0 only if all passed; 1 when anything was violated; else 130 after an
    /// interruption; else 2. See [`exit_code`].
    pub fn exit_code(&self) -> u8 {
        match exit_code(self.scenarios.iter().map(|scenario| scenario.verdict)) {
            0 | 2 if self.interrupted => EXIT_INTERRUPTED,
            code => code,
        }
    }

    pub(crate) fn of(&self, verdict: Verdict) -> impl Iterator<Item = &ScenarioReport> {
        self.scenarios
            .iter()
            .filter(move |scenario| scenario.verdict == verdict)
    }
}

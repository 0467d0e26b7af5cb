//! What the runs behind the table came to: plain data, kept as JSON beside the table.

use std::collections::BTreeMap;
use std::io;

use agentos_chaos::report::crash::Fate;
use agentos_chaos::report::stability::ScenarioTally;
use agentos_chaos::{ChaosReport, Strike};
use serde::{Deserialize, Serialize};

/// Figures of scenarios that count power cuts, and those that count faults.
const CUTS: &[&str] = &["images", "nested"];
const FAULTS: &[&str] = &["calls_failed", "flips", "met_full"];
/// Figures of scenarios that count what was acknowledged without a line of a victim.
const CHECKED: &[&str] = &["acknowledged"];

/// Everything that was run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The command that does it again.
    pub(super) command: String,
    /// Version, commit, date, system, processors.
    pub(super) facts: Vec<(String, String)>,
    pub(super) seed: u64,
    pub(super) rounds: u64,
    pub(super) seconds: u64,
    /// The median time of a small write with `fsync`, in microseconds.
    pub(super) sync_us: Option<u64>,
    /// By scenario, in their order.
    pub(super) scenarios: Vec<Withstood>,
    pub(super) trials: Vec<Tried>,
}

/// What one scenario withstood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Withstood {
    pub(super) name: String,
    /// Seeded runs, and how many were not passed.
    pub(super) runs: u64,
    pub(super) violated: u64,
    pub(super) inconclusive: u64,
    /// Victims that SIGKILL ended in these runs.
    pub(super) sigkills: u64,
    /// Victims that died at a named point, and before or after a system call.
    pub(super) at_points: u64,
    pub(super) at_calls: u64,
    /// Such strikes that were not reached.
    pub(super) missed: u64,
    pub(super) cuts: u64,
    pub(super) faults: u64,
    /// Acknowledged writes that were looked for afterwards.
    pub(super) acks: u64,
}

/// A canary, and in how many runs the unchanged checks caught it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tried {
    pub(super) scenario: String,
    pub(super) canary: String,
    pub(super) runs: u64,
    pub(super) caught: u64,
}

impl Withstood {
    pub(super) fn of(name: &str) -> Withstood {
        Withstood {
            name: name.to_owned(),
            ..Withstood::default()
        }
    }

    /// Adds seeded runs.
    pub(super) fn add_runs(&mut self, tally: &ScenarioTally) {
        let counts = tally.counts();
        let sum = |names: &[&str]| -> u64 { named(&tally.sums, names) };
        self.runs += counts.total();
        self.violated += counts.violated;
        self.inconclusive += counts.inconclusive;
        self.sigkills += tally.toll.sigkills;
        self.cuts += sum(CUTS);
        self.faults += sum(FAULTS);
        self.acks += tally.toll.acks + sum(CHECKED);
    }

    /// Adds strikes at points and calls.
    pub(super) fn add_strikes(&mut self, report: &ChaosReport) {
        for run in report.dry.iter().chain(&report.runs) {
            match run.fate() {
                Fate::Violated => self.violated += 1,
                Fate::Inconclusive => self.inconclusive += 1,
                Fate::Missed => self.missed += 1,
                Fate::Passed => {}
            }
            if run.hit.is_some() {
                match run.strike {
                    Strike::Point { .. } => self.at_points += 1,
                    Strike::Call { .. } => self.at_calls += 1,
                    Strike::Kill { .. } => self.sigkills += 1,
                    Strike::Fail { .. } => self.faults += 1,
                    Strike::None => {}
                }
            }
        }
    }

    /// All that died.
    pub(super) fn kills(&self) -> u64 {
        self.sigkills + self.at_points + self.at_calls
    }
}

fn named(sums: &BTreeMap<String, u64>, names: &[&str]) -> u64 {
    names.iter().filter_map(|name| sums.get(*name)).sum()
}

impl Record {
    /// As JSON, with a newline at its end.
    pub(super) fn to_json(&self) -> io::Result<String> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }

    pub(super) fn scenario(&self, name: &str) -> Option<&Withstood> {
        self.scenarios.iter().find(|one| one.name == name)
    }
}

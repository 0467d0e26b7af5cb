//! The work that is cut off from power: what each step of it writes follows from the
//! seed, the thread and the number of the step, and from nothing else. So whoever finds a
//! step in a file knows every byte that belongs to it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use agentos_chaos::{Prng, scenario_seed};
use agentos_core::{CheckpointRule, Digest, Retention, RowRule};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Checkpoints of a task that upkeep keeps.
pub(crate) const CHECKPOINTS_KEPT: u64 = 4;
/// Finished work items that upkeep keeps.
pub(crate) const ITEMS_KEPT: u64 = 8;
/// Most bytes of an artifact: some sectors, so that it can be torn.
const ARTIFACT_BYTES_MAX: u64 = 3000;
/// Most bytes of a state: some of them take pages of their own.
const STATE_BYTES_MAX: u64 = 6000;

/// How much work there is, and what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// What all bytes follow from.
    pub(crate) seed: u64,
    /// How many threads work, each on a task of its own.
    pub(crate) threads: u64,
    /// How many steps each makes.
    pub(crate) steps: u64,
}

/// One step: a commit and what leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Whose, from 0.
    pub(crate) thread: u64,
    /// Which of the thread, from 1.
    pub(crate) number: u64,
}

impl Step {
    /// The next of the same thread.
    pub(crate) fn next(self) -> Step {
        Step {
            number: self.number + 1,
            ..self
        }
    }

    /// The one before of the same thread.
    pub(crate) fn before(self) -> Option<Step> {
        let number = self.number.checked_sub(1).filter(|&number| number > 0)?;
        Some(Step { number, ..self })
    }

    /// The unique key of its work item.
    pub(crate) fn item_key(self) -> String {
        format!("step {self}")
    }

    /// Its name in the ledger.
    pub(crate) fn name(self) -> String {
        self.item_key()
    }

    /// What stands with its checkpoint and in its audit line.
    pub(crate) fn label(self) -> Value {
        json!({"step": self.to_string()})
    }

    /// The step of such a label.
    pub(crate) fn of_label(label: &Value) -> Option<Step> {
        label["step"].as_str()?.parse().ok()
    }

    /// Whether its first attempt is given up.
    pub(crate) fn fails_first(self) -> bool {
        (self.number + self.thread).is_multiple_of(4)
    }

    /// Whether a model is asked.
    pub(crate) fn asks(self) -> bool {
        (self.number + self.thread).is_multiple_of(3)
    }

    /// How its artifact is made.
    pub(crate) fn way(self) -> Way {
        match (self.number + self.thread) % 3 {
            0 => Way::InNewFolder,
            1 => Way::Renamed,
            _ => Way::InPlace,
        }
    }

    /// What the model is asked.
    pub(crate) fn question(self) -> Value {
        json!({"model": "miller", "question": self.to_string()})
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.thread, self.number)
    }
}

impl FromStr for Step {
    type Err = ();

    fn from_str(text: &str) -> Result<Step, ()> {
        let (thread, number) = text.split_once('/').ok_or(())?;
        Ok(Step {
            thread: thread.parse().map_err(drop)?,
            number: number.parse().map_err(drop)?,
        })
    }
}

/// How an artifact comes to be. None of them syncs anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Under its own name.
    InPlace,
    /// Under another name first.
    Renamed,
    /// Under its own name, in a folder that is new.
    InNewFolder,
}

/// What upkeep keeps: little of what can be told again from the rest.
pub(crate) fn retention() -> Retention {
    Retention {
        checkpoints: CheckpointRule::keep_last(4),
        work_items: RowRule {
            max_rows: Some(ITEMS_KEPT),
            ..RowRule::keep_all()
        },
        ..Retention::keep_all()
    }
}

impl Plan {
    /// All steps, thread by thread.
    pub(crate) fn all(&self) -> impl Iterator<Item = Step> + use<> {
        let Plan { threads, steps, .. } = *self;
        (0..threads).flat_map(move |thread| (1..=steps).map(move |number| Step { thread, number }))
    }

    /// The name of the task of a thread, and of the type of its work.
    pub(crate) fn task(thread: u64) -> String {
        format!("mill-{thread}")
    }

    fn bytes(&self, step: Step, what: &str, most: u64) -> Vec<u8> {
        let mut rng = Prng::seeded(scenario_seed(self.seed, &format!("{what} {step}")));
        let count = rng.between(1, most);
        rng.bytes(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// The artifact of a step, relative to the folder of artifacts.
    pub(crate) fn artifact(step: Step) -> PathBuf {
        let Step { thread, number } = step;
        match step.way() {
            Way::InNewFolder => format!("{thread}/{number}/flour.bin").into(),
            Way::InPlace | Way::Renamed => format!("{thread}-{number}.bin").into(),
        }
    }

    /// The name under which it is written first.
    pub(crate) fn first_name(step: Step) -> PathBuf {
        let artifact = Plan::artifact(step);
        match step.way() {
            Way::Renamed => artifact.with_extension("part"),
            Way::InPlace | Way::InNewFolder => artifact,
        }
    }

    /// What is in the artifact of a step.
    pub(crate) fn flour(&self, step: Step) -> Vec<u8> {
        self.bytes(step, "artifact", ARTIFACT_BYTES_MAX)
    }

    /// The artifacts of which the checkpoint of a step speaks: its own, and now and then
    /// also the one before.
    pub(crate) fn evidence(step: Step) -> Vec<Step> {
        let before = step.before().filter(|_| step.number.is_multiple_of(4));
        before.into_iter().chain([step]).collect()
    }

    /// The state of a checkpoint.
    pub(crate) fn state(&self, step: Step) -> Vec<u8> {
        self.bytes(step, "state", STATE_BYTES_MAX)
    }

    /// What comes out of the tool.
    pub(crate) fn output(&self, step: Step) -> Vec<u8> {
        let bytes = self.bytes(step, "output", 300);
        Digest::of(&bytes).to_string().into_bytes()
    }

    /// What comes out of the work item.
    pub(crate) fn result(&self, step: Step) -> Vec<u8> {
        self.bytes(step, "result", 500)
    }

    /// What the model answers.
    pub(crate) fn answer(&self, step: Step) -> String {
        Digest::of(&self.bytes(step, "answer", 300)).to_string()
    }

    /// The files that there may be in the folder of artifacts, and what is written to each.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let written = self
            .all()
            .map(|step| (Plan::first_name(step), self.flour(step)));
        written.collect()
    }

    /// Whether an artifact is there as it was made.
    pub(crate) fn is_made(&self, work: &Path, step: Step) -> bool {
        std::fs::read(work.join(Plan::artifact(step))).is_ok_and(|found| found == self.flour(step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_known_by_its_text_and_by_its_label() {
        let step = Step {
            thread: 2,
            number: 7,
        };
        assert_eq!(step.to_string(), "2/7");
        assert_eq!("2/7".parse(), Ok(step));
        assert_eq!(Step::of_label(&step.label()), Some(step));
        for wrong in ["", "2", "2/", "a/1", "1/2/3"] {
            assert_eq!(wrong.parse::<Step>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn every_step_writes_something_of_its_own_and_the_same_each_time() {
        let plan = Plan {
            seed: 5,
            threads: 3,
            steps: 8,
        };
        let states: std::collections::BTreeSet<_> =
            plan.all().map(|step| plan.state(step)).collect();
        assert_eq!(states.len(), 24);
        assert_eq!(plan.files().len(), 24);
        let step = Step {
            thread: 1,
            number: 1,
        };
        assert_eq!(plan.flour(step), plan.flour(step));
        let other = Plan { seed: 6, ..plan };
        assert_ne!(plan.flour(step), other.flour(step));
        assert_eq!(step.before(), None);
        assert_eq!(step.next().before(), Some(step));
    }
}

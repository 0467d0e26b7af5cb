//! A store through its whole life, by one process that is struck anywhere: the file is
//! made, written to, copied, left without room, tidied up and closed, and files of every
//! older version are brought forward. No scenario; but whoever uses a store does all this.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_chaos::{Aftermath, Failure, Outcome, Run, ScenarioResult, Staged, Subject, Verdict};
use agentos_core::{CheckpointStorage, NewTask, Storage, TaskId, TaskStorage};
use agentos_store::sqlite::{Inspection, SCHEMA_VERSION, SqliteStore, inspect};

use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::tail;
use crate::scenarios::fact;
use crate::scenarios::kill_during_upkeep::{fixture, judge_old_file};
use crate::scenarios::tidied::judge_content;
use crate::victims::{
    AUDITS_KEPT, KEEPER_BALLAST_BYTES, KEPT, KEPT_EVENT, KEPT_TASK, Keeper, Kept, Role, spec,
};

/// For the one who goes on; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(50);
/// Rows asked for at a time; there are not more.
const PAGE: u32 = 1000;

type Fallible<T> = Result<T, Failure>;

pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged("store-lifecycle", move |run, turns| {
        let story = Story::begin(run, turns, canary)?;
        let victim = spec("keeper", &Role::Keeper(story.keeper.clone()))?;
        Ok(Staged::new(victim, move |run, after| {
            story.tell(run, after)
        }))
    })
    .goal("struck anywhere in the life of a store, what was acknowledged stands")
    .size(1)
}

struct Story {
    keeper: Keeper,
    /// What the old files had, in the same order.
    before: Vec<Inspection>,
    written: u64,
    copied: u64,
    outcome: Outcome,
}

impl Story {
    fn begin(run: &Run, turns: u64, canary: Option<Canary>) -> Fallible<Story> {
        let mut before = Vec::new();
        let mut old = Vec::new();
        // Nothing happens to a file of the newest version.
        for version in 1..SCHEMA_VERSION {
            let path = run.dir().join(format!("old-{version}.db"));
            fs::copy(fixture(version), &path)?;
            before.push(inspect(&path)?);
            old.push(path);
        }
        Ok(Story {
            keeper: Keeper {
                db: run.dir().join("kept.db"),
                copy: run.dir().join("copy.db"),
                old,
                turns,
                canary,
            },
            before,
            written: 0,
            copied: 0,
            outcome: Outcome::passed(),
        })
    }

    fn tell(mut self, run: &mut Run, after: &Aftermath) -> ScenarioResult {
        let result = self.all(run, after);
        self.outcome.metric("written", self.written);
        self.outcome.metric("copied", self.copied);
        self.outcome.after(result)
    }

    fn all(&mut self, run: &mut Run, after: &Aftermath) -> Fallible<()> {
        self.heed(&after.acks())?;
        self.look("when it was struck", true)?;
        if self.outcome.verdict != Verdict::Passed {
            return Ok(());
        }
        let next = Role::Keeper(Keeper {
            turns: 1,
            canary: None,
            ..self.keeper.clone()
        });
        let mut next = run.start(&spec("next", &next)?)?;
        let exit = next.wait_for_exit(PATIENCE)?;
        self.outcome
            .check(exit.success(), || format!("the next one ended with {exit}"));
        self.heed(&next.acks())?;
        self.look("after the next one", false)?;
        for (old, before) in self.keeper.old.iter().zip(&self.before) {
            judge_old_file(&mut self.outcome, old, before)?;
        }
        for left in leftovers(run.dir())? {
            self.outcome.violate(format!("{left} is left over"));
        }
        Ok(())
    }

    fn heed(&mut self, acks: &[String]) -> Fallible<()> {
        for ack in acks {
            match fact(ack)? {
                Kept::Written(number) => self.written = number,
                Kept::Copied(number) => self.copied = number,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the store and its copy.
    fn look(&mut self, when: &str, may_have_more: bool) -> Fallible<()> {
        self.has_room(when)?;
        let newest = self.look_at(&self.keeper.db.clone(), when, self.written)?;
        let most = self.written + u64::from(may_have_more);
        self.outcome.check(newest <= most, || {
            format!("{when}: {newest} is the newest, and {most} at most may be")
        });
        // It may have been committed without its acknowledgement.
        self.written = self.written.max(newest);
        let copy = self.keeper.copy.clone();
        if self.copied > 0 || copy.exists() {
            self.look_at(&copy, &format!("{when}: in the copy"), self.copied)?;
        }
        Ok(())
    }

    /// Gives the newest number.
    fn look_at(&mut self, db: &Path, when: &str, acked: u64) -> Fallible<u64> {
        let outcome = &mut self.outcome;
        let wreck = match Wreck::open(db, db.parent().unwrap_or(Path::new("/"))) {
            Ok(wreck) => wreck,
            Err(error) => {
                outcome.violate(format!("{when}: it does not open: {}", error.reason()));
                return Ok(acked);
            }
        };
        for problem in wreck.problems()? {
            outcome.violate(format!("{when}: {problem}"));
        }
        for check in wreck.store.doctor()?.refusals() {
            outcome.violate(format!("{when}: {}", check.detail));
        }
        let task = TaskId::new(KEPT_TASK)?;
        let all = wreck.all(&task)?;
        let numbers: Vec<u64> = all.iter().map(|one| one.summary.sequence.get()).collect();
        for broken in tail(&numbers, acked, KEPT.into(), None) {
            outcome.violate(format!("{when}: {broken}"));
        }
        for checkpoint in &all {
            let number = checkpoint.summary.sequence;
            let results = wreck.store.evidence_results(&task, number)?;
            for broken in judge_content(KEPT_TASK, checkpoint, &results) {
                outcome.violate(format!("{when}: {broken}"));
            }
        }
        // Each checkpoint has a line of the same commit; of both the newest are kept.
        let lines = wreck.store.audits(&task, None, PAGE)?.items;
        let lines = lines.iter().filter(|line| line.event == KEPT_EVENT);
        let mut lines: Vec<u64> = lines.filter_map(|line| line.detail.as_u64()).collect();
        lines.sort_unstable();
        // One line is of the task itself.
        for broken in tail(&lines, acked, AUDITS_KEPT - 1, None) {
            outcome.violate(format!("{when}: audit: {broken}"));
        }
        let (newest, line) = (numbers.last().copied(), lines.last().copied());
        outcome.check(newest == line, || {
            format!("{when}: the newest checkpoint is {newest:?}, and the newest line {line:?}")
        });
        Ok(newest.unwrap_or(0))
    }

    /// It opens, nothing is refused, and the ballast has the room that it must have (who
    /// looks may have made it larger).
    fn has_room(&mut self, when: &str) -> Fallible<()> {
        let store = match SqliteStore::open(self.keeper.config()) {
            Ok(store) => store,
            Err(error) => {
                self.outcome
                    .violate(format!("{when}: it does not open: {error}"));
                return Ok(());
            }
        };
        let commit = NewTask::new(TaskId::new(when)?, "looked at");
        if let Err(error) = store.commit(commit.into()) {
            self.outcome.violate(format!("{when}: {error}"));
        }
        let bytes = store.inspect()?.ballast_bytes;
        self.outcome.check(KEEPER_BALLAST_BYTES <= bytes, || {
            format!("{when}: the ballast has {bytes} bytes")
        });
        store.close();
        Ok(())
    }
}

/// Files that somebody was about to make, and did not.
fn leftovers(directory: &Path) -> Fallible<Vec<String>> {
    let mut left = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name: PathBuf = entry?.file_name().into();
        let name = name.display().to_string();
        if [".agentos-new", ".agentos-part", "-journal"]
            .iter()
            .any(|suffix| name.contains(suffix))
        {
            left.push(name);
        }
    }
    Ok(left)
}

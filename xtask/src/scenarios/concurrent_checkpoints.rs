//! Scenario 2. Goal: whoever appends, in however many processes, every
//! checkpoint is kept and no number is given twice.
//!
//! Method: 10 processes wait at a gate and append 10 checkpoints each, all at
//! once: on a file each; on one file, a task each; on one file and one task.
//! Nobody is killed, so each of the 100 must be acknowledged and be there.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use agentos_chaos::{Aftermath, Failure, Outcome, Run, Scenario, ScenarioResult, Verdict, Victim};
use agentos_checkpoints::ReadState;
use agentos_core::TaskId;

use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::{Numbered, judge};
use crate::victims::{Appender, Role, State, spec};

const WRITERS: u64 = 10;
const CHECKPOINTS: u64 = 10;
/// In a run that is struck: the one that is, those that are not, and how many times as
/// much they append; and one that comes afterwards.
const STRUCK: u64 = 3;
const OTHERS: [u64; 2] = [1, 2];
const OTHERS_TIMES: u64 = 10;
const LAST: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const NAME: &str = "concurrent-checkpoints";

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "10 processes append 10 checkpoints each: 100 of 100, on files and tasks of their own or shared";
    Scenario::new(2, NAME, goal, move |run| {
        let mut story = Story {
            canary,
            databases: 0,
            found: 0,
            errors: 0,
            outcome: Outcome::passed(),
        };
        for layout in [Layout::FileEach, Layout::TaskEach, Layout::OneTask] {
            run.progress(layout.name());
            if let Err(failure) = story.tell(run, layout) {
                return story.end(Err(failure));
            }
        }
        story.end(Ok(()))
    })
}

/// Who shares what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    FileEach,
    TaskEach,
    OneTask,
}

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Layout::FileEach => "a file each",
            Layout::TaskEach => "one file, a task each",
            Layout::OneTask => "one file, one task",
        }
    }

    fn db(self, run: &Run, writer: u64) -> PathBuf {
        run.dir().join(match self {
            Layout::FileEach => format!("own-{writer}.db"),
            Layout::TaskEach => "shared-tasks.db".to_owned(),
            Layout::OneTask => "shared-task.db".to_owned(),
        })
    }

    fn task(self, writer: u64) -> String {
        match self {
            Layout::OneTask => "the task".to_owned(),
            _ => format!("task {writer}"),
        }
    }
}

struct Story {
    canary: Option<Canary>,
    databases: u64,
    found: usize,
    errors: usize,
    outcome: Outcome,
}

type Fallible<T> = Result<T, Failure>;

impl Story {
    fn tell(&mut self, run: &mut Run, layout: Layout) -> Fallible<()> {
        let gate_path = run.dir().join(format!("gate-{layout:?}"));
        let gate = File::create(&gate_path)?;
        gate.lock()?;
        let mut victims = Vec::new();
        for writer in 1..=WRITERS {
            let role = Role::Appender(Appender {
                db: layout.db(run, writer),
                task: layout.task(writer),
                writer,
                count: CHECKPOINTS,
                gate: gate_path.clone(),
                canary: self.canary,
            });
            victims.push(run.start(&spec(&format!("writer-{writer}"), &role)?)?);
        }
        for victim in &mut victims {
            victim.wait_for_line("ready", PATIENCE, |line| line == "ready")?;
        }
        gate.unlock()?;
        let mut acked: Vec<(u64, Numbered)> = Vec::new();
        for (writer, mut victim) in (1..=WRITERS).zip(victims) {
            match victim.wait_for_exit(PATIENCE) {
                Ok(exit) if exit.success() => {}
                Ok(exit) => self.error(layout, writer, &format!("ended with {exit}")),
                Err(error) if error.verdict() == Verdict::Inconclusive => {
                    return Err(error.into());
                }
                Err(error) => self.error(layout, writer, &error.to_string()),
            }
            let told = numbered(&victim.acks())?;
            acked.extend(told.into_iter().map(|ack| (writer, ack)));
        }
        self.look(run, layout, &acked)
    }

    fn error(&mut self, layout: Layout, writer: u64, words: &str) {
        self.errors += 1;
        self.outcome
            .violate(format!("{}: writer {writer} {words}", layout.name()));
    }

    fn look(&mut self, run: &Run, layout: Layout, acked: &[(u64, Numbered)]) -> Fallible<()> {
        let mut groups: Vec<(PathBuf, String, Vec<u64>)> = Vec::new();
        for writer in 1..=WRITERS {
            let (db, task) = (layout.db(run, writer), layout.task(writer));
            match groups
                .iter_mut()
                .find(|group| group.0 == db && group.1 == task)
            {
                Some(group) => group.2.push(writer),
                None => groups.push((db, task, vec![writer])),
            }
        }
        let mut databases: Vec<PathBuf> = groups.iter().map(|group| group.0.clone()).collect();
        databases.dedup();
        self.databases += databases.len() as u64;
        for (db, task, writers) in groups {
            let wreck = Wreck::open(&db, run.dir())?;
            let place = format!("{}: {task}", layout.name());
            for problem in wreck.problems()? {
                self.outcome.violate(format!("{place}: {problem}"));
            }
            let all = wreck.all(&TaskId::new(&task)?)?;
            self.found += all.len();
            let mut found = Vec::new();
            let mut states = Vec::new();
            for checkpoint in &all {
                let state: State = checkpoint.state()?;
                found.push((checkpoint.summary.sequence.get(), state.writer.to_string()));
                states.push((state.writer, state.step));
            }
            let acked: Vec<Numbered> = acked
                .iter()
                .filter(|(writer, _)| writers.contains(writer))
                .map(|(_, ack)| ack.clone())
                .collect();
            for broken in judge(&acked, &found, 0) {
                self.outcome.violate(format!("{place}: {broken}"));
            }
            // Each writer's own order is kept as well.
            for writer in writers {
                let steps = states
                    .iter()
                    .filter(|state| state.0 == writer)
                    .map(|state| state.1);
                self.outcome.check(steps.clone().eq(1..=CHECKPOINTS), || {
                    let steps: Vec<_> = steps.collect();
                    format!("{place}: writer {writer} left the steps {steps:?}")
                });
            }
        }
        Ok(())
    }

    fn end(mut self, result: Fallible<()>) -> ScenarioResult {
        self.outcome.metric("databases", self.databases);
        self.outcome.metric("checkpoints", self.found);
        self.outcome.metric("errors", self.errors);
        self.outcome.after(result)
    }
}

/// What a writer acknowledged.
fn numbered(acks: &[String]) -> Fallible<Vec<Numbered>> {
    let numbered = acks.iter().map(|ack| {
        let (number, content) = ack
            .split_once(' ')
            .ok_or_else(|| Failure::new("a strange acknowledgement"))?;
        Ok((number.parse()?, content.to_owned()))
    });
    numbered.collect()
}

/// Two writers that are at work when the one that is to be struck, of another number,
/// joins them with so many checkpoints. They have made the file.
pub(crate) fn begin(
    run: &mut Run,
    checkpoints: u64,
    canary: Option<Canary>,
) -> Fallible<(Vec<Victim>, Appender)> {
    let path = run.dir().join("gate");
    let gate = File::create(&path)?;
    gate.lock()?;
    let layout = Layout::OneTask;
    let struck = Appender {
        db: layout.db(run, STRUCK),
        task: layout.task(STRUCK),
        writer: STRUCK,
        count: checkpoints,
        gate: path,
        canary,
    };
    let mut others = Vec::new();
    for writer in OTHERS {
        let role = Appender {
            writer,
            count: checkpoints * OTHERS_TIMES,
            canary: None,
            ..struck.clone()
        };
        others.push(run.start(&spec(&format!("writer-{writer}"), &role.role())?)?);
    }
    for victim in &mut others {
        victim.wait_for_line("ready", PATIENCE, |line| line == "ready")?;
    }
    gate.unlock()?;
    Ok((others, struck))
}

/// Reads what there is when one of three was struck anywhere, and lets a fourth append
/// as much.
pub(crate) fn struck(
    run: &mut Run,
    others: Vec<Victim>,
    writer: &Appender,
    after: &Aftermath,
) -> ScenarioResult {
    let mut outcome = Outcome::passed();
    let result = judge_rest(run, others, writer, after, &mut outcome);
    outcome.after(result)
}

fn judge_rest(
    run: &mut Run,
    mut others: Vec<Victim>,
    writer: &Appender,
    after: &Aftermath,
    outcome: &mut Outcome,
) -> Fallible<()> {
    let last = Appender {
        writer: LAST,
        canary: None,
        ..writer.clone()
    };
    others.push(run.start(&spec("last-writer", &last.role())?)?);
    let mut acked = numbered(&after.acks())?;
    let mut left = BTreeMap::from([(LAST, last.count)]);
    left.extend(OTHERS.map(|writer| (writer, last.count * OTHERS_TIMES)));
    for (number, mut victim) in OTHERS.into_iter().chain([LAST]).zip(others) {
        let exit = victim.wait_for_exit(PATIENCE)?;
        outcome.check(exit.success(), || {
            format!("writer {number} ended with {exit}")
        });
        acked.extend(numbered(&victim.acks())?);
    }
    let cut_off = usize::from(!after.finished());
    let told = after.acks().len() as u64;
    let wreck = Wreck::open(&writer.db, run.dir())?;
    for problem in wreck.problems()? {
        outcome.violate(problem);
    }
    let (mut found, mut steps) = (Vec::new(), BTreeMap::<u64, Vec<u64>>::new());
    for checkpoint in wreck.all(&TaskId::new(&writer.task)?)? {
        let state: State = checkpoint.state()?;
        found.push((checkpoint.summary.sequence.get(), state.writer.to_string()));
        steps.entry(state.writer).or_default().push(state.step);
    }
    for broken in judge(&acked, &found, cut_off) {
        outcome.violate(broken);
    }
    // Each writer's own order is kept as well.
    let of_struck = steps.get(&STRUCK).map_or(0, Vec::len) as u64;
    left.insert(STRUCK, of_struck.clamp(told, told + cut_off as u64));
    for (writer, count) in left {
        let steps = steps.remove(&writer).unwrap_or_default();
        outcome.check(steps.iter().copied().eq(1..=count), || {
            format!("writer {writer} left the steps {steps:?}, of {count}")
        });
    }
    Ok(())
}

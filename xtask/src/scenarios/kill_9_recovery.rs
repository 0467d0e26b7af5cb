//! Scenario 1. Goal: what was acknowledged survives SIGKILL, and the work goes
//! on at exactly the next iteration.
//!
//! Method: an agent works on a real file and acknowledges each checkpoint after
//! its commit. It is killed a seeded fraction of a millisecond after a seeded
//! number of acknowledgements, or after it began the commit that follows them.
//! What it left behind is opened and checked, and the next agent must begin
//! where that says. After some kills the last agent is let run to its end.
//!
//! SIGKILL does not lose what the kernel has: this proves nothing about
//! `fsync`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_chaos::{Aftermath, Failure, Outcome, Run, Scenario, ScenarioResult, Verdict};
use agentos_checkpoints::ReadState;
use agentos_core::{TaskId, TaskStatus, TaskStorage};

use super::lineage::Lineage;
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::victims::{Agent, LINES_PER_ITERATION, Progress, Role, artifact_of, input_lines, spec};

const KILLS: usize = 3;
const KILLS_QUICK: usize = 1;
/// Acknowledgements before a kill.
const ACKS: std::ops::RangeInclusive<u64> = 5..=12;
const OFFSET_MAX: Duration = Duration::from_micros(999);
/// A commit lasts about this long, and a little of it has passed when it is seen.
const COMMIT_OFFSET_MAX: Duration = Duration::from_micros(400);
/// For one acknowledgement to come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// Letters of the digest in an artifact.
const DIGEST_HEX: usize = 64;
const TASK: &str = "agent";

pub(crate) const NAME: &str = "kill-9-recovery";
pub(crate) const GOAL: &str =
    "acknowledged checkpoints survive SIGKILL, and work resumes at the next iteration";

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    Scenario::new(1, NAME, GOAL, move |run| {
        Story::begin(run, u64::MAX, canary)?.tell(run)
    })
}

/// One run of the scenario: what is known so far.
pub(crate) struct Story {
    agent: Agent,
    lineage: Lineage,
    kills: usize,
    /// Iterations done at each kill; a half more inside a commit.
    killed_at: Vec<f64>,
    outcome: Outcome,
}

type Fallible<T> = Result<T, Failure>;

impl Story {
    /// An agent that is to do iterations up to the last.
    pub(crate) fn begin(run: &Run, last: u64, canary: Option<Canary>) -> Fallible<Story> {
        let work = run.dir().join("work");
        fs::create_dir(&work)?;
        let input = run.dir().join("input.txt");
        fs::copy(real_file(), &input)?;
        let agent = Agent {
            db: run.dir().join("agent.db"),
            work,
            input,
            task: TASK.into(),
            last,
            canary,
        };
        Ok(Story {
            agent,
            lineage: Lineage::of(TaskId::new(TASK)?),
            kills: 0,
            killed_at: Vec::new(),
            outcome: Outcome::passed(),
        })
    }

    /// How its agent is started.
    pub(crate) fn role(&self) -> Role {
        Role::Agent(self.agent.clone())
    }

    /// Reads what an agent left that was struck anywhere, and lets another one do
    /// what is missing.
    pub(crate) fn struck(mut self, run: &mut Run, after: &Aftermath) -> ScenarioResult {
        let result = self.heed_struck(after).and_then(|()| self.finish(run));
        self.end(result)
    }

    fn heed_struck(&mut self, after: &Aftermath) -> Fallible<()> {
        let (said, acks) = (after.transcript.said(), after.acks());
        if !said.is_empty() {
            self.heed(&said, &acks)?;
        }
        self.look("after the strike", usize::from(!after.finished()))?;
        self.look_at_artifacts()
    }

    /// What has the name of an artifact is whole, also where no checkpoint speaks of it.
    fn look_at_artifacts(&mut self) -> Fallible<()> {
        for iteration in 1..=self.agent.last {
            match fs::read_to_string(self.agent.work.join(artifact_of(iteration))) {
                Ok(artifact) => {
                    let mut lines = artifact.lines();
                    let words = lines.next().and_then(|first| first.parse().ok());
                    let digest = lines.next().map_or(0, str::len);
                    let whole = words == Some(self.words_of(iteration)?) && digest == DIGEST_HEX;
                    self.outcome.check(whole, || {
                        format!("the artifact of iteration {iteration} is not whole: {artifact:?}")
                    });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn tell(mut self, run: &mut Run) -> ScenarioResult {
        let result = self.live(run);
        self.end(result)
    }

    fn end(mut self, result: Fallible<()>) -> ScenarioResult {
        let lineage = self.lineage;
        self.outcome.metric("kills", self.kills);
        self.outcome.metric("acked", lineage.acked);
        self.outcome
            .metric("unacknowledged", lineage.unacknowledged);
        self.outcome.metric("found", lineage.found);
        self.outcome.metric("resumed_from", lineage.resumed_from);
        self.outcome.after(result)
    }

    fn live(&mut self, run: &mut Run) -> Fallible<()> {
        let kills = kills(run.quick());
        for kill in 1..=kills {
            run.progress(format!("kill {kill} of {kills}"));
            self.live_and_die(run)?;
            self.kills = kill;
            self.look(&format!("after kill {kill}"), 1)?;
            if self.outcome.verdict != Verdict::Passed {
                break;
            }
        }
        if self.outcome.verdict == Verdict::Passed {
            run.progress("the last agent finishes");
            self.agent.last = self.lineage.next + *ACKS.start();
            self.finish(run)?;
        }
        let work = match self.agent.last {
            u64::MAX => iterations_max(run.quick()),
            last => last,
        };
        for iterations in &self.killed_at {
            self.outcome.kill_point(iterations / work as f64);
        }
        Ok(())
    }

    /// One agent, from its start to its violent end.
    fn live_and_die(&mut self, run: &mut Run) -> Fallible<()> {
        let acks = usize::try_from(run.rng.between(*ACKS.start(), *ACKS.end()))?;
        let inside_commit = run.rng.percent(50);
        let offset_max = if inside_commit {
            COMMIT_OFFSET_MAX
        } else {
            OFFSET_MAX
        };
        let offset = run.rng.duration_between(Duration::ZERO, offset_max);
        let mut victim = run.start(&spec("agent", &self.role())?)?;
        victim.wait_for_acks(acks, PATIENCE)?;
        if inside_commit {
            let following = format!("commit {}", self.lineage.next + acks as u64);
            victim.wait_for_line("the next commit", PATIENCE, |line| line == following)?;
        }
        let transcript = victim.kill_after(offset)?;
        let acks = transcript.acks();
        let half = if inside_commit { 0.5 } else { 0.0 };
        let done = self.lineage.next - 1 + acks.len() as u64;
        self.killed_at.push(done as f64 + half);
        self.heed(&transcript.said(), &acks)
    }

    /// Takes note of what an agent printed.
    fn heed(&mut self, said: &[String], acks: &[String]) -> Fallible<()> {
        let expected = format!("start {}", self.lineage.next);
        let begun = said.first().map(String::as_str);
        self.outcome.check(begun == Some(expected.as_str()), || {
            format!("an agent said {begun:?} instead of {expected:?}")
        });
        self.lineage.heed(acks.iter().map(String::as_str))
    }

    /// Reads the wreck of one agent, which may have left `beyond` checkpoints that
    /// it did not acknowledge.
    fn look(&mut self, when: &str, beyond: usize) -> Fallible<()> {
        let wreck = Wreck::open(&self.agent.db, &self.agent.work)?;
        let outcome = &mut self.outcome;
        if let Some(resumed) = self.lineage.look(&wreck, outcome, when, beyond)? {
            let state: Progress = resumed.checkpoint.state()?;
            let expected = self.expected(state.iteration)?;
            self.outcome.check(state == expected, || {
                format!("{when}: the state is {state:?} and must be {expected:?}")
            });
        }
        Ok(())
    }

    /// The state after so many iterations, from the artifacts alone.
    fn expected(&self, iterations: u64) -> Fallible<Progress> {
        (1..=iterations).try_fold(Progress::start(), |progress, iteration| {
            let artifact = fs::read(self.agent.work.join(artifact_of(iteration)))?;
            let words = String::from_utf8_lossy(&artifact);
            let words = words.lines().next().and_then(|first| first.parse().ok());
            let counted = self.words_of(iteration)?;
            if words != Some(counted) {
                let reason = format!("iteration {iteration} counted {words:?} words of {counted}");
                return Err(Failure::new(reason));
            }
            Ok(progress.after(&artifact))
        })
    }

    /// The words that an iteration had to count.
    fn words_of(&self, iteration: u64) -> Fallible<usize> {
        let input = fs::read_to_string(&self.agent.input)?;
        let first = input_lines(iteration, input.lines().count());
        let lines = input.lines().skip(first - 1).take(LINES_PER_ITERATION);
        Ok(lines.map(|line| line.split_whitespace().count()).sum())
    }

    /// The last agent does the iterations that are left and ends by itself.
    fn finish(&mut self, run: &mut Run) -> Fallible<()> {
        let mut victim = run.start(&spec("last-agent", &self.role())?)?;
        let exit = victim.wait_for_exit(PATIENCE)?;
        self.outcome.check(exit.success(), || {
            format!("the last agent ended with {exit}")
        });
        self.heed(&victim.said(), &victim.acks())?;
        self.look("at the end", 0)?;
        let wreck = Wreck::open(&self.agent.db, &self.agent.work)?;
        let status = wreck
            .store
            .task(&TaskId::new(TASK)?)?
            .map(|task| task.status);
        self.outcome
            .check(status == Some(TaskStatus::Succeeded), || {
                format!("at the end the task is {status:?}")
            });
        self.outcome
            .check(self.lineage.found as u64 == self.agent.last, || {
                format!(
                    "{} checkpoints for {} iterations",
                    self.lineage.found, self.agent.last
                )
            });
        Ok(())
    }
}

fn kills(quick: bool) -> usize {
    if quick { KILLS_QUICK } else { KILLS }
}

/// The iterations of the longest story that is planned: every killed agent makes as many
/// acknowledgements as it may and one checkpoint more, and the last one makes its
/// own. A kill's place is a part of what the story came to, or of this when a
/// violation ended it and nobody knows. The first agent is left alone for some
/// iterations and the last one to its end, so no kill is near 0 or 1.
fn iterations_max(quick: bool) -> u64 {
    kills(quick) as u64 * (ACKS.end() + 1) + ACKS.start() + 1
}

/// A real file of this project, of some hundred lines.
fn real_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock")
}

//! Scenario 7. Goal: an agent that is killed again and again ends with exactly
//! the answer that it would have given in peace, loses no more than one iteration to
//! each kill, has every effect exactly once, and pays no answer of its model again but
//! those that it was waiting for when it was killed.
//!
//! Method: an agent counts the words of this project's own source files in some
//! iterations, under the lease of a work item. In each it asks a model, through the
//! cache, and runs the tool that the model asks for, through the ledger. Before that it rings
//! a bell twice, by two calls that look alike; the bell does not ring at the first try of each
//! iteration, and is tried again. It runs once in
//! peace. Then another is killed at seeded points
//! over the whole work, three times at least, and started again each time; it
//! finds out by itself where to go on, until it says that it is done. Its answer
//! must be that of the first agent, and that of a count over the same files
//! which knows neither agents nor databases, and of a conversation that is worked out
//! from the names of the files. The outcome of a tool and its checkpoint are one commit,
//! and so are the last of them, the answer, the success and the end of the item: after
//! each kill all of them are there or none, and they carry one moment. How much was
//! worked is counted where the files are read, what tools did where they did it, and what
//! was paid by the model. Once more
//! started after its success, the agent says that it is done and leaves all as it
//! is.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use agentos_chaos::{Aftermath, Failure, Outcome, Run, Scenario, ScenarioResult, Verdict, Victim};
use agentos_checkpoints::ReadState;
use agentos_core::records::audit::TASK_STATUS;
use agentos_core::{Audit, Stopwatch, Task, TaskId, TaskStatus, TaskStorage, Timestamp};
use agentos_process::Exit;
use serde_json::Value;

use super::lineage::Lineage;
use super::plan::{Aim, EXTRA_KILLS_MAX, KILLS_MIN, plan};
use super::sources;
use super::traces::{Traces, start_model};
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::{
    Facts, File, differences, fraction_done, judge_life, judge_moments, judge_success, judge_work,
    judge_worked,
};
use crate::victims::{ANSWER_EVENT, Counter, Mind, Report, Role, WORKED_LOG, names, share, spec};

const ITERATIONS: std::ops::RangeInclusive<u64> = 12..=24;
const ITERATIONS_QUICK: std::ops::RangeInclusive<u64> = 10..=12;
/// Times that all begins anew when an agent outran its killer all the same.
const ATTEMPTS: u64 = 5;
/// For one agent to do its next step, or all of its work; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// More audit lines than any task of this scenario has.
const AUDIT_ROWS: u32 = 100;
const TASK: &str = "counter";
/// The usual name of an agent. Each kill may be followed by one of another name, in so
/// many of a hundred cases, that waits until its predecessor's lease has run out.
const WORKER: &str = "agent";
const STRANGERS_PERCENT: u64 = 25;
/// Of an agent: a stranger waits for it. It outlasts a stall of the machine.
const LEASE_MS: u64 = 800;
/// Where nobody waits for it: no stall is as long.
const LEASE_STRUCK_MS: u64 = 60_000;

pub(crate) const NAME: &str = "end-to-end";

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "an agent killed at random ends with the exact answer, does nothing twice and pays nothing twice";
    Scenario::new(7, NAME, goal, move |run| tell(run, canary))
}

type Fallible<T> = Result<T, Failure>;

fn tell(run: &mut Run, canary: Option<Canary>) -> ScenarioResult {
    let mut outcome = Outcome::passed();
    let result = tell_all(run, canary, &mut outcome);
    outcome.after(result)
}

fn tell_all(run: &mut Run, canary: Option<Canary>, outcome: &mut Outcome) -> Fallible<()> {
    let input = run.dir().join("input");
    sources::copy_into(&input)?;
    let files: Arc<[File]> = read(&input)?.into();
    let range = if run.quick() {
        ITERATIONS_QUICK
    } else {
        ITERATIONS
    };
    let iterations = run.rng.between(*range.start(), *range.end());

    let (_model, port) = start_model(run)?;
    let begin = |run: &Run, name: &str| {
        let files = Arc::clone(&files);
        Story::begin(run, name, port, iterations, canary, files)
    };

    run.progress("an agent works in peace");
    let mut peaceful = begin(run, "peaceful")?;
    let mut iteration = peaceful.in_peace(run, outcome)?;

    let mut attempt = 0;
    let story = loop {
        attempt += 1;
        let extra = if run.quick() { 0 } else { EXTRA_KILLS_MAX };
        let plan = plan(&mut run.rng, iterations, extra);
        let mut story = begin(run, &format!("killed-{attempt}"))?;
        // It is killed also where the agent in peace was found broken already, so
        // that the evidence has both.
        let mut own = Outcome::passed();
        let told = story.tell(run, &plan, iteration, &mut own);
        for reason in own.reasons {
            outcome.violate(reason);
        }
        told?;
        let enough = story.kills >= KILLS_MIN || outcome.verdict != Verdict::Passed;
        if enough || attempt == ATTEMPTS {
            break story;
        }
        // The agent outran its killer: the next kills come sooner.
        iteration /= 2;
    };
    if outcome.verdict == Verdict::Passed {
        if story.kills < KILLS_MIN {
            let kills = story.kills;
            outcome.not_judged(format!(
                "the agent was done after {kills} kills, in each of {attempt} attempts"
            ));
        }
        outcome.check(
            story.answer.is_some() && story.answer == peaceful.answer,
            || {
                format!(
                    "the answer is {:?}, and without kills it is {:?}",
                    story.answer, peaceful.answer
                )
            },
        );
    }
    story.figures(outcome);
    Ok(())
}

/// The files of a folder, by name.
fn read(folder: &std::path::Path) -> Fallible<Vec<File>> {
    let file = |name: String| Ok((name.clone(), fs::read(folder.join(name))?));
    names(folder)?.into_iter().map(file).collect()
}

/// The iterations whose files were read, as the agent's log has them.
fn worked(log: &std::path::Path) -> Fallible<Vec<u64>> {
    let text = match fs::read_to_string(log) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let number = |line: &str| Ok(line.parse()?);
    text.lines().map(number).collect()
}

/// One agent, in all of its lives: what is known so far.
pub(crate) struct Story {
    counter: Counter,
    files: Arc<[File]>,
    /// In so many of a hundred cases a life after a kill has another name.
    strangers_percent: u64,
    lineage: Lineage,
    traces: Traces,
    name: String,
    kills: u64,
    /// The iterations whose files were read, in all lives, in order.
    worked: Vec<u64>,
    /// How far the work was at each kill.
    kill_points: Vec<f64>,
    /// The last word of each agent that was killed.
    killed_after: Vec<String>,
    /// The task and its audit lines after the last life.
    task: Option<Task>,
    audits: Vec<Audit>,
    answer: Option<Report>,
}

impl Story {
    fn begin(
        run: &Run,
        name: &str,
        model: u16,
        iterations: u64,
        canary: Option<Canary>,
        files: Arc<[File]>,
    ) -> Fallible<Story> {
        let work = run.dir().join(name);
        fs::create_dir(&work)?;
        let counter = Counter {
            db: run.dir().join(format!("{name}.db")),
            work,
            input: run.dir().join("input"),
            task: TASK.into(),
            iterations,
            model,
            caller: String::new(),
            worker: WORKER.into(),
            lease_ms: LEASE_MS,
            canary,
        };
        Ok(Story {
            traces: Traces::of(&counter)?,
            name: name.into(),
            counter,
            files,
            strangers_percent: if run.quick() { 0 } else { STRANGERS_PERCENT },
            lineage: Lineage::of(TaskId::new(TASK)?),
            kills: 0,
            worked: Vec::new(),
            kill_points: Vec::new(),
            killed_after: Vec::new(),
            task: None,
            audits: Vec::new(),
            answer: None,
        })
    }

    /// An agent that is struck anywhere, at work on a few files in so many iterations;
    /// its model, which is not struck; and the role of its first life.
    pub(crate) fn to_strike(
        run: &mut Run,
        iterations: u64,
        canary: Option<Canary>,
    ) -> Fallible<(Victim, Role, Story)> {
        let input = run.dir().join("input");
        sources::copy_some_into(&input)?;
        let files = read(&input)?.into();
        let (model, port) = start_model(run)?;
        let mut story = Story::begin(run, "struck", port, iterations, canary, files)?;
        // Nobody waits for a lease: the next agent has the name of the one before.
        story.strangers_percent = 0;
        story.counter.lease_ms = LEASE_STRUCK_MS;
        // That the end is one commit is shown here by a crash in its middle.
        story.traces.by_moments = false;
        let role = story.next_role(run);
        Ok((model, role, story))
    }

    /// Reads what an agent left that was struck anywhere, lets another one do what is
    /// missing, and one more, which has nothing to do.
    pub(crate) fn struck(mut self, run: &mut Run, after: &Aftermath) -> ScenarioResult {
        let mut outcome = Outcome::passed();
        let result = self.live_on(run, after, &mut outcome);
        outcome.after(result)
    }

    fn live_on(&mut self, run: &mut Run, after: &Aftermath, outcome: &mut Outcome) -> Fallible<()> {
        let cut_off = !after.finished();
        self.kills = u64::from(cut_off);
        let met_error = matches!(after.exit(), Some(Exit::Exited { .. }));
        self.traces.reported = usize::from(cut_off && met_error);
        self.look(&after.transcript.lines, cut_off, outcome)?;
        if self.answer.is_none() && outcome.verdict == Verdict::Passed {
            self.finish(run, outcome)?;
        }
        self.once_more(run, outcome)
    }

    /// All lives: as planned, and one to the end.
    fn tell(
        &mut self,
        run: &mut Run,
        plan: &[Aim],
        iteration: Duration,
        outcome: &mut Outcome,
    ) -> Fallible<()> {
        for aim in plan {
            if self.is_done() || outcome.verdict != Verdict::Passed {
                break;
            }
            run.progress(format!("kill {} of {}", self.kills + 1, plan.len()));
            self.live_and_die(run, *aim, iteration, outcome)?;
        }
        // Also an agent that was killed after its last commit says once more that
        // it is done.
        if self.answer.is_none() && outcome.verdict == Verdict::Passed {
            run.progress("the last agent finishes");
            self.finish(run, outcome)?;
        }
        self.once_more(run, outcome)
    }

    /// One more life when all is done: it has nothing to do, and does nothing.
    fn once_more(&mut self, run: &mut Run, outcome: &mut Outcome) -> Fallible<()> {
        if self.is_done() && outcome.verdict == Verdict::Passed {
            run.progress("an agent is started after the success");
            self.finish(run, outcome)?;
        }
        Ok(())
    }

    /// The role of the next life, of the same name as those before or of another one.
    fn next_role(&mut self, run: &mut Run) -> Role {
        let life = self.traces.next_life();
        let percent = self.strangers_percent;
        let is_stranger = 0 < percent && 1 < life && run.rng.percent(percent);
        self.counter.caller = format!("{}-{life}", self.name);
        self.counter.worker = match is_stranger {
            true => format!("{WORKER}-{life}"),
            false => WORKER.into(),
        };
        Role::Counter(self.counter.clone())
    }

    fn is_done(&self) -> bool {
        self.lineage.next > self.counter.iterations
    }

    /// One life, to its violent end, unless it is over before.
    fn live_and_die(
        &mut self,
        run: &mut Run,
        aim: Aim,
        iteration: Duration,
        outcome: &mut Outcome,
    ) -> Fallible<()> {
        let offset = iteration * u32::try_from(aim.offset_permille)? / 1000;
        let role = self.next_role(run);
        let mut victim = run.start(&spec("counter", &role)?)?;
        let awaited = match aim.word {
            "open" => aim.word.to_owned(),
            word => format!("{word} {}", aim.iteration.max(self.lineage.next)),
        };
        victim.wait_for_line(&awaited, PATIENCE, |line| {
            let rest = line.strip_prefix(&awaited);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        })?;
        let transcript = victim.kill_after(offset)?;
        // An agent that had said that it is done was not cut off in anything.
        let whole = transcript
            .lines
            .last()
            .is_some_and(|line| line.starts_with("done"));
        let killed = transcript.killed && !whole;
        if killed {
            self.kills += 1;
            let (next, last) = (self.lineage.next, self.counter.iterations);
            self.kill_points
                .push(fraction_done(&transcript.lines, next, last));
            let words = transcript.lines.last().map(|line| line.split(' ').take(2));
            let words = words.map(|words| words.collect::<Vec<_>>().join(" "));
            self.killed_after.extend(words);
        }
        self.look(&transcript.lines, killed, outcome)
    }

    /// One undisturbed life. Returns how long an iteration lasts, by the median:
    /// the machine may stall once or twice.
    fn in_peace(&mut self, run: &mut Run, outcome: &mut Outcome) -> Fallible<Duration> {
        let role = self.next_role(run);
        let mut victim = run.start(&spec("peaceful-counter", &role)?)?;
        let mut lasted = Vec::new();
        for number in 1..=self.counter.iterations {
            let stopwatch = Stopwatch::start();
            let ack = format!("ack {number} ");
            victim.wait_for_line(&ack, PATIENCE, |line| line.starts_with(&ack))?;
            lasted.push(stopwatch.elapsed());
        }
        self.end(run, victim, outcome)?;
        self.once_more(run, outcome)?;
        lasted.sort();
        Ok(lasted[lasted.len() / 2])
    }

    /// One life to its own end.
    fn finish(&mut self, run: &mut Run, outcome: &mut Outcome) -> Fallible<()> {
        let role = self.next_role(run);
        let victim = run.start(&spec("last-counter", &role)?)?;
        self.end(run, victim, outcome)
    }

    fn end(&mut self, run: &Run, mut victim: Victim, outcome: &mut Outcome) -> Fallible<()> {
        let exit = victim.wait_for_exit(PATIENCE)?;
        outcome.check(exit.success(), || format!("an agent ended with {exit}"));
        let lines = run.transcripts().pop().unwrap_or_default().lines;
        self.look(&lines, false, outcome)
    }

    /// Judges what an agent said, and what it left behind.
    fn look(&mut self, lines: &[String], killed: bool, outcome: &mut Outcome) -> Fallible<()> {
        let when = match killed {
            true => format!("after kill {}", self.kills),
            false => format!("at the end, after {} kills", self.kills),
        };
        let last = self.counter.iterations;
        let mut broken = judge_life(lines, self.lineage.next, last, killed);
        let before = self.worked.len();
        self.worked = worked(&self.counter.work.join(WORKED_LOG))?;
        let now = self.worked.get(before..).unwrap_or_default();
        broken.extend(judge_worked(now, lines, killed));
        let acks = lines.iter().filter_map(|line| line.strip_prefix("ack "));
        self.lineage.heed(acks)?;

        let wreck = Wreck::open(&self.counter.db, &self.counter.work)?;
        let resumed = self
            .lineage
            .look(&wreck, outcome, &when, usize::from(killed))?;
        let mut done = 0;
        let mut newest_at = None;
        let mut answers = Vec::new();
        if let Some(resumed) = resumed {
            let Mind { tally, talk } = resumed.checkpoint.state()?;
            done = tally.iteration;
            let newest = self.lineage.next - 1;
            newest_at = Some(resumed.checkpoint.summary.created_at);
            if done != newest {
                broken.push(format!("checkpoint {newest} is of iteration {done}"));
            }
            let facts = Facts::about(&self.files[..self.files_after(done)]);
            broken.extend(facts.judge(&tally));
            if self.traces.said_after(done) != Some(&talk.digest) {
                broken.push(format!(
                    "the conversation of checkpoint {newest} is another one"
                ));
            }
            let metadata = resumed.checkpoint.metadata;
            if done == last {
                answers.push(metadata);
            } else if !metadata.is_null() {
                broken.push(format!(
                    "checkpoint {newest} of {last} has an answer: {metadata}"
                ));
            }
        }
        self.look_at_success(&wreck, done, newest_at, &mut answers, &mut broken)?;
        let (moments, audits) = (&self.lineage.moments, &self.audits);
        let traces = &mut self.traces;
        let left = traces.look(&self.counter, &wreck, lines, killed, moments, audits)?;
        broken.extend(left);
        let executed = self.worked.len() as u64;
        broken.extend(judge_work(done, executed, self.kills));
        if !killed {
            let said = lines.last().and_then(|line| line.strip_prefix("done "));
            answers.push(serde_json::from_str(said.unwrap_or("null"))?);
        }
        let answer = self.judge_answers(answers, &mut broken)?;
        if !killed {
            self.answer = answer;
        }
        for reason in broken {
            outcome.violate(format!("{when}: {reason}"));
        }
        Ok(())
    }

    /// All files when all is done, however the work was shared out.
    fn files_after(&self, done: u64) -> usize {
        match done {
            0 => 0,
            done if done >= self.counter.iterations => self.files.len(),
            done => share(self.files.len(), done, self.counter.iterations).end,
        }
    }

    fn look_at_success(
        &mut self,
        wreck: &Wreck,
        done: u64,
        newest_at: Option<Timestamp>,
        answers: &mut Vec<Value>,
        broken: &mut Vec<String>,
    ) -> Fallible<()> {
        let id = TaskId::new(TASK)?;
        let task = wreck.store.task(&id)?;
        let audits = wreck.store.audits(&id, None, AUDIT_ROWS)?.items;
        let last = self.counter.iterations;
        let (answered, others): (Vec<&Audit>, Vec<&Audit>) =
            audits.iter().partition(|line| line.event == ANSWER_EVENT);
        let status = task.as_ref().map(|task| task.status);
        broken.extend(judge_success(done, last, status, answered.len()));
        let looks = done == last && self.traces.by_moments;
        if let Some(newest_at) = newest_at.filter(|_| looks) {
            let to_success = Some(TaskStatus::Succeeded.as_str());
            let successes = others
                .iter()
                .filter(|line| line.event == TASK_STATUS && line.to.as_deref() == to_success);
            let successes: Vec<_> = successes.map(|line| line.created_at).collect();
            let answers: Vec<_> = answered.iter().map(|line| line.created_at).collect();
            broken.extend(judge_moments(newest_at, &answers, &successes));
        }
        answers.extend(answered.iter().map(|line| line.detail.clone()));
        if !audits.starts_with(&self.audits) {
            broken.push("audit lines are gone or have changed".into());
        }
        // After the success there is nothing left to write.
        let was_over = self.status() == Some(TaskStatus::Succeeded);
        if was_over && (audits.len() != self.audits.len() || task != self.task) {
            broken.push(format!(
                "an agent that was started after its success changed its task: {} audit lines, {} before",
                audits.len(),
                self.audits.len()
            ));
        }
        self.task = task;
        self.audits = audits;
        Ok(())
    }

    fn status(&self) -> Option<TaskStatus> {
        self.task.as_ref().map(|task| task.status)
    }

    /// The answer in the last checkpoint, in the audit and in the agent's last
    /// word: each must be the exact one.
    fn judge_answers(
        &self,
        answers: Vec<Value>,
        broken: &mut Vec<String>,
    ) -> Fallible<Option<Report>> {
        let facts = Facts::about(&self.files);
        let mut last = None;
        for answer in answers {
            match serde_json::from_value::<Option<Report>>(answer)? {
                Some(answer) => {
                    broken.extend(differences(&answer.counted, &facts.answer));
                    let said = self.traces.said_after(self.counter.iterations);
                    if said != Some(&answer.said) {
                        broken.push(format!(
                            "what was said is {} and must be {said:?}",
                            answer.said
                        ));
                    }
                    last = Some(answer);
                }
                None => broken.push("an answer is missing".into()),
            }
        }
        Ok(last)
    }

    fn figures(self, outcome: &mut Outcome) {
        let status = self.status().map_or("unknown", TaskStatus::as_str);
        let mut resumed_from = self.lineage.resumed_from;
        resumed_from.truncate(usize::try_from(self.kills).unwrap_or(usize::MAX));
        for fraction in self.kill_points {
            outcome.kill_point(fraction);
        }
        outcome.metric("kills", self.kills);
        outcome.metric("iterations", self.counter.iterations);
        outcome.metric("iterations_executed", self.worked.len());
        outcome.metric("resumed_from", resumed_from);
        outcome.metric("killed_after", self.killed_after);
        outcome.metric("unacknowledged", self.lineage.unacknowledged);
        for (name, figure) in self.traces.figures() {
            outcome.metric(name, figure);
        }
        outcome.metric("status", status);
    }
}

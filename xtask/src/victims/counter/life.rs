//! One start of the counting agent: what it does once it has claimed its item.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use agentos_checkpoints::{
    CheckpointConfig, CheckpointManager, Evidence, NewCheckpoint, Pack, ReadState, Resume,
};
use agentos_core::{
    AuditLine, CheckpointType, Commit, Digest, Part, SetTaskStatus, Snapshot, Storage, TaskId,
    TaskStatus, Worker,
};
use agentos_idempotency::{
    CacheConfig, CallContext, CallOptions, DoubtfulCall, GateConfig, IdempotencyStore,
    LedgerConfig, LlmAnswer, LlmOutputCache, LlmRequest, OnDoubt, Prepared, Scope, Step, ToolCall,
    ToolFailure, ToolLedger, ToolOutput,
};
use agentos_worker_pool::{Job, Parts};
use serde_json::{Value, json};

use super::bell::{Bell, RING, RINGS};
use super::{ANSWER_EVENT, Counter, Fallible, Mind, STEP, WORKED_LOG, artifact_of, names};
use crate::canary::Canary;
use crate::chat::Asker;
use crate::victims::say;
use crate::victims::talk::{Outbox, Said, Talk, request};
use crate::victims::tally::{Tally, share};

/// One start of a counter, with all that it works with.
pub(super) struct Life {
    role: Counter,
    store: Arc<dyn Storage>,
    task: TaskId,
    checkpoints: CheckpointManager,
    cache: LlmOutputCache,
    ledger: ToolLedger,
    outbox: Outbox,
    bell: Bell,
    names: Vec<String>,
}

impl Life {
    pub(super) fn new(
        role: &Counter,
        store: Arc<dyn Storage>,
        task: TaskId,
        owner: Worker,
    ) -> Fallible<Life> {
        let config = CheckpointConfig::new(&role.work);
        let gate = IdempotencyStore::new(Arc::clone(&store), GateConfig::new(owner))?;
        Ok(Life {
            checkpoints: CheckpointManager::new(Arc::clone(&store), config)?,
            cache: LlmOutputCache::new(gate.clone(), CacheConfig::default())?,
            ledger: ToolLedger::new(gate, LedgerConfig::new()),
            outbox: Outbox::of(&role.work),
            bell: Bell::of(&role.work),
            names: names(&role.input)?,
            role: role.clone(),
            store,
            task,
        })
    }

    fn is(&self, canary: Canary) -> bool {
        self.role.canary == Some(canary)
    }

    fn resume(&self) -> Fallible<Mind> {
        let mut mind = match self.checkpoints.resume(&self.task)? {
            Resume::From(resumed) if !self.is(Canary::ForgetResume) => {
                resumed.checkpoint.state::<Mind>()?
            }
            _ => return Ok(Mind::start()),
        };
        let done = mind.tally.iteration;
        if self.is(Canary::DoubleCount) {
            self.work_on(done, &mut mind.tally)?;
        }
        if self.is(Canary::RedoOnResume) {
            mind.tally = self.redo(done)?;
        }
        Ok(mind)
    }

    /// All was over before.
    pub(super) fn again(&self) -> Fallible<()> {
        let mind = self.resume()?;
        if self.is(Canary::AnswerAgain) {
            self.store.commit(self.answer_line(&mind)?.into())?;
        }
        say(&format!("start {}", mind.tally.iteration + 1))?;
        say(&format!("done {}", serde_json::to_string(&mind.report())?))?;
        Ok(())
    }

    /// Works until all is done.
    pub(super) fn live(&self, job: &Job) -> Fallible<()> {
        say(&format!("claim {}", job.lease().fence.token))?;
        let asker = Asker::new(self.role.model, &self.role.caller)?;
        let mut mind = self.resume()?;
        say(&format!("start {}", mind.tally.iteration + 1))?;
        if 0 < mind.tally.iteration && !self.is(Canary::ForgetResume) {
            self.recall(job, &asker, &mind)?;
        }
        while mind.tally.iteration < self.role.iterations {
            self.iterate(job, &asker, &mut mind)?;
        }
        say(&format!("done {}", serde_json::to_string(&mind.report())?))?;
        Ok(())
    }

    /// The last words once more: nothing is paid, and nothing is done.
    fn recall(&self, job: &Job, asker: &Asker, mind: &Mind) -> Fallible<()> {
        let part = mind.tally.iteration;
        let before = mind.talk.without_last();
        let said = self.ask(job, asker, part, &before)?;
        self.ring(job, part)?;
        let called = self.call(job, part, &said, false)?;
        let talk = before.after(&said, &called.output);
        if talk != mind.talk {
            return Err("the last words are other ones".into());
        }
        Ok(())
    }

    fn iterate(&self, job: &Job, asker: &Asker, mind: &mut Mind) -> Fallible<()> {
        let iteration = mind.tally.iteration + 1;
        if self.is(Canary::WorkTwice) {
            self.work_on(iteration, &mut mind.tally.clone())?;
        }
        say(&format!("begin {iteration}"))?;
        self.work_on(iteration, &mut mind.tally)?;
        mind.tally.iteration = iteration;
        let artifact = artifact_of(iteration);
        self.write(&artifact, &serde_json::to_vec(&mind.tally.answer())?)?;
        say(&format!("ask {iteration}"))?;
        let said = self.ask(job, asker, iteration, &mind.talk)?;
        say(&format!("call {iteration}"))?;
        self.ring(job, iteration)?;
        let called = self.call(job, iteration, &said, true)?;
        mind.talk = mind.talk.after(&said, &called.output);
        say(&format!("prepare {iteration}"))?;
        let mut called = self.recorded(job, iteration, called)?;
        let outcome = called.as_ref().and_then(Prepared::part);
        let (mut parts, apart, digest) = self.parts_of(job, mind, &artifact)?;
        if let Some(outcome) = outcome {
            parts.insert(0, outcome);
        }
        say(&format!("commit {iteration}"))?;
        let ack = format!("ack {iteration} {digest}");
        if self.is(Canary::OutcomeApart) || self.is(Canary::AckBetween) {
            if let Some(called) = called.take() {
                called.record()?;
                parts.remove(0);
            }
            if self.is(Canary::AckBetween) {
                say(&ack)?;
            }
        }
        if !self.is(Canary::AckWithoutWrite) || !iteration.is_multiple_of(3) {
            job.commit(parts.into_iter().fold(Parts::new(), Parts::part))?;
            if let Some(called) = called {
                called.committed();
            }
            for part in apart {
                self.store.commit(Commit::new().part(part))?;
            }
        }
        if !self.is(Canary::AckBetween) {
            say(&ack)?;
        }
        Ok(())
    }

    /// What the model says, once paid for.
    fn ask(&self, job: &Job, asker: &Asker, part: u64, before: &Talk) -> Fallible<Said> {
        let names = &self.names[share(self.names.len(), part, self.role.iterations)];
        let body = request(part, self.role.iterations, names, &before.digest);
        let ask = || asker.ask(&body).map(|answer| answer.text);
        let answer = if self.is(Canary::PayAgain) {
            ask()?
        } else {
            let request =
                LlmRequest::json("loopback", body.clone()).scope(Scope::Task(self.task.clone()));
            let options = CallOptions::new().under(job.lease());
            let cached = self
                .cache
                .call(&request, &options, || ask().map(LlmAnswer::new))?;
            cached.body
        };
        let answer: Value = serde_json::from_str(&answer)?;
        Ok(Said::read(&answer).ok_or("the model asks for no tool")?)
    }

    /// Runs the tool, once.
    fn call(&self, job: &Job, part: u64, said: &Said, fresh: bool) -> Fallible<Called> {
        let (tool, arguments) = (said.tool.as_str(), said.arguments.as_str());
        let probe = self.outbox.clone();
        let on_doubt = match self.role.canary {
            Some(Canary::RetryInDoubt) => OnDoubt::Retry,
            _ => OnDoubt::verify(move |call: &DoubtfulCall| probe.ask(call)),
        };
        let call = ToolCall::from_text(tool, arguments)?.on_doubt(on_doubt);
        let after = fresh && self.is(Canary::RecordAfter);
        if after || self.is(Canary::ForgetEffects) {
            let output = self
                .outbox
                .send(&format!("unknown-{part}"), tool, arguments)?;
            return Ok(Called {
                output: output.as_bytes().to_vec(),
                how: if after {
                    How::Late(call)
                } else {
                    How::Forgotten
                },
            });
        }
        let prepared = self.step(job, part).prepare(&call, |context| {
            let key = context.idempotency_key();
            let sent = self.outbox.send(key, tool, arguments);
            sent.map_err(|error| ToolFailure::unknown(error.to_string()))
        })?;
        let output = prepared.outcome().output().ok_or("a tool was given up")?;
        Ok(Called {
            output: output.as_bytes().to_vec(),
            how: How::Ledger(prepared),
        })
    }

    /// Rings as often as it must, and tries each time until it has rung.
    fn ring(&self, job: &Job, part: u64) -> Fallible<()> {
        let (step, probe) = (self.step(job, part), self.bell.clone());
        let call = ToolCall::new(RING, json!({"part": part}))
            .on_doubt(OnDoubt::verify(move |call: &DoubtfulCall| probe.ask(call)));
        let mut asked = 0;
        for _ in 0..RINGS {
            loop {
                asked += 1;
                let ring =
                    |context: &CallContext<'_>| self.bell.ring(context.idempotency_key(), part);
                let answer = match self.is(Canary::KeepFailedTurn) {
                    true => {
                        let call = call.clone().of_task(&self.task).in_step(step.name());
                        let call = call.occurrence(asked).under(job.lease());
                        self.ledger.execute_or_replay(&call, ring)?
                    }
                    false => step.execute_or_replay(&call, ring)?,
                };
                if answer.is_success() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn step(&self, job: &Job, part: u64) -> Step {
        let name = format!("{STEP}{part}");
        self.ledger.step(&self.task, name).under(job.lease())
    }

    /// What is to be recorded of a call.
    fn recorded(&self, job: &Job, part: u64, called: Called) -> Fallible<Option<Prepared>> {
        Ok(match called.how {
            How::Ledger(prepared) => Some(prepared),
            How::Forgotten => None,
            How::Late(call) => {
                let output = ToolOutput::new(called.output);
                Some(self.step(job, part).prepare(&call, |_| Ok(output))?)
            }
        })
    }

    /// Adds the files of one iteration.
    fn work_on(&self, iteration: u64, tally: &mut Tally) -> Fallible<()> {
        let log = self.role.work.join(WORKED_LOG);
        let mut log = OpenOptions::new().create(true).append(true).open(log)?;
        // One call, so that a kill leaves a line or none.
        log.write_all(format!("{iteration}\n").as_bytes())?;
        for name in &self.names[share(self.names.len(), iteration, self.role.iterations)] {
            tally.add(name, &fs::read(self.role.input.join(name))?);
        }
        Ok(())
    }

    /// The state after some iterations, worked out from the files again.
    fn redo(&self, iterations: u64) -> Fallible<Tally> {
        let mut tally = Tally::start();
        for iteration in 1..=iterations {
            self.work_on(iteration, &mut tally)?;
        }
        tally.iteration = iterations;
        Ok(tally)
    }

    /// All that an iteration has to keep beside the outcome of its tool, and the state's
    /// digest: one commit, unless this agent is broken.
    fn parts_of(
        &self,
        job: &Job,
        mind: &Mind,
        artifact: &Path,
    ) -> Fallible<(Vec<Part>, Vec<Part>, Digest)> {
        let last = mind.tally.iteration == self.role.iterations;
        let mut kept = mind.clone();
        if self.is(Canary::ForgetState) && !last {
            kept.tally.counts.clear();
        }
        let mut new = NewCheckpoint::new(self.task.clone(), CheckpointType::IterationEnd)
            .state(&kept)?
            .evidence(Pack::all([Evidence::file(artifact)]));
        if last {
            new = new.metadata(serde_json::to_value(mind.report())?);
        }
        let part = self.checkpoints.prepare(new)?;
        let digest = part.snapshot.as_ref().map(Snapshot::digest);
        let (mut parts, mut apart) = (vec![Part::from(part)], Vec::new());
        if last {
            let answer = self.answer_line(mind)?.into();
            match self.is(Canary::AnswerApart) {
                true => apart.push(answer),
                false => parts.push(answer),
            }
        }
        let success_at = match self.role.canary {
            Some(Canary::EarlySuccess) => self.role.iterations / 2,
            _ => self.role.iterations,
        };
        if mind.tally.iteration == success_at {
            let success = SetTaskStatus::new(self.task.clone(), TaskStatus::Succeeded)
                .reason("all files are counted");
            match self.is(Canary::SuccessApart) {
                true => apart.push(success.into()),
                false => parts.push(success.into()),
            }
        }
        if last {
            let complete = job.prepare_complete(None).into();
            match self.is(Canary::CompleteApart) {
                true => apart.push(complete),
                false => parts.push(complete),
            }
        }
        Ok((parts, apart, digest.ok_or("no state")?))
    }

    /// The audit line that keeps the answer.
    fn answer_line(&self, mind: &Mind) -> Fallible<AuditLine> {
        let answer = serde_json::to_value(mind.report())?;
        Ok(AuditLine::new(self.task.clone(), ANSWER_EVENT).detail(answer))
    }

    /// Written under another name first, so that under its own name an artifact
    /// is whole.
    fn write(&self, artifact: &Path, content: &[u8]) -> Fallible<()> {
        let path = self.role.work.join(artifact);
        let part = path.with_extension("part");
        fs::write(&part, content)?;
        Ok(fs::rename(part, path)?)
    }
}

/// A tool that has run, or was replayed.
struct Called {
    output: Vec<u8>,
    how: How,
}

/// Who knows of a call of a tool.
enum How {
    /// The ledger, as it must be.
    Ledger(Prepared),
    /// The ledger, when it is over.
    Late(ToolCall),
    /// Nobody.
    Forgotten,
}

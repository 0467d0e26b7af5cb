//! What an agent leaves behind beside its checkpoints: what its tools did, what the
//! ledger knows, which leases it held, and which calls the model counted.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use agentos_chaos::{Failure, Run, Victim};
use agentos_core::records::audit::KEY_RESOLVED;
use agentos_core::{
    AttemptOutcome, Audit, IdempotencyKey, KeyFilter, KeyStorage, LeaseStorage, TaskId, Timestamp,
    WorkItemId,
};

use crate::chat::{Pace, calls_of};
use crate::checks::Wreck;
use crate::model::{
    Asking, Kept, Part, conversation, judge_claims, judge_ledger, judge_paid, judge_rung,
    judge_sent,
};
use crate::victims::{Counter, Model, OUTBOX, RING, RINGS, RUNG, Role, STEP, names, port_of, spec};
use crate::work::Work;

/// For the model to listen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Rows asked for at a time; no story has more.
const PAGE: u32 = 200;
/// How long the model thinks.
const PACE: Pace = Pace {
    delay_ms: 1,
    spread_ms: 3,
};

type Fallible<T> = Result<T, Failure>;

/// Starts a model. Gives its port.
pub(super) fn start_model(run: &mut Run) -> Fallible<(Victim, u16)> {
    let mut model = run.start(&spec("model", &Role::Model(Model { pace: PACE }))?)?;
    let line = model.wait_for_line("its port", PATIENCE, |line| port_of(line).is_some())?;
    let port = port_of(&line).ok_or_else(|| Failure::new("the model has no port"))?;
    Ok((model, port))
}

/// What is known of one agent, in all of its lives.
pub(super) struct Traces {
    conversation: Vec<Part>,
    task: TaskId,
    lives: Vec<Asking>,
    /// The tokens of its claims, as it told them.
    tokens: Vec<i64>,
    /// What its tools did.
    effects: usize,
    /// How often its bell rang.
    rings: usize,
    /// Calls whose doubt was ended.
    resolved: usize,
    /// Calls that the model counted, and how many of them were paid again.
    calls: usize,
    paid_again: u64,
    /// Whether what is to be one commit is known by its moment.
    pub(super) by_moments: bool,
    /// Lives that ended with an error of their own, and may have reported it.
    pub(super) reported: usize,
}

impl Traces {
    pub(super) fn of(counter: &Counter) -> Fallible<Traces> {
        let conversation = conversation(&names(&counter.input)?, counter.iterations);
        Ok(Traces {
            conversation: conversation.ok_or_else(|| Failure::new("the model asks for no tool"))?,
            task: TaskId::new(&counter.task)?,
            lives: Vec::new(),
            tokens: Vec::new(),
            effects: 0,
            rings: 0,
            resolved: 0,
            calls: 0,
            paid_again: 0,
            by_moments: true,
            reported: 0,
        })
    }

    /// The life that comes next, from 1.
    pub(super) fn next_life(&self) -> usize {
        self.lives.len() + 1
    }

    /// What was said when so many parts are done; nothing before the first.
    pub(super) fn said_after(&self, done: u64) -> Option<&str> {
        let last = usize::try_from(done.checked_sub(1)?).ok()?;
        self.conversation.get(last).map(|part| part.said.as_str())
    }

    /// Takes note of what one life said.
    fn heed(&mut self, counter: &Counter, lines: &[String], killed: bool) {
        let last = lines.last().filter(|_| killed);
        let asked = last.and_then(|line| line.strip_prefix("ask "));
        self.lives.push(Asking {
            caller: counter.caller.clone(),
            killed_at: asked.and_then(|part| part.parse().ok()),
        });
        let claims = lines.iter().filter_map(|line| line.strip_prefix("claim "));
        self.tokens
            .extend(claims.filter_map(|token| token.parse::<i64>().ok()));
    }

    /// Judges what one life left behind, which said these lines; so many parts are done
    /// by now, each with a checkpoint of its moment.
    pub(super) fn look(
        &mut self,
        counter: &Counter,
        wreck: &Wreck,
        lines: &[String],
        killed: bool,
        moments: &[Timestamp],
        audits: &[Audit],
    ) -> Fallible<Vec<String>> {
        self.heed(counter, lines, killed);
        let done = moments.len() as u64;
        let over = done == counter.iterations;
        let read = |name| match fs::read_to_string(counter.work.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            read => read,
        };
        let outbox = read(OUTBOX)?;
        let effects: Vec<&str> = outbox.lines().collect();
        self.effects = effects.len();
        let mut broken = judge_sent(&effects, &self.conversation, done, killed);
        let rung = read(RUNG)?;
        let rung: Vec<&str> = rung.lines().collect();
        self.rings = rung.len();
        broken.extend(judge_rung(&rung, RINGS, done, killed));
        broken.extend(judge_ledger(&self.kept(wreck, audits)?, moments, killed));
        let work = Work::read(&counter.db)?;
        let lives = self.lives.len() as u64;
        broken.extend(judge_claims(
            &self.tokens,
            lives,
            self.reported,
            &work,
            over,
        ));
        for item in work.items.keys().filter(|_| over && self.by_moments) {
            let attempts = wreck.store.attempts(WorkItemId::new(*item)?)?;
            let ends = attempts.iter().filter_map(|attempt| attempt.end.as_ref());
            let mut ends = ends.filter(|end| end.outcome == AttemptOutcome::Succeeded);
            if ends.any(|end| Some(&end.at) != moments.last()) {
                broken.push("the item was completed apart from the last checkpoint".into());
            }
        }
        let calls = calls_of(counter.model)?;
        let callers: BTreeSet<&str> = self.lives.iter().map(|life| &*life.caller).collect();
        let calls: Vec<(&str, &str)> = calls
            .iter()
            .map(|call| (call.caller.as_str(), call.request.as_str()))
            .filter(|(caller, _)| callers.contains(caller))
            .collect();
        self.calls = calls.len();
        let (again, wrong) = judge_paid(&calls, &self.lives, &self.conversation, done);
        self.paid_again = again;
        broken.extend(wrong);
        Ok(broken)
    }

    /// What the ledger knows of this task.
    fn kept(&mut self, wreck: &Wreck, audits: &[Audit]) -> Fallible<Vec<Kept>> {
        let resolved = audits.iter().filter(|line| line.event == KEY_RESOLVED);
        let resolved: Vec<_> = resolved.map(|line| line.detail["key"].as_str()).collect();
        self.resolved = resolved.len();
        let filter = KeyFilter {
            prefix: Some(IdempotencyKey::TOOL_LEDGER.into()),
            task: Some(self.task.clone()),
            ..KeyFilter::default()
        };
        let keys = wreck.store.keys(&filter, None, PAGE)?.items.into_iter();
        // The bell's are recorded by themselves, and are judged by what rang.
        let keys = keys.filter(|key| key.operation.as_deref() != Some(RING));
        keys.map(|key| {
            let step = key.detail["step"].as_str();
            let part = step.and_then(|step| step.strip_prefix(STEP)?.parse().ok());
            Ok(Kept {
                part: part.ok_or_else(|| Failure::new(format!("a strange call: {step:?}")))?,
                status: key.view.status,
                at: key.updated_at,
                was_in_doubt: resolved.contains(&Some(key.key.as_str())),
            })
        })
        .collect()
    }

    /// Figures, by name.
    pub(super) fn figures(&self) -> [(&'static str, u64); 6] {
        [
            ("claims", self.tokens.len() as u64),
            ("effects", self.effects as u64),
            ("rings", self.rings as u64),
            ("in_doubt", self.resolved as u64),
            ("server_calls", self.calls as u64),
            ("paid_again", self.paid_again),
        ]
    }
}

//! Scenario 14. Goal: of many who ask a model the same one pays, and the others get its
//! answer; if the one who pays dies, another one takes over.
//!
//! Method: 10 processes of 5 threads ask the same 20 requests through the cache, each in
//! an order of its own. A process is killed when so many payments were begun as the seed
//! says: most often the one that began the last of them, from before its request went out
//! until after its answer was recorded. It is started again at once, or, one of them, when
//! its permits have run out and others have taken over. The model server outlives all, and
//! says who asked it for what. What the processes tell of keys is held against the rules of
//! **once**.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use agentos_chaos::{
    Aftermath, Failure, Outcome, Run, Scenario, ScenarioResult, Victim, VictimSpec,
};
use agentos_core::{Deadline, IdempotencyKey, KeyFilter, KeyStorage, Stopwatch};
use agentos_process::Exit;

use super::told::listen_to;
use super::{fact, same};
use crate::canary::Canary;
use crate::chat::{Pace, answer, calls_of, completion, digest, prompt};
use crate::checks::Wreck;
use crate::model::flight::{Asking, Called, Flights};
use crate::model::once::{LineError, Policy, judge_once, parse};
use crate::victims::{
    Heard, Model, PAYS, Payer, Role, TELLS, outcome_digest, port_of, spec, true_now_us,
};

const PROCESSES: u64 = 10;
const THREADS: u64 = 5;
const REQUESTS: usize = 20;
const KILLS: u64 = 5;
const KILLS_QUICK: u64 = 2;
/// How long the model thinks, in milliseconds: from the first to both together.
const PACE: Pace = Pace {
    delay_ms: 20,
    spread_ms: 20,
};
/// Between the word that it pays and its end: from before the call to after its record.
const OFFSET_MAX: Duration = Duration::from_millis(50);
/// Much longer than a commit takes on a busy disk: one that took longer would end a
/// permit before it is known to have been given.
const PERMIT_MS: u64 = 4000;
/// Of those who are killed one stays dead until its permits have run out. The others are
/// started again at once, and take over what they held before.
const LATE_KILLS: u64 = 1;
/// How much later than its permits that one is started again.
const LATE: Duration = Duration::from_millis(200);
/// Of 100 kills so many hit the one who was last to pay.
const LAST_PAYER: u64 = 80;
/// Where one is struck that others wait for: as few as compete, and a model that is fast.
const STRUCK_PROCESSES: u64 = 3;
const STRUCK_PACE: Pace = Pace {
    delay_ms: 2,
    spread_ms: 2,
};
/// Longest wait for a word.
const LISTEN: Duration = Duration::from_millis(2);
/// For the server to listen, and for all to be answered.
const PATIENCE: Duration = Duration::from_secs(50);
const PAGE: u32 = 1000;

type Fallible<T> = Result<T, Failure>;

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "10 processes ask a model the same 20 requests while payers are killed: each is paid for once";
    Scenario::new(14, "single-flight", goal, move |run| {
        let mut story = Story::new(run, canary, REQUESTS, THREADS);
        let result = story.tell(run);
        story.figures();
        story.outcome.after(result)
    })
}

/// One process, over all its starts.
struct Member {
    role: Payer,
    victim: Option<Victim>,
    /// It is dead until then.
    dead: Option<Deadline>,
}

struct Story {
    db: PathBuf,
    canary: Option<Canary>,
    seed: u64,
    requests: usize,
    processes: u64,
    members: Vec<Member>,
    /// Who began to pay last.
    payer: Option<usize>,
    paid: u64,
    turn: usize,
    flights: Flights,
    /// What was paid for and answered, and could not be kept: the disk had failed.
    unkept: BTreeSet<(Asking, usize)>,
    /// What all have told of keys.
    history: String,
    awaited: u64,
    kills: u64,
    restarts: u64,
    storm: Duration,
    outcome: Outcome,
}

impl Story {
    fn new(run: &mut Run, canary: Option<Canary>, requests: usize, threads: u64) -> Story {
        Story {
            db: run.dir().join("cache.db"),
            canary,
            seed: run.rng.next_u64(),
            requests,
            processes: PROCESSES,
            members: Vec::new(),
            payer: None,
            paid: 0,
            turn: 0,
            flights: Flights {
                threads,
                ..Flights::default()
            },
            unkept: BTreeSet::new(),
            history: String::new(),
            awaited: 0,
            kills: 0,
            restarts: 0,
            storm: Duration::ZERO,
            outcome: Outcome::passed(),
        }
    }

    fn tell(&mut self, run: &mut Run) -> Fallible<()> {
        let (server, port) = self.serve(run, PACE)?;
        let watch = Stopwatch::start();
        let result = self.rage(run, port);
        self.storm = watch.elapsed();
        self.judge(run, server, port, result)
    }

    fn bodies(&self) -> Vec<serde_json::Value> {
        let numbers = 0..self.requests as u64;
        numbers.map(|number| prompt(self.seed, number)).collect()
    }

    /// Starts the model, and works out what it must answer.
    fn serve(&mut self, run: &mut Run, pace: Pace) -> Fallible<(Victim, u16)> {
        for body in &self.bodies() {
            let right = answer(body).map_err(|odd| Failure::new(format!("{odd:?}")))?;
            self.flights.expected.push(completion(right)?.text);
        }
        let mut server = run.start(&spec("model", &Role::Model(Model { pace }))?)?;
        let listening =
            server.wait_for_line("the port", PATIENCE, |line| port_of(line).is_some())?;
        let port = port_of(&listening).ok_or_else(|| Failure::new("no port"))?;
        Ok((server, port))
    }

    /// Holds the calls that the server counted against what all were answered, and
    /// reads the file.
    fn judge(
        &mut self,
        run: &Run,
        mut server: Victim,
        port: u16,
        result: Fallible<()>,
    ) -> Fallible<()> {
        // Also when somebody had no answer: what was paid for is then to be told.
        let bodies = self.bodies();
        let digests: Vec<String> = bodies.iter().map(|body| digest(body).to_string()).collect();
        for call in calls_of(port)? {
            let who = Asking::parse(&call.caller);
            let who = who.ok_or_else(|| Failure::new(format!("a call of {:?}", call.caller)))?;
            let request = digests.iter().position(|one| *one == call.request);
            if !request.is_some_and(|request| self.unkept.remove(&(who.clone(), request))) {
                self.flights.calls.push(Called {
                    who,
                    request,
                    at: call.begun_us,
                });
            }
        }
        server.kill()?;
        for broken in self.flights.judge() {
            self.outcome.violate(broken);
        }
        result?;
        self.look(run)
    }

    fn member(&self, number: u64, port: u16) -> Member {
        let role = Payer {
            db: self.db.clone(),
            name: format!("process-{number}"),
            start: 1,
            port,
            requests: self.requests,
            seed: self.seed,
            threads: self.flights.threads,
            permit_ms: PERMIT_MS,
            canary: self.canary,
        };
        Member {
            role,
            victim: None,
            dead: None,
        }
    }

    /// Starts all, kills some, and waits until the rest has every answer.
    fn rage(&mut self, run: &mut Run, port: u16) -> Fallible<()> {
        let kills = if run.quick() { KILLS_QUICK } else { KILLS };
        // So many payments are begun before each of the kills.
        let mut after: Vec<u64> = (0..kills)
            .map(|_| run.rng.between(1, REQUESTS as u64))
            .collect();
        after.sort_unstable();
        for number in 1..=PROCESSES {
            let mut member = self.member(number, port);
            member.start(run)?;
            self.members.push(member);
        }
        let deadline = Deadline::after(PATIENCE);
        let mut after = after.into_iter().peekable();
        while self.members.iter().any(Member::is_at_it) {
            if run.is_over() || deadline.passed() {
                return Err(Failure::new("not every request was answered in time"));
            }
            self.listen()?;
            if after.next_if(|payments| *payments <= self.paid).is_some() {
                self.kill_one(run)?;
            }
            for member in &mut self.members {
                if member.dead.is_some_and(|until| until.passed()) {
                    member.role.start += 1;
                    member.start(run)?;
                    self.restarts += 1;
                }
            }
        }
        Ok(())
    }

    /// Reads what all have said since; waits a little for one of them.
    fn listen(&mut self) -> Fallible<()> {
        self.turn = (self.turn + 1) % self.members.len();
        for place in 0..self.members.len() {
            let wait = if place == self.turn {
                LISTEN
            } else {
                Duration::ZERO
            };
            let Some(mut victim) = self.members[place].victim.take() else {
                continue;
            };
            let ended = listen_to(&mut victim, wait, |line| self.heed(place, &line))?;
            if ended {
                let life = self.members[place].role.life();
                self.flights.ended.insert(life);
            } else {
                self.members[place].victim = Some(victim);
            }
        }
        Ok(())
    }

    fn heed(&mut self, place: usize, line: &str) -> Fallible<()> {
        if let Some(told) = line.strip_prefix(TELLS) {
            self.history.push_str(told);
            self.history.push('\n');
        } else if line.starts_with(PAYS) {
            self.payer = Some(place);
            self.paid += 1;
        } else if let Some(heard) = line.strip_prefix("ack ") {
            let heard: Heard = fact(heard)?;
            self.awaited += u64::from(heard.origin == "Awaited");
            let who = Asking {
                life: self.members[place].role.life(),
                thread: heard.thread,
            };
            if heard.is_kept {
                let first = &mut self.flights.first_answered;
                let first = first.entry(heard.request).or_insert(heard.at_us);
                *first = heard.at_us.min(*first);
            } else {
                self.unkept.insert((who.clone(), heard.request));
            }
            let answers = self.flights.answered.entry(who).or_default();
            answers.push((heard.request, heard.answer));
        }
        Ok(())
    }

    /// Kills the one who was last to pay, or any that is at it.
    fn kill_one(&mut self, run: &mut Run) -> Fallible<()> {
        let alive: Vec<usize> = (0..self.members.len())
            .filter(|place| self.members[*place].victim.is_some())
            .collect();
        let any = run.rng.pick(&alive).copied();
        let last = self.payer.filter(|place| alive.contains(place));
        let chosen = if run.rng.percent(LAST_PAYER) {
            last.or(any)
        } else {
            any
        };
        let offset = run.rng.duration_between(Duration::ZERO, OFFSET_MAX);
        let Some(place) = chosen else {
            return Ok(());
        };
        let Some(mut victim) = self.members[place].victim.take() else {
            return Ok(());
        };
        let killed = victim.kill_after(offset)?.killed;
        listen_to(&mut victim, Duration::ZERO, |line| self.heed(place, &line))?;
        let member = &mut self.members[place];
        let life = member.role.life();
        if !killed {
            self.flights.ended.insert(life);
            return Ok(());
        }
        let pause = if self.kills < LATE_KILLS {
            Duration::from_millis(PERMIT_MS) + LATE
        } else {
            Duration::ZERO
        };
        member.dead = Some(Deadline::after(pause));
        let now = true_now_us();
        self.history.push_str(&format!("{now} {life} dead\n"));
        self.flights.killed.insert(life);
        self.kills += 1;
        #[expect(clippy::cast_precision_loss, reason = "a part of all payments")]
        let part = self.paid as f64 / REQUESTS as f64;
        self.outcome.kill_point(part);
        Ok(())
    }

    /// Reads the file: an answer of each request, and nothing else.
    fn look(&mut self, run: &Run) -> Fallible<()> {
        let wreck = Wreck::open(&self.db, run.dir())?;
        for problem in wreck.problems()? {
            self.outcome.violate(problem);
        }
        let filter = KeyFilter {
            prefix: Some(IdempotencyKey::LLM_CACHE.into()),
            ..KeyFilter::default()
        };
        let keys = wreck.store.keys(&filter, None, PAGE)?.items;
        let now = true_now_us();
        let mut recorded = 0;
        for key in &keys {
            let entry = wreck.store.find_key(&key.key)?;
            let outcome = entry.and_then(|entry| entry.outcome);
            recorded += usize::from(outcome.is_some());
            let execution = format!("{}/{}", key.id, key.token);
            let state = match outcome.as_deref().map(outcome_digest) {
                Some(outcome) => format!("recorded {execution} {outcome}"),
                None => format!("pending {execution}"),
            };
            let line = format!("{now} found {} {state}\n", key.key);
            self.history.push_str(&line);
        }
        let found = (keys.len(), recorded);
        let expected = (self.requests, self.requests);
        let what = "keys, and those with an answer";
        same(&mut self.outcome, what, found, expected);
        self.judge_history()
    }

    /// Holds what all have told against the rules of **once**.
    fn judge_history(&mut self) -> Fallible<()> {
        let history = parse([self.history.as_str()]);
        let history = history.map_err(|error: LineError| Failure::new(error.to_string()))?;
        let policy = Policy {
            take_over: true,
            again: false,
            ttl: None,
            lease: i64::try_from(PERMIT_MS * 1000)?,
        };
        for broken in judge_once(&history, |_| policy) {
            self.outcome.violate(broken.to_string());
        }
        let tally = history.tally(|_| true);
        self.outcome.metric("executions", tally.executions);
        self.outcome.metric("replays", tally.replays);
        Ok(())
    }

    fn figures(&mut self) {
        let outcome = &mut self.outcome;
        outcome.metric("processes", self.processes);
        outcome.metric("threads", self.flights.threads);
        outcome.metric("requests", self.requests);
        outcome.metric("kills", self.kills);
        outcome.metric("restarts", self.restarts);
        outcome.metric("server_calls", self.flights.calls.len());
        outcome.metric("in_flight_at_kills", self.flights.cut_off());
        outcome.metric("answers", self.flights.answers_given());
        outcome.metric("awaited", self.awaited);
        let storm = u64::try_from(self.storm.as_millis()).unwrap_or(u64::MAX);
        outcome.metric("storm_ms", storm);
    }
}

/// Some processes that ask the same at once, one of which is struck anywhere.
pub(crate) struct Struck {
    story: Story,
    server: Victim,
    port: u16,
}

impl Struck {
    /// So many requests. All but the first process are at it already.
    pub(crate) fn new(run: &mut Run, canary: Option<Canary>, requests: u64) -> Fallible<Struck> {
        let mut story = Story::new(run, canary, usize::try_from(requests)?, 1);
        story.processes = STRUCK_PROCESSES;
        // So that nobody is kept waiting while the file is made.
        drop(Wreck::open(&story.db, run.dir())?);
        let (server, port) = story.serve(run, STRUCK_PACE)?;
        for number in 1..=STRUCK_PROCESSES {
            let mut member = story.member(number, port);
            if number > 1 {
                member.start(run)?;
            }
            story.members.push(member);
        }
        Ok(Struck {
            story,
            server,
            port,
        })
    }

    /// Who is struck.
    pub(crate) fn spec(&self) -> Fallible<VictimSpec> {
        let role = &self.story.members[0].role;
        Ok(spec(&role.life(), &Role::Payer(role.clone()))?)
    }

    /// What must hold when it is dead and was started again.
    pub(crate) fn judge(mut self, run: &mut Run, after: &Aftermath) -> ScenarioResult {
        let watch = Stopwatch::start();
        let result = self.go_on(run, after);
        self.story.storm = watch.elapsed();
        let result = self.story.judge(run, self.server, self.port, result);
        self.story.figures();
        self.story.outcome.after(result)
    }

    fn go_on(&mut self, run: &mut Run, after: &Aftermath) -> Fallible<()> {
        let story = &mut self.story;
        // Who gave up on an error says that it was told of another: nobody was it.
        let gave_up = !after.finished() && !after.exit().is_some_and(Exit::is_sigkill);
        for line in &after.transcript.lines {
            if !(gave_up && line.starts_with(TELLS) && line.ends_with(" in-flight")) {
                story.heed(0, line)?;
            }
        }
        let life = story.members[0].role.life();
        if after.finished() {
            story.flights.ended.insert(life);
        } else {
            let now = true_now_us();
            story.history.push_str(&format!("{now} {life} dead\n"));
            story.flights.killed.insert(life);
            story.kills += 1;
            story.members[0].role.start += 1;
            story.members[0].start(run)?;
            story.restarts += 1;
        }
        while story.members.iter().any(Member::is_at_it) {
            if run.is_over() {
                return Err(Failure::new("not every request was answered in time"));
            }
            story.listen()?;
        }
        Ok(())
    }
}

impl Member {
    fn start(&mut self, run: &mut Run) -> Fallible<()> {
        self.dead = None;
        let role = Role::Payer(self.role.clone());
        self.victim = Some(run.start(&spec(&self.role.life(), &role)?)?);
        Ok(())
    }

    fn is_at_it(&self) -> bool {
        self.victim.is_some() || self.dead.is_some()
    }
}

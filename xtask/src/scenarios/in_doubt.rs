//! Scenario 13. Goal: a tool call whose process died is in doubt from its start to its
//! recorded outcome, never in silence, and has its effect exactly as often as its policy
//! promises.
//!
//! Method: a process calls a tool through the ledger; the effect is a line in a file
//! outside of the store. It stands still at one of ten places, from the transaction of
//! the intent to that of the outcome, and is killed there: a process for each place and
//! policy. Then another process asks for the same calls twice, an operator resolves what
//! was asked of him, both ways, and a third process asks once more. After the kill, and
//! at the end, the world outside is read, and so is what the store lists and has audited.
//!
//! The second process is another start of the first one's name, which runs once at a
//! time, or it has another name; then it waits for the permits to run out, or comes when
//! they have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, Scenario, ScenarioResult, Transcript, Verdict, Victim};
use agentos_core::records::audit::KEY_RESOLVED;
use agentos_core::{
    Deadline, KeyFilter, KeyStatus, KeyStorage, NewTask, Storage, TaskId, TaskStorage,
};
use agentos_store::sqlite::{Config, SqliteStore};

use super::fact;
use super::told::listen_to;
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::doubt::{Case, Left, Place, Policy, Resolved, Said, Trace, Turn};
use crate::victims::{Caller, Role, ToldCall, spec, standing_at};

/// How long the permits of those last who are killed, in milliseconds.
const PERMIT_MS: std::ops::RangeInclusive<u64> = 100..=200;
/// Of who is struck anywhere: longer than all of its work, so that nothing is renewed.
const STRUCK_PERMIT_MS: u64 = 600;
/// Of those who are not: the machine may be busy.
const LONG_PERMIT_MS: u64 = 60_000;
/// For a line to come, or a process to end; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// For the permits of the dead to run out.
const LIST_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at what is in doubt.
const LOOK: Duration = Duration::from_millis(5);
/// Rows asked for at a time; there are not more.
const PAGE: u32 = 1000;
const FIRST: &str = "first";
const OTHER: &str = "other";

type Fallible<T> = Result<T, Failure>;

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "a tool call that was killed anywhere is in doubt aloud, and happens as often as its policy says";
    Scenario::new(13, "in-doubt", goal, move |run| {
        Story::begin(run, canary).tell(run)
    })
}

/// Who goes on after the kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Successor {
    /// Another start of the same name, at once.
    SameName,
    /// Another name, at once: it waits for the permits to run out.
    Waits,
    /// Another name, when they have.
    ComesLate,
}

/// A place, and what is killed there.
struct Round {
    place: Place,
    successor: Successor,
    permit_ms: u64,
    calls: Vec<(String, Policy)>,
}

/// Every place with every policy, in any order; in the short form with one of them, so
/// that each comes twice.
fn rounds(run: &mut Run) -> Vec<Round> {
    let mut places = Place::ALL;
    run.rng.shuffle(&mut places);
    let mut policies = Policy::ALL;
    run.rng.shuffle(&mut policies);
    let ways = [Successor::SameName, Successor::Waits, Successor::ComesLate];
    let turned = usize::try_from(run.rng.between(0, 2)).unwrap_or(0);
    let mut rounds = Vec::new();
    for (number, place) in places.into_iter().enumerate() {
        let mut chosen = policies;
        if run.quick() {
            chosen.rotate_left(number % policies.len());
        } else {
            run.rng.shuffle(&mut chosen);
        }
        let size = if run.quick() { 1 } else { chosen.len() };
        let call = |policy: &Policy| (format!("{place:?}-{policy:?}"), *policy);
        rounds.push(Round {
            place,
            successor: ways[(number + turned) % ways.len()],
            permit_ms: run.rng.between(*PERMIT_MS.start(), *PERMIT_MS.end()),
            calls: chosen.iter().take(size).map(call).collect(),
        });
    }
    rounds
}

pub(crate) struct Story {
    canary: Option<Canary>,
    db: PathBuf,
    world: PathBuf,
    kills: usize,
    cases: Vec<Case>,
    outcome: Outcome,
}

impl Story {
    pub(crate) fn begin(run: &Run, canary: Option<Canary>) -> Story {
        Story {
            canary,
            db: run.dir().join("calls.db"),
            world: run.dir().join("world.log"),
            kills: 0,
            cases: Vec::new(),
            outcome: Outcome::passed(),
        }
    }

    fn tell(mut self, run: &mut Run) -> ScenarioResult {
        let result = self.all(run);
        self.figures();
        self.outcome.after(result)
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        fs::write(&self.world, "")?;
        for round in rounds(run) {
            run.progress(format!("killed at {:?}", round.place));
            self.live_on(run, &round)?;
            if self.outcome.verdict != Verdict::Passed {
                return Ok(());
            }
        }
        self.look(run)
    }

    fn look(&mut self, run: &Run) -> Fallible<()> {
        let wreck = Wreck::open(&self.db, run.dir())?;
        for problem in wreck.problems()? {
            self.outcome.violate(problem);
        }
        Ok(())
    }

    fn live_on(&mut self, run: &mut Run, round: &Round) -> Fallible<()> {
        let store = self.open()?;
        let cases = self.kill_all(run, round, &store)?;
        self.settle(run, round, &store, cases)
    }

    fn open(&self) -> Fallible<SqliteStore> {
        let config = Config::at(&self.db).busy_timeout(PATIENCE);
        Ok(SqliteStore::open(config)?)
    }

    /// Has others go on, and judges what came of each call.
    fn settle(
        &mut self,
        run: &mut Run,
        round: &Round,
        store: &SqliteStore,
        mut cases: Vec<Case>,
    ) -> Fallible<()> {
        let result = self.go_on(run, round, store, &mut cases);
        // Also when somebody did not come to the end: what happened by then is to be told.
        for case in &mut cases {
            case.world = self.traces_of(&case.call)?;
            case.audited = audited(store, &case.call)?;
            for broken in case.judge() {
                self.outcome.violate(broken);
            }
        }
        self.cases.extend(cases);
        result
    }

    /// Those who come after the kill, one after the other.
    fn go_on(
        &mut self,
        run: &mut Run,
        round: &Round,
        store: &SqliteStore,
        cases: &mut [Case],
    ) -> Fallible<()> {
        let in_doubt = |case: &Case| case.place.leaves() == Left::Doubt;
        let asks = |case: &Case| in_doubt(case) && case.policy.asks();
        if round.successor == Successor::ComesLate {
            let as_expected = list(store, cases, 0, in_doubt)?;
            if !as_expected {
                return Ok(());
            }
        }
        let turns = [Turn::Second(1), Turn::Second(2)];
        self.ask(run, round, cases, &turns, Vec::new())?;
        if !list(store, cases, 1, asks)? {
            return Ok(());
        }
        let asked = cases.iter().filter(|case| asks(case));
        let resolves = asked.map(|case| {
            let happened = case.policy == Policy::AskHappened;
            (case.call.clone(), happened)
        });
        let resolves = resolves.collect();
        self.ask(run, round, cases, &[Turn::Third], resolves)?;
        list(store, cases, 2, |_| false)?;
        Ok(())
    }

    fn role(&self, round: &Round) -> Caller {
        let same = round.successor == Successor::SameName;
        Caller {
            db: self.db.clone(),
            world: self.world.clone(),
            worker: if same { FIRST } else { OTHER }.into(),
            sole_start: same,
            permit_ms: LONG_PERMIT_MS,
            resolves: Vec::new(),
            calls: round.calls.clone(),
            turns: Vec::new(),
            stops_at: None,
            canary: self.canary,
        }
    }

    /// Starts a caller for each call, and kills each where the round says: as soon as it
    /// stands there, since it may hold what the others wait for.
    fn kill_all(
        &mut self,
        run: &mut Run,
        round: &Round,
        store: &SqliteStore,
    ) -> Fallible<Vec<Case>> {
        let mut alive = Vec::new();
        for (call, _) in &round.calls {
            // A call needs no row of its task.
            if run.rng.percent(50) {
                store.commit(NewTask::new(TaskId::new(call)?, "calls a tool").into())?;
            }
        }
        for (call, policy) in &round.calls {
            let role = Role::Caller(Caller {
                worker: FIRST.into(),
                permit_ms: round.permit_ms,
                calls: vec![(call.clone(), *policy)],
                turns: vec![Turn::First],
                stops_at: Some(round.place),
                ..self.role(round)
            });
            let victim = run.start(&spec(&format!("first-{call}"), &role)?)?;
            alive.push((call, *policy, victim));
        }
        let standing = standing_at(round.place);
        let deadline = Deadline::after(PATIENCE);
        let mut cases = Vec::new();
        while let Some(at) = next_to_stand(&mut alive, &standing)? {
            let (call, policy, mut victim) = alive.swap_remove(at);
            victim.kill()?;
            self.killed_at(round.place);
            let said = victim.said();
            let process = said.iter().find_map(|line| line.strip_prefix("process "));
            cases.push(Case {
                call: call.clone(),
                place: round.place,
                policy,
                killed: process.unwrap_or_default().to_owned(),
                at_death: self.traces_of(call)?,
                listed: [None; 3],
                told: BTreeMap::new(),
                world: Vec::new(),
                audited: Vec::new(),
            });
            if deadline.passed() {
                return Err(Failure::new(format!("not all callers are {standing}")));
            }
        }
        Ok(cases)
    }

    fn killed_at(&mut self, place: Place) {
        self.kills += 1;
        let at = Place::ALL.iter().position(|one| *one == place);
        #[expect(clippy::cast_precision_loss, reason = "one of ten places")]
        let part = at.unwrap_or_default() as f64 / (Place::ALL.len() - 1) as f64;
        self.outcome.kill_point(part);
    }

    /// Has all calls asked for in these turns, and hears what is told.
    fn ask(
        &mut self,
        run: &mut Run,
        round: &Round,
        cases: &mut [Case],
        turns: &[Turn],
        resolves: Vec<(String, bool)>,
    ) -> Fallible<()> {
        let role = Caller {
            resolves,
            turns: turns.to_vec(),
            ..self.role(round)
        };
        let name = turns.first().map(Turn::to_string).unwrap_or_default();
        let name = format!("{name}-{:?}", round.place);
        let mut caller = run.start(&spec(&name, &Role::Caller(role))?)?;
        let exit = caller.wait_for_exit(PATIENCE)?;
        self.outcome
            .check(exit.success(), || format!("{name} ended with {exit}"));
        for told in caller.acks() {
            let ToldCall { call, turn, said } = fact(&told)?;
            if let Some(case) = cases.iter_mut().find(|case| case.call == call) {
                case.told.insert(turn, said);
            }
        }
        Ok(())
    }

    /// What the world has of a call.
    fn traces_of(&self, call: &str) -> Fallible<Vec<Trace>> {
        let mut traces = Vec::new();
        for line in fs::read_to_string(&self.world)?.lines() {
            let trace = Trace::parse(line);
            let strange = || Failure::new(format!("the world has the line {line:?}"));
            traces.push(trace.ok_or_else(strange)?);
        }
        traces.retain(|trace| trace.call == call);
        Ok(traces)
    }

    fn figures(&mut self) {
        let count =
            |which: &dyn Fn(&Case) -> bool| self.cases.iter().filter(|case| which(case)).count();
        let calls = self.cases.len();
        let in_doubt = count(&|case| case.place.leaves() == Left::Doubt);
        let resolved = count(&|case| !case.audited.is_empty());
        let mut effects: BTreeMap<Policy, [usize; 3]> = BTreeMap::new();
        for case in &self.cases {
            let counts = effects.entry(case.policy).or_default();
            counts[case.effects().min(2)] += 1;
        }
        let outcome = &mut self.outcome;
        outcome.metric("calls", calls);
        outcome.metric("kills", self.kills);
        outcome.metric("in_doubt", in_doubt);
        outcome.metric("resolved", resolved);
        for (policy, name) in [
            (Policy::Retry, "retry_effects"),
            (Policy::Verify, "verify_effects"),
            (Policy::AskHappened, "ask_happened_effects"),
            (Policy::AskDidNotHappen, "ask_did_not_happen_effects"),
            (Policy::Fail, "fail_effects"),
        ] {
            let counts = effects.get(&policy).copied().unwrap_or_default();
            outcome.metric(name, counts.to_vec());
        }
    }
}

/// One caller that makes all its calls, in order, and is struck anywhere.
pub(crate) struct Struck {
    story: Story,
    round: Round,
}

impl Struck {
    /// So many calls, of each policy in turn.
    pub(crate) fn new(run: &Run, canary: Option<Canary>, calls: u64) -> Fallible<Struck> {
        let story = Story::begin(run, canary);
        fs::write(&story.world, "")?;
        drop(story.open()?);
        let policies = Policy::ALL.into_iter().cycle();
        let call = |(number, policy)| (format!("call-{number}-{policy:?}"), policy);
        let round = Round {
            place: Place::BeforeEffect,
            successor: Successor::SameName,
            permit_ms: STRUCK_PERMIT_MS,
            calls: (1..=calls).zip(policies).map(call).collect(),
        };
        Ok(Struck { story, round })
    }

    /// Who is struck.
    pub(crate) fn role(&self) -> Role {
        Role::Caller(Caller {
            permit_ms: self.round.permit_ms,
            turns: vec![Turn::First],
            ..self.story.role(&self.round)
        })
    }

    /// What must hold when it is dead, and what others then make of it. Where it died is
    /// read from what it left.
    pub(crate) fn judge(mut self, run: &mut Run, transcript: &Transcript) -> ScenarioResult {
        let result = self.all(run, transcript);
        self.story.figures();
        self.story.outcome.after(result)
    }

    fn all(&mut self, run: &mut Run, transcript: &Transcript) -> Fallible<()> {
        let said = transcript.said();
        let process = said.iter().find_map(|line| line.strip_prefix("process "));
        let mut acked = BTreeMap::new();
        for told in transcript.acks() {
            let ToldCall { call, said, .. } = fact(&told)?;
            acked.insert(call, said);
        }
        let store = self.story.open()?;
        let mut cases = Vec::new();
        for (call, policy) in &self.round.calls {
            let at_death = self.story.traces_of(call)?;
            let left = left_of(&store, call)?;
            let Some(place) = Place::of(left, at_death.len()) else {
                let steps = at_death.len();
                let broken =
                    format!("{call}: the world has {steps} steps of it, and the file {left:?}");
                self.story.outcome.violate(broken);
                continue;
            };
            if let Some(Said::Executed(_)) = acked.get(call) {
                self.story.outcome.check(left == Left::Outcome, || {
                    format!("{call} was acknowledged, and the file has {left:?}")
                });
            }
            cases.push(Case {
                call: call.clone(),
                place,
                policy: *policy,
                killed: process.unwrap_or_default().to_owned(),
                at_death,
                listed: [None; 3],
                told: BTreeMap::new(),
                world: Vec::new(),
                audited: Vec::new(),
            });
        }
        if self.story.outcome.verdict != Verdict::Passed {
            return Ok(());
        }
        self.story.settle(run, &self.round, &store, cases)?;
        self.story.look(run)
    }
}

/// What the file knows of a call.
fn left_of(store: &SqliteStore, call: &str) -> Fallible<Left> {
    let filter = KeyFilter {
        task: Some(TaskId::new(call)?),
        ..KeyFilter::default()
    };
    let keys = store.keys(&filter, None, PAGE)?.items;
    Ok(match keys.first().map(|key| key.view.status) {
        None => Left::Nothing,
        Some(KeyStatus::Pending) => Left::Doubt,
        Some(_) => Left::Outcome,
    })
}

/// Waits until one of the callers stands where it is to be killed; `None` when none is
/// left.
fn next_to_stand(
    alive: &mut [(&String, Policy, Victim)],
    standing: &str,
) -> Fallible<Option<usize>> {
    let deadline = Deadline::after(PATIENCE);
    while !alive.is_empty() {
        for (at, (_, _, victim)) in alive.iter_mut().enumerate() {
            let mut stands = false;
            let ended = listen_to(victim, LOOK, |line| {
                stands |= line == standing;
                Ok(())
            })?;
            if stands {
                return Ok(Some(at));
            }
            if ended || deadline.passed() {
                let name = victim.name();
                return Err(Failure::new(format!("{name} is not {standing}")));
            }
        }
    }
    Ok(None)
}

/// Notes which calls are listed as in doubt: when it is those that must be, or when the
/// last permit of the dead has run out long ago. Says whether it is those.
fn list(
    store: &SqliteStore,
    cases: &mut [Case],
    when: usize,
    expected: impl Fn(&Case) -> bool,
) -> Fallible<bool> {
    let expected: BTreeSet<String> = cases
        .iter()
        .filter(|case| expected(case))
        .map(|case| case.call.clone())
        .collect();
    let deadline = Deadline::after(LIST_PATIENCE);
    loop {
        let is_last = deadline.passed();
        let listed = listed(store)?;
        if listed == expected || is_last {
            for case in cases {
                case.listed[when] = Some(listed.contains(&case.call));
            }
            return Ok(listed == expected);
        }
        std::thread::park_timeout(LOOK);
    }
}

/// The calls that the store lists as in doubt, by their tasks.
fn listed(store: &SqliteStore) -> Fallible<BTreeSet<String>> {
    let mut listed = BTreeSet::new();
    let mut after = None;
    loop {
        let page = store.keys_in_doubt(after, PAGE)?;
        for key in page.items {
            let task = key
                .task
                .ok_or_else(|| Failure::new("a key without a task"))?;
            listed.insert(task.as_str().to_owned());
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(listed),
        }
    }
}

/// How the doubt about a call ended, as the audit says.
fn audited(store: &SqliteStore, call: &str) -> Fallible<Vec<Resolved>> {
    let lines = store.audits(&TaskId::new(call)?, None, PAGE)?.items;
    let lines = lines.into_iter().filter(|line| line.event == KEY_RESOLVED);
    let resolved = lines.map(|line| Resolved {
        happened: line.detail["resolution"] == "happened",
        reason: line.reason.unwrap_or_default(),
    });
    Ok(resolved.collect())
}

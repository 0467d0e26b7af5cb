//! Scenario 5. Goal: what a model was paid for once is never paid for again, and comes
//! back byte for byte, after a restart too.
//!
//! Method: a process asks a model server 1,000 requests through the cache, by a public
//! client of its protocol. Another process asks the same ones again. The server is a
//! process of its own; it outlives both and says who asked it for what. What must be
//! answered is worked out here from each request alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agentos_chaos::{Aftermath, Failure, Outcome, Run, Scenario, ScenarioResult, Victim};
use serde_json::Value;

use super::{fact, same};
use crate::canary::Canary;
use crate::chat::{Completion, Pace, answer, calls_of, completion, digest, prompt};
use crate::checks::Wreck;
use crate::model::flight::{Asking, Called, Flights};
use crate::model::{Pass, Told, judge_calls, judge_pass, judge_struck};
use crate::victims::{AskedAll, DONE, GotBack, Model, Prompter, Role, port_of, spec};

const REQUESTS: u64 = 1000;
const REQUESTS_QUICK: u64 = 100;
/// Threads that ask at once.
const THREADS: u64 = 4;
/// The name of a first pass that is struck.
const STRUCK: &str = "struck";
/// For a line to come, or a pass to end; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(50);

pub(crate) const NAME: &str = "llm-cache";

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "1,000 answers of a model are paid for once, and come back byte for byte";
    Scenario::new(5, NAME, goal, move |run| {
        let mut outcome = Outcome::passed();
        let result = tell(run, canary, &mut outcome);
        outcome.after(result)
    })
}

type Fallible<T> = Result<T, Failure>;

fn tell(run: &mut Run, canary: Option<Canary>, outcome: &mut Outcome) -> Fallible<()> {
    let requests = if run.quick() {
        REQUESTS_QUICK
    } else {
        REQUESTS
    };
    let seed = run.rng.next_u64();
    let bodies: Vec<_> = (0..requests).map(|number| prompt(seed, number)).collect();
    let digests: Vec<String> = bodies.iter().map(|body| digest(body).to_string()).collect();
    let expected = answers(&bodies)?;
    let texts: Vec<String> = expected.iter().map(|one| one.text.clone()).collect();
    let cost = |one: &Completion| one.prompt_tokens + one.completion_tokens;
    let tokens: u64 = expected.iter().map(cost).sum();

    let (mut server, port) = serve(run)?;
    let db = run.dir().join("cache.db");
    let (mut hits, mut misses) = (0, 0);
    for pass in [Pass::First, Pass::Second] {
        let name = pass.name();
        run.progress(format!("{name} pass"));
        let prompter = Prompter {
            db: db.clone(),
            name: name.to_owned(),
            worker: name.to_owned(),
            port,
            requests,
            seed,
            threads: THREADS,
            canary,
        };
        let (told, done) = ask(run, prompter, outcome)?;
        for broken in judge_pass(pass, &told, &texts) {
            outcome.violate(broken);
        }
        let counted = (done.hits, done.misses, done.hit_rate, done.tokens_saved);
        let right = match pass {
            Pass::First => (0, requests, 0.0, 0),
            Pass::Second => (requests, 0, 1.0, tokens),
        };
        let what = format!("hits, misses, hit rate and tokens saved of the {name} pass");
        same(outcome, what, counted, right);
        hits += done.hits;
        misses += done.misses;
        outcome.metric(format!("{name}_pass_ms"), (done.ms * 10.0).round() / 10.0);
        outcome.metric("tokens_saved", done.tokens_saved);

        // After the second pass these are still the calls of the first.
        let calls = calls_of(port)?;
        for broken in judge_calls(&calls, &digests, Pass::First.name()) {
            outcome.violate(format!("after the {name} pass {broken}"));
        }
        outcome.metric("server_calls", calls.len());
        for problem in Wreck::open(&db, run.dir())?.problems()? {
            outcome.violate(format!("after the {name} pass: {problem}"));
        }
    }
    let hit_rate = hits as f64 / (hits + misses) as f64;
    outcome.metric("misses", misses);
    outcome.metric("hits", hits);
    outcome.metric("hit_rate", hit_rate);
    same(outcome, "the hit rate of both passes", hit_rate, 0.5);
    server.kill()?;
    Ok(())
}

/// One process that asks everything: what it was answered, and its cache's own count.
fn ask(
    run: &mut Run,
    prompter: Prompter,
    outcome: &mut Outcome,
) -> Fallible<(Vec<Told<String>>, AskedAll)> {
    let name = prompter.name.clone();
    let mut victim = run.start(&spec(&name, &Role::Prompter(prompter))?)?;
    let exit = victim.wait_for_exit(PATIENCE)?;
    outcome.check(exit.success(), || {
        format!("the {name} pass ended with {exit}")
    });
    let said = victim.said();
    let done = said.iter().find_map(|line| line.strip_prefix(DONE));
    let done = done.ok_or_else(|| Failure::new(format!("the {name} pass did not end")))?;
    Ok((told(&victim.acks())?, fact(done)?))
}

/// What a process was answered, by its acknowledgements.
fn told(acks: &[String]) -> Fallible<Vec<Told<String>>> {
    let told = acks.iter().map(|ack| {
        let GotBack { request, hit, text } = fact(ack)?;
        Ok((request, hit, text))
    });
    told.collect()
}

/// What must be answered to each request.
fn answers(bodies: &[Value]) -> Fallible<Vec<Completion>> {
    let answers = bodies.iter().map(|body| {
        let answer = answer(body).map_err(|odd| Failure::new(format!("{odd:?}")))?;
        Ok(completion(answer)?)
    });
    answers.collect()
}

/// Starts the server. Gives its port.
fn serve(run: &mut Run) -> Fallible<(Victim, u16)> {
    let pace = Pace::default();
    let mut server = run.start(&spec("model", &Role::Model(Model { pace }))?)?;
    let listening = server.wait_for_line("the port", PATIENCE, |line| port_of(line).is_some())?;
    let port = port_of(&listening).ok_or_else(|| Failure::new("no port"))?;
    Ok((server, port))
}

/// The server, and the role of the first pass in a run that is struck, for so many
/// requests. It has one thread: so the server knows what was asked for at the strike.
pub(crate) fn begin(
    run: &mut Run,
    requests: u64,
    canary: Option<Canary>,
) -> Fallible<(Victim, Prompter)> {
    let (server, port) = serve(run)?;
    let prompter = Prompter {
        db: run.dir().join("cache.db"),
        name: STRUCK.to_owned(),
        worker: "prompter".to_owned(),
        port,
        requests,
        seed: run.rng.next_u64(),
        threads: 1,
        canary,
    };
    Ok((server, prompter))
}

/// Reads what a first pass left that was struck anywhere, and lets a second one ask the
/// same.
pub(crate) fn struck(run: &mut Run, prompter: &Prompter, after: &Aftermath) -> ScenarioResult {
    let mut outcome = Outcome::passed();
    let result = judge_rest(run, prompter, after, &mut outcome);
    outcome.after(result)
}

fn judge_rest(
    run: &mut Run,
    prompter: &Prompter,
    after: &Aftermath,
    outcome: &mut Outcome,
) -> Fallible<()> {
    let first = told(&after.acks())?;
    let name = Pass::Second.name();
    let role = Prompter {
        name: name.to_owned(),
        ..prompter.clone()
    };
    let (second, done) = ask(run, role, outcome)?;
    let bodies = (0..prompter.requests).map(|number| prompt(prompter.seed, number));
    let bodies: Vec<Value> = bodies.collect();
    let expected = answers(&bodies)?.into_iter().map(|one| one.text);
    let expected: Vec<String> = expected.collect();
    let beyond = usize::from(!after.finished());
    for broken in judge_struck(&first, &second, &expected, beyond) {
        outcome.violate(broken);
    }
    let hits = second.iter().filter(|(_, hit, _)| *hit).count() as u64;
    let counted = (done.hits, done.misses);
    let what = "hits and misses of the second pass";
    same(outcome, what, counted, (hits, prompter.requests - hits));

    // Nothing is paid twice but what was asked for at the strike.
    let digests: Vec<String> = bodies.iter().map(|body| digest(body).to_string()).collect();
    let asking = |name: &str| Asking {
        life: name.to_owned(),
        thread: 0,
    };
    let calls = calls_of(prompter.port)?;
    let calls = calls.iter().map(|call| Called {
        who: asking(&call.caller),
        request: digests.iter().position(|one| *one == call.request),
        at: call.begun_us,
    });
    let answered = |told: &[Told<String>]| {
        let told = told
            .iter()
            .map(|(number, _, text)| Ok((usize::try_from(*number)?, text.clone())));
        told.collect::<Fallible<Vec<_>>>()
    };
    let (mut killed, mut ended) = (BTreeSet::new(), BTreeSet::from([name.to_owned()]));
    match after.finished() {
        true => ended.insert(STRUCK.to_owned()),
        false => killed.insert(STRUCK.to_owned()),
    };
    let flights = Flights {
        expected,
        threads: prompter.threads,
        calls: calls.collect(),
        answered: BTreeMap::from([
            (asking(STRUCK), answered(&first)?),
            (asking(name), answered(&second)?),
        ]),
        // What the struck one was told came before all that was asked after it.
        first_answered: answered(&first)?
            .into_iter()
            .map(|(request, _)| (request, i64::MIN))
            .collect(),
        killed,
        ended,
    };
    for broken in flights.judge() {
        outcome.violate(broken);
    }
    for problem in Wreck::open(&prompter.db, run.dir())?.problems()? {
        outcome.violate(problem);
    }
    Ok(())
}

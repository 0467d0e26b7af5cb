//! Scenario 5. Goal: what a model was paid for once is never paid for again, and comes
//! back byte for byte, after a restart too.
//!
//! Method: a process asks a model server 1,000 requests through the cache, by a public
//! client of its protocol. Another process asks the same ones again. The server is a
//! process of its own; it outlives both and says who asked it for what. What must be
//! answered is worked out here from each request alone.

use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, Scenario};

use super::{fact, same};
use crate::canary::Canary;
use crate::chat::{Completion, Pace, answer, calls_of, completion, digest, prompt};
use crate::checks::Wreck;
use crate::model::{Pass, Told, judge_calls, judge_pass};
use crate::victims::{AskedAll, DONE, GotBack, Model, Prompter, Role, port_of, spec};

const REQUESTS: u64 = 1000;
const REQUESTS_QUICK: u64 = 100;
/// Threads that ask at once.
const THREADS: u64 = 4;
/// For a line to come, or a pass to end; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(50);

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "1,000 answers of a model are paid for once, and come back byte for byte";
    Scenario::new(5, "llm-cache", goal, move |run| {
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
    let expected: Vec<Completion> = bodies
        .iter()
        .map(|body| {
            let answer = answer(body).map_err(|odd| Failure::new(format!("{odd:?}")))?;
            Ok(completion(answer)?)
        })
        .collect::<Fallible<_>>()?;
    let texts: Vec<String> = expected.iter().map(|one| one.text.clone()).collect();
    let cost = |one: &Completion| one.prompt_tokens + one.completion_tokens;
    let tokens: u64 = expected.iter().map(cost).sum();

    let pace = Pace::default();
    let mut server = run.start(&spec("model", &Role::Model(Model { pace }))?)?;
    let listening = server.wait_for_line("the port", PATIENCE, |line| port_of(line).is_some())?;
    let port = port_of(&listening).ok_or_else(|| Failure::new("no port"))?;

    let db = run.dir().join("cache.db");
    let (mut hits, mut misses) = (0, 0);
    for pass in [Pass::First, Pass::Second] {
        let name = pass.name();
        run.progress(format!("{name} pass"));
        let prompter = Prompter {
            db: db.clone(),
            name: name.to_owned(),
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
    let told = victim.acks();
    let told = told.iter().map(|ack| {
        let GotBack { request, hit, text } = fact(ack)?;
        Ok((request, hit, text))
    });
    let told = told.collect::<Fallible<_>>()?;
    let said = victim.said();
    let done = said.iter().find_map(|line| line.strip_prefix(DONE));
    let done = done.ok_or_else(|| Failure::new(format!("the {name} pass did not end")))?;
    Ok((told, fact(done)?))
}

//! Scenario 6. Goal: a command that was run is never run again, and what came out of it
//! comes back byte for byte, after a restart too.
//!
//! Method: a process runs 500 bash commands through the ledger. Another process asks for
//! the same ones again. Each command appends a line to a file that no ledger keeps: how
//! often it ran is counted there. What it prints on both streams, which is not always
//! text, and how it ends, which is not always well, is worked out here without a shell.

use std::fs;
use std::time::Duration;

use agentos_chaos::{Aftermath, Failure, Family, Outcome, Run, Scenario, ScenarioResult};

use super::{fact, same};
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::{Output, Pass, Told, judge_effects, judge_pass, judge_struck, output_of};
use crate::victims::{DONE, EFFECTS, Ran, RanAll, Role, Tooler, spec};

const COMMANDS: u64 = 500;
const COMMANDS_QUICK: u64 = 60;
/// Threads that run commands at once.
const THREADS: u64 = 4;
/// For a pass to end; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(50);
const TASK: &str = "commands";

pub(crate) const NAME: &str = "tool-replay";

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "500 commands are run once each, and replayed byte for byte";
    Scenario::new(6, NAME, goal, move |run| {
        let mut outcome = Outcome::passed();
        let result = tell(run, canary, &mut outcome);
        outcome.after(result)
    })
}

type Fallible<T> = Result<T, Failure>;

fn tell(run: &mut Run, canary: Option<Canary>, outcome: &mut Outcome) -> Fallible<()> {
    let commands = if run.quick() {
        COMMANDS_QUICK
    } else {
        COMMANDS
    };
    let seed = run.rng.next_u64();
    let expected: Vec<_> = (0..commands)
        .map(|number| output_of(seed, number))
        .collect();
    let work = run.dir().join("work");
    fs::create_dir(&work)?;
    let db = run.dir().join("ledger.db");
    let (mut executions, mut replays) = (0, 0);
    for pass in [Pass::First, Pass::Second] {
        let name = pass.name();
        run.progress(format!("{name} pass"));
        let tooler = Tooler {
            db: db.clone(),
            work: work.clone(),
            name: name.to_owned(),
            worker: name.to_owned(),
            task: TASK.to_owned(),
            commands,
            seed,
            threads: THREADS,
            canary,
        };
        let (told, done) = ask(run, tooler, outcome)?;
        for broken in judge_pass(pass, &told, &expected) {
            outcome.violate(broken);
        }
        // After the second pass these are still the effects of the first.
        let effects = fs::read_to_string(work.join(EFFECTS))?;
        for broken in judge_effects(&effects, commands) {
            outcome.violate(format!("after the {name} pass {broken}"));
        }
        for problem in Wreck::open(&db, &work)?.problems()? {
            outcome.violate(format!("after the {name} pass: {problem}"));
        }
        let counted = (done.executions, done.replays, done.replay_rate);
        let right = match pass {
            Pass::First => (commands, 0, 0.0),
            Pass::Second => (0, commands, 1.0),
        };
        let what = format!("executions, replays and replay rate of the {name} pass");
        same(outcome, what, counted, right);
        executions += done.executions;
        replays += done.replays;
        outcome.metric(format!("{name}_pass_ms"), (done.ms * 10.0).round() / 10.0);
    }
    let replay_rate = replays as f64 / (replays + executions) as f64;
    outcome.metric("executions", executions);
    outcome.metric("replays", replays);
    outcome.metric("replay_rate", replay_rate);
    same(outcome, "the replay rate of both passes", replay_rate, 0.5);
    Ok(())
}

/// One process that asks for everything: what it was told, and its ledger's own count.
fn ask(
    run: &mut Run,
    tooler: Tooler,
    outcome: &mut Outcome,
) -> Fallible<(Vec<Told<Output>>, RanAll)> {
    let name = tooler.name.clone();
    let mut victim = run.start(&spec(&name, &Role::Tooler(tooler))?)?;
    let exit = victim.wait_for_exit(PATIENCE)?;
    outcome.check(exit.success(), || {
        format!("the {name} pass ended with {exit}")
    });
    let said = victim.said();
    let done = said.iter().find_map(|line| line.strip_prefix(DONE));
    let done = done.ok_or_else(|| Failure::new(format!("the {name} pass did not end")))?;
    Ok((told(&victim.acks())?, fact(done)?))
}

/// What a process was told of commands, by its acknowledgements.
fn told(acks: &[String]) -> Fallible<Vec<Told<Output>>> {
    let told = acks.iter().map(|ack| {
        let ran: Ran = fact(ack)?;
        let output = (ran.exit, ran.stdout, ran.stderr);
        Ok((ran.command, ran.replayed, output))
    });
    told.collect()
}

/// The role of the first pass in a run that is struck, for so many commands. It has one
/// thread: where a named point kills the process, no command of another thread runs on
/// for the moment until its guardian has killed it.
pub(crate) fn begin(run: &mut Run, commands: u64, canary: Option<Canary>) -> Fallible<Tooler> {
    let work = run.dir().join("work");
    fs::create_dir(&work)?;
    Ok(Tooler {
        db: run.dir().join("ledger.db"),
        work,
        name: "struck".to_owned(),
        worker: "tooler".to_owned(),
        task: TASK.to_owned(),
        commands,
        seed: run.rng.next_u64(),
        threads: 1,
        canary,
    })
}

/// Reads what a first pass left that was struck anywhere, and lets a second one ask for
/// the same.
pub(crate) fn struck(run: &mut Run, tooler: &Tooler, after: &Aftermath) -> ScenarioResult {
    let mut outcome = Outcome::passed();
    let result = judge_rest(run, tooler, after, &mut outcome);
    outcome.after(result)
}

fn judge_rest(
    run: &mut Run,
    tooler: &Tooler,
    after: &Aftermath,
    outcome: &mut Outcome,
) -> Fallible<()> {
    let first = told(&after.acks())?;
    let role = Tooler {
        name: Pass::Second.name().to_owned(),
        ..tooler.clone()
    };
    let (second, _) = ask(run, role, outcome)?;
    let mut expected: Vec<Output> = (0..tooler.commands)
        .map(|number| output_of(tooler.seed, number))
        .collect();
    // A call that failed may have been one of a command, which has another outcome
    // then; and that is what is replayed.
    let fails = after.strike.family() == Family::Fail;
    if fails {
        for (number, _, found) in second.iter().chain(&first) {
            if let Some(expected) = expected.get_mut(usize::try_from(*number)?) {
                expected.clone_from(found);
            }
        }
    }
    let beyond = usize::from(!after.finished());
    for broken in judge_struck(&first, &second, &expected, beyond) {
        outcome.violate(broken);
    }
    let effects = fs::read_to_string(tooler.work.join(EFFECTS)).unwrap_or_default();
    let mut broken = judge_effects(&effects, tooler.commands);
    if fails {
        broken.retain(|reason| !reason.ends_with("had its effect 0 times"));
    }
    for reason in broken {
        outcome.violate(reason);
    }
    for problem in Wreck::open(&tooler.db, &tooler.work)?.problems()? {
        outcome.violate(problem);
    }
    Ok(())
}

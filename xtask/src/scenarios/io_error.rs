//! Scenario 18. Goal: when a read, a write or a sync of the disk fails, nothing is
//! acknowledged that it may have cost, the error says so by its type, what was acknowledged
//! stays, and all goes on.
//!
//! Method: a shim between SQLite and its files makes seeded calls fail, one, some in a row,
//! or all from one on. A clerk writes rows of every kind, and goes on after errors: it reads
//! what is done and does the rest, first with the store that it has, then with one opened
//! anew. When the disk fails for good it gives up, and one with a sound disk goes on.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agentos_chaos::{
    Failure, HarnessError, Outcome, Prng, Run, Scenario, ScenarioResult, Verdict, Victim,
};
use agentos_process::Exit;

use super::clerks_rows::{at_the_end, look};
use super::fact;
use crate::canary::Canary;
use crate::model::persistence::{Ending, Persistence};
use crate::victims::{Clerk, Failing, Role, Shimmed, Stubborn, Used, clerks_steps, spec};

const ROUNDS: u64 = 16;
const ROUNDS_QUICK: u64 = 8;
/// So many clerks work at a time.
const TOGETHER: usize = 2;
/// How often a clerk tries: more than calls fail in a row.
const TRIES: u32 = 12;
const IN_A_ROW: u64 = 3;
/// For one clerk: a wait without an end is a violation.
const PATIENCE: Duration = Duration::from_secs(20);
/// As what a failing disk may be told; a tool may be in doubt then.
const KINDS: [&str; 3] = ["Io", "CommitUnknown", "InDoubt"];
/// What fails, and in how many of a hundred rounds.
const OPERATIONS: [(&str, u64); 6] = [
    ("sync", 30),
    ("write", 30),
    ("read", 25),
    ("open", 5),
    ("truncate", 5),
    ("lock", 5),
];
/// In percent of the rounds: failures in the log, and for good.
const IN_LOG: u64 = 60;
const FOR_GOOD: u64 = 15;
/// Steps that may end well though the disk failed in them, since they go through the gate of
/// keys: it asks what became of a commit and makes it again by itself, and an answer of a
/// model that could not be kept is given all the same.
const THROUGH_THE_GATE: [&str; 4] = ["call", "ask", "abandon", "touch and remove"];

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "reads, writes and syncs that fail cost nothing that was acknowledged";
    Scenario::new(18, "io-error", goal, move |run| {
        let mut story = Story {
            canary,
            outcome: Outcome::passed(),
            tally: Tally::default(),
        };
        let result = story.all(run);
        story.tell(result)
    })
}

#[derive(Default)]
struct Tally {
    rounds: u64,
    hit: u64,
    struck: u64,
    refused: u64,
    unknown: u64,
    gave_up: u64,
    acked: u64,
}

struct Story {
    canary: Option<Canary>,
    outcome: Outcome,
    tally: Tally,
}

/// One clerk, and what its disk does.
struct Round {
    clerk: Clerk,
    failing: Failing,
    victim: Victim,
    /// Which transcript is its own.
    transcript: usize,
}

type Fallible<T> = Result<T, Failure>;

impl Story {
    fn tell(mut self, result: Fallible<()>) -> ScenarioResult {
        let tally = self.tally;
        for (name, figure) in [
            ("rounds", tally.rounds),
            ("hit", tally.hit),
            ("calls_failed", tally.struck),
            ("refused", tally.refused),
            ("unknown", tally.unknown),
            ("gave_up", tally.gave_up),
            ("acked", tally.acked),
        ] {
            self.outcome.metric(name, figure);
        }
        self.outcome.after(result)
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        run.progress("in peace");
        let calls = self.in_peace(run)?;
        let rounds = if run.quick() { ROUNDS_QUICK } else { ROUNDS };
        let mut under_way = Vec::new();
        for number in 1..=rounds {
            let failing = failing(&mut run.rng, &calls);
            run.progress(failing.to_string());
            under_way.push(self.start(run, number, failing)?);
            if under_way.len() == TOGETHER || number == rounds {
                for round in under_way.drain(..) {
                    self.end(run, round)?;
                }
            }
            if self.outcome.verdict != Verdict::Passed {
                break;
            }
        }
        Ok(())
    }

    fn clerk(&self, run: &Run, number: u64) -> Fallible<Clerk> {
        let dir = run.dir().join(format!("round-{number}"));
        fs::create_dir(&dir)?;
        let world: PathBuf = run.dir().join(format!("world-{number}.log"));
        Ok(Clerk {
            db: dir.join("rows.db"),
            world,
            steps: clerks_steps().len(),
            canary: self.canary,
        })
    }

    fn spec(clerk: &Clerk, failing: Option<Failing>) -> Fallible<agentos_chaos::VictimSpec> {
        let role = Role::Shimmed(Shimmed {
            dir: clerk.db.parent().map(PathBuf::from).unwrap_or_default(),
            sync_delay_ms: 0,
            failing,
            role: Box::new(Role::Stubborn(Stubborn {
                clerk: clerk.clone(),
                tries: TRIES,
            })),
        });
        Ok(spec("clerk", &role)?)
    }

    /// How often a clerk calls whose disk is sound.
    fn in_peace(&mut self, run: &mut Run) -> Fallible<Used> {
        let clerk = self.clerk(run, 0)?;
        let mut victim = run.start(&Self::spec(&clerk, None)?)?;
        let line = victim.wait_for_line("done", PATIENCE, |line| !line.starts_with("ack "))?;
        victim.wait_for_exit(PATIENCE)?;
        match line.strip_prefix("done ") {
            Some(used) => fact(used),
            None => Err(Failure::new(format!("in peace: {line}"))),
        }
    }

    fn start(&self, run: &mut Run, number: u64, failing: Failing) -> Fallible<Round> {
        let clerk = self.clerk(run, number)?;
        let victim = run.start(&Self::spec(&clerk, Some(failing.clone()))?)?;
        let transcript = run.transcripts().len() - 1;
        Ok(Round {
            clerk,
            failing,
            victim,
            transcript,
        })
    }

    fn end(&mut self, run: &mut Run, mut round: Round) -> Fallible<()> {
        let mut outcome = Outcome::passed();
        match round.victim.wait_for_exit(PATIENCE) {
            Ok(exit) => {
                let told = || format!("it ended with {exit}");
                outcome.check(exit == Exit::Exited { code: 0 }, told);
            }
            Err(HarnessError::TimedOut { .. }) => {
                outcome.violate("it hangs");
                round.victim.kill()?;
            }
            Err(error) => return Err(error.into()),
        }
        drop(round.victim);
        let transcript = run.transcripts().swap_remove(round.transcript);
        let told = Persistence::read(&transcript.lines, &KINDS);
        for broken in &told.broken {
            outcome.violate(broken.clone());
        }
        let failing = &round.failing;
        let done = told.ending == Ending::Done;
        outcome.check(done || failing.times == u64::MAX, || {
            "it never came to its end".to_owned()
        });
        let writes = ["write", "sync"].contains(&failing.operation.as_str());
        if failing.in_log && writes {
            let mut wrong = told.acked_when_struck.clone();
            wrong.retain(|step| !THROUGH_THE_GATE.contains(&step.as_str()));
            outcome.check(wrong.is_empty(), || {
                format!("{wrong:?} is acknowledged, and the log was not written or synced in it")
            });
        }
        let tally = &mut self.tally;
        tally.rounds += 1;
        tally.hit += u64::from(0 < told.struck);
        tally.struck += told.struck;
        tally.refused += told.refused;
        tally.unknown += told.unknown;
        tally.gave_up += u64::from(!done);
        tally.acked += told.acked.len() as u64;
        let clerk = &round.clerk;
        let more = usize::from(!done);
        look(
            run.dir(),
            &clerk.db,
            "when it has ended",
            &told.acked,
            more,
            &mut outcome,
        )?;
        if outcome.reasons.is_empty() && !done {
            self.go_on(run, clerk, &mut outcome)?;
        }
        if outcome.reasons.is_empty() {
            at_the_end(run.dir(), &clerk.db, &clerk.world, 0, &mut outcome)?;
        } else {
            // Where dumps of databases are made.
            let kept = format!("round-{}.db", tally_number(&clerk.db));
            fs::copy(&clerk.db, run.dir().join(kept))?;
        }
        for reason in outcome.reasons {
            self.outcome.violate(format!("{failing}: {reason}"));
        }
        Ok(())
    }

    /// One whose disk is sound does the rest.
    fn go_on(&self, run: &mut Run, clerk: &Clerk, outcome: &mut Outcome) -> Fallible<()> {
        let next = Clerk {
            canary: None,
            ..clerk.clone()
        };
        let mut next = run.start(&spec("next", &Role::Clerk(next))?)?;
        let exit = next.wait_for_exit(PATIENCE)?;
        outcome.check(exit.success(), || format!("the next one ended with {exit}"));
        Ok(())
    }
}

/// The folder of a round as a name.
fn tally_number(db: &std::path::Path) -> String {
    let folder = db.parent().and_then(|folder| folder.file_name());
    let name = folder.unwrap_or_default().to_string_lossy();
    name.trim_start_matches("round-").to_owned()
}

/// What fails in one round.
fn failing(rng: &mut Prng, used: &Used) -> Failing {
    let mut left = rng.between(0, 99);
    let mut operation = OPERATIONS[0].0;
    for (name, percent) in OPERATIONS {
        operation = name;
        if left < percent {
            break;
        }
        left -= percent;
    }
    let in_log = rng.percent(IN_LOG);
    // Counted of both files together; fewer are of the database.
    let calls = used.calls.get(operation).copied().unwrap_or(0);
    let most = if in_log { calls / 2 } else { calls / 8 };
    let nth = rng.between(1, most.max(1));
    let times = match rng.percent(FOR_GOOD) {
        true => u64::MAX,
        false => rng.between(1, IN_A_ROW),
    };
    Failing {
        operation: operation.to_owned(),
        in_log,
        nth,
        times,
    }
}

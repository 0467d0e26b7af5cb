//! Scenario 22. Goal: a program that gets too few descriptors, or too little memory, is told
//! so by types, or dies; it never hangs, nothing is damaged, and nothing that it had
//! acknowledged is lost.
//!
//! Method: a clerk that writes rows of every kind, and goes on after errors, is watched in
//! peace, to know what it uses. Then it is started again and again on a fresh file, with a
//! limit on its descriptors or its address space, from so little that it cannot even start
//! to more than it needs. What it leaves is read, and a clerk without limits does the rest.

use std::path::PathBuf;
use std::time::Duration;

use agentos_chaos::{Failure, HarnessError, Outcome, Run, Scenario, ScenarioResult, VictimSpec};

use agentos_process::Exit;

use super::clerks_rows::{at_the_end, look};
use super::fact;
use crate::canary::Canary;
use crate::model::persistence::{Ending, Persistence};
use crate::victims::{self, Clerk, Role, Stubborn, Used, clerks_steps, spec};

const ROUNDS: u64 = 12;
const ROUNDS_QUICK: u64 = 4;
/// How often the one with limits tries: they stay as they are.
const TRIES: u32 = 4;
/// For one clerk: a wait without an end is a violation.
const PATIENCE: Duration = Duration::from_secs(15);
/// Sets the limits, and becomes the program.
const SCRIPT: &str = r#"ulimit -n "$1" && ulimit -v "$2" && shift 2 && exec "$@""#;
/// How a program ends that panicked.
const PANICKED: Exit = Exit::Exited { code: 101 };
const UNLIMITED: &str = "unlimited";
/// The streams.
const DESCRIPTORS_MIN: u64 = 3;
/// Beyond what was used in peace.
const DESCRIPTORS_MORE: u64 = 3;
/// In percent of what a program has when it begins.
const MEMORY_MIN: u64 = 90;
const MEMORY_MAX: u64 = 230;

/// As what the want of descriptors or memory may be told.
const KINDS: [&str; 5] = ["Io", "Machine", "Busy", "CommitUnknown", "InDoubt"];

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "with too few descriptors or too little memory: errors, no damage, no hang";
    Scenario::new(22, "too-many", goal, move |run| {
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
    unhindered: u64,
    refused: u64,
    gave_up: u64,
    died: u64,
    acked: u64,
}

struct Story {
    canary: Option<Canary>,
    outcome: Outcome,
    tally: Tally,
}

type Fallible<T> = Result<T, Failure>;

impl Story {
    fn tell(mut self, result: Fallible<()>) -> ScenarioResult {
        let tally = self.tally;
        for (name, figure) in [
            ("rounds", tally.rounds),
            ("unhindered", tally.unhindered),
            ("refused", tally.refused),
            ("gave_up", tally.gave_up),
            ("died", tally.died),
            ("acked", tally.acked),
        ] {
            self.outcome.metric(name, figure);
        }
        self.outcome.after(result)
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        run.progress("in peace");
        let clerk = self.clerk(run, 0);
        let used = self.in_peace(run, &clerk)?;
        let rounds = if run.quick() { ROUNDS_QUICK } else { ROUNDS };
        // Both, spread over their ranges, and chosen within each part.
        let parts = rounds / 2;
        for round in 0..rounds {
            let part = round / 2;
            let between = |run: &mut Run, least: u64, most: u64| {
                let at = |part: u64| least + (most - least) * part / parts;
                run.rng.between(at(part), at(part + 1))
            };
            let (what, descriptors, memory) = if round.is_multiple_of(2) {
                let most = used.descriptors + DESCRIPTORS_MORE;
                let limit = between(run, DESCRIPTORS_MIN, most);
                let what = format!("with {limit} descriptors");
                (what, limit.to_string(), UNLIMITED.to_owned())
            } else {
                let percent = between(run, MEMORY_MIN, MEMORY_MAX);
                let limit = used.memory_kib * percent / 100;
                let what = format!("with {limit} KiB of memory");
                (what, "1024".to_owned(), limit.to_string())
            };
            run.progress(&what);
            let clerk = self.clerk(run, round + 1);
            self.limited(run, &what, &clerk, [descriptors, memory])?;
        }
        Ok(())
    }

    fn clerk(&self, run: &Run, round: u64) -> Clerk {
        let named = |suffix: &str| -> PathBuf { run.dir().join(format!("round-{round}{suffix}")) };
        Clerk {
            db: named(".db"),
            world: named(".log"),
            steps: clerks_steps().len(),
            canary: self.canary,
        }
    }

    /// What a clerk uses that lacks nothing.
    fn in_peace(&mut self, run: &mut Run, clerk: &Clerk) -> Fallible<Used> {
        let role = Role::Stubborn(Stubborn {
            clerk: clerk.clone(),
            tries: 1,
        });
        let mut victim = run.start(&spec("in peace", &role)?)?;
        let line = victim.wait_for_line("done", PATIENCE, |line| !line.starts_with("ack "))?;
        victim.wait_for_exit(PATIENCE)?;
        match line.strip_prefix("done ") {
            Some(used) => fact(used),
            None => Err(Failure::new(format!("in peace: {line}"))),
        }
    }

    fn limited(
        &mut self,
        run: &mut Run,
        what: &str,
        clerk: &Clerk,
        limits: [String; 2],
    ) -> Fallible<()> {
        let role = Role::Stubborn(Stubborn {
            clerk: clerk.clone(),
            tries: TRIES,
        });
        let (program, arguments) = victims::command(&role)?;
        let spec = VictimSpec::new("limited", "sh")
            .args(["-c", SCRIPT, "sh"])
            .args(limits)
            .arg(program)
            .args(arguments)
            // Without memory Rust cannot print one, and waits for itself.
            .env("RUST_BACKTRACE", "0")
            // The system kills a program that it cannot load.
            .kills_itself();
        let mut victim = run.start(&spec)?;
        let exit = match victim.wait_for_exit(PATIENCE) {
            Ok(exit) => exit,
            Err(error @ HarnessError::TimedOut { .. }) => {
                self.outcome.violate(format!("{what}: it hangs"));
                victim.kill()?;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        drop(victim);
        let transcript = run.transcripts().pop().unwrap_or_default();
        let told = Persistence::read(&transcript.lines, &KINDS);
        let mut outcome = Outcome::passed();
        for broken in &told.broken {
            outcome.violate(broken.clone());
        }
        // A panic is no answer.
        outcome.check(exit != PANICKED, || "it panicked".to_owned());
        let tally = &mut self.tally;
        tally.rounds += 1;
        tally.refused += told.refused;
        tally.acked += told.acked.len() as u64;
        match told.ending {
            Ending::Done if told.refused == 0 => tally.unhindered += 1,
            Ending::Done => {}
            Ending::GaveUp => tally.gave_up += 1,
            Ending::Neither => tally.died += 1,
        }
        look(
            run.dir(),
            &clerk.db,
            "when it has ended",
            &told.acked,
            1,
            &mut outcome,
        )?;
        if outcome.reasons.is_empty() {
            self.go_on(run, clerk, &mut outcome)?;
        }
        for reason in outcome.reasons {
            self.outcome.violate(format!("{what}: {reason}"));
        }
        Ok(())
    }

    /// One that lacks nothing does the rest.
    fn go_on(&self, run: &mut Run, clerk: &Clerk, outcome: &mut Outcome) -> Fallible<()> {
        let next = Clerk {
            canary: None,
            ..clerk.clone()
        };
        let mut next = run.start(&spec("next", &Role::Clerk(next))?)?;
        let exit = next.wait_for_exit(PATIENCE)?;
        outcome.check(exit.success(), || format!("the next one ended with {exit}"));
        if exit.success() {
            at_the_end(run.dir(), &clerk.db, &clerk.world, 0, outcome)?;
        }
        Ok(())
    }
}

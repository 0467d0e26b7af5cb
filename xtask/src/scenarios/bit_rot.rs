//! Scenario 19. Goal: whatever bit of a store changes while nobody looks, what is resumed
//! from or replayed is what was stored, or is refused; and resume goes on from an older
//! checkpoint.
//!
//! Method: a process fills a store with rows of every kind and is killed with the newest of
//! them in the log alone. Of copies of these files, and of the same when the log was moved
//! into the database, one seeded bit each is flipped. Two processes open the copies with
//! the real library, load, resume, replay and list all that there is, and tell it; so does
//! one of a copy in which nothing was changed. The answers are compared here.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_chaos::{Failure, HarnessError, Outcome, Prng, Run, Scenario, ScenarioResult, Victim};
use agentos_core::TaskId;

use super::fact;
use super::own_disk::in_memory;
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::rot::{
    Answer, Flip, Logged, Reading, Seen, checkpoint_name, judge_rot, judge_rotten_log,
};
use crate::victims::{
    self, Appraiser, AtRest, CALLS, LATE, LATE_COMMITS, Role, STOCKED, Stocker, expected_answer,
    expected_call, is_boundary, spec, stocked_state,
};

/// Flips in the database at rest, in one with a log, and in the log.
const FLIPS: [u64; 3] = [140, 40, 40];
const FLIPS_QUICK: [u64; 3] = [40, 12, 12];
/// For one copy to be told of: a wait without an end is a violation.
const PATIENCE: Duration = Duration::from_secs(20);
/// The header of the database, in which every bit means something.
const HEADER_BYTES: u64 = 100;
/// In percent: flips in the header, and of the others those in a byte that is not zero.
const IN_HEADER: u64 = 10;
const NOT_ZERO: u64 = 60;
/// Looks for such a byte.
const LOOKS: u64 = 20;
/// Of the databases with a log so many are opened without being looked through.
const UNLOOKED: u64 = 70;
/// Audit lines of the first task that are of no checkpoint: its creation, its state, a
/// failure and a cancellation.
const OTHER_LINES: u64 = 4;
/// Violations that are told, and kept as files.
const TOLD_MAX: usize = 10;

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "a flipped bit leads to what was stored or to a refusal, never to a wrong answer";
    Scenario::new(19, "bit-rot", goal, move |run| {
        Story::begin(run, canary)?.tell(run)
    })
}

#[derive(Default)]
struct Tally {
    flips: u64,
    log_flips: u64,
    unopened: u64,
    refused: u64,
    asked_again: u64,
    gone: u64,
    fell_back: u64,
    resume_refused: u64,
    plain: u64,
    plain_unnoticed: u64,
    log_cut: u64,
    commits_lost_max: u64,
    violations: usize,
}

struct Story {
    /// The folder of artifacts.
    work: PathBuf,
    /// The database with its log, and the one that was closed.
    crashed: PathBuf,
    settled: PathBuf,
    canary: Option<Canary>,
    tally: Tally,
    outcome: Outcome,
}

type Fallible<T> = Result<T, Failure>;

impl Story {
    fn begin(run: &mut Run, canary: Option<Canary>) -> Fallible<Story> {
        let story = Story {
            work: run.dir().join("work"),
            crashed: run.dir().join("crashed.db"),
            settled: run.dir().join("settled.db"),
            canary,
            tally: Tally::default(),
            outcome: Outcome::passed(),
        };
        let stocker = Stocker {
            db: story.crashed.clone(),
            work: story.work.clone(),
        };
        let mut stocker = run.start(&spec("stocker", &Role::Stocker(stocker))?)?;
        stocker.wait_for_line("stocked", PATIENCE, |line| line == "stocked")?;
        stocker.kill()?;
        Ok(story)
    }

    fn tell(mut self, run: &mut Run) -> ScenarioResult {
        let result = self.all(run);
        let Tally {
            flips,
            log_flips,
            unopened,
            refused,
            asked_again,
            gone,
            fell_back,
            resume_refused,
            plain,
            plain_unnoticed,
            log_cut,
            commits_lost_max,
            ..
        } = self.tally;
        for (name, figure) in [
            ("flips", flips),
            ("log_flips", log_flips),
            ("unopened", unopened),
            ("refused", refused),
            ("asked_again", asked_again),
            ("gone", gone),
            ("fell_back", fell_back),
            ("resume_refused", resume_refused),
            ("plain_changed", plain),
            ("plain_unnoticed", plain_unnoticed),
            ("log_cut", log_cut),
            ("commits_lost_max", commits_lost_max),
        ] {
            self.outcome.metric(name, figure);
        }
        self.outcome.after(result)
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        let crashed = AtRest::read(&self.crashed)?;
        crashed.write(&self.settled, &Flip::NONE)?;
        self.settle()?;
        let settled = AtRest::read(&self.settled)?;
        let counts = if run.quick() { FLIPS_QUICK } else { FLIPS };
        let rng = &mut run.rng;
        let at_rest: Vec<Flip> = (0..counts[0])
            .map(|_| in_database(rng, &settled.main, 0))
            .collect();
        let mut with_log: Vec<Flip> = (0..counts[1])
            .map(|_| in_database(rng, &crashed.main, UNLOOKED))
            .collect();
        with_log.extend((0..counts[2]).map(|_| in_log(rng, &crashed.log)));

        let mut one = self.start(run, "one", &self.settled.clone(), &at_rest)?;
        let mut other = self.start(run, "other", &self.crashed.clone(), &with_log)?;
        let truth = self.truth(run, &mut one)?;
        let same = self.truth(run, &mut other)?;
        self.outcome.check(same == truth, || {
            "what stands in the log is read otherwise than in the database".to_owned()
        });
        for (victim, original, flips) in [
            (&mut one, &settled, &at_rest),
            (&mut other, &crashed, &with_log),
        ] {
            for (number, flip) in flips.iter().enumerate() {
                let reading = self.reading(victim, number + 1, flip)?;
                self.note(run.dir(), original, flip, &truth, &reading)?;
            }
            let exit = victim.wait_for_exit(PATIENCE)?;
            self.outcome
                .check(exit.success(), || format!("it ended with {exit}"));
        }
        Ok(())
    }

    /// Moves the log into the database, and looks whether it is what was meant.
    fn settle(&mut self) -> Fallible<()> {
        let wreck = Wreck::open(&self.settled, &self.work)?;
        for problem in wreck.problems()? {
            self.outcome.violate(problem);
        }
        for (task, first) in STOCKED {
            let late = if task == STOCKED[0].0 { LATE } else { 0 };
            let all = wreck.all(&TaskId::new(task)?)?;
            let numbers: Vec<u64> = all.iter().map(|one| one.summary.sequence.get()).collect();
            let expected: Vec<u64> = (1..=first + late).collect();
            super::same(&mut self.outcome, task, numbers, expected);
            for (one, number) in all.iter().zip(1..) {
                let expected = stocked_state(task, number);
                let holds = match &one.snapshot {
                    None => is_boundary(task, number),
                    // One in four is encoded, as a text.
                    Some(state) => state.bytes().ends_with(&expected),
                };
                self.outcome
                    .check(holds, || format!("{task} {number} has another state"));
            }
        }
        wreck.store.close();
        Ok(())
    }

    fn start(&self, run: &mut Run, name: &str, db: &Path, flips: &[Flip]) -> Fallible<Victim> {
        let flips = [Flip::NONE].iter().chain(flips).copied().collect();
        let appraiser = Appraiser {
            db: db.to_path_buf(),
            work: self.work.clone(),
            scratch: run.dir().join(name),
            flips,
            canary: self.canary,
        };
        // Nobody cuts the power: the copies need no disk.
        fs::create_dir(&appraiser.scratch)?;
        let scratch = appraiser.scratch.clone();
        let command = victims::command(&Role::Appraiser(appraiser))?;
        Ok(run.start(&in_memory(name, &scratch, command))?)
    }

    /// What is told of a copy that is sound.
    fn truth(&mut self, run: &Run, victim: &mut Victim) -> Fallible<Reading> {
        run.progress("reading what was stored");
        let truth = self.reading(victim, 0, &Flip::NONE)?;
        for (name, answer) in truth.sealed.iter().chain(&truth.plain) {
            self.outcome.check(matches!(answer, Answer::Is(_)), || {
                format!("undamaged, {name} is {answer:?}")
            });
        }
        for number in 0..CALLS + LATE {
            for (name, expected) in [
                (format!("call {number}"), expected_call(number)),
                (format!("answer {number}"), expected_answer(number)),
            ] {
                let found = truth.sealed.get(&name);
                super::same(&mut self.outcome, &name, found, Some(&expected));
            }
        }
        let newest: Vec<u64> = truth.resumed.values().copied().collect();
        let expected = vec![STOCKED[0].1 + LATE, STOCKED[1].1];
        super::same(&mut self.outcome, "resume, undamaged,", newest, expected);
        super::same(&mut self.outcome, "problems", truth.problems, Some(0));
        Ok(truth)
    }

    fn reading(&mut self, victim: &mut Victim, at: usize, flip: &Flip) -> Fallible<Reading> {
        match victim.wait_for_acks(at + 1, PATIENCE) {
            Ok(acks) => fact(&acks[at]),
            Err(error @ (HarnessError::Machine { .. } | HarnessError::KilledByOthers { .. })) => {
                Err(error.into())
            }
            Err(error) => {
                self.outcome.violate(format!("{flip}: no answer came"));
                Err(error.into())
            }
        }
    }

    /// Judges one reading and counts it.
    fn note(
        &mut self,
        dir: &Path,
        original: &AtRest,
        flip: &Flip,
        truth: &Reading,
        found: &Reading,
    ) -> Fallible<()> {
        let commits = LATE * LATE_COMMITS;
        let seen: Seen = match flip.in_log {
            true => judge_rotten_log(truth, found, &logged(), commits),
            false => judge_rot(truth, found),
        };
        let tally = &mut self.tally;
        tally.flips += 1;
        tally.log_flips += u64::from(flip.in_log);
        tally.unopened += u64::from(seen.unopened);
        tally.refused += u64::from(seen.refused);
        tally.asked_again += u64::from(seen.asked_again);
        tally.gone += u64::from(seen.gone);
        tally.fell_back += u64::from(seen.fell_back);
        tally.resume_refused += u64::from(seen.resume_refused);
        tally.plain += u64::from(seen.plain);
        tally.plain_unnoticed += u64::from(seen.plain_unnoticed);
        tally.log_cut += u64::from(0 < seen.lost);
        tally.commits_lost_max = tally.commits_lost_max.max(seen.lost);
        if seen.wrong.is_empty() {
            return Ok(());
        }
        tally.violations += 1;
        if tally.violations <= TOLD_MAX {
            for wrong in seen.wrong.iter().take(TOLD_MAX) {
                self.outcome.violate(format!("{flip}: {wrong}"));
            }
            let kept = dir.join(format!("rotten-{}.db", tally.violations));
            original.write(&kept, flip)?;
        }
        Ok(())
    }
}

/// A bit of the database file; so many percent of the copies are not looked through.
fn in_database(rng: &mut Prng, bytes: &[u8], unlooked: u64) -> Flip {
    let length = bytes.len() as u64;
    let byte = if rng.percent(IN_HEADER) {
        rng.between(0, HEADER_BYTES - 1)
    } else {
        somewhere(rng, bytes, length)
    };
    Flip {
        in_log: false,
        byte,
        bit: bit(rng),
        unlooked: rng.percent(unlooked),
    }
}

/// Anywhere, or where something is.
fn somewhere(rng: &mut Prng, bytes: &[u8], length: u64) -> u64 {
    let mut byte = rng.between(0, length - 1);
    if rng.percent(NOT_ZERO) {
        for _ in 0..LOOKS {
            let at = usize::try_from(byte).unwrap_or(0);
            if bytes.get(at).is_some_and(|byte| *byte != 0) {
                break;
            }
            byte = rng.between(0, length - 1);
        }
    }
    byte
}

fn in_log(rng: &mut Prng, bytes: &[u8]) -> Flip {
    Flip {
        in_log: true,
        byte: rng.between(0, bytes.len() as u64 - 1),
        bit: bit(rng),
        unlooked: false,
    }
}

fn bit(rng: &mut Prng) -> u8 {
    u8::try_from(rng.between(0, 7)).unwrap_or(0)
}

/// What the log holds, and which of its commits makes it.
fn logged() -> Logged {
    let mut logged = Logged::new();
    let (task, first) = STOCKED[0];
    for round in 0..LATE {
        let commit = round * LATE_COMMITS + 1;
        let number = first + 1 + round;
        logged.insert(checkpoint_name(task, number), (commit, commit));
        for with in [
            format!("verification of {task} {number}"),
            format!("results of {task} {number}"),
            format!("audit {task} {}", number + OTHER_LINES - 1),
        ] {
            logged.insert(with, (commit, commit));
        }
        let late = CALLS + round;
        logged.insert(format!("call {late}"), (commit + 1, commit + 2));
        logged.insert(format!("answer {late}"), (commit + 3, commit + 4));
    }
    logged
}

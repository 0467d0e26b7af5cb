//! Scenario 21. Goal: whoever tidies up may be killed anywhere, and loses
//! nothing: the file is sound, what can be resumed from and what a lease works
//! from stays, the backup is the earlier or the later one, and the next one
//! finishes the job.
//!
//! Method: a janitor prunes, gives free pages back, moves the log into the file and makes
//! a backup, in turns, while a thread of it appends. It is killed at a seeded fraction of
//! each, as long as that lasts undisturbed. One task can be resumed from its first checkpoint alone, another
//! has a lease on an old one. What stays must be what was written, row by row, in
//! the store and in its backup. A file of the first schema version is brought
//! forward by victims that are killed on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, Scenario, ScenarioResult, Transcript, Verdict, Victim};
use agentos_checkpoints::Resume;
use agentos_core::{CheckpointStorage, Stopwatch, TaskId};
use agentos_recovery::{Mode, run_upkeep};
use agentos_store::sqlite::{Config, Inspection, SCHEMA_VERSION, SqliteStore, inspect};

use super::tidied::{BUSY, HELD, LEASED, PREPARED, Rows, STUCK, judge_content, prepare};
use crate::canary::Canary;
use crate::checks::Wreck;
use crate::model::tail;
use crate::victims::{Janitor, KEPT, Role, retention, spec};

const KILLS: u64 = 6;
const KILLS_QUICK: u64 = 3;
const MIGRATIONS: u64 = 6;
const MIGRATIONS_QUICK: u64 = 3;
/// Undisturbed openings of an old file, to know how long one lasts.
const OPENINGS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);
/// A kill may also come a little after what it is aimed at.
const OFFSET_PERCENT_MAX: u64 = 110;

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "killed inside upkeep, vacuum, checkpointing, backup or migration, nothing is lost";
    Scenario::new(21, "kill-during-upkeep", goal, move |run| {
        Story::begin(run, canary)?.tell(run)
    })
}

/// What the janitor does, in turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Upkeep,
    /// Free pages are given back.
    Vacuum,
    /// The log is moved into the file and cut.
    Log,
    Backup,
}

impl Phase {
    const ALL: [Phase; 4] = [Phase::Upkeep, Phase::Vacuum, Phase::Log, Phase::Backup];

    /// What the janitor says when it begins, and when it is done.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Phase::Upkeep => ("upkeep", "tidied"),
            Phase::Vacuum => ("vacuum", "vacuumed"),
            Phase::Log => ("log", "shortened"),
            Phase::Backup => ("backup", "done"),
        }
    }
}

pub(crate) struct Story {
    janitor: Janitor,
    /// What was prepared and must stay.
    prepared: Rows,
    acked: u64,
    /// What was acknowledged when the newest complete backup was begun.
    copied: Option<u64>,
    /// How long each phase lasts undisturbed.
    lasts: [Duration; Phase::ALL.len()],
    /// In which phases it is to be killed next.
    phases: Vec<Phase>,
    kills: u64,
    migrations: u64,
    /// Openers of an old file that were killed before they had ended.
    migrations_killed: u64,
    outcome: Outcome,
}

type Fallible<T> = Result<T, Failure>;

impl Story {
    fn begin(run: &mut Run, canary: Option<Canary>) -> Fallible<Story> {
        let janitor = Janitor {
            db: run.dir().join("tidy.db"),
            copy: run.dir().join("copy.db"),
            task: BUSY.into(),
            rounds: None,
            canary,
        };
        let prepared = prepare(&janitor.db)?;
        let story = Story {
            janitor,
            prepared,
            acked: 0,
            copied: None,
            lasts: [Duration::ZERO; Phase::ALL.len()],
            phases: Vec::new(),
            kills: 0,
            migrations: 0,
            migrations_killed: 0,
            outcome: Outcome::passed(),
        };
        Ok(story)
    }

    fn tell(mut self, run: &mut Run) -> ScenarioResult {
        let result = self.all(run);
        self.outcome.metric("kills", self.kills);
        self.outcome.metric("acked", self.acked);
        for (phase, lasts) in Phase::ALL.into_iter().zip(self.lasts) {
            let name = format!("{}_ms", phase.words().0);
            self.outcome.metric(name, millis(lasts));
        }
        self.outcome.metric("migrations", self.migrations);
        self.outcome
            .metric("migrations_killed", self.migrations_killed);
        self.outcome.after(result)
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        self.measure(run)?;
        let kills = if run.quick() { KILLS_QUICK } else { KILLS };
        while self.kills < kills && self.outcome.verdict == Verdict::Passed {
            run.progress(format!("kill {} of {kills}", self.kills + 1));
            self.live_and_die(run)?;
            self.look(&format!("after kill {}", self.kills))?;
        }
        if self.outcome.verdict == Verdict::Passed {
            self.finish()?;
        }
        if self.outcome.verdict == Verdict::Passed {
            self.migrations(run)?;
        }
        Ok(())
    }

    /// Old files are brought forward: the kills are spread over an opening.
    fn migrations(&mut self, run: &mut Run) -> Fallible<()> {
        fs::copy(fixture(1), old_file(run))?;
        let before = inspect(&old_file(run))?;
        let mut lasted = Vec::new();
        for _ in 0..OPENINGS {
            let mut opener = start_opener(run)?;
            let watch = Stopwatch::start();
            wait(&mut opener, "opened")?;
            lasted.push(watch.elapsed());
            opener.wait_for_exit(PATIENCE)?;
            forget_old_file(run);
        }
        lasted.sort();
        let opening = lasted[OPENINGS / 2];
        let migrations = if run.quick() {
            MIGRATIONS_QUICK
        } else {
            MIGRATIONS
        };
        for number in 0..migrations {
            run.progress("an old file is brought forward");
            let part = |number| 1000 * number / migrations;
            let permille = run.rng.between(part(number), part(number + 1) - 1);
            self.migrate(run, &before, opening * u32::try_from(permille)? / 1000)?;
        }
        Ok(())
    }

    fn start(&self, run: &mut Run) -> Fallible<Victim> {
        Ok(run.start(&spec("janitor", &Role::Janitor(self.janitor.clone()))?)?)
    }

    /// One undisturbed round, to know how long each phase lasts, ended by a kill.
    fn measure(&mut self, run: &mut Run) -> Fallible<()> {
        let mut victim = self.start(run)?;
        for (phase, lasts) in Phase::ALL.into_iter().zip(&mut self.lasts) {
            let (begun, done) = phase.words();
            wait(&mut victim, &format!("{begun} 2"))?;
            let watch = Stopwatch::start();
            wait(&mut victim, &format!("{done} 2"))?;
            *lasts = watch.elapsed();
        }
        let transcript = victim.kill()?;
        self.heed(&transcript.lines)?;
        self.look("after the first round")
    }

    fn live_and_die(&mut self, run: &mut Run) -> Fallible<()> {
        if self.phases.is_empty() {
            // Each once before any comes again.
            self.phases.extend(Phase::ALL);
            run.rng.shuffle(&mut self.phases);
        }
        let phase = self.phases.pop().unwrap_or(Phase::Upkeep);
        let round = run.rng.between(1, 3);
        let percent = run.rng.between(0, OFFSET_PERCENT_MAX);
        let (word, length) = (phase.words().0, self.lasts[phase as usize]);
        let mut victim = self.start(run)?;
        wait(&mut victim, &format!("{word} {round}"))?;
        let offset = length * u32::try_from(percent)? / 100;
        let transcript = victim.kill_after(offset)?;
        if !transcript.killed {
            let last = transcript.said().last().cloned().unwrap_or_default();
            return Err(Failure::new(format!("the janitor ended by itself: {last}")));
        }
        self.kills += 1;
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        let part = percent.min(100) as f64 / 100.0;
        let phases = Phase::ALL.len() as f64;
        self.outcome
            .kill_point((f64::from(phase as u8) + part) / phases);
        self.heed(&transcript.lines)
    }

    /// Takes note of what a janitor printed.
    fn heed(&mut self, lines: &[String]) -> Fallible<()> {
        let mut at_begin = None;
        for line in lines {
            if let Some(number) = line.strip_prefix("ack ") {
                self.acked = number.parse()?;
            } else if line.starts_with("backup ") {
                at_begin = Some(self.acked);
            } else if line.starts_with("done ") {
                self.copied = at_begin;
            }
        }
        Ok(())
    }

    /// Reads the wreck of one janitor.
    fn look(&mut self, when: &str) -> Fallible<()> {
        let newest = self.look_at(&self.janitor.db.clone(), when, self.acked)?;
        self.outcome.check(newest <= self.acked + 1, || {
            format!(
                "{when}: {newest} is the newest, one more than {} may be",
                self.acked
            )
        });
        // It may have been committed without its acknowledgement.
        self.acked = self.acked.max(newest);
        let copy = self.janitor.copy.clone();
        if let Some(copied) = self.copied {
            self.look_at(&copy, &format!("{when}: in the backup"), copied)?;
        } else if copy.exists() {
            self.look_at(&copy, &format!("{when}: in the backup"), 0)?;
        }
        Ok(())
    }

    /// Looks at the store or its backup; gives the newest number of the task that
    /// is appended to.
    fn look_at(&mut self, db: &Path, when: &str, acked: u64) -> Fallible<u64> {
        let outcome = &mut self.outcome;
        let base = db.parent().unwrap_or(Path::new("/"));
        let wreck = match Wreck::open(db, base) {
            Ok(wreck) => wreck,
            Err(error) => {
                outcome.violate(format!("{when}: it does not open: {}", error.reason()));
                return Ok(acked);
            }
        };
        for problem in wreck.problems()? {
            outcome.violate(format!("{when}: {problem}"));
        }
        for check in wreck.store.doctor()?.refusals() {
            outcome.violate(format!("{when}: {}", check.detail));
        }
        for broken in self.prepared.judge(&Rows::read(db)?) {
            outcome.violate(format!("{when}: {broken}"));
        }
        let mut newest = 0;
        for task in [BUSY, STUCK, HELD] {
            let id = TaskId::new(task)?;
            let all = wreck.all(&id)?;
            let numbers: Vec<u64> = all
                .iter()
                .map(|checkpoint| checkpoint.summary.sequence.get())
                .collect();
            for checkpoint in &all {
                let number = checkpoint.summary.sequence;
                let results = wreck.store.evidence_results(&id, number)?;
                for broken in judge_content(task, checkpoint, &results) {
                    outcome.violate(format!("{when}: {task}: {broken}"));
                }
            }
            let must = match task {
                STUCK => Some(1),
                HELD => Some(LEASED),
                _ => None,
            };
            let given = if task == BUSY { acked } else { PREPARED };
            for broken in tail(&numbers, given, KEPT.into(), must) {
                outcome.violate(format!("{when}: {task}: {broken}"));
            }
            let last = numbers.last().copied().unwrap_or(0);
            if task == BUSY {
                newest = last;
            }
            let expected = if task == STUCK { 1 } else { last };
            let found = match wreck.checkpoints.resume(&id)? {
                Resume::From(resumed) => resumed.checkpoint.summary.sequence.get(),
                Resume::Nowhere { .. } => 0,
            };
            outcome.check(found == expected, || {
                format!("{when}: {task} resumes from {found} and not from {expected}")
            });
        }
        Ok(newest)
    }

    /// What the killed left undone, the next one does.
    fn finish(&mut self) -> Fallible<()> {
        let store = SqliteStore::open(Config::at(&self.janitor.db))?;
        let report = run_upkeep(&store, &retention(), Mode::Apply)?;
        self.outcome.check(report.is_complete(), || {
            format!("the last upkeep was not complete: {:?}", report.failures)
        });
        let left = run_upkeep(&store, &retention(), Mode::DryRun)?;
        let rows = left.checkpoints.rows + left.rows.values().map(|one| one.rows).sum::<u64>();
        self.outcome
            .check(rows == 0, || format!("{rows} rows were left"));
        let kept = store.checkpoints(&TaskId::new(BUSY)?, None, 1000)?.len();
        let expected = usize::try_from(KEPT)?;
        self.outcome.check(kept == expected, || {
            format!("{kept} checkpoints are kept and not {expected}")
        });
        drop(store);
        self.look("at the end")
    }

    /// A file of version 1, and a victim that is killed while it opens it.
    fn migrate(&mut self, run: &mut Run, before: &Inspection, offset: Duration) -> Fallible<()> {
        let db = old_file(run);
        let transcript = start_opener(run)?.kill_after(offset)?;
        let killed = transcript.killed && !transcript.lines.iter().any(|line| line == "opened");
        self.migrations += 1;
        self.migrations_killed += u64::from(killed);
        judge_old_file(&mut self.outcome, &db, before)?;
        forget_old_file(run);
        Ok(())
    }
}

/// A file of an older version that may have been on its way to the newest is brought
/// there, and has what it had `before`.
pub(crate) fn judge_old_file(
    outcome: &mut Outcome,
    db: &Path,
    before: &Inspection,
) -> Fallible<()> {
    let old = before.pragmas["user_version"];
    let store = match SqliteStore::open(Config::at(db)) {
        Ok(store) => store,
        Err(error) => {
            outcome.violate(format!("a file of version {old} does not open: {error}"));
            return Ok(());
        }
    };
    let after = store.inspect()?;
    let new = after.pragmas["user_version"];
    outcome.check(new == i64::from(SCHEMA_VERSION), || {
        format!("a file of version {old} is of version {new}")
    });
    for (table, rows) in &before.rows {
        let found = after.rows.get(table);
        let same = table == "schema_migrations" || found == Some(rows);
        outcome.check(same, || {
            format!("version {old}: {table} had {rows} rows, and has {found:?}")
        });
    }
    for problem in store.check_integrity()?.problems {
        outcome.violate(format!("version {old}: {problem}"));
    }
    store.close();
    Ok(())
}

/// A janitor that ends by itself, and is struck anywhere.
pub(crate) struct Struck {
    story: Story,
}

impl Struck {
    /// One that tidies up and makes a backup so many times.
    pub(crate) fn new(run: &mut Run, canary: Option<Canary>, rounds: u64) -> Fallible<Struck> {
        let mut story = Story::begin(run, canary)?;
        story.janitor.rounds = Some(rounds);
        Ok(Struck { story })
    }

    /// Who is struck.
    pub(crate) fn role(&self) -> Role {
        Role::Janitor(self.story.janitor.clone())
    }

    /// What must hold when it is dead, and when the next one has done its work.
    pub(crate) fn judge(mut self, run: &mut Run, transcript: &Transcript) -> ScenarioResult {
        let result = self.all(run, transcript);
        self.story.outcome.metric("acked", self.story.acked);
        self.story.outcome.after(result)
    }

    fn all(&mut self, run: &mut Run, transcript: &Transcript) -> Fallible<()> {
        let story = &mut self.story;
        story.heed(&transcript.lines)?;
        story.look("when it was struck")?;
        if story.outcome.verdict != Verdict::Passed {
            return Ok(());
        }
        // In which as much is appended as is kept.
        story.janitor.rounds = Some(2);
        let mut next = story.start(run)?;
        let exit = next.wait_for_exit(PATIENCE)?;
        story
            .outcome
            .check(exit.success(), || format!("the next one ended with {exit}"));
        drop(next);
        let transcript = run.transcripts().pop();
        story.heed(&transcript.unwrap_or_default().lines)?;
        story.look("after the next one")?;
        if story.outcome.verdict == Verdict::Passed {
            story.finish()?;
        }
        Ok(())
    }
}

fn old_file(run: &Run) -> PathBuf {
    run.dir().join("old.db")
}

/// A victim that opens a file of version 1, about to do so.
fn start_opener(run: &mut Run) -> Fallible<Victim> {
    let db = old_file(run);
    fs::copy(fixture(1), &db)?;
    let mut opener = run.start(&spec("opener", &Role::Open { db })?)?;
    wait(&mut opener, "open")?;
    Ok(opener)
}

fn forget_old_file(run: &Run) {
    for suffix in ["", "-wal", "-shm", ".wlock", ".wturn", ".agentos-ballast"] {
        let mut path = old_file(run).into_os_string();
        path.push(suffix);
        let _ = fs::remove_file(path);
    }
}

fn wait(victim: &mut Victim, line: &str) -> Fallible<()> {
    let found = victim.wait_for_line(line, PATIENCE, |found| {
        found == line || found.starts_with("error")
    })?;
    if found == line {
        Ok(())
    } else {
        Err(Failure::new(found))
    }
}

/// A database of a schema version, which a build of that time made.
pub(crate) fn fixture(version: u32) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/store/tests/fixtures");
    folder.join(format!("v{version}.db"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

//! `cargo xtask soak`: mixed load at the highest rate for a long time, with
//! kills, and nothing may grow.
//!
//! Three processes load one file; two of them are killed over and over, the
//! third lives from beginning to end, makes backups and asks the doctor. A fourth
//! holds its read open for a second at a time. Meanwhile the sizes of the file
//! and its log, the open descriptors and the memory are taken down, and each
//! must stay within its bound. After each kill what was acknowledged must be
//! there.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, Scenario, ScenarioResult, Verdict, Victim};
use agentos_core::{CheckpointStorage, Deadline, FoundCheckpoint, Stopwatch};

use crate::chaos;
use crate::checks::Wreck;
use crate::cli::SoakArgs;
use crate::victims::{Loader, Reader, Role, ack_path, newest_ack, spec};

const THREADS: u64 = 3;
/// Bound of the write-ahead log that the loaders are given.
const LOG_BYTES: u64 = 256 << 20;
/// The log may be longer than its bound by one group of commits.
const LOG_BYTES_MAX: u64 = LOG_BYTES + (64 << 20);
/// The database: what the rules keep, with room for what waits to be pruned.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// Open descriptors of one process.
const DESCRIPTORS_MAX: u64 = 64;
/// Memory of one process: four readers with caches of 64 MiB, and the states.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// A shorter soak ends before the caches are full, and says nothing about growth.
const GROWTH_FROM: Duration = Duration::from_secs(600);
/// The median of the last third may be so much larger than that of the second.
const FILE_GROWTH_BYTES: u64 = 8 << 20;
const MEMORY_GROWTH_BYTES: u64 = 8 << 20;
const DESCRIPTORS_GROWTH: u64 = 3;
/// No loader's commits may stand still for so long.
const STILL_MAX: Duration = Duration::from_secs(60);
/// For a line to come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Kills after which the whole file is checked.
const KILLS_PER_CHECK: u64 = 25;

pub(crate) fn run(arguments: &SoakArgs) -> Result<ExitCode, Box<dyn Error>> {
    let length = Duration::from_secs(arguments.seconds);
    let goal = "under load and kills nothing grows, and what was acknowledged is there";
    let scenario = Scenario::new(0, "soak", goal, move |run| {
        Soak::begin(run, length)?.tell(run)
    });
    let seconds = arguments.seconds;
    let runner = chaos::plain_runner(&arguments.report)?
        .timeout(length + PATIENCE * 3)
        .replay(move |_, seed| format!("cargo xtask soak --seconds {seconds} --seed {seed}"))
        .verbose(arguments.verbose);
    chaos::finish(&runner.run(&[&scenario]), arguments.report.json.as_deref())
}

/// A loader and its role, to start it again.
struct Live {
    role: Loader,
    victim: Victim,
    /// Commits of earlier lives.
    before: u64,
    /// Commits, pruned rows and passes of upkeep of this life.
    commits: u64,
    pruned: u64,
    passes: u64,
    /// Since its commits last grew.
    still: Stopwatch,
}

/// What is measured, once a round.
#[derive(Debug, Clone, Copy)]
struct Sample {
    file: u64,
    log: u64,
    descriptors: u64,
    memory: u64,
}

/// A figure of a sample.
type Figure = fn(&Sample) -> u64;

fn most(samples: &[Sample], of: Figure) -> u64 {
    samples.iter().map(of).max().unwrap_or(0)
}

fn median(samples: &[Sample], of: Figure) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(of).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

struct Soak {
    db: PathBuf,
    work: PathBuf,
    length: Duration,
    /// The last one lives from beginning to end.
    loaders: Vec<Live>,
    kills: u64,
    reader: Option<Victim>,
    samples: Vec<Sample>,
    /// The longest batch of the upkeep and the longest append, in microseconds.
    batch_us: u64,
    wait_us: u64,
    pruned: u64,
    outcome: Outcome,
}

type Fallible<T> = Result<T, Failure>;

impl Soak {
    fn begin(run: &mut Run, length: Duration) -> Fallible<Soak> {
        let (db, work) = (run.dir().join("soak.db"), run.dir().join("work"));
        fs::create_dir(&work)?;
        let mut soak = Soak {
            db,
            work,
            length,
            loaders: Vec::new(),
            kills: 0,
            reader: None,
            samples: Vec::new(),
            batch_us: 0,
            wait_us: 0,
            pruned: 0,
            outcome: Outcome::passed(),
        };
        for name in ["one", "two", "survivor"] {
            let role = Loader {
                db: soak.db.clone(),
                work: soak.work.clone(),
                name: name.into(),
                threads: THREADS,
                seed: run.rng.next_u64(),
                log_bytes: LOG_BYTES,
                looks: name == "survivor",
            };
            let victim = start(run, &role)?;
            soak.loaders.push(Live {
                role,
                victim,
                before: 0,
                commits: 0,
                pruned: 0,
                passes: 0,
                still: Stopwatch::start(),
            });
        }
        Ok(soak)
    }

    fn tell(mut self, run: &mut Run) -> ScenarioResult {
        let result = self.all(run);
        self.outcome.after(result)
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        let role = Role::Reader(Reader {
            db: self.db.clone(),
            hold_ms: 1000,
        });
        self.heed(run)?;
        let mut reader = run.start(&spec("reader", &role)?)?;
        reader.wait_for_line("progress", PATIENCE, |line| line == "progress")?;
        self.reader = Some(reader);
        let end = Deadline::after(self.length);
        while !end.passed() && self.outcome.verdict == Verdict::Passed {
            for _ in 0..run.rng.between(3, 20) {
                self.heed(run)?;
                self.measure();
            }
            let chosen = usize::from(run.rng.percent(50));
            self.kill(run, chosen)?;
            run.progress(format!(
                "{} s, {} kills, {} commits",
                end.waited().as_secs(),
                self.kills,
                self.commits()
            ));
        }
        self.end(end.waited())
    }

    /// Reads what each loader says.
    fn heed(&mut self, run: &Run) -> Fallible<()> {
        for live in &mut self.loaders {
            let line =
                live.victim
                    .wait_for_line("progress", PATIENCE.min(run.remaining()), |line| {
                        line.starts_with("progress") || line.starts_with("error")
                    })?;
            let words: Vec<&str> = line.split(' ').collect();
            let ["progress", commits, pruned, passes, batch, wait] = words[..] else {
                return Err(Failure::new(format!("{}: {line}", live.role.name)));
            };
            let commits = commits.parse()?;
            if live.commits < commits {
                live.still = Stopwatch::start();
            }
            let name = &live.role.name;
            self.outcome.check(live.still.elapsed() < STILL_MAX, || {
                format!("{name} has not committed for {STILL_MAX:?}")
            });
            live.commits = commits;
            live.pruned = pruned.parse()?;
            live.passes = passes.parse()?;
            self.batch_us = self.batch_us.max(batch.parse()?);
            self.wait_us = self.wait_us.max(wait.parse()?);
        }
        Ok(())
    }

    fn commits(&self) -> u64 {
        let of = |live: &Live| live.before + live.commits;
        self.loaders.iter().map(of).sum()
    }

    fn measure(&mut self) {
        let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
        let mut log = self.db.clone().into_os_string();
        log.push("-wal");
        let pids = self.loaders.iter().map(|live| live.victim.pid());
        self.samples.push(Sample {
            file: size(&self.db),
            log: size(Path::new(&log)),
            descriptors: pids.map(descriptors).max().unwrap_or(0),
            // The others do not live long enough to grow.
            memory: self.survivor().map_or(0, |live| memory(live.victim.pid())),
        });
    }

    fn survivor(&self) -> Option<&Live> {
        self.loaders.last()
    }

    fn kill(&mut self, run: &mut Run, chosen: usize) -> Fallible<()> {
        let offset = run
            .rng
            .duration_between(Duration::ZERO, Duration::from_millis(5));
        let live = &mut self.loaders[chosen];
        let transcript = live.victim.kill_after(offset)?;
        if !transcript.killed {
            return Err(Failure::new(format!(
                "{} ended by itself: {:?}",
                live.role.name,
                transcript.said().last()
            )));
        }
        self.kills += 1;
        self.pruned += live.pruned;
        live.before += live.commits;
        (live.commits, live.pruned) = (0, 0);
        let name = live.role.name.clone();
        self.look(&name)?;
        if self.outcome.verdict != Verdict::Passed {
            return Ok(());
        }
        let live = &mut self.loaders[chosen];
        live.role.seed = run.rng.next_u64();
        live.victim = start(run, &live.role)?;
        live.still = Stopwatch::start();
        Ok(())
    }

    /// What the loader of this name acknowledged must be there.
    fn look(&mut self, name: &str) -> Fallible<()> {
        let wreck = Wreck::open(&self.db, &self.work)?;
        for thread in 0..THREADS {
            let Some((task, acked)) = newest_ack(&ack_path(&self.work, name, thread)) else {
                continue;
            };
            match wreck.store.newest_checkpoint(&task, None)? {
                Some(FoundCheckpoint::Sound(found)) => {
                    let found = found.summary.sequence.get();
                    self.outcome
                        .check(found == acked || found == acked + 1, || {
                            format!("{task}: {acked} was acknowledged, {found} is the newest")
                        });
                }
                found => self
                    .outcome
                    .violate(format!("{task}: {acked} was acknowledged, found {found:?}")),
            }
        }
        if self.kills.is_multiple_of(KILLS_PER_CHECK) {
            for problem in wreck.problems()? {
                self.outcome.violate(problem);
            }
        }
        Ok(())
    }

    fn end(&mut self, length: Duration) -> Fallible<()> {
        let commits = self.commits();
        let pruned = self.pruned + self.loaders.iter().map(|live| live.pruned).sum::<u64>();
        for live in &mut self.loaders {
            live.victim.kill()?;
        }
        // Without its reader the soak shows nothing about the log.
        if let Some(mut reader) = self.reader.take() {
            let reads = reader.kill()?;
            let (count, least) = (reads.said().len() as u64, length.as_secs() / 4);
            self.outcome.check(reads.killed && least <= count, || {
                format!("the reader read {count} times, and at least {least} were due")
            });
            self.outcome.metric("reads", count);
        }
        for name in ["one", "two", "survivor"] {
            self.look(name)?;
        }
        let wreck = Wreck::open(&self.db, &self.work)?;
        for problem in wreck.problems()? {
            self.outcome.violate(problem);
        }
        let report = wreck.store.doctor()?;
        for check in report.refusals() {
            self.outcome
                .violate(format!("the doctor: {}", check.detail));
        }
        let passes = self.survivor().map_or(0, |live| live.passes);
        for (what, found) in [
            ("pruned", pruned),
            ("passes of the survivor's upkeep", passes),
        ] {
            self.outcome.check(found > 0, || format!("{what}: none"));
        }
        let samples = std::mem::take(&mut self.samples);
        let third = samples.len() / 3;
        let (second, last) = (&samples[third..2 * third], &samples[2 * third..]);
        let figures: [(&str, Figure, u64, Option<u64>); 4] = [
            (
                "file_bytes",
                |one| one.file,
                FILE_BYTES_MAX,
                Some(FILE_GROWTH_BYTES),
            ),
            ("log_bytes", |one| one.log, LOG_BYTES_MAX, None),
            (
                "descriptors",
                |one| one.descriptors,
                DESCRIPTORS_MAX,
                Some(DESCRIPTORS_GROWTH),
            ),
            (
                "memory_bytes",
                |one| one.memory,
                MEMORY_BYTES_MAX,
                Some(MEMORY_GROWTH_BYTES),
            ),
        ];
        for (what, of, bound, growth) in figures {
            let found = most(&samples, of);
            self.outcome.check(0 < found && found <= bound, || {
                format!("{what}: {found} of at most {bound}")
            });
            let (before, after) = (median(second, of), median(last, of));
            let grown = after.saturating_sub(before);
            let growth = growth.filter(|_| GROWTH_FROM <= length);
            self.outcome
                .check(growth.is_none_or(|most| grown <= most), || {
                    format!("{what}: {after} in the last third, {before} in the second")
                });
            self.outcome.metric(what, vec![found, before, after]);
        }
        let seconds = length.as_secs().max(1);
        for (name, value) in [
            ("seconds", seconds),
            ("kills", self.kills),
            ("commits", commits),
            ("commits_per_s", commits / seconds),
            ("pruned", pruned),
            ("longest_batch_us", self.batch_us),
            ("longest_append_us", self.wait_us),
        ] {
            self.outcome.metric(name, value);
        }
        Ok(())
    }
}

fn start(run: &mut Run, role: &Loader) -> Fallible<Victim> {
    Ok(run.start(&spec(&role.name, &Role::Loader(role.clone()))?)?)
}

/// Open descriptors of a process.
fn descriptors(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64)
}

/// Resident memory of a process, in bytes.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

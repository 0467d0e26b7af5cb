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
use agentos_core::{CheckpointStorage, Deadline, FoundCheckpoint};

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
/// The last third of the soak may need a quarter more than the second, and this.
const GROWTH_PART: u64 = 4;
const GROWTH_BYTES: u64 = 16 << 20;
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
    let runner = chaos::runner(&arguments.common)?
        .timeout(length + PATIENCE * 3)
        .replay(move |_, seed| format!("cargo xtask soak --seconds {seconds} --seed {seed}"))
        .verbose(arguments.verbose);
    chaos::finish(&runner.run(&[&scenario]), arguments.common.json.as_deref())
}

/// A loader and its role, to start it again.
struct Live {
    role: Loader,
    victim: Victim,
    /// Commits of earlier lives.
    before: u64,
    /// Commits and pruned rows of this life.
    commits: u64,
    pruned: u64,
}

/// What is measured, at most since the beginning of a part of the soak.
#[derive(Debug, Clone, Copy, Default)]
struct Most {
    file: u64,
    log: u64,
    descriptors: u64,
    memory: u64,
}

impl Most {
    fn of(self, other: Most) -> Most {
        Most {
            file: self.file.max(other.file),
            log: self.log.max(other.log),
            descriptors: self.descriptors.max(other.descriptors),
            memory: self.memory.max(other.memory),
        }
    }
}

struct Soak {
    db: PathBuf,
    work: PathBuf,
    length: Duration,
    /// The last one lives from beginning to end.
    loaders: Vec<Live>,
    kills: u64,
    /// The most of each third.
    thirds: [Most; 3],
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
            thirds: [Most::default(); 3],
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
        let reader = run.start(&spec("reader", &role)?)?;
        let end = Deadline::after(self.length);
        while !end.passed() && self.outcome.verdict == Verdict::Passed {
            for _ in 0..run.rng.between(3, 20) {
                self.heed(run)?;
                self.measure(&end);
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
        drop(reader);
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
            let ["progress", commits, pruned, batch, wait] = words[..] else {
                return Err(Failure::new(format!("{}: {line}", live.role.name)));
            };
            live.commits = commits.parse()?;
            live.pruned = pruned.parse()?;
            self.batch_us = self.batch_us.max(batch.parse()?);
            self.wait_us = self.wait_us.max(wait.parse()?);
        }
        Ok(())
    }

    fn commits(&self) -> u64 {
        let of = |live: &Live| live.before + live.commits;
        self.loaders.iter().map(of).sum()
    }

    fn measure(&mut self, end: &Deadline) {
        let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
        let mut log = self.db.clone().into_os_string();
        log.push("-wal");
        let mut now = Most {
            file: size(&self.db),
            log: size(Path::new(&log)),
            ..Most::default()
        };
        for (place, live) in self.loaders.iter().enumerate() {
            let pid = live.victim.pid();
            now.descriptors = now.descriptors.max(descriptors(pid));
            // The others do not live long enough to grow.
            if place + 1 == self.loaders.len() {
                now.memory = memory(pid);
            }
        }
        let third = end.waited().as_secs_f64() / self.length.as_secs_f64() * 3.0;
        let third = if third < 1.0 {
            0
        } else if third < 2.0 {
            1
        } else {
            2
        };
        self.thirds[third] = self.thirds[third].of(now);
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
        let live = &mut self.loaders[chosen];
        live.role.seed = run.rng.next_u64();
        live.victim = start(run, &live.role)?;
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
        let [first, second, last] = self.thirds;
        let most = first.of(second).of(last);
        for (what, found, bound) in [
            ("the file", most.file, FILE_BYTES_MAX),
            ("the log", most.log, LOG_BYTES_MAX),
            ("descriptors", most.descriptors, DESCRIPTORS_MAX),
            ("memory", most.memory, MEMORY_BYTES_MAX),
        ] {
            self.outcome.check(found <= bound, || {
                format!("{what}: {found} of at most {bound}")
            });
        }
        for (what, second, last, play) in [
            ("the file", second.file, last.file, GROWTH_BYTES),
            ("memory", second.memory, last.memory, GROWTH_BYTES),
            ("descriptors", second.descriptors, last.descriptors, 8),
        ] {
            let most = second + second / GROWTH_PART + play;
            self.outcome.check(last <= most, || {
                format!("{what} grew from {second} to {last} in the last third")
            });
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
            ("file_mib", most.file >> 20),
            ("log_mib", most.log >> 20),
            ("descriptors", most.descriptors),
            ("memory_mib", most.memory >> 20),
        ] {
            self.outcome.metric(name, value);
        }
        let thirds = |of: fn(&Most) -> u64| self.thirds.iter().map(of).collect::<Vec<u64>>();
        let (file, memory) = (thirds(|most| most.file), thirds(|most| most.memory));
        self.outcome.metric("file_bytes_thirds", file);
        self.outcome.metric("memory_bytes_thirds", memory);
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

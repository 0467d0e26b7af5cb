//! A process that loads a store as hard as it can, in every way at once:
//! checkpoints small and large, with and without evidence, tasks that begin and
//! end, audit lines, resume, lists, the upkeep, backups, the doctor.
//!
//! Each thread keeps its newest acknowledgement in a file of its own, written
//! after the commit with one system call: what stands there is a promise. Ten
//! times a second the process says how far it is.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use agentos_chaos::Prng;
use agentos_checkpoints::{CheckpointConfig, CheckpointManager, Evidence, NewCheckpoint, Pack};
use agentos_core::{
    AuditLine, CheckpointStorage, CheckpointType, Commit, NewTask, Retention, RowRule,
    SetTaskStatus, Stopwatch, Storage, StorageError, TaskId, TaskStatus, TaskStorage,
};
use agentos_recovery::{Upkeep, UpkeepConfig, UpkeepStats};
use agentos_store::sqlite::{Config, SqliteStore};
use serde::{Deserialize, Serialize};

use super::say;

/// Checkpoints that a task gets before the next one begins.
const PER_TASK: u64 = 300;
/// Bytes of an acknowledgement, padded with spaces.
const ACK_BYTES: usize = 128;

/// The role of a loader.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Loader {
    /// The database.
    pub(crate) db: PathBuf,
    /// Where artifacts, acknowledgements and backups go.
    pub(crate) work: PathBuf,
    /// Who it is.
    pub(crate) name: String,
    /// Threads that write.
    pub(crate) threads: u64,
    /// Where its choices come from.
    pub(crate) seed: u64,
    /// Bound of the write-ahead log, in bytes.
    pub(crate) log_bytes: u64,
    /// Whether it also makes backups and asks the doctor, all the time.
    pub(crate) looks: bool,
}

/// What a loader's checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Which of its thread's checkpoints it is.
    pub(crate) step: u64,
    /// Ballast of the state.
    pub(crate) bytes: Vec<u8>,
}

/// How little is kept in a soak, so that every rule has work.
fn retention() -> Retention {
    let rows = |max_age_s, max_rows| RowRule {
        max_age: Some(Duration::from_secs(max_age_s)),
        max_rows: Some(max_rows),
        ..RowRule::keep_all()
    };
    Retention {
        checkpoints: agentos_core::CheckpointRule::keep_last(20),
        audits: rows(30, 20_000),
        tasks: rows(10, 500),
        ..Retention::default()
    }
}

/// Where a thread's newest acknowledgement stands.
pub(crate) fn ack_path(work: &Path, name: &str, thread: u64) -> PathBuf {
    work.join(format!("{name}-{thread}.ack"))
}

/// The task and the number of a thread's newest acknowledgement; `None` before
/// the first.
pub(crate) fn newest_ack(path: &Path) -> Option<(TaskId, u64)> {
    let text = fs::read_to_string(path).ok()?;
    let (task, number) = text.trim().rsplit_once(' ')?;
    Some((TaskId::new(task).ok()?, number.parse().ok()?))
}

impl Loader {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db)
            .log_bytes(self.log_bytes)
            .busy_timeout(Duration::from_secs(60));
        let store = Arc::new(SqliteStore::open(config)?);
        let checkpoints = Arc::new(CheckpointManager::new(
            Arc::clone(&store) as Arc<dyn Storage>,
            CheckpointConfig::new(&self.work),
        )?);
        let upkeep = Upkeep::start(
            Arc::clone(&store) as Arc<dyn Storage>,
            UpkeepConfig {
                interval: Duration::from_secs(1),
                retention: retention(),
                ..UpkeepConfig::default()
            },
        )?;
        self.give_up_abandoned(&store)?;
        let (commits, wait_us) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for number in 0..self.threads {
                let (store, checkpoints) = (&store, &checkpoints);
                let (commits, wait_us) = (&commits, &wait_us);
                scope.spawn(move || {
                    let mut hand = Hand {
                        loader: self,
                        number,
                        store,
                        checkpoints,
                        rng: Prng::seeded(self.seed.wrapping_add(number)),
                        commits,
                        wait_us,
                    };
                    end_with(hand.work());
                });
            }
            if self.looks {
                scope.spawn(|| end_with(self.look(&store)));
            }
            scope.spawn(|| {
                loop {
                    thread::park_timeout(Duration::from_millis(100));
                    let stats = upkeep.stats();
                    if let Some(error) = &stats.last_error
                        && !error.contains("busy")
                    {
                        end_with(Err(format!("the upkeep: {error}").into()));
                    }
                    let line = format!(
                        "progress {} {} {} {} {}",
                        commits.load(Ordering::Relaxed),
                        removed(&stats),
                        stats.passes,
                        stats.longest_batch.as_micros(),
                        wait_us.load(Ordering::Relaxed),
                    );
                    if say(&line).is_err() {
                        std::process::exit(0);
                    }
                }
            });
        });
        Ok(())
    }

    /// Cancels what an earlier life of this loader left unfinished: tasks that
    /// nobody ends are kept, and would grow with every kill.
    fn give_up_abandoned(&self, store: &SqliteStore) -> Result<(), Box<dyn Error>> {
        // What was promised about them is over before they go.
        for thread in 0..self.threads {
            File::create(ack_path(&self.work, &self.name, thread))?;
        }
        let mine = format!("{}-", self.name);
        for status in [TaskStatus::Created, TaskStatus::Running] {
            let mut after = None;
            loop {
                let page = store.tasks(status, after, 1000)?;
                for task in page.items {
                    if task.id.as_str().starts_with(&mine) {
                        let cancelled = SetTaskStatus::new(task.id, TaskStatus::Cancelled);
                        store.commit(cancelled.reason("abandoned").into())?;
                    }
                }
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Backs up and asks the doctor, over and over.
    fn look(&self, store: &SqliteStore) -> Result<(), Box<dyn Error>> {
        let copy = self.work.join(format!("{}-backup", self.name));
        loop {
            store.backup(&copy)?;
            let report = store.doctor()?;
            if let Some(check) = report.refusals().next() {
                return Err(format!("the doctor: {}", check.detail).into());
            }
            store.inspect()?;
            thread::park_timeout(Duration::from_secs(5));
        }
    }
}

/// Rows that the upkeep has removed, of all tables.
fn removed(stats: &UpkeepStats) -> u64 {
    let rows = stats.rows.values().map(|removed| removed.rows);
    stats.checkpoints.rows + rows.sum::<u64>()
}

/// One error ends the process: nothing here may fail.
fn end_with(result: Result<(), Box<dyn Error>>) {
    if let Err(error) = result {
        let _ = say(&format!("error {error:?}"));
        std::process::exit(2);
    }
}

/// One thread that writes.
struct Hand<'l> {
    loader: &'l Loader,
    number: u64,
    store: &'l Arc<SqliteStore>,
    checkpoints: &'l CheckpointManager,
    rng: Prng,
    commits: &'l AtomicU64,
    /// The longest append so far, in microseconds.
    wait_us: &'l AtomicU64,
}

impl Hand<'_> {
    fn work(&mut self) -> Result<(), Box<dyn Error>> {
        let name = &self.loader.name;
        let acks = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(ack_path(&self.loader.work, name, self.number))?;
        let life = self.store.now().unix_micros();
        for generation in 0_u64.. {
            let id = format!("{name}-{}-{life}-{generation}", self.number);
            let task = TaskId::new(id)?;
            self.store.commit(
                Commit::new()
                    .part(NewTask::new(task.clone(), "load"))
                    .part(SetTaskStatus::new(task.clone(), TaskStatus::Running)),
            )?;
            for step in 1..=PER_TASK {
                self.step(&task, step, &acks)?;
                self.commits.fetch_add(1, Ordering::Relaxed);
            }
            let done = SetTaskStatus::new(task, TaskStatus::Succeeded).reason("all steps done");
            self.store.commit(done.into())?;
        }
        Ok(())
    }

    fn step(&mut self, task: &TaskId, step: u64, acks: &File) -> Result<(), Box<dyn Error>> {
        let bytes = match self.rng.between(0, 99) {
            0 => 256 << 10,
            1..=10 => 16 << 10,
            _ => 1 << 10,
        };
        let state = Load {
            step,
            bytes: self.rng.bytes(bytes),
        };
        let mut new =
            NewCheckpoint::new(task.clone(), CheckpointType::IterationEnd).state(&state)?;
        if self.rng.percent(3) {
            let artifact = PathBuf::from(format!("{}-{}.txt", self.loader.name, self.number));
            fs::write(self.loader.work.join(&artifact), format!("{task} {step}"))?;
            new = new.evidence(Pack::all([Evidence::file(&artifact)]));
        }
        let watch = Stopwatch::start();
        let appended = self.checkpoints.append(new)?;
        let waited = u64::try_from(watch.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.wait_us.fetch_max(waited, Ordering::Relaxed);
        let ack = format!("{task} {}", appended.sequence);
        acks.write_all_at(format!("{ack:<ACK_BYTES$}").as_bytes(), 0)?;
        match self.rng.between(0, 29) {
            0 => drop(self.checkpoints.resume(task)?),
            1 => drop(self.store.checkpoints(task, None, 10)?),
            2 => {
                let line = AuditLine::new(task.clone(), "step").reason(step.to_string());
                match self.store.commit(line.into()) {
                    Ok(_) | Err(StorageError::Busy { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            _ => {}
        }
        Ok(())
    }
}

//! Grinds steps in threads, on a store whose files are recorded, while a thread of it
//! tidies up and cuts the log. Nobody kills it: what a power cut would have left at each
//! moment follows from the record.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use agentos_core::{BoxError, Deadline, UpkeepStorage};
use agentos_crash_vfs::{Mark as Word, Recorder, Shim};
use agentos_recovery::{Mode, run_upkeep};
use agentos_store::sqlite::{Config, Durability, SqliteStore};
use serde::{Deserialize, Serialize};

use super::mill::{Marker, Mill};
use super::{BUSY_TIMEOUT, behind, in_threads};
use crate::canary::Canary;
use crate::model::cut::Mark;
use crate::model::mill::{Plan, Step, retention};

/// After so many steps of all threads everything is tidied up.
const STEPS_PER_UPKEEP: u64 = 4;
/// For the other threads to get on.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(1);

/// The role of a miller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Miller {
    /// The directory that is recorded. The database is in it.
    pub(crate) dir: PathBuf,
    /// The database.
    pub(crate) db: PathBuf,
    /// Where artifacts go, in the directory.
    pub(crate) work: PathBuf,
    /// The log of what is done to files.
    pub(crate) log: PathBuf,
    /// What is done.
    pub(crate) plan: Plan,
    /// Whether a power cut may lose the last commits.
    pub(crate) relaxed: bool,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// What is laid over a directory to record it.
pub(super) fn shim(dir: &Path) -> Shim {
    Shim::over(dir)
}

/// Puts the marks of a mill into the log of a recorder.
pub(super) fn marker(recorder: &Recorder) -> Marker {
    let recorder = recorder.marker();
    Box::new(move |mark| {
        let text = mark.text();
        let word = match mark {
            Mark::Begun(_) | Mark::Setup => Word::begun(text),
            Mark::Acknowledged(_) | Mark::SetUp => Word::acknowledged(text),
            _ => Word::note(text),
        };
        recorder.mark(word).map_err(io::Error::other)
    })
}

impl Miller {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let shim = match self.canary {
            Some(Canary::SyncLies) => shim(&self.dir).lying_syncs(),
            _ => shim(&self.dir),
        };
        let recorder = Recorder::start(&self.log, shim)?;
        let durability = match self.relaxed || self.canary == Some(Canary::RelaxedAsFull) {
            true => Durability::Relaxed,
            false => Durability::Full,
        };
        if self.canary == Some(Canary::SyncOff) {
            behind::watch()?;
        }
        let config = Config::at(&self.db)
            .busy_timeout(BUSY_TIMEOUT)
            .ballast_bytes(0)
            .durability(durability);
        let store = SqliteStore::open(config)?;
        if self.canary == Some(Canary::SyncOff) {
            behind::switch_sync_off()?;
        }
        let marker = marker(&recorder);
        let mill = Mill::new(store, &self.work, self.plan, marker, self.canary)
            .map_err(|error| error as Box<dyn Error>)?;
        mill.set_up().map_err(|error| error as Box<dyn Error>)?;
        let done = AtomicU64::new(0);
        let tidier = self.plan.threads;
        in_threads(tidier + 1, |number| {
            let worked = match number == tidier {
                true => self.tidy(&mill, &recorder, &done),
                false => self.grind(&mill, number, &done),
            };
            // The others would wait for it.
            worked.inspect_err(|error| {
                let _ = super::say(&format!("error {error:?}"));
                std::process::exit(2);
            })
        })?;
        mill.store.close();
        drop(mill);
        Ok(recorder.stop()?)
    }

    fn grind(&self, mill: &Mill, thread: u64, done: &AtomicU64) -> Result<(), BoxError> {
        for number in 1..=self.plan.steps {
            mill.grind(Step { thread, number })?;
            done.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn tidy(&self, mill: &Mill, recorder: &Recorder, done: &AtomicU64) -> Result<(), BoxError> {
        let all = self.plan.threads * self.plan.steps;
        let mark = marker(recorder);
        for round in 1..=(all / STEPS_PER_UPKEEP).max(1) {
            let deadline = Deadline::after(PATIENCE);
            while done.load(Ordering::SeqCst) < all.min(round * STEPS_PER_UPKEEP) {
                if deadline.passed() {
                    return Err("the others get on too slowly".into());
                }
                thread::park_timeout(PAUSE);
            }
            mark(Mark::Upkeep)?;
            let report = run_upkeep(mill.store.as_ref(), &retention(), Mode::Apply)?;
            if let Some(failure) = report.failures.into_iter().next() {
                return Err(failure.error.into());
            }
            mill.store.shorten_log()?;
        }
        Ok(())
    }
}

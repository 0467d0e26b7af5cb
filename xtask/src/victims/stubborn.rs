//! A clerk that goes on after errors: it says as what it was refused, reads what is done,
//! and does the rest, at first with the store that it has, then with one opened anew.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentos_store::sqlite::{Config, SqliteStore};
use serde::{Deserialize, Serialize};

use super::refusal::kind_of;
use super::shimmed::{calls, struck};
use super::{Clerk, ack, say};
use crate::canary::Canary;

/// Nobody else writes; so long a read waits for a reader that cannot be opened.
const BUSY: Duration = Duration::from_millis(500);
/// A key whose end could not be written is waited for so long.
const PERMITS: Duration = Duration::from_secs(3);
/// After an error, before it tries again.
const PAUSE: Duration = Duration::from_millis(1);
/// So often it goes on with the same store.
const WITH_THE_SAME: u32 = 2;

/// The role of one that is stubborn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stubborn {
    pub(crate) clerk: Clerk,
    /// How often it tries in all.
    pub(crate) tries: u32,
}

/// What a process has used, as the system counts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    /// Descriptors that are open at the end.
    pub(crate) descriptors: u64,
    /// Address space when it began, in KiB.
    pub(crate) memory_kib: u64,
    /// How often SQLite has called, where its disk misbehaves: by operation.
    pub(crate) calls: BTreeMap<String, u64>,
}

/// What it has told so far.
#[derive(Default)]
struct Told {
    steps: BTreeSet<&'static str>,
    struck: u64,
}

impl Told {
    /// A step is done.
    fn step(&mut self, step: &'static str) -> io::Result<()> {
        self.strikes()?;
        match self.steps.insert(step) {
            true => ack(&step),
            false => Ok(()),
        }
    }

    /// Whether the disk has failed since it said so last.
    fn strikes(&mut self) -> io::Result<()> {
        let struck = struck();
        if self.struck < struck {
            self.struck = struck;
            say(&format!("struck {struck}"))?;
        }
        Ok(())
    }
}

impl Stubborn {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let memory_kib = memory_kib();
        let mut store = None;
        let mut told = Told::default();
        for attempt in 1..=self.tries {
            let Err(error) = self.attempt(&mut store, &mut told) else {
                let used = Used {
                    descriptors: descriptors(),
                    memory_kib,
                    calls: calls(),
                };
                drop(store);
                return Ok(say(&format!("done {}", serde_json::to_string(&used)?))?);
            };
            told.strikes()?;
            say(&format!("refused {} {error}", kind_of(&*error)))?;
            if self.clerk.canary == Some(Canary::HangOnError) {
                thread::park();
            }
            if WITH_THE_SAME < attempt {
                store = None;
            }
            thread::park_timeout(PAUSE);
        }
        Ok(say("gives up")?)
    }

    fn attempt(
        &self,
        open: &mut Option<Arc<SqliteStore>>,
        told: &mut Told,
    ) -> Result<(), Box<dyn Error>> {
        let store = match open {
            Some(store) => store,
            None => {
                let config = Config::at(&self.clerk.db).busy_timeout(BUSY);
                open.insert(Arc::new(SqliteStore::open(config)?))
            }
        };
        self.clerk.work(store, PERMITS, &mut |step| told.step(step))
    }
}

fn descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64)
}

fn memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| {
        let words = line.strip_prefix("VmSize:")?;
        words.split_whitespace().next()?.parse().ok()
    });
    size.unwrap_or(0)
}

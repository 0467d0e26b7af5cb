//! A clerk on a small disk that others fill. It is refused, holds on to its lease
//! meanwhile, tells what can be read, and goes on in the same process once there is room;
//! or dies while there is none.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentos_core::{
    ClaimRequest, Commit, CompleteWork, Fence, LeaseStorage, NewWorkItem, Storage, SweepRequest,
    UpkeepStorage, WorkFilter, Worker, WorkerId,
};
use agentos_recovery::give_up_earlier_starts;
use agentos_store::sqlite::{Config, SqliteStore};
use rustix::fs::statvfs;
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use super::clerk::{self, steps_done};
use super::refusal::{kind, kind_of};
use super::{BUSY_TIMEOUT, Clerk, ack, say};
use crate::canary::Canary;

/// The room that is kept for a full disk.
pub(crate) const TENANTS_BALLAST_BYTES: u64 = 256 << 10;
/// How often it renews its lease while the disk is full.
pub(crate) const RENEWALS: u64 = 20;
/// Goes on so often once there is room; once is enough.
const TRIES: u32 = 3;
/// The work that it holds meanwhile.
const HELD: &str = "held";
const LEASE: Duration = Duration::from_secs(600);
const PAGE: usize = 4096;
/// Filled in larger pieces as long as there is more than that.
const CHUNK: usize = 64 * PAGE;

/// When others fill the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Filled {
    /// Before the store is made.
    BeforeOpening,
    /// Before the work begins.
    BeforeWork,
    /// Before this process was started.
    Earlier,
    /// Never.
    Never,
}

/// The role of a tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tenant {
    pub(crate) clerk: Clerk,
    /// The number of the round, for its words.
    pub(crate) round: u64,
    /// The small disk.
    pub(crate) disk: PathBuf,
    pub(crate) filled: Filled,
    /// So many bytes are left then.
    pub(crate) left: u64,
    /// Whether it is killed while the disk is full.
    pub(crate) dies: bool,
}

/// What holds while the disk is full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WhileFull {
    /// Steps that can be read.
    pub(crate) steps: Option<usize>,
    /// How often the lease was renewed; none when nothing is held.
    pub(crate) renewed: Option<u64>,
    /// As what sweeping, and shortening the log, were refused.
    pub(crate) refused: Vec<String>,
    /// What is kept of the room for a full disk.
    pub(crate) ballast_bytes: u64,
    /// What the integrity check finds.
    pub(crate) problems: Vec<String>,
}

impl Tenant {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        say(&format!("round {}", self.round))?;
        fs::create_dir_all(self.clerk.db.parent().unwrap_or(Path::new("/")))?;
        let free = free(&self.disk)?;
        if self.filled == Filled::BeforeOpening {
            self.fill()?;
        }
        let store = match self.open() {
            Ok(store) => store,
            Err(error) => {
                say(&format!("refused {} opening: {error}", kind(&error)))?;
                self.make_room()?;
                self.open()?
            }
        };
        let held = match self.filled {
            Filled::BeforeWork | Filled::Never => hold(&store)?,
            // The disk may be full.
            Filled::BeforeOpening | Filled::Earlier => None,
        };
        if self.filled == Filled::BeforeWork {
            self.fill()?;
        }
        let mut known = BTreeSet::new();
        let mut told = |step| match known.insert(step) {
            true => ack(&step),
            false => Ok(()),
        };
        let mut tries = 0;
        while let Err(error) = self.clerk.work(&store, clerk::LEASE, &mut told) {
            say(&format!("refused {} {error}", kind_of(&*error)))?;
            if self.clerk.canary == Some(Canary::HangOnError) {
                std::thread::park();
            }
            if !self.is_full() {
                tries += 1;
                if tries == TRIES {
                    return Err(error);
                }
                continue;
            }
            let full = self.while_full(&store, held);
            say(&format!("full {}", serde_json::to_string(&full)?))?;
            if self.dies {
                kill_process(getpid(), Signal::KILL)?;
            }
            self.make_room()?;
            say("room")?;
        }
        // Where nothing was refused there is no room yet.
        self.make_room()?;
        // One that did not die has left nothing to the next.
        if let Some(fence) = held.map_or_else(|| hold(&store), |held| Ok(Some(held)))? {
            let complete = CompleteWork {
                fence,
                result: None,
            };
            store.commit(Commit::under(fence).part(complete))?;
        }
        let ballast = store.inspect()?.ballast_bytes;
        store.close();
        let used = free.saturating_sub(self::free(&self.disk)?);
        say(&format!("done {ballast} {used}"))?;
        Ok(())
    }

    fn open(&self) -> Result<Arc<SqliteStore>, agentos_core::StorageError> {
        let ballast = match self.clerk.canary {
            Some(Canary::NoBallast) => 0,
            _ => TENANTS_BALLAST_BYTES,
        };
        let config = Config::at(&self.clerk.db)
            .busy_timeout(BUSY_TIMEOUT)
            .ballast_bytes(ballast);
        SqliteStore::open(config).map(Arc::new)
    }

    fn while_full(&self, store: &SqliteStore, held: Option<Fence>) -> WhileFull {
        let mut refused = Vec::new();
        // First: a shorter log may make room enough.
        let ballast_bytes = store
            .inspect()
            .map_or(u64::MAX, |found| found.ballast_bytes);
        let renewed = held.map(|fence| {
            let renew = || match store.renew(&[fence], LEASE) {
                Ok(answers) => answers.into_iter().all(|answer| answer.is_ok()),
                Err(_) => false,
            };
            (0..RENEWALS).take_while(|_| renew()).count() as u64
        });
        if let Err(error) = store.sweep(&SweepRequest::default()) {
            refused.push(format!("sweep: {}", kind(&error)));
        }
        if let Err(error) = store.shorten_log() {
            refused.push(format!("shorten_log: {}", kind(&error)));
        }
        WhileFull {
            steps: steps_done(store).ok().map(|steps| steps.len()),
            renewed,
            refused,
            ballast_bytes,
            problems: match store.check_integrity() {
                Ok(found) => found.problems,
                Err(error) => vec![error.to_string()],
            },
        }
    }

    fn filler(&self) -> PathBuf {
        self.disk.join("filler")
    }

    fn is_full(&self) -> bool {
        self.filler().exists()
    }

    /// Takes all room but what is left.
    fn fill(&self) -> Result<(), Box<dyn Error>> {
        let mut filler = File::create(self.filler())?;
        let bytes = vec![1; CHUNK];
        loop {
            let room = free(&self.disk)?.saturating_sub(self.left);
            let piece = usize::try_from(room)?.min(CHUNK) / PAGE * PAGE;
            if piece == 0 {
                return Ok(());
            }
            filler.write_all(&bytes[..piece])?;
        }
    }

    fn make_room(&self) -> std::io::Result<()> {
        match self.is_full() {
            true => fs::remove_file(self.filler()),
            false => Ok(()),
        }
    }
}

/// Enqueues an item, unless it is there, and claims it, also from an earlier start.
fn hold(store: &SqliteStore) -> Result<Option<Fence>, Box<dyn Error>> {
    let me = Worker::start(WorkerId::new("tenant")?);
    store.commit(NewWorkItem::new(HELD).unique_key(HELD).into())?;
    give_up_earlier_starts(store, &me)?;
    let leases = store.claim(&ClaimRequest {
        filter: WorkFilter::types([HELD]),
        lease: LEASE,
        ..ClaimRequest::new(me)
    })?;
    Ok(leases.first().map(Fence::from))
}

fn free(disk: &Path) -> std::io::Result<u64> {
    let found = statvfs(disk)?;
    Ok(found.f_bavail * found.f_frsize)
}

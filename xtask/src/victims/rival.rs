//! One of several processes that claim, renew, sweep and complete the same items, by
//! a plan that follows from its seed.
//!
//! Each lease that it is given has a fate: so many renewals, some in good time and
//! some as near to the deadline as it can, then it is left to run out, or the item is
//! completed. Its clocks may jump on the way. It tells of all that it does with
//! leases, with moments of a clock that does not jump.

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentos_chaos::Prng;
use agentos_core::{
    AppendCheckpoint, CheckpointType, Clock, Codec, Commit, Lease, RetryRule, Snapshot, Storage,
    StorageError, SweepRequest, WorkFilter, Worker, WorkerId,
};
use agentos_store::sqlite::{Config, SqliteStore};
use agentos_worker_pool::{LeaseConfig, LeaseManager};
use serde::{Deserialize, Serialize};

use super::jumps::{JumpingClock, WallLeases, true_now_us};
use super::recorded::Recorded;
use super::{BUSY_TIMEOUT, say};
use crate::broken_store;
use crate::canary::Canary;
use crate::model::Texts;

/// Leases that it holds at a time, at most.
const HELD_MAX: usize = 6;
/// Items that it asks for at once, at most.
const CLAIM_MAX: u64 = 3;
/// Renewals before a lease's end, at most; fewer where few leases last that long.
const RENEWALS_MAX: u64 = 3;
const RENEWALS_MAX_UNDER_JUMPS: u64 = 1;
/// How near to the deadline a late renewal comes, before or after it.
const CLOSE_US: i64 = 3_000;
/// Milliseconds of looks in a row that may bring nothing before it gives up: whatever is
/// left is not for its clocks. A look lasts a nap or more when there is nothing to do.
const FRUITLESS_MAX_MS: u64 = 400;
/// How far clocks jump.
const JUMP_MAX_US: i64 = 6 * HOUR_US;
/// By so much every deadline clock is ahead that may jump, so that none falls below
/// zero on a machine that was booted an hour ago.
pub(crate) const BOOT_BASE_US: i64 = 24 * HOUR_US;
/// An hour in microseconds.
pub(crate) const HOUR_US: i64 = 3_600_000_000;

/// The role of a rival.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rival {
    /// The database.
    pub(crate) db: PathBuf,
    /// A file whose lock it waits for before it begins.
    pub(crate) gate: PathBuf,
    /// Who it is.
    pub(crate) name: String,
    /// What its plan follows from.
    pub(crate) seed: u64,
    /// How many leases it takes before it ends.
    pub(crate) leases: u64,
    /// How long each lasts, in milliseconds.
    pub(crate) lease_ms: u64,
    /// Longest sleep when there is nothing to do, in milliseconds.
    pub(crate) nap_ms: u64,
    /// How many of 100 leases end with a completion.
    pub(crate) completes: u64,
    /// Which of its clocks jump.
    pub(crate) jumps: Jumps,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// Which clocks of a process jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Jumps {
    /// None.
    None,
    /// The wall clock, by hours in both directions.
    Wall,
    /// The deadline clock, by as much as a lease or by hours, in both directions.
    Deadlines,
}

impl Jumps {
    /// Of 100 steps, how many begin with a jump.
    fn percent(self) -> u64 {
        match self {
            Jumps::None => 0,
            Jumps::Wall => 4,
            Jumps::Deadlines => 2,
        }
    }

    fn renewals_max(self) -> u64 {
        match self {
            Jumps::None | Jumps::Wall => RENEWALS_MAX,
            Jumps::Deadlines => RENEWALS_MAX_UNDER_JUMPS,
        }
    }
}

/// A lease, and what shall become of it.
struct Fate {
    lease: Lease,
    renewals: u64,
    completes: bool,
    /// When something is to be done about it, by the clock that does not jump.
    next_us: i64,
}

struct Life<'r> {
    rival: &'r Rival,
    rng: Prng,
    clock: Arc<JumpingClock>,
    storage: Arc<dyn Storage>,
    leases: LeaseManager,
    fates: Vec<Fate>,
    taken: u64,
    fruitless: u64,
}

impl Rival {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let clock = Arc::new(JumpingClock::default());
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let config = if self.canary == Some(Canary::LeasesByWallClock) {
            config.clock(WallLeases(Arc::clone(&clock)))
        } else {
            config.clock(Arc::clone(&clock))
        };
        let store = Arc::new(SqliteStore::open(config)?);
        let storage = Recorded::over(broken_store::over(Arc::clone(&store), self.canary));
        let config = LeaseConfig {
            lease: Duration::from_millis(self.lease_ms),
            after_loss: RetryRule::AT_ONCE,
        };
        let worker = Worker::start(WorkerId::new(&self.name)?);
        let process = format!("process {worker}");
        let leases = LeaseManager::new(Arc::clone(&storage), worker, config)?;
        let mut life = Life {
            rival: self,
            rng: Prng::seeded(self.seed),
            clock,
            storage,
            leases,
            fates: Vec::new(),
            taken: 0,
            fruitless: 0,
        };
        if self.jumps == Jumps::Deadlines {
            life.clock.set_boot(BOOT_BASE_US);
        }
        say("ready")?;
        File::open(&self.gate)?.lock_shared()?;
        say(&process)?;
        while life.goes_on() {
            life.step()?;
        }
        say(&format!("ack total {}", store.counters().recovered))?;
        Ok(())
    }
}

impl Life<'_> {
    fn goes_on(&self) -> bool {
        (self.taken < self.rival.leases && self.fruitless * self.rival.nap_ms < FRUITLESS_MAX_MS)
            || !self.fates.is_empty()
    }

    fn step(&mut self) -> Result<(), Box<dyn Error>> {
        if self.rng.percent(self.rival.jumps.percent()) {
            self.jump()?;
        }
        let now = true_now_us();
        if let Some(place) = self.fates.iter().position(|fate| fate.next_us <= now) {
            let fate = self.fates.swap_remove(place);
            return self.act(fate);
        }
        let wants = self.taken < self.rival.leases && self.fates.len() < HELD_MAX;
        let found = if wants && self.rng.percent(50) {
            self.claim()?
        } else {
            self.sweep()?
        };
        if found {
            self.fruitless = 0;
            return Ok(());
        }
        self.fruitless += 1;
        let next = self.fates.iter().map(|fate| fate.next_us).min();
        let nap = Duration::from_millis(self.rival.nap_ms);
        let left = next.map_or(nap, |next| {
            Duration::from_micros(u64::try_from(next - true_now_us()).unwrap_or(0))
        });
        thread::park_timeout(left.min(nap));
        Ok(())
    }

    /// A clock jumps; half of the times it goes back to what it should be.
    fn jump(&mut self) -> Result<(), Box<dyn Error>> {
        let hours = |rng: &mut Prng| signed(rng, JUMP_MAX_US);
        match self.rival.jumps {
            Jumps::None => {}
            Jumps::Wall => {
                let ahead = if self.rng.percent(50) {
                    0
                } else {
                    hours(&mut self.rng)
                };
                self.clock.set_wall(ahead);
                say(&format!("wall {ahead}"))?;
            }
            Jumps::Deadlines => {
                let lease_us = i64::try_from(self.rival.lease_ms * 1000)?;
                // Who is ahead takes every lease away: mostly nobody is.
                let ahead = match self.rng.between(0, 7) {
                    0 => hours(&mut self.rng),
                    1 | 2 => signed(&mut self.rng, lease_us),
                    _ => 0,
                };
                self.clock.set_boot(BOOT_BASE_US + ahead);
                say(&format!("boot {ahead}"))?;
            }
        }
        Ok(())
    }

    fn claim(&mut self) -> Result<bool, Box<dyn Error>> {
        let most = HELD_MAX - self.fates.len();
        let left = self.rival.leases - self.taken;
        let items = self.rng.between(1, CLAIM_MAX.min(most as u64).min(left));
        let (now, before) = (true_now_us(), self.clock.wall());
        let claimed = self
            .leases
            .claim_up_to(&WorkFilter::any(), u32::try_from(items)?)?;
        let after = self.clock.wall();
        let found = !claimed.is_empty();
        for lease in claimed {
            let lease_us = i64::try_from(lease.duration.as_micros())?;
            let texts = Texts {
                before: before.unix_micros(),
                after: after.unix_micros(),
                acquired: lease.acquired_at.unix_micros(),
                expires: lease.expires_at.unix_micros(),
                lease_us,
                token: lease.fence.token.get(),
                due: std::str::from_utf8(&lease.payload)?.parse()?,
            };
            say(&format!("ack {texts}"))?;
            let mut fate = Fate {
                lease,
                renewals: self.rng.between(0, self.rival.jumps.renewals_max()),
                completes: self.rng.percent(self.rival.completes),
                next_us: 0,
            };
            fate.next_us = self.next_moment(&fate, now + lease_us);
            self.fates.push(fate);
            self.taken += 1;
        }
        Ok(found)
    }

    /// When something shall be done about a lease that runs out at `deadline_us`.
    fn next_moment(&mut self, fate: &Fate, deadline_us: i64) -> i64 {
        let lease_us = i64::try_from(self.rival.lease_ms * 1000).unwrap_or(i64::MAX);
        if fate.renewals == 0 && !fate.completes {
            // It is given up at once.
            0
        } else if self.rng.percent(50) {
            deadline_us + signed(&mut self.rng, CLOSE_US)
        } else {
            let percent = i64::try_from(self.rng.between(30, 90)).unwrap_or(50);
            deadline_us - lease_us * percent / 100
        }
    }

    /// Does what is due for a lease; it is held on unless that was its end.
    fn act(&mut self, mut fate: Fate) -> Result<(), Box<dyn Error>> {
        self.fruitless = 0;
        if fate.renewals > 0 {
            fate.renewals -= 1;
            let now = true_now_us();
            if is_held(self.leases.renew(&mut fate.lease))? {
                let lease_us = i64::try_from(fate.lease.duration.as_micros())?;
                fate.next_us = self.next_moment(&fate, now + lease_us);
                self.fates.push(fate);
            }
        } else if fate.completes {
            is_held(self.complete(&fate.lease))?;
        }
        Ok(())
    }

    /// A checkpoint and the completion, in one commit.
    fn complete(&self, lease: &Lease) -> Result<(), StorageError> {
        let result = format!("{} by {}", lease.fence.token, self.rival.name).into_bytes();
        let mut commit = Commit::under(lease);
        if let Some(task) = lease.task.clone() {
            commit = commit.part(AppendCheckpoint {
                snapshot: Some(Snapshot::new(Codec::Raw, 1, result.clone())),
                ..AppendCheckpoint::new(task, CheckpointType::IterationEnd)
            });
        }
        let commit = commit.part(self.leases.prepare_complete(lease, Some(result)));
        self.storage.commit(commit).map(drop)
    }

    fn sweep(&mut self) -> Result<bool, Box<dyn Error>> {
        let request = SweepRequest {
            rows: u32::try_from(self.rng.between(1, 16))?,
            after_loss: RetryRule::AT_ONCE,
            ..SweepRequest::default()
        };
        let swept = self.storage.sweep(&request)?;
        if let Some((item, error)) = swept.failed.into_iter().next() {
            return Err(format!("item {item} could not be recovered: {error}").into());
        }
        Ok(!swept.recovered.is_empty())
    }
}

/// Whether the lease was held; that it is lost is no error.
fn is_held(answer: Result<(), StorageError>) -> Result<bool, StorageError> {
    match answer {
        Ok(()) => Ok(true),
        Err(StorageError::StaleLease(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A number from `-most` to `most`.
fn signed(rng: &mut Prng, most: i64) -> i64 {
    let width = u64::try_from(2 * most).unwrap_or(0);
    i64::try_from(rng.between(0, width)).unwrap_or(most) - most
}

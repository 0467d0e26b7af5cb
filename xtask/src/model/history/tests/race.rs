//! Threads race for items of a real store, lose their leases to a clock that is
//! moved, and go on as if nothing had happened. The history is accepted; that of
//! the same race on a broken store is not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use agentos_core::{
    AppendCheckpoint, CheckpointType, ClaimRequest, Codec, Commit, CompleteWork, FailWork, Fence,
    ManualClock, NewTask, NewWorkItem, ReleaseWork, Retry, RetryRule, Snapshot, Storage,
    StorageError, TaskId, Timestamp, WorkItemId, Worker, WorkerId,
};
use agentos_store::sqlite::{Config, Durability};
use fastrand::Rng;

use super::super::{Call, FoundItem, History, Moment, Operation, Reply, Rule, judge_history};
use super::{accepted, rules};
use crate::broken_store;
use crate::canary::Canary;

const ITEMS: usize = 6;
const THREADS: usize = 4;
const CALLS: usize = 150;
const LEASE: Duration = Duration::from_secs(1);
/// More than there can be.
const MANY: u32 = 1000;

fn task(item: WorkItemId) -> TaskId {
    TaskId::new(format!("task of {item}")).unwrap()
}

/// What all threads share.
struct Arena {
    store: Arc<dyn Storage>,
    clock: Arc<ManualClock>,
    items: Vec<WorkItemId>,
    /// The clock of the history: each look at it is a moment of its own.
    moments: AtomicI64,
}

impl Arena {
    fn now(&self) -> Moment {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    fn enqueue(&mut self) {
        for number in 1..=ITEMS {
            let item = WorkItemId::new(number as i64).unwrap();
            let new = NewWorkItem::new("race").task(task(item)).max_attempts(100);
            let commit = Commit::new().part(NewTask::new(task(item), "race"));
            let receipt = self.store.commit(commit.part(new)).unwrap();
            assert_eq!(receipt.enqueued().next(), Some((item, false)));
            self.items.push(item);
        }
    }

    fn found(&self, item: WorkItemId) -> FoundItem {
        let task = task(item);
        let mut written = Vec::new();
        for summary in self.store.checkpoints(&task, None, MANY).unwrap() {
            let found = self.store.checkpoint(&task, summary.sequence).unwrap();
            if let Some(state) = found.unwrap().snapshot {
                written.push(String::from_utf8(state.bytes().to_vec()).unwrap());
            }
        }
        written.reverse();
        let stored = self.store.work_item(item).unwrap().unwrap();
        FoundItem::new(&stored, &self.store.attempts(item).unwrap(), written)
    }
}

/// One thread: a worker that is started again and again.
struct Racer<'a> {
    arena: &'a Arena,
    random: Rng,
    worker: Worker,
    believed: Vec<Fence>,
    operations: Vec<Operation>,
    deaths: BTreeMap<String, Moment>,
}

impl Racer<'_> {
    fn run(&mut self) {
        for number in 0..CALLS {
            match self.random.u32(0..50) {
                0 => self.start_again(),
                1..5 => self.arena.clock.advance(LEASE * 2 / 3),
                _ => {}
            }
            let call = self.call(number);
            let began = self.arena.now();
            let reply = self.take(&call);
            let ended = self.arena.now();
            match (&reply, call.fence()) {
                (Reply::Claimed(given), _) => self.believed.extend(given),
                // Half of them do not heed a refusal.
                (Reply::Stale, Some(fence)) if self.random.bool() => {
                    self.believed.retain(|other| *other != fence);
                }
                _ => {}
            }
            self.operations.push(Operation {
                process: self.worker.to_string(),
                call,
                began,
                reply: Some((ended, reply)),
            });
        }
    }

    fn start_again(&mut self) {
        self.deaths
            .insert(self.worker.to_string(), self.arena.now());
        self.worker = Worker::start(self.worker.id.clone());
        self.believed.clear();
    }

    fn call(&mut self, number: usize) -> Call {
        let Some(&fence) = self.random.choice(&self.believed) else {
            return Call::Claim;
        };
        let value = format!("{number} of {}", self.worker);
        match self.random.u32(0..40) {
            0..20 => Call::Write(fence, value),
            20..28 => Call::Renew(fence),
            28..36 => Call::Claim,
            36 => Call::Complete(fence, value),
            37 => Call::Fail(fence),
            _ => Call::Release(fence),
        }
    }

    fn take(&self, call: &Call) -> Reply {
        let store = &self.arena.store;
        let done = match call {
            Call::Claim => {
                let claimed = store.claim(&ClaimRequest {
                    lease: LEASE,
                    after_loss: RetryRule::AT_ONCE,
                    ..ClaimRequest::new(self.worker.clone())
                });
                let given = claimed.unwrap().iter().map(|lease| lease.fence).collect();
                return Reply::Claimed(given);
            }
            Call::Renew(fence) => {
                let renewed = store.renew(&[*fence], LEASE).unwrap().remove(0);
                renewed.map(drop).map_err(StorageError::from)
            }
            Call::Write(fence, value) => {
                let snapshot = Snapshot::new(Codec::Raw, 1, value.clone().into_bytes());
                let append = AppendCheckpoint {
                    snapshot: Some(snapshot),
                    ..AppendCheckpoint::new(task(fence.item), CheckpointType::IterationEnd)
                };
                store.commit(Commit::under(fence).part(append)).map(drop)
            }
            Call::Complete(fence, result) => {
                let (fence, result) = (*fence, Some(result.clone().into_bytes()));
                let complete = CompleteWork { fence, result };
                store.commit(Commit::under(fence).part(complete)).map(drop)
            }
            Call::Fail(fence) => store
                .commit(Commit::new().part(FailWork {
                    fence: *fence,
                    reason: "no".into(),
                    retry: Retry::Backoff(RetryRule::AT_ONCE),
                }))
                .map(drop),
            Call::Release(fence) => store
                .commit(Commit::new().part(ReleaseWork {
                    fence: *fence,
                    reason: None,
                }))
                .map(drop),
            Call::Lose(_) => Ok(()),
        };
        match done {
            Ok(()) => Reply::Done,
            Err(StorageError::StaleLease(_)) => Reply::Stale,
            Err(error) => panic!("{call:?}: {error:?}"),
        }
    }
}

/// Runs the race and tells what was seen of it. Two threads share a name.
fn race(canary: Option<Canary>, seed: u64) -> History {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix_micros(0)));
    let config = Config::at(directory.path().join("race.db"))
        .durability(Durability::Relaxed)
        .busy_timeout(Duration::from_secs(30))
        .clock(Arc::clone(&clock));
    let mut arena = Arena {
        store: broken_store::open(config, canary).unwrap(),
        clock,
        items: Vec::new(),
        moments: AtomicI64::new(0),
    };
    arena.enqueue();
    let arena = &arena;
    let racers: Vec<Racer<'_>> = thread::scope(|scope| {
        let racers = (0..THREADS).map(|number| {
            let name = format!("worker {}", number / 2);
            let mut racer = Racer {
                arena,
                random: Rng::with_seed(seed.wrapping_add(number as u64)),
                worker: Worker::start(WorkerId::new(name).unwrap()),
                believed: Vec::new(),
                operations: Vec::new(),
                deaths: BTreeMap::new(),
            };
            scope.spawn(move || {
                racer.run();
                racer
            })
        });
        let racers: Vec<_> = racers.collect();
        racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .collect()
    });
    let mut history = History::default();
    for racer in racers {
        history.operations.extend(racer.operations);
        history.deaths.extend(racer.deaths);
    }
    let items = arena.items.iter();
    history.items = items.map(|item| (*item, arena.found(*item))).collect();
    history
}

#[test]
fn a_race_on_the_sound_store_is_accepted() {
    let mut refusals = 0;
    for seed in 0..4 {
        let history = race(None, seed * 100);
        accepted(&history);
        let replies = history.operations.iter().map(|one| &one.reply);
        refusals += replies
            .filter(|one| matches!(one, Some((_, Reply::Stale))))
            .count();
    }
    assert!(40 < refusals, "only {refusals} refusals");
}

/// Goal: the checker finds what each missing promise leads to.
/// Method: the same race, on a store without it.
#[test]
fn a_race_on_a_broken_store_is_rejected() {
    for (canary, rule) in [
        (Canary::NoFence, Rule::Fenced),
        (Canary::NoFence, Rule::WritesStay),
        (Canary::RenewById, Rule::Fenced),
        (Canary::FenceByName, Rule::Fenced),
        (Canary::TokenReset, Rule::TokensGrow),
        (Canary::ForgetHistory, Rule::AttemptRows),
    ] {
        let history = race(Some(canary), 7);
        let found = rules(&history);
        let first = judge_history(&history).into_iter().next();
        assert!(found.contains(&rule), "{canary:?}: {found:?}, {first:?}");
    }
}

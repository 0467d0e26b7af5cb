//! Histories of a sound store in memory: processes whose calls overlap, take
//! effect at one moment in between, are not answered now and then, and who die.

use std::collections::BTreeMap;

use agentos_core::{AttemptOutcome, Fence, WorkItemId, WorkItemStatus};
use fastrand::Rng;

use super::super::{Call, FoundAttempt, FoundItem, History, Moment, Operation, Reply};
use super::{item, token};

const ITEMS: i64 = 3;
const PROCESSES: usize = 3;
const STEPS: Moment = 400;

struct Process {
    name: String,
    believed: Vec<Fence>,
    /// Where its operation is that has not ended, and its answer once it took
    /// effect.
    open: Option<(usize, Option<Reply>)>,
}

struct Simulation {
    random: Rng,
    now: Moment,
    history: History,
    processes: Vec<Process>,
    starts: usize,
    values: usize,
}

/// A sound history.
pub(super) fn history(seed: u64) -> History {
    let pending = || FoundItem {
        status: WorkItemStatus::Pending,
        newest: None,
        result: None,
        attempts: Vec::new(),
        written: Vec::new(),
    };
    let items: BTreeMap<WorkItemId, FoundItem> = (1..=ITEMS)
        .map(|number| (item(number), pending()))
        .collect();
    let mut simulation = Simulation {
        random: Rng::with_seed(seed),
        now: 0,
        history: History {
            items,
            ..History::default()
        },
        processes: Vec::new(),
        starts: 0,
        values: 0,
    };
    for _ in 0..PROCESSES {
        let process = simulation.start();
        simulation.processes.push(process);
    }
    for now in 0..STEPS {
        simulation.now = now;
        simulation.step();
    }
    simulation.history
}

impl Simulation {
    fn start(&mut self) -> Process {
        self.starts += 1;
        Process {
            name: format!("process {}", self.starts),
            believed: Vec::new(),
            open: None,
        }
    }

    fn step(&mut self) {
        match self.random.u32(0..60) {
            0 => self.kill(),
            1..4 => self.sweep(),
            4 => self.operate(),
            _ => {
                let place = self.random.usize(0..self.processes.len());
                match self.processes[place].open.take() {
                    None => self.begin(place),
                    Some((at, None)) => {
                        let reply = self.take_effect(place, at);
                        self.processes[place].open = Some((at, Some(reply)));
                    }
                    Some((at, Some(reply))) => self.end(place, at, reply),
                }
            }
        }
    }

    /// The process dies, whatever it was doing, and another one starts.
    fn kill(&mut self) {
        let place = self.random.usize(0..self.processes.len());
        let name = self.processes[place].name.clone();
        self.history.deaths.insert(name, self.now);
        self.processes[place] = self.start();
    }

    fn sweep(&mut self) {
        let at = item(self.random.i64(1..=ITEMS));
        let requeued = if self.random.u32(0..10) == 0 {
            WorkItemStatus::Failed
        } else {
            WorkItemStatus::Pending
        };
        let it = self.found(at);
        if it.status == WorkItemStatus::InProgress {
            close(it, requeued, AttemptOutcome::Expired);
        }
    }

    /// An operator requeues or cancels.
    fn operate(&mut self) {
        let at = item(self.random.i64(1..=ITEMS));
        let cancels = self.random.u32(0..4) == 0;
        let it = self.found(at);
        match it.status {
            WorkItemStatus::Failed => it.status = WorkItemStatus::Pending,
            WorkItemStatus::Pending if cancels => it.status = WorkItemStatus::Cancelled,
            WorkItemStatus::InProgress if cancels => {
                close(it, WorkItemStatus::Cancelled, AttemptOutcome::Cancelled);
            }
            _ => {}
        }
    }

    fn begin(&mut self, place: usize) {
        let call = self.call(place);
        let process = &mut self.processes[place];
        process.open = Some((self.history.operations.len(), None));
        self.history.operations.push(Operation {
            process: process.name.clone(),
            call,
            began: self.now,
            reply: None,
        });
    }

    fn call(&mut self, place: usize) -> Call {
        let believed = self.processes[place].believed.clone();
        let Some(&fence) = self.random.choice(&believed) else {
            return Call::Claim;
        };
        self.values += 1;
        let value = format!("value {}", self.values);
        match self.random.u32(0..20) {
            0..6 => Call::Write(fence, value),
            6..11 => Call::Renew(fence),
            11..15 => Call::Claim,
            15 => Call::Complete(fence, value),
            16 => Call::Fail(fence),
            17 => Call::Release(fence),
            _ => Call::Lose(fence),
        }
    }

    fn found(&mut self, at: WorkItemId) -> &mut FoundItem {
        self.history.items.get_mut(&at).expect("an item")
    }

    fn take_effect(&mut self, place: usize, at: usize) -> Reply {
        if self.random.u32(0..30) == 0 {
            return Reply::Refused;
        }
        let call = self.history.operations[at].call.clone();
        let Some(fence) = call.fence() else {
            return self.claim(place);
        };
        let it = self.found(fence.item);
        let held = it.status == WorkItemStatus::InProgress && it.newest == Some(fence.token);
        if matches!(call, Call::Lose(_)) {
            return Reply::Done;
        }
        if !held {
            return Reply::Stale;
        }
        match call {
            Call::Write(_, value) => it.written.push(value),
            Call::Complete(_, result) => {
                it.result = Some(result);
                close(it, WorkItemStatus::Succeeded, AttemptOutcome::Succeeded);
            }
            Call::Fail(_) => close(it, WorkItemStatus::Pending, AttemptOutcome::Failed),
            Call::Release(_) => close(it, WorkItemStatus::Pending, AttemptOutcome::Released),
            Call::Claim | Call::Renew(_) | Call::Lose(_) => {}
        }
        Reply::Done
    }

    fn claim(&mut self, place: usize) -> Reply {
        let process = self.processes[place].name.clone();
        let mut given = Vec::new();
        for number in 1..=self.random.i64(1..=ITEMS) {
            let it = self.found(item(number));
            if it.status != WorkItemStatus::Pending {
                continue;
            }
            let newest = token(it.newest.map_or(0, |newest| newest.get()) + 1);
            it.status = WorkItemStatus::InProgress;
            it.newest = Some(newest);
            it.attempts.push(FoundAttempt {
                number: newest,
                process: process.clone(),
                outcome: None,
            });
            given.push(Fence {
                item: item(number),
                token: newest,
            });
        }
        Reply::Claimed(given)
    }

    /// The answer comes, or does not. Who is refused does not always believe it.
    fn end(&mut self, place: usize, at: usize, reply: Reply) {
        if self.random.u32(0..20) == 0 {
            return;
        }
        let forgets = self.random.bool();
        let operation = &mut self.history.operations[at];
        let believed = &mut self.processes[place].believed;
        match (&reply, operation.call.fence()) {
            (Reply::Claimed(given), _) => believed.extend(given),
            (Reply::Stale, Some(fence)) if forgets => believed.retain(|other| *other != fence),
            _ => {}
        }
        operation.reply = Some((self.now, reply));
    }
}

fn close(it: &mut FoundItem, status: WorkItemStatus, outcome: AttemptOutcome) {
    it.status = status;
    let attempt = it.attempts.last_mut().expect("the attempt that ends");
    attempt.outcome = Some(outcome);
}

//! The real store, taking the model's steps through the port, and what can be
//! read of it afterwards. It can be broken on purpose: then it is the product
//! that changes, and the comparison stays as it is.

use std::sync::Arc;
use std::time::Duration;

use agentos_core::{
    Attempt, CancelWork, ClaimRequest, Commit, CompleteWork, FailWork, Fence, Holder, Incarnation,
    LeaseStorage, Lost, ManualClock, NewWorkItem, Next, Outlook, Part, PartOutcome, ReleaseWork,
    Renewed, RequeueWork, StaleLease, Storage, StorageError, SweepRequest, WorkFilter,
    WorkItemStatus, Worker, WorkerId,
};
use agentos_tests::{Open, append, new_task, sqlite_with_clock};
use rusqlite::Connection;

use crate::model::{Action, Answer, Fault, GONE, Held, Item, Micros, Rules, Stale, State, Who};
use crate::step::{fencing_token, item_id};

/// More than any history has.
const MANY: u32 = 1000;

pub(crate) struct Product {
    store: Open,
    clock: Arc<ManualClock>,
    rules: Rules,
}

impl Product {
    /// A fresh store with these items, each of a type and a task of its own.
    pub(crate) fn with(items: &[Item], rules: &Rules) -> Product {
        let (store, clock) = sqlite_with_clock();
        for (at, item) in items.iter().enumerate() {
            let new = NewWorkItem::new(work_type(at))
                .task(agentos_tests::task_id(&task(at)))
                .priority(item.priority)
                .max_attempts(item.max_attempts)
                .delay(micros(item.wait));
            let commit = Commit::new().part(new_task(&task(at))).part(new);
            let receipt = store.commit(commit).unwrap();
            let enqueued: Vec<_> = receipt.enqueued().collect();
            assert_eq!(enqueued, [(item_id(at), false)]);
        }
        let product = Product {
            store,
            clock,
            rules: rules.clone(),
        };
        product.break_schema();
        product
    }

    /// Faults that the statements do not have, done by triggers.
    fn break_schema(&self) {
        let sql = match self.rules.fault {
            Fault::TokenReset => {
                "DROP TRIGGER work_items_token_grows;
                 CREATE TRIGGER broken AFTER UPDATE OF losses ON work_items
                 WHEN OLD.losses < NEW.losses
                 BEGIN
                     DELETE FROM work_attempts WHERE work_item_id = NEW.work_item_id;
                     UPDATE work_items SET lease_token = 0
                     WHERE work_item_id = NEW.work_item_id;
                 END"
            }
            Fault::LossIsFree => {
                "CREATE TRIGGER broken AFTER UPDATE OF losses ON work_items
                 WHEN OLD.losses < NEW.losses
                 BEGIN
                     UPDATE work_items SET attempts = attempts - 1
                     WHERE work_item_id = NEW.work_item_id;
                 END"
            }
            _ => return,
        };
        let raw = Connection::open(self.store.path()).unwrap();
        raw.execute_batch(sql).unwrap();
    }

    pub(crate) fn reopen(&mut self) {
        self.store.reopen();
    }

    /// Takes a step of the model, as the processes of this state would.
    pub(crate) fn take(&self, state: &State, action: &Action) -> Answer {
        match action {
            Action::Claim {
                process,
                of,
                at_most,
                lease,
            } => {
                let types = of.map(work_type);
                self.claim(&ClaimRequest {
                    worker: worker(state.who(*process)),
                    filter: WorkFilter::types(types),
                    lease: micros(*lease),
                    items: u32::try_from(*at_most).unwrap(),
                    after_loss: self.rules.after_loss,
                })
            }
            Action::Renew { held, lease, .. } => self.renew(held, micros(*lease)),
            Action::Write { held, .. } => {
                let commit = Commit::under(fence(held));
                self.commit(commit.part(append(&task(held.item), *b"state")))
            }
            Action::Complete { held, heard, .. } => {
                let fence = fence(held);
                let result = Some(held.token.to_string().into_bytes());
                // The part has a fence of its own.
                let commit = if *heard {
                    Commit::under(fence)
                } else {
                    Commit::new()
                };
                self.commit(commit.part(CompleteWork { fence, result }))
            }
            Action::Fail { held, retry, .. } => self.commit(Commit::new().part(FailWork {
                fence: fence(held),
                reason: "no".into(),
                retry: *retry,
            })),
            Action::Release { held, .. } => self.commit(Commit::new().part(ReleaseWork {
                fence: fence(held),
                reason: None,
            })),
            Action::Sweep => self.sweep(Lost::Expired),
            Action::TakeBack { process } => {
                self.sweep(Lost::EarlierStarts(worker(state.who(*process))))
            }
            Action::Cancel { item } => self.commit(Commit::new().part(CancelWork {
                item: item_id(*item),
                reason: None,
            })),
            Action::Requeue { item } => self.commit(Commit::new().part(RequeueWork {
                item: item_id(*item),
                reason: None,
            })),
            Action::Elapse(by) => self.clocks(|clock| clock.advance(micros(*by))),
            Action::JumpBoot(by) => self.clocks(|clock| clock.jump_boot(*by)),
            Action::JumpWall(by) => self.clocks(|clock| {
                let now = self.store.now();
                clock.set(match by {
                    0.. => now.plus(micros(*by)),
                    _ => now.minus(micros(-by)),
                });
            }),
            Action::Reboot => self.clocks(ManualClock::reboot),
            Action::Forget { .. } | Action::Crash { .. } | Action::Restart { .. } => Answer::Done,
            Action::Look | Action::Lease { .. } | Action::Due { .. } => {
                unreachable!("{action:?} is none of the real store")
            }
        }
    }

    fn clocks(&self, moves: impl FnOnce(&ManualClock)) -> Answer {
        moves(&self.clock);
        Answer::Done
    }

    fn claim(&self, request: &ClaimRequest) -> Answer {
        let leases = self.store.claim(request).unwrap();
        let deadline = self.store.boot_now().plus(request.lease);
        let claimed = leases.iter().map(|lease| {
            assert_eq!(lease.holder, request.worker);
            assert_eq!(lease.deadline, deadline);
            (held(lease.fence), lease.attempt)
        });
        Answer::Claimed(claimed.collect())
    }

    fn renew(&self, believed: &[Held], lease: Duration) -> Answer {
        let mut fences: Vec<Fence> = believed.iter().map(fence).collect();
        if self.rules.fault == Fault::RenewById {
            fences = fences.into_iter().map(|one| self.newest(one)).collect();
        }
        let answers = self.store.renew(&fences, lease).unwrap();
        let deadline = self.store.boot_now().plus(lease);
        let renewed = fences.into_iter().zip(answers).map(|(fence, answer)| {
            let going_on = |renewed: Renewed| {
                assert_eq!((renewed.fence, renewed.deadline), (fence, deadline.clone()));
            };
            answer.map(going_on).map_err(|refusal| stale(&refusal))
        });
        Answer::Renewed(renewed.collect())
    }

    fn sweep(&self, lost: Lost) -> Answer {
        let request = SweepRequest {
            lost,
            rows: MANY,
            after_loss: self.rules.after_loss,
            ..SweepRequest::default()
        };
        let swept = self.store.sweep(&request).unwrap();
        assert_eq!(swept.found as usize, swept.recovered.len());
        assert!(swept.failed.is_empty() && !swept.more, "{swept:?}");
        let recovered = swept.recovered.iter();
        let mut recovered: Vec<(Held, Who, Next)> = recovered
            .map(|item| {
                let holder = item.holder.as_ref().unwrap();
                (held(item.fence), who(&holder.worker), item.next)
            })
            .collect();
        recovered.sort_by_key(|(held, ..)| *held);
        Answer::Swept(recovered)
    }

    fn commit(&self, commit: Commit) -> Answer {
        let commit = match self.rules.fault {
            Fault::NoFence => self.without_fence(&commit),
            _ => commit,
        };
        match self.store.commit(commit) {
            Ok(receipt) => match &receipt.outcomes[..] {
                [PartOutcome::CheckpointAppended(appended)] => {
                    Answer::Written(appended.sequence.get())
                }
                [PartOutcome::WorkCompleted] => Answer::Completed,
                [PartOutcome::WorkFailed(next)] => Answer::Failed(*next),
                [PartOutcome::WorkReleased] => Answer::Released,
                [PartOutcome::WorkCancelled { .. }] => Answer::Cancelled,
                [PartOutcome::WorkRequeued] => Answer::Requeued,
                other => panic!("one part was answered with {other:?}"),
            },
            Err(StorageError::StaleLease(agentos_core::Stale::Work(refusal))) => {
                Answer::Stale(stale(&refusal))
            }
            Err(StorageError::IllegalTransition { from, .. }) => {
                Answer::Illegal(WorkItemStatus::parse(from).unwrap())
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    /// The same commit under no lease, its parts under whatever lease there is.
    fn without_fence(&self, commit: &Commit) -> Commit {
        let parts = commit.parts().iter().cloned().map(|mut part| {
            match &mut part {
                Part::CompleteWork(work) => work.fence = self.newest(work.fence),
                Part::FailWork(work) => work.fence = self.newest(work.fence),
                Part::ReleaseWork(work) => work.fence = self.newest(work.fence),
                _ => {}
            }
            part
        });
        parts.fold(Commit::new(), Commit::part)
    }

    fn newest(&self, fence: Fence) -> Fence {
        let item = self.store.work_item(fence.item).unwrap().unwrap();
        Fence {
            token: item.summary.newest_token.unwrap_or(fence.token),
            ..fence
        }
    }

    /// Holds everything that can be read of the store against the model.
    pub(crate) fn compare(&self, state: &State) {
        for (at, item) in state.items.iter().enumerate() {
            self.compare_item(at, item);
        }
        for status in WorkItemStatus::ALL {
            let expected = state.items.iter().filter(|item| item.status == *status);
            let counts = self.store.count_work_items().unwrap();
            assert_eq!(counts[status], expected.count() as u64, "{status}");
        }
        let outlook = self.store.outlook(&WorkFilter::any()).unwrap();
        assert_eq!(outlook, expected_outlook(&state.items));
    }

    fn compare_item(&self, at: usize, item: &Item) {
        let stored = self.store.work_item(item_id(at)).unwrap().unwrap();
        let summary = stored.summary;
        assert_eq!(summary.status, item.status);
        let token = summary
            .newest_token
            .map_or(0, agentos_core::FencingToken::get);
        assert_eq!(token, item.token, "token");
        assert_eq!(summary.attempts, item.attempts, "attempts");
        assert_eq!(summary.losses, item.losses, "losses");
        let holder = summary.holder.map(|holder| who(&holder.worker));
        assert_eq!(holder, item.holder);
        let wait = summary.available_at.unix_micros() - self.store.now().unix_micros();
        assert_eq!(wait, item.wait, "until it is due");
        let result = item.result.map(|claim| claim.to_string().into_bytes());
        assert_eq!(stored.result, result);
        let attempts = self.store.attempts(item_id(at)).unwrap();
        let attempts: Vec<_> = attempts.iter().map(attempt).collect();
        assert_eq!(attempts, item.attempts_made);
        let numbers: Vec<u64> = (1..=item.checkpoints).collect();
        assert_eq!(self.store.numbers(&task(at)), numbers);
    }

    /// Ends with a look at the whole file.
    pub(crate) fn is_sound(&self) -> bool {
        self.store.check_integrity().unwrap().is_sound()
    }
}

fn expected_outlook(items: &[Item]) -> Outlook {
    let until = |micros: Micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    let pending = items
        .iter()
        .filter(|item| item.status == WorkItemStatus::Pending);
    let left = items.iter().filter_map(|item| item.left);
    Outlook {
        claimable: pending.map(|item| until(item.wait)).min(),
        expires: left
            .map(|left| until(if left == GONE { 0 } else { left }))
            .min(),
    }
}

fn attempt(attempt: &Attempt) -> (i64, Who, Option<agentos_core::AttemptOutcome>) {
    let end = attempt.end.as_ref().map(|end| end.outcome);
    (attempt.number.get(), who(&attempt.worker), end)
}

fn stale(refusal: &StaleLease) -> Stale {
    let holder = refusal.holder.as_ref();
    Stale {
        status: refusal.status.unwrap(),
        newest: refusal.newest.map(agentos_core::FencingToken::get),
        holder: holder.map(|Holder { worker, .. }| who(worker)),
    }
}

fn fence(held: &Held) -> Fence {
    Fence {
        item: item_id(held.item),
        token: fencing_token(held.token),
    }
}

fn held(fence: Fence) -> Held {
    Held {
        item: usize::try_from(fence.item.get() - 1).unwrap(),
        token: fence.token.get(),
    }
}

fn worker(who: Who) -> Worker {
    let Who {
        name,
        process,
        start,
    } = who;
    Worker {
        id: WorkerId::new(name.to_string()).unwrap(),
        incarnation: Incarnation::new(format!("{process} {start:06}")).unwrap(),
    }
}

fn who(worker: &Worker) -> Who {
    let (process, start) = worker.incarnation.as_str().split_once(' ').unwrap();
    Who {
        name: worker.id.as_str().parse().unwrap(),
        process: process.parse().unwrap(),
        start: start.parse().unwrap(),
    }
}

fn work_type(item: usize) -> String {
    format!("type {item}")
}

fn task(item: usize) -> String {
    format!("task {item}")
}

fn micros(micros: Micros) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap())
}

//! The gate of idempotency keys: the real store and a model of it take the same steps,
//! of several owners, with and without leases of work items, with clocks that go on,
//! jump and begin anew. Each answer is the same, and so is what can be read.

mod model;

use std::sync::Arc;
use std::time::Duration;

use agentos_core::{
    AbandonKey, BeginKey, Begun, CancelWork, ClaimRequest, Commit, CompleteWork, Digest, DoubtKey,
    FinishKey, IdempotencyKey, KeyFence, KeyFilter, KeyId, KeyStatus, KeyStorage, Lease,
    LeaseStorage, ManualClock, NewOutcome, NewWorkItem, OnLost, OnRecorded, PermitHolder,
    RecordedKey, RemoveKeys, Resolution, ResolveKey, Retention, Stale, StalePermit, Storage,
    StorageError, TouchKeys, WorkFilter, Worker,
};
use agentos_recovery::{Mode, run_upkeep};
use agentos_tests::{Open, sqlite_with_clock, worker};
use proptest::prelude::*;
use proptest::sample::select;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use self::model::{Answer, Fence, Holder, KEYS, Model, Owner, Refusal, Seconds, State, Step};
use crate::cases;

fn owner() -> impl Strategy<Value = Owner> {
    (0..2_u8, 1..4_u8)
}

fn begin(leases: usize) -> impl Strategy<Value = Step> {
    let under = match leases {
        0 => Just(None).boxed(),
        _ => prop_oneof![2 => Just(None), 1 => (0..leases).prop_map(Some)].boxed(),
    };
    let on_recorded = [
        OnRecorded::Replay,
        OnRecorded::RunFailedAgain,
        OnRecorded::RunAgain,
    ];
    (
        0..KEYS,
        prop_oneof![9 => Just(0_u8), 1 => Just(1)],
        owner(),
        under,
        1..10_i64,
        prop::bool::weighted(0.2),
        select(on_recorded.to_vec()),
        select(vec![OnLost::SayInDoubt, OnLost::TakeOver]),
    )
        .prop_map(
            |(key, request, owner, under, lease, sole_start, on_recorded, on_lost)| Step::Begin {
                key,
                request,
                owner,
                under,
                lease,
                sole_start,
                on_recorded,
                on_lost,
            },
        )
}

/// What needs an execution that was given once; mostly one of the last.
fn deed(given: usize) -> BoxedStrategy<Step> {
    let one = prop_oneof![3 => given.saturating_sub(4)..given, 1 => 0..given].boxed();
    let some = proptest::collection::vec(one.clone(), 0..4).boxed();
    let bytes = proptest::collection::vec(any::<u8>(), 0..4).boxed();
    let finish = (
        one.clone(),
        prop::bool::weighted(0.3),
        prop::option::weighted(0.3, 1..6_i64),
        bytes.clone(),
    );
    let resolve = (
        one.clone(),
        prop::option::weighted(0.1, 0..KEYS),
        prop::option::of(bytes),
        prop::option::weighted(0.2, owner()),
    );
    prop_oneof![
        6 => finish.prop_map(|(fence, failed, ttl, bytes)| {
            Step::Finish { fence, failed, ttl, bytes }
        }),
        1 => one.clone().prop_map(Step::Abandon),
        1 => one.clone().prop_map(Step::Doubt),
        // Which key it is the model knows when it is taken.
        2 => resolve.prop_map(|(fence, key, found, sole_start)| Step::Resolve {
            fence,
            key: key.unwrap_or(KEYS),
            found,
            sole_start,
        }),
        2 => (some.clone(), 1..10_i64).prop_map(|(fences, lease)| Step::Renew(fences, lease)),
        1 => some.clone().prop_map(Step::Remove),
        1 => some.prop_map(Step::Touch),
    ]
    .boxed()
}

struct Reference;

impl ReferenceStateMachine for Reference {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::default()).boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Step> {
        let leases = model.leases.len();
        let clocks = prop_oneof![
            6 => (1..6_i64).prop_map(Step::Elapse),
            1 => (-5..6_i64).prop_map(Step::JumpWall),
            1 => Just(Step::Reboot),
            1 => Just(Step::Reopen),
            1 => Just(Step::Prune),
        ];
        let claim = (1..10_i64).prop_map(Step::Claim);
        let of_leases = match leases {
            0 => claim.boxed(),
            _ => prop_oneof![
                2 => claim,
                2 => (0..leases, 1..10_i64).prop_map(|(at, lease)| Step::RenewLease(at, lease)),
                1 => (0..leases).prop_map(Step::Complete),
                1 => (0..leases).prop_map(Step::Cancel),
            ]
            .boxed(),
        };
        let given = model.given.clone();
        let deeds = match given.len() {
            0 => begin(leases).boxed(),
            count => deed(count)
                .prop_map(move |step| named(step, &given))
                .boxed(),
        };
        prop_oneof![6 => begin(leases), 6 => deeds, 2 => of_leases, 3 => clocks].boxed()
    }

    fn apply(model: Model, step: &Step) -> Model {
        model.step(step)
    }

    fn preconditions(model: &Model, step: &Step) -> bool {
        let given = |fence: &usize| *fence < model.given.len();
        let lease = |at: &usize| *at < model.leases.len();
        match step {
            Step::Begin { under, .. } => under.as_ref().is_none_or(lease),
            Step::Finish { fence, .. }
            | Step::Abandon(fence)
            | Step::Doubt(fence)
            | Step::Resolve { fence, .. } => given(fence),
            Step::Renew(fences, _) | Step::Remove(fences) | Step::Touch(fences) => {
                fences.iter().all(given)
            }
            // An item that is not held any more cannot be cancelled twice.
            Step::Cancel(at) => lease(at) && model.leases[*at].is_some(),
            Step::RenewLease(at, _) | Step::Complete(at) => lease(at),
            _ => true,
        }
    }
}

/// With the name of the key that the execution is of, unless another was chosen.
fn named(step: Step, given: &[(Fence, usize)]) -> Step {
    match step {
        Step::Resolve {
            fence,
            key: KEYS,
            found,
            sole_start,
        } => Step::Resolve {
            fence,
            key: given[fence].1,
            found,
            sole_start,
        },
        step => step,
    }
}

struct Real {
    store: Open,
    clock: Arc<ManualClock>,
    /// The number of each key that was made, in order.
    numbers: Vec<KeyId>,
    given: Vec<KeyFence>,
    leases: Vec<Lease>,
}

fn seconds(seconds: Seconds) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

fn key(number: usize) -> IdempotencyKey {
    IdempotencyKey::new(format!("key {number}")).unwrap()
}

fn request(of: u8) -> Digest {
    Digest::of(&[of])
}

fn real_owner((name, start): Owner) -> Worker {
    worker(&name.to_string(), &start.to_string())
}

fn owner_of(worker: &Worker) -> Owner {
    let name = worker.id.as_str().parse().unwrap();
    (name, worker.incarnation.as_str().parse().unwrap())
}

fn whole(duration: Duration) -> Seconds {
    assert_eq!(duration.subsec_nanos(), 0);
    duration.as_secs().cast_signed()
}

impl Real {
    fn fence(&self, fence: KeyFence) -> Fence {
        let made = self.numbers.iter().position(|number| *number == fence.key);
        Fence {
            made: made.expect("a known key") + 1,
            token: fence.token.get(),
        }
    }

    fn holder(&self, holder: &PermitHolder) -> Holder {
        let place = |fence| self.leases.iter().position(|lease| lease.fence == fence);
        Holder {
            fence: self.fence(holder.fence),
            owner: owner_of(&holder.owner),
            under: holder
                .under
                .map(|fence| place(fence).expect("a known lease")),
            left: holder.left.map(whole),
        }
    }

    fn refusal(&self, stale: &StalePermit) -> Refusal {
        Refusal {
            fence: self.fence(stale.fence),
            status: stale.status,
            newest: stale.newest.map(agentos_core::FencingToken::get),
            owner: stale.owner.as_ref().map(owner_of),
        }
    }

    fn error(&self, error: StorageError) -> Answer {
        match error {
            StorageError::StaleLease(Stale::Key(stale)) => Answer::Stale(self.refusal(&stale)),
            StorageError::StaleLease(Stale::Work(_)) => Answer::StaleLease,
            StorageError::Conflict { .. } => Answer::Conflict,
            StorageError::IllegalTransition { .. } => Answer::Illegal,
            other => panic!("{other:?}"),
        }
    }

    fn commit(&self, commit: impl Into<Commit>) -> Answer {
        match self.store.commit(commit.into()) {
            Ok(receipt) => match receipt.outcomes[..] {
                [agentos_core::PartOutcome::KeysRemoved(removed)] => Answer::Removed(removed),
                _ => Answer::Done,
            },
            Err(error) => self.error(error),
        }
    }

    fn fences(&self, places: &[usize]) -> Vec<KeyFence> {
        places.iter().map(|place| self.given[*place]).collect()
    }

    fn begin(&mut self, begin: &BeginKey) -> Answer {
        let begun = match self.store.begin_key(begin) {
            Ok(begun) => begun,
            Err(error) => return self.error(error),
        };
        match begun {
            Begun::Execute(permit) => {
                assert_eq!((&permit.key, &permit.owner), (&begin.key, &begin.owner));
                assert_eq!(permit.under, begin.under);
                if !self.numbers.contains(&permit.fence.key) {
                    let newest = self.numbers.last();
                    assert!(newest.is_none_or(|newest| *newest < permit.fence.key));
                    self.numbers.push(permit.fence.key);
                }
                assert!(!self.given.contains(&permit.fence));
                self.given.push(permit.fence);
                Answer::Execute {
                    fence: self.fence(permit.fence),
                    why: permit.execution,
                    left: whole(self.store.boot_now().until(&permit.deadline)),
                }
            }
            Begun::Replay(entry) => {
                let summary = &entry.summary;
                let fence = KeyFence {
                    key: summary.id,
                    token: summary.token,
                };
                Answer::Replay {
                    fence: self.fence(fence),
                    failed: summary.view.status == KeyStatus::Failed,
                    bytes: entry.outcome.expect("an outcome"),
                }
            }
            Begun::InFlight(holder) => Answer::InFlight(self.holder(&holder)),
            Begun::InDoubt(holder) => Answer::InDoubt(self.holder(&holder)),
        }
    }

    fn claim(&mut self, lease: Seconds) {
        let work_type = format!("type {}", self.leases.len());
        let item = NewWorkItem::new(work_type.as_str());
        self.store.commit(Commit::new().part(item)).unwrap();
        let request = ClaimRequest {
            lease: seconds(lease),
            filter: WorkFilter::types([work_type]),
            ..ClaimRequest::new(worker("holder", "1"))
        };
        let claimed = self.store.claim(&request).unwrap();
        assert_eq!(claimed.len(), 1);
        self.leases.extend(claimed);
    }

    fn take(&mut self, step: &Step) -> Answer {
        match step {
            Step::Begin {
                key: number,
                request: of,
                owner,
                under,
                lease,
                sole_start,
                on_recorded,
                on_lost,
            } => {
                let begin = BeginKey {
                    under: under.map(|at| self.leases[at].fence),
                    lease: seconds(*lease),
                    sole_start: *sole_start,
                    on_recorded: *on_recorded,
                    on_lost: *on_lost,
                    ..BeginKey::new(key(*number), request(*of), real_owner(*owner))
                };
                self.begin(&begin)
            }
            Step::Finish {
                fence,
                failed,
                ttl,
                bytes,
            } => self.commit(FinishKey {
                fence: self.given[*fence],
                outcome: NewOutcome {
                    failed: *failed,
                    bytes: bytes.clone(),
                    ttl: ttl.map(seconds),
                },
            }),
            Step::Abandon(fence) => self.commit(AbandonKey {
                fence: self.given[*fence],
            }),
            Step::Doubt(fence) => self.commit(DoubtKey {
                fence: self.given[*fence],
            }),
            Step::Resolve {
                fence,
                key: number,
                found,
                sole_start,
            } => self.commit(ResolveKey {
                key: key(*number),
                fence: self.given[*fence],
                resolution: match found {
                    Some(bytes) => Resolution::Happened(NewOutcome::success(bytes.clone())),
                    None => Resolution::DidNotHappen,
                },
                reason: "looked".into(),
                sole_start: sole_start.map(real_owner),
            }),
            Step::Renew(places, lease) => {
                let fences = self.fences(places);
                let answers = self.store.renew_keys(&fences, seconds(*lease)).unwrap();
                let now = self.store.boot_now();
                let answer =
                    |answer: &Result<agentos_core::RenewedPermit, StalePermit>| match answer {
                        Ok(renewed) => Ok(whole(now.until(&renewed.deadline))),
                        Err(stale) => Err(self.refusal(stale)),
                    };
                Answer::Renewed(answers.iter().map(answer).collect())
            }
            Step::Remove(places) => self.commit(RemoveKeys {
                keys: self.fences(places),
            }),
            Step::Touch(places) => {
                let keys = self.fences(places).iter().map(|fence| fence.key).collect();
                self.commit(TouchKeys { keys })
            }
            Step::Prune => {
                let report = run_upkeep(&*self.store, &Retention::keep_all(), Mode::Apply);
                assert!(report.unwrap().is_complete());
                Answer::Done
            }
            Step::Claim(lease) => {
                self.claim(*lease);
                Answer::Done
            }
            Step::RenewLease(at, lease) => {
                let fence = self.leases[*at].fence;
                let renewed = self.store.renew(&[fence], seconds(*lease)).unwrap();
                renewed[0]
                    .as_ref()
                    .map_or(Answer::StaleLease, |_| Answer::Done)
            }
            Step::Complete(at) => self.commit(CompleteWork {
                fence: self.leases[*at].fence,
                result: None,
            }),
            Step::Cancel(at) => self.commit(CancelWork {
                item: self.leases[*at].fence.item,
                reason: None,
            }),
            Step::Elapse(by) => {
                self.clock.advance(seconds(*by));
                Answer::Done
            }
            Step::JumpWall(by) => {
                let now = self.store.now();
                self.clock.set(match by {
                    0.. => now.plus(seconds(*by)),
                    _ => now.minus(seconds(*by)),
                });
                Answer::Done
            }
            Step::Reboot => {
                self.clock.reboot();
                Answer::Done
            }
            Step::Reopen => {
                self.store.reopen();
                Answer::Done
            }
        }
    }
}

impl StateMachineTest for Real {
    type SystemUnderTest = Real;
    type Reference = Reference;

    fn init_test(_: &Model) -> Real {
        let (store, clock) = sqlite_with_clock();
        Real {
            store,
            clock,
            numbers: Vec::new(),
            given: Vec::new(),
            leases: Vec::new(),
        }
    }

    fn apply(mut real: Real, model: &Model, step: Step) -> Real {
        assert_eq!(real.take(&step), model.answer, "{step:?}");
        real
    }

    fn check_invariants(real: &Real, model: &Model) {
        for number in 0..KEYS {
            let found = real.store.find_key(&key(number)).unwrap();
            let hot = real.store.find_recorded(&key(number)).unwrap();
            assert_eq!(hot, found.clone().and_then(RecordedKey::of));
            let Some(row) = model.rows.get(&number) else {
                assert_eq!(found, None);
                continue;
            };
            let entry = found.expect("the key");
            let summary = entry.summary;
            let fence = KeyFence {
                key: summary.id,
                token: summary.token,
            };
            assert_eq!(real.fence(fence), row.fence);
            assert_eq!(summary.view.request, request(row.request));
            assert_eq!(summary.view.expired, model.expired(row));
            match &row.state {
                State::Pending { .. } => {
                    let holder = summary.view.permit.expect("a permit");
                    assert_eq!(holder.left.map(whole), model.left(row));
                    assert_eq!(entry.outcome, None);
                }
                State::Recorded { failed, bytes, .. } => {
                    assert_eq!(summary.view.permit, None);
                    assert_eq!(summary.view.status == KeyStatus::Failed, *failed);
                    assert_eq!(entry.outcome.as_ref(), Some(bytes));
                }
            }
        }
        let listed = real.store.keys(&KeyFilter::default(), None, 100).unwrap();
        assert_eq!(listed.items.len(), model.rows.len());
        assert!(listed.items.is_sorted_by_key(|summary| summary.id));
        let doubts = real.store.keys_in_doubt(None, 100).unwrap().items;
        let doubts = doubts.iter().map(|summary| {
            real.fence(KeyFence {
                key: summary.id,
                token: summary.token,
            })
        });
        assert!(doubts.eq(model.doubts()), "{:?}", model.doubts());
    }

    fn teardown(real: Real, _: Model) {
        assert!(real.store.check_integrity().unwrap().is_sound());
    }
}

prop_state_machine! {
    #![proptest_config(cases(128))]

    /// Goal: the gate does what its model does, for any history.
    #[test]
    fn the_gate_is_what_the_model_says(sequential 1..50 => Real);
}

//! Of all who ask the same at once, one pays: threads, processes, and those who die.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::Duration;

use agentos_core::{Commit, NewWorkItem, ReleaseWork};
use agentos_idempotency::{
    CacheConfig, CacheError, CallOptions, LlmOutputCache, NotStored, Origin,
};
use agentos_tests::{Gate, PATIENCE, Victim, Work};

use super::{Model, ask, cache, gate, never};
use crate::VICTIM;

#[test]
fn fifty_threads_that_ask_the_same_pay_once() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let start = Barrier::new(50);
    thread::scope(|scope| {
        let askers: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    model.asked(&cache, &ask("a")).body
                })
            })
            .collect();
        for asker in askers {
            assert_eq!(asker.join().unwrap(), "answer 1");
        }
    });
    assert_eq!(model.calls(), 1);
    let stats = cache.stats();
    assert_eq!((stats.cache_hits, stats.cache_misses), (49, 1));
    assert_eq!(stats.tokens_saved, 49 * 14);
}

/// Goal: one pays across processes too. Method: eight processes of four threads ask
/// the same five requests at one instant; each run of a generator writes a line.
#[test]
fn processes_that_ask_the_same_pay_once() {
    let work = Work::fresh();
    let database = work.directory().join("agent.db");
    let calls = work.directory().join("calls");
    let barrier = Gate::closed(&work.directory().join("barrier"));
    let mut askers: Vec<Victim> = (0..8)
        .map(|number| {
            let arguments = [
                database.to_str().unwrap().to_string(),
                barrier.path().to_string(),
                calls.to_str().unwrap().to_string(),
                number.to_string(),
            ];
            Victim::start(VICTIM, "ask-model", arguments)
        })
        .collect();
    for asker in &mut askers {
        assert_eq!(asker.line(), "ready");
    }
    barrier.open();
    let mut answers = Vec::new();
    for mut asker in askers {
        while let Some(line) = asker.next_line() {
            answers.push(line);
        }
    }
    let mut calls: Vec<String> = std::fs::read_to_string(calls)
        .unwrap()
        .lines()
        .map(str::to_string)
        .collect();
    calls.sort();
    assert_eq!(calls.len(), 5, "{calls:?}");
    // Each call says what it answered: everybody has exactly that.
    assert_eq!(answers.len(), 8 * 4 * 5);
    for answer in &answers {
        assert!(calls.contains(answer), "{answer}");
    }
}

/// Goal: the death of the one who pays costs no more than its lease. Method: a process
/// begins to ask the model and is killed there; this one, which waits, takes over.
#[test]
fn when_the_payer_is_killed_a_waiter_takes_over() {
    let work = Work::fresh();
    let database = work.directory().join("agent.db");
    let mut payer = Victim::start(VICTIM, "hang-in-model", [database.to_str().unwrap()]);
    assert_eq!(payer.line(), "asking");
    let (cache, model) = (cache(&work), Model::default());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| model.asked(&cache, &ask("hang")));
        let gate = cache.gate();
        agentos_tests::wait_until("somebody waits", || 0 < gate.stats().waits);
        assert_eq!(model.calls(), 0);
        payer.kill();
        let answer = waiter.join().unwrap();
        assert_eq!(
            (answer.body.as_str(), answer.origin),
            ("answer 1", Origin::Generated)
        );
    });
    assert_eq!(cache.stats().taken_over, 1);
    assert!(model.asked(&cache, &ask("hang")).is_hit());
}

#[test]
fn who_waits_too_long_is_told_who_is_asking() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let (says, hears) = mpsc::channel();
    let (lets, goes) = mpsc::channel();
    thread::scope(|scope| {
        let (asked, thinking) = (&cache, &model);
        let payer = scope.spawn(move || {
            let generate = || {
                says.send(()).unwrap();
                goes.recv_timeout(PATIENCE).unwrap();
                thinking.answer()
            };
            asked.get_or_generate(&ask("a"), generate).unwrap()
        });
        hears.recv_timeout(PATIENCE).unwrap();
        for wait in [Duration::ZERO, Duration::from_millis(50)] {
            let options = CallOptions::new().wait(wait);
            match cache.call(&ask("a"), &options, never::<String>) {
                Err(CacheError::InFlight { waited, holder }) => {
                    assert!(wait <= waited);
                    assert_eq!(holder.owner.id.as_str(), "asker");
                }
                other => panic!("{other:?}"),
            }
        }
        // Another request is nobody's business.
        assert_eq!(model.asked(&cache, &ask("b")).body, "answer 1");
        lets.send(()).unwrap();
        assert_eq!(payer.join().unwrap().body, "answer 2");
    });
    let stats = cache.stats();
    assert_eq!((stats.timeouts, stats.cache_misses), (2, 2));
}

#[test]
fn an_error_is_its_callers_and_the_next_one_asks_again() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let failed = cache.get_or_generate::<String, _>(&ask("a"), || Err("overloaded"));
    assert!(matches!(failed, Err(CacheError::Generate("overloaded"))));
    // Nothing has to run out first.
    let at_once = CallOptions::new().wait(Duration::ZERO);
    let answer = cache.call(&ask("a"), &at_once, || model.answer()).unwrap();
    assert_eq!(answer.origin, Origin::Generated);
    assert!(model.asked(&cache, &ask("a")).is_hit());
    assert_eq!(cache.stats().failures, 1);
}

#[test]
fn when_the_payer_fails_one_of_those_who_wait_asks() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let start = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            let failed = cache.get_or_generate::<String, _>(&ask("a"), || {
                start.wait();
                let gate = cache.gate();
                agentos_tests::wait_until("ten wait", || gate.stats().waits == 10);
                Err("overloaded")
            });
            assert!(failed.is_err());
        });
        start.wait();
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(model.asked(&cache, &ask("a")).body, "answer 1"));
        }
    });
    assert_eq!(model.calls(), 1);
    let stats = cache.stats();
    assert_eq!((stats.cache_misses, stats.cache_hits), (2, 9));
}

#[test]
fn a_panic_goes_on_and_holds_nobody_up() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        cache.get_or_generate::<String, ()>(&ask("a"), || panic!("the model is mad"))
    }));
    let message = panicked.unwrap_err();
    assert_eq!(message.downcast_ref(), Some(&"the model is mad"));
    let at_once = CallOptions::new().wait(Duration::ZERO);
    let answer = cache.call(&ask("a"), &at_once, || model.answer()).unwrap();
    assert!(answer.stored());
    assert_eq!(cache.stats().failures, 1);
}

/// Asks under the lease of a work item, which is lost while the model thinks, and
/// calls `meanwhile` then.
fn lost_lease(
    work: &Work,
    first: &LlmOutputCache,
    meanwhile: impl Fn(),
) -> (String, Origin, Option<NotStored>) {
    work.queue.enqueue(NewWorkItem::new("think")).unwrap();
    let lease = work.claim(&work.leases("worker", Duration::from_secs(60)));
    let model = Model::default();
    let options = CallOptions::new().under(&lease);
    let late = first.call(&ask("a"), &options, || {
        let release = ReleaseWork {
            fence: lease.fence,
            reason: None,
        };
        work.store.commit_release(release);
        meanwhile();
        model.answer().map(|answer| agentos_idempotency::LlmAnswer {
            body: format!("late {}", answer.body),
            ..answer
        })
    });
    let late = late.unwrap();
    (late.body, late.origin, late.not_stored)
}

/// Goal: all callers have the same answer, also one who came too late. Method: the
/// permit goes with the lease of a work item; another one takes over and records.
#[test]
fn who_comes_too_late_gets_what_another_has_recorded() {
    let work = Work::fresh();
    let (first, second) = (cache(&work), cache(&work));
    let model = Model::default();
    let late = lost_lease(&work, &first, || {
        assert_eq!(model.asked(&second, &ask("a")).origin, Origin::Generated);
    });
    assert_eq!((late.0.as_str(), late.1), ("answer 1", Origin::Superseded));
    assert!(late.2.is_none());
    assert_eq!(first.stats().permits_lost, 1);
    assert_eq!(second.stats().taken_over, 1);
    assert_eq!(model.asked(&first, &ask("a")).body, "answer 1");
}

#[test]
fn who_lost_its_permit_keeps_what_it_paid_for() {
    let work = Work::fresh();
    let first = cache(&work);
    let late = lost_lease(&work, &first, || {});
    assert_eq!(
        (late.0.as_str(), late.1),
        ("late answer 1", Origin::Generated)
    );
    assert!(
        matches!(late.2, Some(NotStored::PermitLost)),
        "{:?}",
        late.2
    );
    let model = Model::default();
    assert_eq!(model.asked(&first, &ask("a")).body, "answer 1");
}

#[test]
fn a_lease_that_is_not_held_pays_nothing() {
    let work = Work::fresh();
    work.queue.enqueue(NewWorkItem::new("think")).unwrap();
    let lease = work.claim(&work.leases("worker", Duration::from_secs(60)));
    let release = ReleaseWork {
        fence: lease.fence,
        reason: None,
    };
    work.store.commit_release(release);
    let options = CallOptions::new().under(&lease);
    let refused = cache(&work).call(&ask("a"), &options, never::<String>);
    assert!(matches!(refused, Err(CacheError::Gate(_))), "{refused:?}");
}

/// Gives a work item back.
trait Release {
    fn commit_release(&self, release: ReleaseWork);
}

impl<S: agentos_core::Storage> Release for S {
    fn commit_release(&self, release: ReleaseWork) {
        self.commit(Commit::new().part(release)).unwrap();
    }
}

#[test]
fn a_refresh_asks_anew_and_who_finds_it_under_way_shares_it() {
    let work = Work::fresh();
    let (cache, model) = (cache(&work), Model::default());
    assert_eq!(model.asked(&cache, &ask("a")).body, "answer 1");
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let refresher = scope.spawn(|| {
            let generate = || {
                start.wait();
                let gate = cache.gate();
                agentos_tests::wait_until("two wait", || gate.stats().waits == 2);
                model.answer()
            };
            cache.refresh(&ask("a"), generate).unwrap().body
        });
        start.wait();
        let other = scope.spawn(|| cache.refresh(&ask("a"), never::<String>).unwrap());
        let plain = scope.spawn(|| cache.get_or_generate(&ask("a"), never::<String>).unwrap());
        assert_eq!(refresher.join().unwrap(), "answer 2");
        for shared in [other.join().unwrap(), plain.join().unwrap()] {
            assert_eq!(
                (shared.body.as_str(), shared.origin),
                ("answer 2", Origin::Awaited)
            );
        }
    });
    assert_eq!(model.asked(&cache, &ask("a")).body, "answer 2");
    assert_eq!(cache.stats().refreshes, 1);
}

#[test]
fn caches_of_one_process_with_gates_of_their_own_share_as_processes_do() {
    let work = Work::fresh();
    let model = Model::default();
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for number in 0..8 {
            let (work, model, start) = (&work, &model, &start);
            scope.spawn(move || {
                let own = gate(work, &format!("asker {number}"));
                let own = LlmOutputCache::new(own, CacheConfig::default()).unwrap();
                start.wait();
                assert_eq!(model.asked(&own, &ask("a")).body, "answer 1");
            });
        }
    });
    assert_eq!(model.calls(), 1);
}

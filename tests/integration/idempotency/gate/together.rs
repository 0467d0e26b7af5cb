//! Many who ask for one key: one executes, the others wait.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use agentos_core::{Deadline, NewOutcome, OnLost, OnRecorded};
use agentos_idempotency::{Begin, GateConfig, IdempotencyStore};
use agentos_tests::{PATIENCE, Work, new_worker, wait_until};

use super::{LEASE, clocked, execute, fill, gate, in_flight, permitted, replay, replayed, request};

const THREADS: usize = 8;

/// Goal: **once**, among threads with gates of their own and shared ones. Method: all
/// ask for the same keys at one instant, many times.
#[test]
fn eight_threads_that_ask_for_one_key_get_one_execution() {
    let work = Work::fresh();
    let gates = [gate(&work, "one"), gate(&work, "two")];
    let executions = AtomicU64::new(0);
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (gate, executions, barrier) = (&gates[thread % 2], &executions, &barrier);
            scope.spawn(move || {
                for round in 0..50 {
                    let asked = request(&format!("key {round}"));
                    barrier.wait();
                    let outcome = match gate.begin_wait(&asked, PATIENCE).unwrap() {
                        Begin::Execute(held) => {
                            let number = executions.fetch_add(1, Ordering::SeqCst);
                            let outcome = format!("{round} {number}").into_bytes();
                            let recorded = NewOutcome::success(outcome.clone());
                            gate.finish(held, recorded).unwrap();
                            outcome
                        }
                        Begin::Replay(entry) => entry.outcome.unwrap(),
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(outcome, format!("{round} {round}").into_bytes());
                    barrier.wait();
                }
            });
        }
    });
    assert_eq!(executions.into_inner(), 50);
    let [one, two] = gates.map(|gate| gate.stats());
    assert_eq!(one.executions + two.executions, 50);
    assert_eq!(one.replays + two.replays, 50 * (THREADS as u64 - 1));
}

/// Goal: without waiting, all but one are told that it is in flight.
#[test]
fn who_does_not_wait_is_told_that_it_is_in_flight() {
    let work = Work::fresh();
    let gate = gate(&work, "w");
    let barrier = Barrier::new(THREADS);
    let begun: Vec<Begin> = thread::scope(|scope| {
        let ask = || {
            barrier.wait();
            gate.begin(&request("a")).unwrap()
        };
        let asking: Vec<_> = (0..THREADS).map(|_| scope.spawn(ask)).collect();
        let answers = asking.into_iter().map(|thread| thread.join().unwrap());
        answers.collect()
    });
    let is_permit = |begin: &&Begin| matches!(begin, Begin::Execute(_));
    let permits = begun.iter().filter(is_permit).count();
    let is_flight = |begin: &&Begin| matches!(begin, Begin::InFlight(_));
    let flights = begun.iter().filter(is_flight).count();
    assert_eq!((permits, flights), (1, THREADS - 1));
}

#[test]
fn a_waiter_gives_up_at_its_deadline_and_says_who_has_it() {
    let (work, _clock) = clocked();
    let (first, second) = (gate(&work, "first"), gate(&work, "second"));
    let held = execute(&first, &request("a"));
    let wait = Duration::from_millis(60);
    let waited = Deadline::after(wait);
    let holder = in_flight(second.begin_wait(&request("a"), wait).unwrap());
    assert!(waited.passed());
    assert_eq!(holder.fence, held.fence());
    let stats = second.stats();
    assert_eq!((stats.waits, stats.in_flight), (1, 1));
    // Without time it does not wait.
    in_flight(second.begin_wait(&request("a"), Duration::ZERO).unwrap());
    assert_eq!(second.stats().waits, 1);
}

/// Goal: one who waits goes on when the execution ends, and executes it himself when
/// that did nothing.
#[test]
fn a_waiter_goes_on_when_the_execution_ends_however_it_ends() {
    let work = Work::fresh();
    let config = GateConfig::new(new_worker("w")).poll(Duration::from_secs(1));
    let gate = IdempotencyStore::new(work.storage(), config).unwrap();
    let ends: [fn(&IdempotencyStore, agentos_idempotency::HeldPermit); 2] = [
        |gate, held| gate.finish(held, NewOutcome::success("x")).unwrap(),
        |gate, held| gate.abandon(held).unwrap(),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let asked = request(&format!("{number}"));
        let held = execute(&gate, &asked);
        let answer = thread::scope(|scope| {
            let waiter = scope.spawn(|| gate.begin_wait(&asked, PATIENCE).unwrap());
            let waits = number as u64 + 1;
            wait_until("somebody waits", || gate.stats().waits == waits);
            end(&gate, held);
            waiter.join().unwrap()
        });
        match (number, answer) {
            (0, answer) => drop(replayed(answer)),
            (_, answer) => drop(permitted(answer)),
        }
    }
}

/// Goal: when the one who executes it is gone, one of those who wait takes over.
#[test]
fn one_of_the_waiters_takes_over_when_the_permit_is_over() {
    let (work, clock) = clocked();
    let gate = gate(&work, "w");
    let asked = request("a").on_lost(OnLost::TakeOver);
    super::begun_by(&work, &new_worker("gone"), &asked);
    let executions = AtomicU64::new(0);
    thread::scope(|scope| {
        let ask = || match gate.begin_wait(&asked, PATIENCE).unwrap() {
            Begin::Execute(held) => {
                executions.fetch_add(1, Ordering::SeqCst);
                gate.finish(held, NewOutcome::success("taken over"))
                    .unwrap();
                b"taken over".to_vec()
            }
            other => replayed(other).outcome.unwrap(),
        };
        let waiting: Vec<_> = (0..THREADS).map(|_| scope.spawn(ask)).collect();
        wait_until("all wait", || gate.stats().waits == THREADS as u64);
        assert_eq!(executions.load(Ordering::SeqCst), 0);
        clock.advance(LEASE);
        for thread in waiting {
            assert_eq!(thread.join().unwrap(), b"taken over");
        }
    });
    assert_eq!(executions.into_inner(), 1);
    assert_eq!(gate.stats().takeovers, 1);
}

/// Goal: who asked for a new outcome and waited takes the new one of the other.
#[test]
fn who_waited_takes_what_the_other_one_made_anew() {
    let work = Work::fresh();
    let gate = gate(&work, "w");
    let anew = request("a").on_recorded(OnRecorded::RunAgain);
    fill(&gate, &request("a"), "old");
    let held = execute(&gate, &anew);
    let entry = thread::scope(|scope| {
        let waiter = scope.spawn(|| gate.begin_wait(&anew, PATIENCE).unwrap());
        wait_until("somebody waits", || gate.stats().waits == 1);
        gate.finish(held, NewOutcome::success("new")).unwrap();
        replayed(waiter.join().unwrap())
    });
    assert_eq!(entry.outcome.as_deref(), Some(b"new".as_slice()));

    // A failure is none that he can take.
    let held = execute(&gate, &anew);
    let held = thread::scope(|scope| {
        let waiter = scope.spawn(|| gate.begin_wait(&anew, PATIENCE).unwrap());
        wait_until("somebody waits", || gate.stats().waits == 2);
        gate.finish(held, NewOutcome::failure("broken")).unwrap();
        permitted(waiter.join().unwrap())
    });
    gate.finish(held, NewOutcome::success("newest")).unwrap();
    assert_eq!(replay(&gate, &request("a")), b"newest");
}

/// Goal: what ends elsewhere is seen. Method: two gates, of which one is told nothing of
/// the other, as if they were in two processes.
#[test]
fn a_waiter_sees_what_ended_elsewhere() {
    let work = Work::fresh();
    let (here, there) = (gate(&work, "here"), gate(&work, "there"));
    let held = execute(&there, &request("a"));
    let entry = thread::scope(|scope| {
        let waiter = scope.spawn(|| here.begin_wait(&request("a"), PATIENCE).unwrap());
        wait_until("somebody waits", || here.stats().waits == 1);
        there.finish(held, NewOutcome::success("x")).unwrap();
        replayed(waiter.join().unwrap())
    });
    assert_eq!(entry.outcome.as_deref(), Some(b"x".as_slice()));
}

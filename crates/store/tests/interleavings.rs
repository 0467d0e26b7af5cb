//! The queue under every schedule that a random explorer finds.
//!
//! The same source file is compiled here against locks of `shuttle`, which
//! decides at each of them which thread goes on. A lost wake-up is a deadlock
//! that it reports; a failing schedule is printed for replay.

use std::collections::HashSet;
use std::time::Duration;

use agentos_core::Deadline;
use queue::{Queue, Writer};
use shuttle::sync::Arc;
use shuttle::thread;
use sync::Mutex;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "compiled for its locks; the store uses all of it"
)]
#[path = "../src/sqlite/queue.rs"]
mod queue;

/// What the queue's file names as `crate::sync`.
mod sync {
    use std::sync::PoisonError;

    use agentos_core::Deadline;
    use shuttle::rand::Rng;
    pub(crate) use shuttle::sync::MutexGuard;

    #[derive(Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            // The locks that the store uses know no poison.
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Default)]
    pub(crate) struct Condvar(shuttle::sync::Condvar);

    impl Condvar {
        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
        }

        /// A deadline that has passed may strike at any moment; one that has
        /// not never does, so that a lost wake-up cannot hide behind it.
        pub(crate) fn wait_until<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            deadline: &Deadline,
        ) -> (MutexGuard<'a, T>, bool) {
            if deadline.passed() && shuttle::rand::thread_rng().gen_bool(0.5) {
                return (guard, true);
            }
            if deadline.passed() {
                // Let others go on, as a short wait would, and look again.
                shuttle::thread::yield_now();
                return (guard, false);
            }
            (
                self.0.wait(guard).unwrap_or_else(PoisonError::into_inner),
                false,
            )
        }
    }
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Done(u32),
    Busy,
    Closed,
    Panicked,
}

#[derive(Default)]
struct World {
    done: Mutex<Vec<u32>>,
    turn_taken: Mutex<bool>,
}

/// A writer that records what it ran, and fails as it is told.
struct Recorder {
    world: Arc<World>,
    group_max: usize,
}

struct Turn(Arc<World>);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.turn_taken.lock() = false;
    }
}

/// A job with this number panics the group it is in.
const POISON: u32 = 666;

impl Writer for Recorder {
    type Job = u32;
    type Answer = Told;
    type Turn = Turn;

    fn take_turn(&mut self, deadline: &Deadline) -> Result<Turn, Told> {
        thread::yield_now(); // others queue meanwhile
        if deadline.passed() {
            return Err(Told::Busy);
        }
        let mut taken = self.world.turn_taken.lock();
        assert!(!*taken, "two leaders at once");
        *taken = true;
        Ok(Turn(Arc::clone(&self.world)))
    }

    fn run(&mut self, turn: Turn, jobs: Vec<u32>, _: &Deadline) -> Vec<Told> {
        assert!(!jobs.is_empty() && jobs.len() <= self.group_max);
        if jobs.contains(&POISON) {
            std::panic::resume_unwind(Box::new("poison"));
        }
        for job in &jobs {
            self.world.done.lock().push(*job);
        }
        drop(turn);
        jobs.into_iter().map(Told::Done).collect()
    }

    fn recover(&mut self) {}

    fn busy(_: &Deadline) -> Told {
        Told::Busy
    }

    fn is_refusal(told: &Told) -> bool {
        matches!(told, Told::Busy | Told::Closed | Told::Panicked)
    }

    fn closed() -> Told {
        Told::Closed
    }

    fn panicked() -> Told {
        Told::Panicked
    }
}

const PATIENT: Duration = Duration::from_secs(3600);
const IMPATIENT: Duration = Duration::ZERO;
const SCHEDULES: usize = 3_000;

fn queue(length_max: usize, group_max: usize) -> (Arc<World>, Arc<Queue<Recorder>>) {
    let world = Arc::new(World::default());
    let writer = Recorder {
        world: Arc::clone(&world),
        group_max,
    };
    (
        world,
        Arc::new(Queue::new(writer, length_max, group_max, 1)),
    )
}

fn submit(queue: &Arc<Queue<Recorder>>, job: u32, wait: Duration) -> thread::JoinHandle<Told> {
    let queue = Arc::clone(queue);
    thread::spawn(move || queue.submit(job, &Deadline::after(wait)))
}

/// Runs under random schedules, and under those with few preemptions, which
/// find other faults.
fn explore(test: fn()) {
    shuttle::check_random(test, SCHEDULES);
    shuttle::check_pct(test, SCHEDULES, 3);
}

#[test]
fn every_patient_caller_gets_its_own_answer_once() {
    explore(|| {
        let (world, queue) = queue(2, 2);
        let callers: Vec<_> = (0..5).map(|job| submit(&queue, job, PATIENT)).collect();
        for (job, caller) in (0..).zip(callers) {
            assert_eq!(caller.join().unwrap(), Told::Done(job));
        }
        let mut done = world.done.lock().clone();
        done.sort_unstable();
        assert_eq!(done, [0, 1, 2, 3, 4]);
    });
}

/// Goal: "busy" means that nothing was done, "done" that it was done once, and
/// nobody is left behind by those who give up.
#[test]
fn a_caller_that_gives_up_did_nothing_and_delays_nobody() {
    explore(|| {
        let (world, queue) = queue(2, 2);
        let callers: Vec<_> = (0..5)
            .map(|job| submit(&queue, job, if job % 2 == 0 { IMPATIENT } else { PATIENT }))
            .collect();
        let told: Vec<Told> = callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect();
        let done = world.done.lock().clone();
        let distinct: HashSet<_> = done.iter().copied().collect();
        assert_eq!(distinct.len(), done.len(), "a job ran twice");
        for (job, told) in (0..).zip(told) {
            match told {
                Told::Done(answer) => assert!(answer == job && distinct.contains(&job)),
                Told::Busy => assert!(job % 2 == 0 && !distinct.contains(&job)),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_group_that_panics_is_answered_and_the_next_goes_on() {
    explore(|| {
        let (world, queue) = queue(8, 2);
        let callers: Vec<_> = [1, POISON, 2, 3]
            .into_iter()
            .map(|job| (job, submit(&queue, job, PATIENT)))
            .collect();
        let mut done = Vec::new();
        for (job, caller) in callers {
            match caller.join().unwrap() {
                Told::Done(answer) => done.push(answer),
                Told::Panicked => {}
                other => panic!("job {job}: {other:?}"),
            }
        }
        done.sort_unstable();
        let mut ran = world.done.lock().clone();
        ran.sort_unstable();
        assert_eq!(done, ran);
        // At most one neighbour shared the poisoned group.
        assert!(done.len() >= 2, "{done:?}");
    });
}

#[test]
fn closing_finishes_what_was_accepted_and_refuses_the_rest() {
    explore(|| {
        let (world, queue) = queue(2, 2);
        let callers: Vec<_> = (0..4).map(|job| submit(&queue, job, PATIENT)).collect();
        queue.close();
        let at_close = world.done.lock().clone();
        let told: Vec<Told> = callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect();
        for (job, told) in (0..).zip(told) {
            match told {
                Told::Done(_) => assert!(at_close.contains(&job), "{job} ran after the close"),
                Told::Closed => assert!(!at_close.contains(&job)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(world.done.lock().len(), at_close.len());
        assert_eq!(queue.submit(9, &Deadline::after(PATIENT)), Told::Closed);
    });
}

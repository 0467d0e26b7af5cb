//! The queue in front of the one writer: leader and followers.
//!
//! A caller that finds nobody leading leads: it takes the writer's turn, takes
//! what is queued by then, runs it all as one group, and answers the others;
//! while many wait it does so a few times. A lone caller pays no thread hop and
//! no delay. Whoever leads hands the lead to the next in the queue, also when it
//! fails, so a dying leader is not special.
//!
//! Every caller waits with a deadline of its own. One whose work has begun gets
//! the true answer, however late; one whose work has not begun leaves the queue
//! and knows that nothing was done. This file knows no database: the writer is
//! a parameter.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use agentos_core::Deadline;

use crate::sync::{Condvar, Mutex};

/// Weight at which a group ends: all of it holds others up.
const WEIGHT_MAX: usize = 4096;

/// Most groups that one caller commits before it hands the lead on.
const GROUPS_PER_LEAD: usize = 4;

/// What the queue drives.
pub(crate) trait Writer {
    /// Work of one caller.
    type Job;
    /// What a caller gets.
    type Answer;
    /// The exclusive right to write; given back when dropped.
    type Turn;

    /// Waits for the right to write, until the deadline.
    fn take_turn(&mut self, deadline: &Deadline) -> Result<Self::Turn, Self::Answer>;

    /// Runs the jobs as one group. Gives one answer a job, in their order.
    /// `deadline` is that of the member who can wait longest.
    fn run(
        &mut self,
        turn: Self::Turn,
        jobs: Vec<Self::Job>,
        deadline: &Deadline,
    ) -> Vec<Self::Answer>;

    /// How much of a group a job is; groups end at [`WEIGHT_MAX`].
    fn weight(job: &Self::Job) -> usize {
        let _ = job;
        1
    }

    /// Whether a job goes before all that waits.
    fn is_urgent(job: &Self::Job) -> bool {
        let _ = job;
        false
    }

    /// Whether an answer says that the work was not done. Whoever leads and gets
    /// one hands the lead on: the next group would wait as long as this one did.
    fn is_refusal(answer: &Self::Answer) -> bool;

    /// The group panicked: puts the writer right.
    fn recover(&mut self);

    /// The answer to a caller whose deadline passed before its work began.
    fn busy(deadline: &Deadline) -> Self::Answer;
    /// The answer to a caller that came after the queue was closed.
    fn closed() -> Self::Answer;
    /// The answer to a caller whose group panicked.
    fn panicked() -> Self::Answer;
}

/// The queue and its writer.
pub(crate) struct Queue<W: Writer> {
    writer: Mutex<W>,
    line: Mutex<Line<W>>,
    /// Somebody may come in from outside a full queue.
    room: Condvar,
    /// Nobody leads any more.
    idle: Condvar,
    length_max: usize,
    group_max: usize,
    crowd: usize,
}

struct Line<W: Writer> {
    waiting: VecDeque<Arc<Slot<W>>>,
    outside: usize,
    led: bool,
    closed: bool,
}

/// A caller's place in the queue.
struct Slot<W: Writer> {
    state: Mutex<State<W>>,
    changed: Condvar,
    deadline: Deadline,
}

enum State<W: Writer> {
    /// In the queue.
    Queued(W::Job),
    /// Out of the queue: a leader is working on it.
    Taken,
    /// Out of the queue: the caller leads now.
    Lead(W::Job),
    /// Done.
    Answered(W::Answer),
}

impl<W: Writer> Slot<W> {
    fn set(&self, state: State<W>) {
        *self.state.lock() = state;
        self.changed.notify_one();
    }
}

impl<W: Writer> Queue<W> {
    /// At most `length_max` callers wait; at most `group_max` share a group. A
    /// leader goes on while at least `crowd` wait: fewer are better served by
    /// the next.
    pub(crate) fn new(writer: W, length_max: usize, group_max: usize, crowd: usize) -> Queue<W> {
        assert!(0 < length_max && 0 < group_max && 0 < crowd);
        Queue {
            writer: Mutex::new(writer),
            line: Mutex::new(Line {
                waiting: VecDeque::new(),
                outside: 0,
                led: false,
                closed: false,
            }),
            room: Condvar::default(),
            idle: Condvar::default(),
            length_max,
            group_max,
            crowd,
        }
    }

    /// Has a job done, by this caller or by another, and gives its answer.
    pub(crate) fn submit(&self, job: W::Job, deadline: &Deadline) -> W::Answer {
        let mut line = self.line.lock();
        while !line.closed && line.led && line.waiting.len() >= self.length_max {
            line.outside += 1;
            let (guard, timed_out) = self.room.wait_until(line, deadline);
            line = guard;
            line.outside -= 1;
            if timed_out && line.led && line.waiting.len() >= self.length_max {
                return W::busy(deadline);
            }
        }
        if line.closed {
            return W::closed();
        }
        if !line.led {
            line.led = true;
            drop(line);
            return self.lead(job, deadline);
        }
        let slot = Arc::new(Slot {
            state: Mutex::new(State::Queued(job)),
            changed: Condvar::default(),
            deadline: *deadline,
        });
        line.waiting.push_back(Arc::clone(&slot));
        drop(line);
        self.follow(&slot, deadline)
    }

    /// How many callers wait in the queue.
    pub(crate) fn waiting(&self) -> usize {
        self.line.lock().waiting.len()
    }

    /// Refuses new work, and returns when all that was accepted is answered.
    pub(crate) fn close(&self) {
        let mut line = self.line.lock();
        line.closed = true;
        self.room.notify_all();
        while line.led || !line.waiting.is_empty() {
            line = self.idle.wait(line);
        }
    }

    /// Gives the writer to somebody who must be alone with it.
    pub(crate) fn with_writer<R>(&self, work: impl FnOnce(&mut W) -> R) -> R {
        work(&mut self.writer.lock())
    }

    fn follow(&self, slot: &Arc<Slot<W>>, deadline: &Deadline) -> W::Answer {
        let mut begun = false;
        let mut state = slot.state.lock();
        loop {
            match std::mem::replace(&mut *state, State::Taken) {
                State::Answered(answer) => return answer,
                State::Lead(job) => {
                    drop(state);
                    return self.lead(job, deadline);
                }
                waiting => *state = waiting,
            }
            if begun {
                state = slot.changed.wait(state);
                continue;
            }
            let (guard, timed_out) = slot.changed.wait_until(state, deadline);
            state = guard;
            if timed_out {
                drop(state);
                if self.withdraw(slot) {
                    return W::busy(deadline);
                }
                begun = true;
                state = slot.state.lock();
            }
        }
    }

    /// Takes a slot out of the queue; `false` when a leader took it first.
    fn withdraw(&self, slot: &Arc<Slot<W>>) -> bool {
        let mut line = self.line.lock();
        let place = line
            .waiting
            .iter()
            .position(|other| Arc::ptr_eq(other, slot));
        if let Some(place) = place {
            line.waiting.remove(place);
            if 0 < line.outside {
                self.room.notify_one();
            }
        }
        place.is_some()
    }

    fn lead(&self, job: W::Job, deadline: &Deadline) -> W::Answer {
        let lead = Lead(self);
        let mut writer = self.writer.lock();
        let mine = match writer.take_turn(deadline) {
            Ok(turn) => self.run_group(&mut writer, turn, Some(job), deadline),
            Err(answer) => Some(answer),
        };
        let goes_on = mine.as_ref().is_some_and(|mine| !W::is_refusal(mine));
        // Under load others have queued meanwhile. Handing the lead on costs a
        // change of threads while nothing is written: first some more groups.
        for _ in 1..GROUPS_PER_LEAD {
            if !goes_on || self.waiting() < self.crowd || deadline.passed() {
                break;
            }
            let Ok(turn) = writer.take_turn(&Deadline::after(Duration::ZERO)) else {
                break;
            };
            self.run_group(&mut writer, turn, None, deadline);
        }
        drop(writer);
        drop(lead);
        mine.unwrap_or_else(W::panicked)
    }

    /// Runs what is queued as one group, with the leader's own job if it has one
    /// still; answers the others, and gives the leader's answer.
    fn run_group(
        &self,
        writer: &mut W,
        turn: W::Turn,
        own: Option<W::Job>,
        deadline: &Deadline,
    ) -> Option<W::Answer> {
        let has_own = own.is_some();
        let mut jobs: Vec<W::Job> = own.into_iter().collect();
        let slots = self.take_queued(&mut jobs);
        let count = jobs.len();
        if count == 0 {
            return None;
        }
        let deadline = slots
            .iter()
            .map(|slot| slot.deadline)
            .fold(*deadline, Deadline::later);
        let answers = catch_unwind(AssertUnwindSafe(|| writer.run(turn, jobs, &deadline)));
        let mut answers = match answers {
            Ok(answers) if answers.len() == count => answers,
            _ => {
                writer.recover();
                (0..count).map(|_| W::panicked()).collect()
            }
        }
        .into_iter();
        let mine = if has_own { answers.next() } else { None };
        for (slot, answer) in slots.iter().zip(answers) {
            slot.set(State::Answered(answer));
        }
        mine
    }

    /// Moves what is queued into the group.
    fn take_queued(&self, jobs: &mut Vec<W::Job>) -> Vec<Arc<Slot<W>>> {
        let mut slots = Vec::new();
        let mut weight: usize = jobs.iter().map(W::weight).sum();
        let mut line = self.line.lock();
        let mut urgent: VecDeque<usize> = line
            .waiting
            .iter()
            .enumerate()
            .filter(
                |(_, slot)| matches!(&*slot.state.lock(), State::Queued(job) if W::is_urgent(job)),
            )
            .map(|(place, _)| place)
            .collect();
        let mut taken = 0;
        while jobs.len() < self.group_max {
            // Each urgent one that is taken moves those behind it up.
            let next = match urgent.pop_front() {
                Some(place) => {
                    taken += 1;
                    line.waiting.remove(place + 1 - taken)
                }
                None if weight < WEIGHT_MAX => line.waiting.pop_front(),
                None => None,
            };
            let Some(slot) = next else {
                break;
            };
            let state = std::mem::replace(&mut *slot.state.lock(), State::Taken);
            if let State::Queued(job) = state {
                weight += W::weight(&job);
                jobs.push(job);
                slots.push(slot);
            }
        }
        if 0 < line.outside {
            self.room.notify_all();
        }
        slots
    }
}

/// The lead. Handed to the next in the queue when dropped.
struct Lead<'q, W: Writer>(&'q Queue<W>);

impl<W: Writer> Drop for Lead<'_, W> {
    fn drop(&mut self) {
        let mut line = self.0.line.lock();
        while let Some(slot) = line.waiting.pop_front() {
            let mut state = slot.state.lock();
            if let State::Queued(job) = std::mem::replace(&mut *state, State::Taken) {
                *state = State::Lead(job);
                slot.changed.notify_one();
                if 0 < line.outside {
                    self.0.room.notify_one();
                }
                return;
            }
        }
        line.led = false;
        if 0 < line.outside {
            self.0.room.notify_all();
        }
        self.0.idle.notify_all();
    }
}

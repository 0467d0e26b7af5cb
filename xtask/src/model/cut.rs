//! What must be true of what a power cut left: given the marks that were written before
//! it, and the order in which the steps were committed in the end.
//!
//! A step is there when its line is in the book. Then all of it must be there, and of one
//! that is not there nothing; what is there is a beginning of the order; and with full
//! durability everything is there that was acknowledged. The content of what is there was
//! compared with the plan by whoever read it.

use std::collections::{BTreeMap, BTreeSet};

use agentos_core::{KeyStatus, TaskStatus, WorkItemStatus};

use super::mill::{CHECKPOINTS_KEPT, ITEMS_KEPT, Plan, Step};

/// What a program marks in the log of its file operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    /// The tasks and the first items are about to be committed.
    Setup,
    /// They were.
    SetUp,
    /// The item of a step is held.
    Claimed(Step),
    /// The tool of a step runs: that it is about to is durable.
    Running(Step),
    /// The model's answer is kept.
    Asked(Step),
    /// A step is about to be committed.
    Begun(Step),
    /// It was.
    Acknowledged(Step),
    /// Upkeep begins.
    Upkeep,
    /// A recovery sweep has ended.
    Swept,
}

impl Mark {
    /// As it stands in the log.
    pub(crate) fn text(self) -> String {
        match self {
            Mark::Setup => "setup".into(),
            Mark::SetUp => "set-up".into(),
            Mark::Claimed(step) => format!("claimed {step}"),
            Mark::Running(step) => format!("running {step}"),
            Mark::Asked(step) => format!("asked {step}"),
            Mark::Begun(step) => format!("begun {step}"),
            Mark::Acknowledged(step) => format!("acknowledged {step}"),
            Mark::Upkeep => "upkeep".into(),
            Mark::Swept => "swept".into(),
        }
    }

    /// Reads it; `None` for what is none.
    pub(crate) fn read(text: &str) -> Option<Mark> {
        let (word, step) = match text.split_once(' ') {
            Some((word, step)) => (word, Some(step.parse::<Step>().ok()?)),
            None => (text, None),
        };
        Some(match (word, step) {
            ("setup", None) => Mark::Setup,
            ("set-up", None) => Mark::SetUp,
            ("upkeep", None) => Mark::Upkeep,
            ("swept", None) => Mark::Swept,
            ("claimed", Some(step)) => Mark::Claimed(step),
            ("running", Some(step)) => Mark::Running(step),
            ("asked", Some(step)) => Mark::Asked(step),
            ("begun", Some(step)) => Mark::Begun(step),
            ("acknowledged", Some(step)) => Mark::Acknowledged(step),
            _ => return None,
        })
    }
}

/// What was marked before a cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told(BTreeSet<Mark>);

impl Told {
    /// Takes note of marks.
    pub(crate) fn of(marks: impl IntoIterator<Item = Mark>) -> Told {
        Told(marks.into_iter().collect())
    }

    /// Whether this was marked.
    pub(crate) fn has(&self, mark: Mark) -> bool {
        self.0.contains(&mark)
    }

    /// How many steps were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        let is = |mark: &&Mark| matches!(mark, Mark::Acknowledged(_));
        self.0.iter().filter(is).count() as u64
    }

    fn iter(&self) -> impl Iterator<Item = Mark> {
        self.0.iter().copied()
    }
}

/// What a file holds of one thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its task's state; `None` when there is no such task.
    pub(crate) status: Option<TaskStatus>,
    /// Its checkpoints, oldest first: the number, and the step that it says.
    pub(crate) checkpoints: Vec<(u64, Option<Step>)>,
    /// The newest number, those counted that carry no step.
    pub(crate) newest: u64,
    /// Its work items by the number of their step.
    pub(crate) items: BTreeMap<u64, WorkItemStatus>,
    /// The calls of its tool by the number of their step.
    pub(crate) calls: BTreeMap<u64, KeyStatus>,
    /// The steps whose answers of the model are kept.
    pub(crate) answers: BTreeSet<u64>,
}

impl Found {
    /// Whether there is nothing at all.
    fn is_nothing(&self) -> bool {
        *self == Found::default()
    }
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The steps in the book, in order; `None` when there is no book.
    pub(crate) book: Option<Vec<Step>>,
    /// Thread by thread.
    pub(crate) threads: Vec<Found>,
}

/// What must be there.
pub(crate) struct Expected<'all> {
    /// The work.
    pub(crate) plan: &'all Plan,
    /// The order in which the steps were committed in the end.
    pub(crate) order: &'all [Step],
    /// What was marked before the cut.
    pub(crate) told: &'all Told,
    /// Whether what was acknowledged must be there.
    pub(crate) full: bool,
}

impl Expected<'_> {
    /// What is wrong with what was found; nothing when all is as it must be.
    pub(crate) fn judge(&self, seen: &Seen) -> Vec<String> {
        let mut broken = Vec::new();
        let Some(book) = &seen.book else {
            if self.full && self.told.has(Mark::SetUp) {
                broken.push("the first commit was acknowledged, and there is no task".into());
            }
            if seen.threads.iter().any(|found| !found.is_nothing()) {
                broken.push("there is a part of the first commit".into());
            }
            return broken;
        };
        if !self.told.has(Mark::Setup) {
            broken.push("there are tasks before they were begun".into());
        }
        self.judge_book(book, &mut broken);
        let upkeep = self.told.has(Mark::Upkeep);
        for (thread, found) in (0..).zip(&seen.threads) {
            self.judge_thread(thread, book, found, upkeep, &mut broken);
        }
        if self.full {
            self.judge_told(seen, book, &mut broken);
        }
        broken
    }

    fn judge_book(&self, book: &[Step], broken: &mut Vec<String>) {
        if !self.order.starts_with(book) {
            let at = self.order.iter().zip(book).position(|(a, b)| a != b);
            let at = at.unwrap_or(self.order.len().min(book.len()));
            let expected = self.order.get(at).map(ToString::to_string);
            broken.push(format!(
                "the steps are no beginning of the order: {:?} stands in the place of {expected:?} ({at})",
                book.get(at).map(ToString::to_string)
            ));
        }
        for step in book
            .iter()
            .filter(|step| !self.told.has(Mark::Begun(**step)))
        {
            broken.push(format!("step {step} is there and was not begun"));
        }
    }

    fn judge_thread(
        &self,
        thread: u64,
        book: &[Step],
        found: &Found,
        upkeep: bool,
        broken: &mut Vec<String>,
    ) {
        let done = book.iter().filter(|step| step.thread == thread).count() as u64;
        let over = done == self.plan.steps;
        let mut say =
            |what: String| broken.push(format!("thread {thread} after {done} steps: {what}"));
        let status = if over {
            TaskStatus::Succeeded
        } else {
            TaskStatus::Running
        };
        if found.status != Some(status) {
            say(format!(
                "its task is {:?}, and must be {status}",
                found.status
            ));
        }
        let numbers: Vec<u64> = found
            .checkpoints
            .iter()
            .map(|(number, _)| *number)
            .collect();
        let oldest = numbers.first().copied().unwrap_or(1);
        if !numbers.iter().copied().eq(oldest..=done) || (done > 0 && oldest > done) {
            say(format!("its checkpoints are {numbers:?}"));
        }
        if oldest > 1 && !(upkeep && oldest + CHECKPOINTS_KEPT <= found.newest + 1) {
            say(format!("its checkpoints begin at {oldest}"));
        }
        for (number, step) in &found.checkpoints {
            let expected = Step {
                thread,
                number: *number,
            };
            if *step != Some(expected) {
                say(format!("checkpoint {number} is of step {step:?}"));
            }
        }
        for number in 1..=self.plan.steps {
            let step = Step { thread, number };
            if let Some(wrong) = wrong_item(found.items.get(&number).copied(), number, done) {
                // What was finished long ago may have been removed.
                let newer = book.iter().skip_while(|other| **other != step).count() as u64;
                let is_old = newer + self.plan.threads > ITEMS_KEPT;
                let gone = !found.items.contains_key(&number) && upkeep && number <= done;
                if !(gone && is_old) {
                    say(format!("the item of step {number} {wrong}"));
                }
            }
            let call = found.calls.get(&number).copied();
            let right = match call {
                Some(KeyStatus::Succeeded) => number <= done,
                Some(KeyStatus::Pending) => number == done + 1,
                Some(KeyStatus::Failed) => false,
                None => number > done,
            };
            if !right {
                say(format!("the call of step {number} is {call:?}"));
            }
            let answered = found.answers.contains(&number);
            if step.asks() && number <= done && !answered || answered && number > done + 1 {
                say(format!("the answer of step {number} is there: {answered}"));
            }
        }
    }

    /// What was told of steps, their commits and what led to them, must be there.
    fn judge_told(&self, seen: &Seen, book: &[Step], broken: &mut Vec<String>) {
        let there: BTreeSet<&Step> = book.iter().collect();
        let mut items = seen.threads.iter().flat_map(|found| found.items.values());
        if self.told.has(Mark::Swept) && items.any(|item| *item == WorkItemStatus::InProgress) {
            broken.push("a lease that was taken away is back".into());
        }
        for mark in self.told.iter() {
            let (step, holds): (Step, fn(&Found, u64) -> bool) = match mark {
                Mark::Acknowledged(step) => {
                    if !there.contains(&step) {
                        broken.push(format!("step {step} was acknowledged and is lost"));
                    }
                    continue;
                }
                Mark::Claimed(step) => (step, |found, number| {
                    found.items.get(&number) != Some(&WorkItemStatus::Pending)
                }),
                Mark::Running(step) => (step, |found, number| found.calls.contains_key(&number)),
                Mark::Asked(step) => (step, |found, number| found.answers.contains(&number)),
                _ => continue,
            };
            let found = usize::try_from(step.thread)
                .ok()
                .and_then(|at| seen.threads.get(at));
            if !found.is_some_and(|found| holds(found, step.number)) {
                broken.push(format!("{:?} was told, and is lost", mark.text()));
            }
        }
    }
}

/// What is wrong with the item of a step when so many are done.
fn wrong_item(item: Option<WorkItemStatus>, number: u64, done: u64) -> Option<String> {
    use WorkItemStatus::{InProgress, Pending, Succeeded};
    let right = match item {
        Some(Succeeded) => number <= done,
        Some(Pending | InProgress) => number == done + 1,
        Some(_) => false,
        None => number > done + 1,
    };
    (!right).then(|| match item {
        Some(status) => format!("is {status}"),
        None => "is not there".into(),
    })
}

#[cfg(test)]
mod tests;

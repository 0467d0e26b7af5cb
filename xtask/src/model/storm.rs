//! What must be true of an item of the kill storm, whose steps are done outside of the
//! store and committed one by one. Pure.

use std::collections::BTreeMap;

use agentos_core::{AttemptOutcome, WorkItemStatus};

use super::history::FoundItem;

/// Steps of each item.
pub(crate) const STEPS: u64 = 3;

/// The value after one more step: what the command of that step works out.
pub(crate) fn value_after(value: u64, number: u64, step: u64) -> u64 {
    (value * 31 + number * 7 + step) % 1_000_003
}

/// The value after the first so many steps.
pub(crate) fn value_of(number: u64, steps: u64) -> u64 {
    (1..=steps).fold(number, |value, step| value_after(value, number, step))
}

/// A step of an item, as a checkpoint, a line of the log or an acknowledgement tells
/// of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    /// Which item, by the number that it was enqueued with.
    pub(crate) number: u64,
    /// Which step, from 1.
    pub(crate) step: u64,
    /// Under which lease.
    pub(crate) token: i64,
    /// The value after it.
    pub(crate) value: u64,
}

impl std::fmt::Display for Step {
    /// As the log and the acknowledgements have it; [`Step::parse`] reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Step {
            number,
            step,
            token,
            value,
        } = self;
        write!(f, "{number} {step} {token} {value}")
    }
}

impl Step {
    /// Reads what [`Display`](std::fmt::Display) writes; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Step> {
        let mut words = text.split(' ');
        let step = Step {
            number: words.next()?.parse().ok()?,
            step: words.next()?.parse().ok()?,
            token: words.next()?.parse().ok()?,
            value: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(step)
    }
}

/// An item when the storm is over, and what tells of its steps.
#[derive(Debug)]
pub(crate) struct Stormed {
    /// Its number.
    pub(crate) number: u64,
    /// Its checkpoints with a state, in order.
    pub(crate) committed: Vec<Step>,
    /// What was done in the world, as the log says, in no order.
    pub(crate) done: Vec<Step>,
    /// What workers acknowledged.
    pub(crate) acked: Vec<Step>,
    /// Whether an attempt may fail, since system calls of a worker did.
    pub(crate) may_fail: bool,
}

impl Stormed {
    /// Everything that must be true of it, besides what is true of every item.
    pub(crate) fn judge(&self, item: &FoundItem) -> Vec<String> {
        let number = self.number;
        let mut broken = Vec::new();
        let result = item.result.as_deref().and_then(Step::parse);
        if item.status != WorkItemStatus::Succeeded || result.as_ref() != self.committed.last() {
            broken.push(format!(
                "item {number} is {} with the result {:?}",
                item.status, item.result
            ));
        }
        let failed = ended(item, AttemptOutcome::Failed);
        for attempt in failed.iter().filter(|_| !self.may_fail) {
            broken.push(format!("attempt {attempt} at item {number} failed"));
        }
        let steps: Vec<u64> = self.committed.iter().map(|one| one.step).collect();
        if !steps.iter().copied().eq(1..=STEPS) {
            broken.push(format!("item {number} has the steps {steps:?} committed"));
        }
        let tokens: Vec<i64> = self.committed.iter().map(|one| one.token).collect();
        let won = ended(item, AttemptOutcome::Succeeded);
        if !tokens.is_sorted() || tokens.last() != won.last() {
            broken.push(format!(
                "the steps of item {number} are committed under {tokens:?}, and {won:?} has won"
            ));
        }
        for one in self.committed.iter().chain(&self.done) {
            if one.value != value_of(number, one.step) {
                let (step, value) = (one.step, one.value);
                broken.push(format!("step {step} of item {number} came to {value}"));
            }
        }
        for acked in &self.acked {
            if !self.committed.contains(acked) {
                broken.push(format!(
                    "step {} of item {number} was acknowledged under lease {} and is not committed under it",
                    acked.step, acked.token
                ));
            }
        }
        broken.extend(self.judge_effects(item));
        broken
    }

    /// What was done in the world: each committed step under its lease, each step
    /// once under a lease, none again that was committed, and none more often than
    /// leases were lost on the way.
    fn judge_effects(&self, item: &FoundItem) -> Vec<String> {
        let number = self.number;
        let mut broken = Vec::new();
        let mut times: BTreeMap<(u64, i64), usize> = BTreeMap::new();
        for one in &self.done {
            *times.entry((one.step, one.token)).or_default() += 1;
        }
        for one in &self.committed {
            if !times.contains_key(&(one.step, one.token)) {
                broken.push(format!(
                    "step {} of item {number} is committed under lease {} and was not done",
                    one.step, one.token
                ));
            }
        }
        for ((step, token), times) in &times {
            if *times > 1 {
                broken.push(format!(
                    "step {step} of item {number} was done {times} times under lease {token}"
                ));
            }
            let committed = self.committed.iter().find(|one| one.step == *step);
            if let Some(before) = committed.filter(|one| one.token < *token) {
                broken.push(format!(
                    "step {step} of item {number} was done again under lease {token}, and is committed under {}",
                    before.token
                ));
            }
            if !item.attempts.iter().any(|one| one.number.get() == *token) {
                broken.push(format!(
                    "step {step} of item {number} was done under lease {token}, which nobody had"
                ));
            }
        }
        let mut most = 1 + ended(item, AttemptOutcome::Expired).len();
        if self.may_fail {
            most += ended(item, AttemptOutcome::Failed).len();
        }
        for step in 1..=STEPS {
            let done = self.done.iter().filter(|one| one.step == step).count();
            if done > most {
                broken.push(format!(
                    "step {step} of item {number} was done {done} times, and {} leases were lost",
                    most - 1
                ));
            }
        }
        broken
    }
}

/// Tokens of the attempts that ended so.
fn ended(item: &FoundItem, outcome: AttemptOutcome) -> Vec<i64> {
    let of = item.attempts.iter();
    let of = of.filter(|one| one.outcome == Some(outcome));
    of.map(|one| one.number.get()).collect()
}

#[cfg(test)]
mod tests {
    use agentos_core::FencingToken;

    use super::super::history::FoundAttempt;
    use super::*;

    fn step(step: u64, token: i64) -> Step {
        Step {
            number: 7,
            step,
            token,
            value: value_of(7, step),
        }
    }

    /// Lease 1 was lost after the first step, lease 2 in the second.
    fn sound() -> (Stormed, FoundItem) {
        let stormed = Stormed {
            number: 7,
            committed: vec![step(1, 1), step(2, 3), step(3, 3)],
            done: vec![step(1, 1), step(2, 2), step(2, 3), step(3, 3)],
            acked: vec![step(1, 1), step(3, 3)],
            may_fail: false,
        };
        let attempt = |number, outcome| FoundAttempt {
            number: FencingToken::new(number).unwrap(),
            process: "w".into(),
            outcome: Some(outcome),
        };
        let item = FoundItem {
            status: WorkItemStatus::Succeeded,
            newest: FencingToken::new(3).ok(),
            result: Some(step(3, 3).to_string()),
            attempts: vec![
                attempt(1, AttemptOutcome::Expired),
                attempt(2, AttemptOutcome::Expired),
                attempt(3, AttemptOutcome::Succeeded),
            ],
            written: Vec::new(),
        };
        (stormed, item)
    }

    #[test]
    fn values_depend_on_every_step_and_are_told_as_words() {
        assert_eq!(value_of(7, 0), 7);
        assert_eq!(value_of(7, 1), 7 * 31 + 49 + 1);
        assert_eq!(value_of(7, 2), (7 * 31 + 50) * 31 + 49 + 2);
        let text = "7 2 3 8328";
        assert_eq!(Step::parse(text).unwrap().to_string(), text);
        assert_eq!(Step::parse("7 2 3"), None);
        assert_eq!(Step::parse("7 2 3 4 5"), None);
    }

    #[test]
    fn an_item_whose_steps_were_done_again_after_losses_alone_is_sound() {
        let (stormed, item) = sound();
        assert_eq!(stormed.judge(&item), Vec::<String>::new());
    }

    #[test]
    fn each_way_of_being_wrong_is_named() {
        type Break = fn(&mut Stormed, &mut FoundItem);
        let breaks: [(Break, &str); 14] = [
            (|_, item| item.status = WorkItemStatus::Failed, "is failed"),
            (|_, item| item.result = Some("1".into()), "the result"),
            (
                |_, item| item.result = Some(step(3, 2).to_string()),
                "the result",
            ),
            (|stormed, _| stormed.committed.truncate(2), "[1, 2]"),
            (|stormed, _| stormed.committed.push(step(3, 3)), "3, 3]"),
            (|stormed, _| stormed.committed[0].token = 4, "has won"),
            (|_, item| item.attempts[2].outcome = None, "has won"),
            (|stormed, _| stormed.committed[1].value = 1, "came to 1"),
            (|stormed, _| stormed.acked[0].token = 2, "acknowledged"),
            (
                |stormed, _| stormed.done.retain(|one| *one != step(2, 3)),
                "was not done",
            ),
            (|stormed, _| stormed.done.push(step(3, 3)), "2 times under"),
            (|stormed, _| stormed.done.push(step(1, 2)), "done again"),
            (|stormed, _| stormed.done.push(step(3, 0)), "nobody had"),
            (
                |stormed, item| {
                    item.attempts[0].outcome = Some(AttemptOutcome::Released);
                    stormed.done.push(step(2, 1));
                },
                "and 1 leases",
            ),
        ];
        for (break_it, word) in breaks {
            let (mut stormed, mut item) = sound();
            break_it(&mut stormed, &mut item);
            let broken = stormed.judge(&item);
            assert!(
                broken.iter().any(|reason| reason.contains(word)),
                "{word}: {broken:?}"
            );
        }
    }
}

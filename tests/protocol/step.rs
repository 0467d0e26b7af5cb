//! What follows a step: the protocol, once, as a pure function.
//!
//! Every state of it is explored (`exhaustive.rs`), and the real store is held
//! against it step by step (`store.rs`). What follows a lost or failed attempt,
//! and which state may follow which, it asks core.

use std::cmp::Reverse;

use agentos_core::retry::{Tried, after_failure, after_loss, chance};
use agentos_core::{AttemptOutcome, FencingToken, Next, Retry, WorkItemId, WorkItemStatus};

use crate::model::{
    Action, Answer, Belief, Fault, GONE, Held, Item, Micros, Rules, Stale, State, Who,
};

/// Takes one step. `None` when there is nobody to take it.
pub(crate) fn step(rules: &Rules, state: &State, action: &Action) -> Option<(State, Answer)> {
    if let Some(process) = action.by()
        && state.processes[process].alive == matches!(action, Action::Restart { .. })
    {
        return None;
    }
    let mut next = state.clone();
    // What is refused has changed nothing.
    match next.take(rules, action) {
        Ok(answer) => Some((next, answer)),
        Err(refusal) => Some((state.clone(), refusal)),
    }
}

/// The id of an item: they are enqueued in order into an empty store.
pub(crate) fn item_id(item: usize) -> WorkItemId {
    WorkItemId::new(item as i64 + 1).expect("a positive number")
}

pub(crate) fn fencing_token(number: i64) -> FencingToken {
    FencingToken::new(number).expect("a positive number")
}

impl Action {
    /// The process that takes it.
    fn by(&self) -> Option<usize> {
        match *self {
            Action::Claim { process, .. }
            | Action::Renew { process, .. }
            | Action::Write { process, .. }
            | Action::Complete { process, .. }
            | Action::Fail { process, .. }
            | Action::Release { process, .. }
            | Action::Forget { process, .. }
            | Action::TakeBack { process }
            | Action::Crash { process }
            | Action::Restart { process } => Some(process),
            Action::Sweep
            | Action::Look
            | Action::Cancel { .. }
            | Action::Requeue { .. }
            | Action::Elapse(_)
            | Action::JumpBoot(_)
            | Action::JumpWall(_)
            | Action::Reboot
            | Action::Lease { .. }
            | Action::Due { .. } => None,
        }
    }
}

impl Item {
    fn tried(&self) -> Tried {
        Tried {
            attempts: self.attempts,
            max_attempts: self.max_attempts,
            losses: self.losses,
        }
    }

    fn stale(&self) -> Stale {
        Stale {
            status: self.status,
            newest: (0 < self.token).then_some(self.token),
            holder: self.holder,
        }
    }

    /// Moves it, and ends its lease if it has one. The schema refuses what is no
    /// transition; to write the state that is there already is none.
    fn move_to(&mut self, to: WorkItemStatus, outcome: AttemptOutcome) -> Result<(), Answer> {
        if self.status != to && !self.status.can_become(to) {
            return Err(Answer::Illegal(self.status));
        }
        self.status = to;
        self.holder = None;
        self.left = None;
        if let Some((_, _, end @ None)) = self.attempts_made.last_mut() {
            *end = Some(outcome);
        }
        Ok(())
    }

    fn go_on(&mut self, next: Next, outcome: AttemptOutcome) -> Result<(), Answer> {
        match next {
            Next::DeadLetter => self.move_to(WorkItemStatus::Failed, outcome),
            Next::Requeue { pause } => {
                self.move_to(WorkItemStatus::Pending, outcome)?;
                // Without a pause it keeps the moment at which it became due, and its age.
                if !pause.is_zero() {
                    self.wait = Micros::try_from(pause.as_micros()).expect("a short pause");
                }
                Ok(())
            }
        }
    }
}

impl State {
    fn take(&mut self, rules: &Rules, action: &Action) -> Result<Answer, Answer> {
        match action {
            Action::Claim {
                process,
                of,
                at_most,
                lease,
            } => {
                self.sweep(rules, |_, item| item.is_over());
                Ok(self.claim(rules, *process, *of, *at_most, *lease))
            }
            Action::Renew {
                process,
                held,
                lease,
            } => {
                let renew = |held: &Held| self.renew(rules, *process, *held, *lease);
                Ok(Answer::Renewed(held.iter().map(renew).collect()))
            }
            Action::Write { process, held } => self.write(rules, *process, *held),
            Action::Complete {
                process,
                held,
                heard,
            } => self.complete(rules, *process, *held, *heard),
            Action::Fail {
                process,
                held,
                retry,
            } => self.fail(rules, *process, *held, retry),
            Action::Release { process, held } => self.release(rules, *process, *held),
            Action::Sweep if rules.fault == Fault::SweepById => {
                let found = std::mem::take(&mut self.found);
                let lost = |at, item: &Item| found.contains(&at) && item.holder.is_some();
                Ok(Answer::Swept(self.sweep(rules, lost)))
            }
            Action::Sweep => Ok(Answer::Swept(self.sweep(rules, |_, item| item.is_over()))),
            Action::TakeBack { process } => {
                let who = self.who(*process);
                // Which start is earlier is told by its incarnation: see `product.rs`.
                let order = |who: Who| (who.process, who.start);
                let earlier = |holder: Who| holder.name == who.name && order(holder) < order(who);
                let lost = |_, item: &Item| item.holder.is_some_and(earlier);
                Ok(Answer::Swept(self.sweep(rules, lost)))
            }
            Action::Cancel { item } => {
                let item = &mut self.items[*item];
                if item.status == WorkItemStatus::Cancelled {
                    return Err(Answer::Illegal(item.status));
                }
                item.move_to(WorkItemStatus::Cancelled, AttemptOutcome::Cancelled)?;
                Ok(Answer::Cancelled)
            }
            Action::Requeue { item } => {
                let item = &mut self.items[*item];
                if item.status != WorkItemStatus::Failed {
                    return Err(Answer::Illegal(item.status));
                }
                item.move_to(WorkItemStatus::Pending, AttemptOutcome::Failed)?;
                (item.attempts, item.losses, item.wait) = (0, 0, item.wait.min(0));
                Ok(Answer::Requeued)
            }
            alone => {
                self.take_alone(rules, alone);
                Ok(Answer::Done)
            }
        }
    }

    /// What happens to processes and clocks; the store takes no part in it.
    fn take_alone(&mut self, rules: &Rules, action: &Action) {
        match *action {
            Action::Forget { process, held } => self.forget(process, held),
            Action::Crash { process } => {
                self.processes[process].alive = false;
                self.processes[process].beliefs.clear();
            }
            Action::Restart { process } => {
                self.processes[process].alive = true;
                self.processes[process].start += 1;
            }
            Action::Look => {
                let over = |at: &usize| self.items[*at].is_over();
                self.found = (0..self.items.len()).filter(over).collect();
            }
            Action::Elapse(by) => {
                self.pass(rules, by, by);
                for process in &mut self.processes {
                    for belief in &mut process.beliefs {
                        belief.sure = (belief.sure - by).max(0);
                    }
                }
            }
            Action::JumpBoot(by) => self.pass(rules, by, 0),
            Action::JumpWall(by) => self.pass(rules, 0, by),
            Action::Reboot => {
                for item in &mut self.items {
                    item.left = item.left.map(|_| GONE);
                }
            }
            Action::Lease { item, left } => {
                let item = &mut self.items[item];
                item.left = item.left.map(|_| left);
            }
            Action::Due { item, wait } => self.items[item].wait = wait,
            _ => unreachable!("{action:?} is a step of the store"),
        }
    }

    fn pass(&mut self, rules: &Rules, boot: Micros, wall: Micros) {
        let after = |left: Micros, by: Micros| match left {
            GONE => GONE,
            left if rules.keeps_all => left - by,
            left => (left - by).max(0),
        };
        for item in &mut self.items {
            item.left = item.left.map(|left| after(left, boot));
            item.wait = after(item.wait, wall);
        }
    }

    /// Takes every lease away that is lost.
    fn sweep(
        &mut self,
        rules: &Rules,
        lost: impl Fn(usize, &Item) -> bool,
    ) -> Vec<(Held, Who, Next)> {
        let mut recovered = Vec::new();
        for (at, item) in self.items.iter_mut().enumerate() {
            let Some(holder) = item.holder else { continue };
            if !lost(at, item) {
                continue;
            }
            let chance = chance(item_id(at), fencing_token(item.token));
            let next = after_loss(item.tried(), &rules.after_loss, chance);
            if rules.fault == Fault::SweepLeavesLast && next == Next::DeadLetter {
                continue;
            }
            item.go_on(next, AttemptOutcome::Expired)
                .expect("a held item may become pending and failed");
            item.losses += 1;
            let held = Held {
                item: at,
                token: item.token,
            };
            recovered.push((held, holder, next));
            if rules.keeps_all {
                item.checkpoints += 1; // the error boundary
            }
            match rules.fault {
                Fault::TokenReset => item.token = 0,
                Fault::LossIsFree => item.attempts -= 1,
                _ => {}
            }
        }
        recovered
    }

    fn claim(
        &mut self,
        rules: &Rules,
        process: usize,
        of: Option<usize>,
        at_most: usize,
        lease: Micros,
    ) -> Answer {
        let who = self.who(process);
        let mut given = Vec::new();
        while given.len() < at_most {
            let due = self.items.iter_mut().enumerate().filter(|(at, item)| {
                item.status == WorkItemStatus::Pending
                    && item.wait <= 0
                    && of.is_none_or(|of| of == *at)
            });
            let most_urgent = due.min_by_key(|(at, item)| (Reverse(item.priority), item.wait, *at));
            let Some((at, item)) = most_urgent else { break };
            assert!(item.status.can_become(WorkItemStatus::InProgress));
            item.status = WorkItemStatus::InProgress;
            item.attempts = (item.attempts + 1).min(item.max_attempts);
            item.token += 1;
            item.claims += 1;
            item.holder = Some(who);
            item.left = Some(lease);
            let held = Held {
                item: at,
                token: item.token,
            };
            if rules.keeps_all {
                item.attempts_made.push((item.token, who, None));
            }
            given.push((held, item.attempts));
            self.processes[process].beliefs.push(Belief {
                held,
                claim: item.claims,
                sure: sure(rules, lease),
            });
        }
        Answer::Claimed(given)
    }

    fn renew(
        &mut self,
        rules: &Rules,
        process: usize,
        held: Held,
        lease: Micros,
    ) -> Result<(), Stale> {
        let item = &mut self.items[held.item];
        let in_progress = item.status == WorkItemStatus::InProgress;
        let known = item.token == held.token || rules.fault == Fault::RenewById;
        if !in_progress || !known {
            return Err(item.stale());
        }
        item.left = Some(lease);
        self.note_effect(process, held);
        for belief in &mut self.processes[process].beliefs {
            if belief.held == held {
                belief.sure = sure(rules, lease);
            }
        }
        Ok(())
    }

    fn write(&mut self, rules: &Rules, process: usize, held: Held) -> Result<Answer, Answer> {
        self.fence(rules, process, held)?;
        self.note_effect(process, held);
        let item = &mut self.items[held.item];
        if rules.keeps_all {
            item.checkpoints += 1;
        }
        Ok(Answer::Written(item.checkpoints))
    }

    fn complete(
        &mut self,
        rules: &Rules,
        process: usize,
        held: Held,
        heard: bool,
    ) -> Result<Answer, Answer> {
        self.fence(rules, process, held)?;
        self.note_effect(process, held);
        let claim = self.claim_of(process, held);
        let item = &mut self.items[held.item];
        item.move_to(WorkItemStatus::Succeeded, AttemptOutcome::Succeeded)?;
        item.result = Some(claim);
        if heard {
            item.acknowledged.get_or_insert(claim);
            self.forget(process, held);
        }
        Ok(Answer::Completed)
    }

    fn fail(
        &mut self,
        rules: &Rules,
        process: usize,
        held: Held,
        retry: &Retry,
    ) -> Result<Answer, Answer> {
        self.fence(rules, process, held)?;
        self.note_effect(process, held);
        let item = &mut self.items[held.item];
        let chance = chance(item_id(held.item), fencing_token(held.token));
        let next = after_failure(item.tried(), retry, chance);
        item.go_on(next, AttemptOutcome::Failed)?;
        self.forget(process, held);
        Ok(Answer::Failed(next))
    }

    fn release(&mut self, rules: &Rules, process: usize, held: Held) -> Result<Answer, Answer> {
        self.fence(rules, process, held)?;
        self.note_effect(process, held);
        let item = &mut self.items[held.item];
        item.move_to(WorkItemStatus::Pending, AttemptOutcome::Released)?;
        item.attempts = item.attempts.saturating_sub(1);
        self.forget(process, held);
        Ok(Answer::Released)
    }

    /// Refuses what does not stand under the item's newest claim.
    fn fence(&self, rules: &Rules, process: usize, held: Held) -> Result<(), Answer> {
        let item = &self.items[held.item];
        let in_progress = item.status == WorkItemStatus::InProgress;
        let name = self.processes[process].name;
        let admitted = match rules.fault {
            Fault::NoFence => true,
            Fault::FenceByName => in_progress && item.holder.is_some_and(|who| who.name == name),
            _ => in_progress && item.token == held.token,
        };
        if admitted {
            Ok(())
        } else {
            Err(Answer::Stale(item.stale()))
        }
    }

    /// Something takes effect: takes note if it should not have.
    fn note_effect(&mut self, process: usize, held: Held) {
        let claim = self.claim_of(process, held);
        let item = &mut self.items[held.item];
        let in_progress = item.status == WorkItemStatus::InProgress;
        item.trespassed |= !in_progress || item.claims != claim;
    }

    /// The true number of the claim under which a process works, 0 if it never
    /// made it.
    fn claim_of(&self, process: usize, held: Held) -> i64 {
        let mut beliefs = self.processes[process].beliefs.iter();
        let belief = beliefs.find(|belief| belief.held == held);
        belief.map_or(0, |belief| belief.claim)
    }

    fn forget(&mut self, process: usize, held: Held) {
        let beliefs = &mut self.processes[process].beliefs;
        beliefs.retain(|belief| belief.held != held);
    }
}

/// How long a lease can be relied on that begins with its request.
fn sure(rules: &Rules, lease: Micros) -> Micros {
    if rules.fault == Fault::CountsFromAnswer {
        lease + 1
    } else {
        lease
    }
}

//! Which histories are explored: who may do what, how often what cannot go on for
//! ever may happen, and what must hold in every state.

use agentos_core::{Retry, RetryRule, WorkItemStatus};
use stateright::{Model, Property};

use crate::model::{Action, Answer, Fault, Held, Item, Micros, Rules, State};
use crate::step::step;

pub(crate) const ONE_HOLDER: &str = "at most one holder can commit";
pub(crate) const SUPERSEDED: &str = "nothing of a superseded claim takes effect";
pub(crate) const COMPLETION: &str = "no acknowledged completion is lost";
pub(crate) const BOUNDED: &str = "no item is tried more often than it may be";
pub(crate) const RELIANCE: &str = "who may still rely on its lease has it";
pub(crate) const TAKEOVER: &str = "a lost item is taken over and completed";
pub(crate) const ZOMBIE: &str = "a zombie and its successor are alive at once";
pub(crate) const SECOND_LIFE: &str = "an item from the dead letter is completed";

/// What the clocks may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// All go on together, a tick at a time.
    Steady,
    /// The store's clock may say anything of any lease at any time. A worker's
    /// clock says nothing: it may write, give up, or both, whenever it likes.
    Jump,
}

/// How often what makes tokens and starts grow may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Budget {
    pub(crate) crashes: u8,
    pub(crate) releases: u8,
    pub(crate) requeues: u8,
}

#[derive(Debug, Clone)]
pub(crate) struct Exploration {
    pub(crate) rules: Rules,
    pub(crate) clocks: Clocks,
    pub(crate) items: usize,
    pub(crate) max_attempts: u32,
    /// The worker's name of each process.
    pub(crate) names: Vec<u8>,
    pub(crate) budget: Budget,
}

/// A state, and what may still happen in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Point {
    pub(crate) state: State,
    pub(crate) budget: Budget,
}

/// After a loss and a failure the item waits for a tick or two.
const RETRIES: RetryRule = RetryRule {
    first: std::time::Duration::from_micros(2),
    factor: 1,
    most: std::time::Duration::from_micros(2),
};

impl Exploration {
    /// One item of two attempts, processes of these names, the sound product.
    pub(crate) fn of(clocks: Clocks, names: &[u8]) -> Exploration {
        Exploration {
            rules: Rules {
                fault: Fault::None,
                after_loss: RETRIES,
                keeps_all: false,
            },
            clocks,
            items: 1,
            max_attempts: 2,
            names: names.to_vec(),
            budget: Budget {
                crashes: 1,
                releases: 1,
                requeues: 1,
            },
        }
    }

    pub(crate) fn broken(mut self, fault: Fault) -> Exploration {
        self.rules.fault = fault;
        self
    }

    /// How long a lease is: two ticks, or one where only over and not over are
    /// told apart.
    fn lease(&self) -> Micros {
        match self.clocks {
            Clocks::Steady => 2,
            Clocks::Jump => 1,
        }
    }

    fn of_process(&self, point: &Point, process: usize, actions: &mut Vec<Action>) {
        let Point { state, budget } = point;
        if !state.processes[process].alive {
            actions.push(Action::Restart { process });
            return;
        }
        let lease = self.lease();
        for item in 0..self.items {
            actions.push(Action::Claim {
                process,
                of: Some(item),
                at_most: 1,
                lease,
            });
        }
        let beliefs = state.processes[process].beliefs.iter();
        for held in beliefs.map(|belief| belief.held) {
            let complete = |heard| Action::Complete {
                process,
                held,
                heard,
            };
            let fail = |retry| Action::Fail {
                process,
                held,
                retry,
            };
            actions.extend([
                Action::Renew {
                    process,
                    held: vec![held],
                    lease,
                },
                Action::Write { process, held },
                complete(true),
                complete(false),
                fail(Retry::Backoff(RETRIES)),
                fail(Retry::Never),
                Action::Forget { process, held },
            ]);
            if 0 < budget.releases {
                actions.push(Action::Release { process, held });
            }
        }
        // A worker takes back what it held before only if it knows that it runs
        // once; by clocks that jump, it may be wrong.
        let name = self.names[process];
        let alone = self.names.iter().filter(|other| **other == name).count() == 1;
        if alone || self.clocks == Clocks::Jump {
            actions.push(Action::TakeBack { process });
        }
        if 0 < budget.crashes {
            actions.push(Action::Crash { process });
        }
    }

    fn of_clocks(&self, state: &State, actions: &mut Vec<Action>) {
        if self.clocks == Clocks::Steady {
            actions.push(Action::Elapse(1));
            return;
        }
        for (at, item) in state.items.iter().enumerate() {
            if let Some(left) = item.left {
                let left = if left <= 0 { self.lease() } else { 0 };
                actions.push(Action::Lease { item: at, left });
            }
            if item.status == WorkItemStatus::Pending {
                let wait = if item.wait <= 0 { 1 } else { 0 };
                actions.push(Action::Due { item: at, wait });
            }
        }
    }

    /// How many could write under what they believe to hold of an item.
    fn holders(&self, state: &State, item: usize) -> usize {
        let processes = state.processes.iter().enumerate();
        let believed = processes.flat_map(|(process, believer)| {
            let beliefs = believer.beliefs.iter();
            beliefs.map(move |belief| (process, belief.held))
        });
        believed
            .filter(|(_, held)| held.item == item)
            .filter(|(process, held)| self.could_write(state, *process, *held))
            .count()
    }

    fn could_write(&self, state: &State, process: usize, held: Held) -> bool {
        let answer = step(&self.rules, state, &Action::Write { process, held });
        matches!(answer, Some((_, Answer::Written(_))))
    }
}

impl Model for Exploration {
    type State = Point;
    type Action = Action;

    fn init_states(&self) -> Vec<Point> {
        let items = vec![Item::pending(0, self.max_attempts); self.items];
        vec![Point {
            state: State::new(items, &self.names),
            budget: self.budget,
        }]
    }

    fn actions(&self, point: &Point, actions: &mut Vec<Action>) {
        // Broken enough: a history that goes on for ever ends here.
        if !attempts_are_bounded(self, point) {
            return;
        }
        for process in 0..self.names.len() {
            self.of_process(point, process, actions);
        }
        actions.push(Action::Sweep);
        if self.rules.fault == Fault::SweepById {
            actions.push(Action::Look);
        }
        for item in 0..self.items {
            actions.push(Action::Cancel { item });
            if 0 < point.budget.requeues {
                actions.push(Action::Requeue { item });
            }
        }
        self.of_clocks(&point.state, actions);
    }

    fn next_state(&self, point: &Point, action: Action) -> Option<Point> {
        let (state, answer) = step(&self.rules, &point.state, &action)?;
        let mut budget = point.budget;
        match (&action, answer) {
            (Action::Crash { .. }, _) => budget.crashes -= 1,
            (_, Answer::Released) => budget.releases -= 1,
            (_, Answer::Requeued) => budget.requeues -= 1,
            _ => {}
        }
        Some(Point { state, budget })
    }

    fn properties(&self) -> Vec<Property<Exploration>> {
        let mut properties = vec![
            Property::always(ONE_HOLDER, at_most_one_holder),
            Property::always(SUPERSEDED, no_trespass),
            Property::always(COMPLETION, completions_stay),
            Property::always(BOUNDED, attempts_are_bounded),
            Property::sometimes(TAKEOVER, takeover_completed),
            Property::sometimes(ZOMBIE, has_zombie),
        ];
        if 0 < self.budget.requeues {
            properties.push(Property::sometimes(SECOND_LIFE, second_life_completed));
        }
        if self.clocks == Clocks::Steady {
            properties.push(Property::always(RELIANCE, reliance_holds));
        }
        properties
    }
}

fn at_most_one_holder(model: &Exploration, point: &Point) -> bool {
    (0..model.items).all(|item| model.holders(&point.state, item) <= 1)
}

fn no_trespass(_: &Exploration, point: &Point) -> bool {
    point.state.items.iter().all(|item| !item.trespassed)
}

/// What was acknowledged as completed first stays, with that result.
fn completions_stay(_: &Exploration, point: &Point) -> bool {
    point.state.items.iter().all(|item| {
        let stays = item.status == WorkItemStatus::Succeeded && item.result == item.acknowledged;
        item.acknowledged.is_none() || stays
    })
}

pub(crate) fn attempts_are_bounded(model: &Exploration, point: &Point) -> bool {
    let Budget {
        releases, requeues, ..
    } = point.budget;
    let released = i64::from(model.budget.releases - releases);
    let lives = 1 + i64::from(model.budget.requeues - requeues);
    let most = lives * i64::from(model.max_attempts) + released;
    point.state.items.iter().all(|item| item.claims <= most)
}

fn takeover_completed(_: &Exploration, point: &Point) -> bool {
    let mut items = point.state.items.iter();
    items.any(|item| 0 < item.losses && item.acknowledged.is_some())
}

fn second_life_completed(model: &Exploration, point: &Point) -> bool {
    let requeued = point.budget.requeues < model.budget.requeues;
    let mut items = point.state.items.iter();
    requeued && items.any(|item| item.acknowledged.is_some())
}

/// Whether a process believes to hold what another one holds.
fn has_zombie(_: &Exploration, point: &Point) -> bool {
    let state = &point.state;
    let processes = state.processes.iter().enumerate();
    let mut beliefs = processes.flat_map(|(process, believer)| {
        let beliefs = believer.beliefs.iter();
        beliefs.map(move |belief| (process, belief.held.item))
    });
    beliefs.any(|(process, item)| {
        let holder = state.items[item].holder;
        holder.is_some_and(|holder| holder.process != process)
    })
}

/// Whether everybody who may still rely on a lease has it, or has completed the
/// item without hearing so. An operator who cancels an item asks nobody.
fn reliance_holds(_: &Exploration, point: &Point) -> bool {
    let state = &point.state;
    let mut beliefs = state.processes.iter().flat_map(|process| &process.beliefs);
    beliefs.all(|belief| {
        let item = &state.items[belief.held.item];
        let holds = item.status == WorkItemStatus::InProgress && item.claims == belief.claim;
        let completed = item.result == Some(belief.claim);
        let cancelled = item.status == WorkItemStatus::Cancelled;
        belief.sure <= 0 || holds || completed || cancelled
    })
}

/// Whether an action is of those that bring an item to its end by themselves:
/// nobody helps, and no clock goes back.
pub(crate) fn leads_on(action: &Action) -> bool {
    match action {
        Action::Claim { .. }
        | Action::Complete { heard: true, .. }
        | Action::Restart { .. }
        | Action::Sweep
        | Action::Elapse(_) => true,
        Action::Lease { left, .. } => *left <= 0,
        Action::Due { wait, .. } => *wait <= 0,
        _ => false,
    }
}

/// Whether every item has come to its end.
pub(crate) fn is_finished(point: &Point) -> bool {
    point.state.items.iter().all(Item::is_finished)
}

//! Every state of the protocol: what must hold does in each, and each way of
//! being broken is found by the same properties.

use stateright::{Checker, Expectation, Model};

use crate::exploration::{
    BOUNDED, Budget, COMPLETION, Clocks, Exploration, ONE_HOLDER, Point, RELIANCE, SUPERSEDED,
    attempts_are_bounded, is_finished, leads_on,
};
use crate::graph::Graph;
use crate::model::Fault;

/// What the graph is asked for, since no look along a path can tell.
const FINISHABLE: &str = "every item is finished or can still be finished";

/// Explores everything with the checker; returns the properties that are broken,
/// those of which no example was found among them, and how many states there are.
fn explore(model: &Exploration) -> (Vec<&'static str>, usize) {
    let checker = model.clone().checker().threads(2).spawn_bfs().join();
    let discovered = checker.discoveries();
    let properties = model.properties().into_iter();
    let broken = properties.filter(|property| {
        let must = property.expectation == Expectation::Sometimes;
        discovered.contains_key(property.name) != must
    });
    let broken = broken.map(|property| property.name).collect();
    (broken, checker.unique_state_count())
}

/// Some states from which an item can never come to its end. Where one was tried
/// too often already, no more is asked.
fn stuck<'g>(graph: &'g Graph<Point>, model: &Exploration) -> Vec<&'g Point> {
    let ended = |point: &Point| is_finished(point) || !attempts_are_bounded(model, point);
    graph.stuck(ended).into_iter().take(3).collect()
}

#[expect(clippy::print_stdout, reason = "how much was explored is a result")]
fn report(what: &str, states: usize) {
    println!("{what}: {states} states");
}

/// The sound protocol breaks nothing, in at least so many states.
#[track_caller]
fn holds(what: &str, model: &Exploration, states_min: usize) {
    let graph = Graph::of(model, leads_on);
    report(what, graph.states.len());
    let (broken, states) = explore(model);
    assert_eq!(broken, Vec::<&str>::new());
    assert_eq!(stuck(&graph, model), Vec::<&Point>::new(), "{FINISHABLE}");
    assert_eq!(states, graph.states.len(), "both explored the same");
    assert!(states_min <= states, "{states} states say too little");
}

#[test]
fn two_workers_hold_every_property_while_clocks_go_on() {
    let model = Exploration::of(Clocks::Steady, &[0, 1]);
    holds("two workers, steady clocks", &model, 20_000);
}

#[test]
fn two_workers_hold_every_property_while_clocks_jump() {
    let model = Exploration::of(Clocks::Jump, &[0, 1]);
    holds("two workers, clocks that jump", &model, 14_000);
}

/// By mistake, or since one was stopped and started again in another process.
#[test]
fn two_workers_of_one_name_hold_every_property() {
    let model = Exploration::of(Clocks::Jump, &[0, 0]);
    holds("two workers of one name", &model, 14_000);
    let model = Exploration::of(Clocks::Steady, &[0, 0]);
    holds("two workers of one name, steady clocks", &model, 20_000);
}

#[test]
fn three_workers_hold_every_property_while_clocks_go_on() {
    let mut model = Exploration::of(Clocks::Steady, &[0, 1, 2]);
    model.budget.releases = 0;
    holds("three workers, steady clocks", &model, 20_000);
}

#[test]
fn three_workers_hold_every_property_while_clocks_jump() {
    let mut model = Exploration::of(Clocks::Jump, &[0, 1, 2]);
    model.budget.releases = 0;
    holds("three workers, clocks that jump", &model, 17_000);
    let mut model = Exploration::of(Clocks::Jump, &[0, 0, 1]);
    model.budget.releases = 0;
    holds("three workers, two of one name", &model, 17_000);
}

#[test]
fn two_workers_hold_every_property_over_two_items() {
    let mut model = Exploration::of(Clocks::Jump, &[0, 1]);
    model.items = 2;
    model.budget = Budget::default();
    holds("two workers, two items", &model, 17_000);
}

/// Goal: each way of being broken is found by the properties that the sound
/// protocol holds, unchanged, and by no others than those.
#[test]
fn every_broken_product_is_caught_and_by_this_property() {
    let by_any_clock = [
        (Fault::None, &[][..]),
        (Fault::NoFence, &[ONE_HOLDER, SUPERSEDED, COMPLETION]),
        (Fault::FenceByName, &[ONE_HOLDER, SUPERSEDED]),
        (Fault::TokenReset, &[ONE_HOLDER, SUPERSEDED]),
        (Fault::RenewById, &[SUPERSEDED]),
        (Fault::SweepLeavesLast, &[FINISHABLE]),
        (Fault::LossIsFree, &[BOUNDED]),
    ];
    for (fault, expected) in by_any_clock {
        assert_eq!(broken_by(Clocks::Jump, fault), expected, "{fault:?}");
    }
    let by_steady_clocks = [
        (Fault::None, &[][..]),
        (
            Fault::NoFence,
            &[ONE_HOLDER, SUPERSEDED, COMPLETION, RELIANCE],
        ),
        (Fault::FenceByName, &[ONE_HOLDER, SUPERSEDED, RELIANCE]),
        (Fault::TokenReset, &[ONE_HOLDER, SUPERSEDED, RELIANCE]),
        (Fault::RenewById, &[SUPERSEDED, RELIANCE]),
        (Fault::SweepById, &[RELIANCE]),
        (Fault::CountsFromAnswer, &[RELIANCE]),
        (Fault::SweepLeavesLast, &[FINISHABLE]),
        (Fault::LossIsFree, &[BOUNDED]),
    ];
    for (fault, expected) in by_steady_clocks {
        assert_eq!(broken_by(Clocks::Steady, fault), expected, "{fault:?}");
    }
}

/// What is broken, in the small: two workers, one item, no crash.
fn broken_by(clocks: Clocks, fault: Fault) -> Vec<&'static str> {
    let mut model = Exploration::of(clocks, &[0, 1]).broken(fault);
    model.budget = Budget::default();
    let (mut broken, _) = explore(&model);
    let graph = Graph::of(&model, leads_on);
    report(&format!("{clocks:?}, {fault:?}"), graph.states.len());
    if !stuck(&graph, &model).is_empty() {
        broken.push(FINISHABLE);
    }
    broken
}

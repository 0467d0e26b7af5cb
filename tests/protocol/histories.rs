//! Random histories, taken by the model and by the real store: the same answers,
//! and the same state after each step.
//!
//! The seed is printed before anything can fail; `AGENTOS_TEST_SEED` repeats it.
//! A failing history is shrunk before it is shown.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentos_core::{Clock, Next, Retry, RetryRule, SystemClock, WorkItemStatus};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use proptest_state_machine::ReferenceStateMachine;

use crate::model::{Action, Answer, Fault, Held, Item, Micros, Rules, State};
use crate::product::Product;
use crate::step::step;

/// Worker names of the processes: two of one name.
const NAMES: [u8; 3] = [0, 1, 0];
const ITEMS_MAX: usize = 3;
const STEPS: RangeInclusive<usize> = 20..=60;
const HISTORIES: u32 = 64;

const SECOND: Micros = 1_000_000;
const HOUR: Micros = 3600 * SECOND;

const RETRIES: RetryRule = RetryRule {
    first: Duration::from_millis(300),
    factor: 2,
    most: Duration::from_secs(2),
};

/// A step, or the store is closed and opened again.
#[derive(Debug, Clone)]
enum Move {
    Step(Action),
    Reopen,
}

fn rules(fault: Fault) -> Rules {
    Rules {
        fault,
        after_loss: RETRIES,
        keeps_all: true,
    }
}

struct Histories;

impl ReferenceStateMachine for Histories {
    type State = State;
    type Transition = Move;

    fn init_state() -> BoxedStrategy<State> {
        let wait = prop_oneof![3 => Just(0), 1 => 0..SECOND];
        let item = (-1..=1, 1..=6_u32, wait);
        let item = item.prop_map(|(priority, max_attempts, wait)| Item {
            wait,
            ..Item::pending(priority, max_attempts)
        });
        proptest::collection::vec(item, 1..=ITEMS_MAX)
            .prop_map(|items| State::new(items, &NAMES))
            .boxed()
    }

    fn transitions(state: &State) -> BoxedStrategy<Move> {
        let mut all = vec![
            (3, of_operators(state)),
            (3, Just(Action::Sweep).boxed()),
            (10, of_clocks(state)),
        ];
        for (process, process_state) in state.processes.iter().enumerate() {
            if process_state.alive {
                all.push((5, of_process(state, process)));
            } else {
                all.push((12, Just(Action::Restart { process }).boxed()));
            }
            let believed: Vec<Held> = process_state.beliefs.iter().map(|b| b.held).collect();
            if !believed.is_empty() {
                all.push((16, of_holder(process, believed)));
            }
        }
        let steps = proptest::strategy::Union::new_weighted(all).prop_map(Move::Step);
        prop_oneof![60 => steps, 1 => Just(Move::Reopen)].boxed()
    }

    fn apply(state: State, taken: &Move) -> State {
        match taken {
            Move::Step(action) => answered(&state, action).0,
            Move::Reopen => state,
        }
    }

    fn preconditions(state: &State, taken: &Move) -> bool {
        let Move::Step(action) = taken else {
            return true;
        };
        step(&rules(Fault::None), state, action).is_some() && knows_its_tokens(state, action)
    }
}

/// What the sound protocol makes of a step that somebody takes.
fn answered(state: &State, action: &Action) -> (State, Answer) {
    step(&rules(Fault::None), state, action).expect("a step that can be taken")
}

/// Whether the process got the tokens that it names, or they are nobody's: what a
/// stranger's token does is not asked.
fn knows_its_tokens(state: &State, action: &Action) -> bool {
    let (process, named) = match action {
        Action::Renew { process, held, .. } => (*process, held.clone()),
        Action::Write { process, held }
        | Action::Complete { process, held, .. }
        | Action::Fail { process, held, .. }
        | Action::Release { process, held } => (*process, vec![*held]),
        _ => return true,
    };
    let mut beliefs = state.processes[process].beliefs.iter();
    named.iter().all(|held| {
        let newest = state.items.get(held.item).map(|item| item.token);
        beliefs.any(|belief| belief.held == *held) || newest.is_some_and(|it| it < held.token)
    })
}

fn of_operators(state: &State) -> BoxedStrategy<Action> {
    let all: Vec<usize> = (0..state.items.len()).collect();
    let is_dead = |item: &usize| state.items[*item].status == WorkItemStatus::Failed;
    let dead: Vec<usize> = all.iter().copied().filter(is_dead).collect();
    let any = select(all);
    let requeue = |item| Action::Requeue { item };
    if dead.is_empty() {
        let cancel = any.clone().prop_map(|item| Action::Cancel { item });
        return prop_oneof![1 => cancel, 3 => any.prop_map(requeue)].boxed();
    }
    select(dead).prop_map(requeue).boxed()
}

/// Time passes, more or less as it likes, or to the microsecond at which a lease
/// runs out or an item is due, or to the one before.
fn of_clocks(state: &State) -> BoxedStrategy<Action> {
    let items = state.items.iter();
    let moments = items.flat_map(|item| item.left.into_iter().chain([item.wait]));
    let moments = moments.filter(|moment| 1 < *moment);
    let exact: Vec<Micros> = moments.flat_map(|moment| [moment, moment - 1]).collect();
    let any = prop_oneof![
        8 => (1..2 * SECOND).prop_map(Action::Elapse),
        2 => (-SECOND..2 * SECOND).prop_map(Action::JumpBoot),
        2 => (-SECOND..2 * SECOND).prop_map(Action::JumpWall),
        // Back more seldom than forward: all that waits would wait for an hour.
        1 => select(vec![-HOUR, HOUR, HOUR, HOUR]).prop_map(Action::JumpWall),
        1 => Just(Action::Reboot),
    ];
    if exact.is_empty() {
        return any.boxed();
    }
    prop_oneof![2 => any, 1 => select(exact).prop_map(Action::Elapse)].boxed()
}

fn lease() -> impl Strategy<Value = Micros> + Clone {
    SECOND / 10..2 * SECOND
}

/// What any live process may do: claim, and now and then something under a token
/// that was never given, or take back what its earlier starts held, or die.
fn of_process(state: &State, process: usize) -> BoxedStrategy<Action> {
    let items = state.items.len();
    let of = prop_oneof![2 => Just(None), 1 => (0..items).prop_map(Some)];
    let tokens: Vec<i64> = state.items.iter().map(|item| item.token).collect();
    let never_given = (0..items, 1..3_i64).prop_map(move |(item, beyond)| Held {
        item,
        token: tokens[item] + beyond,
    });
    prop_oneof![
        20 => (of, 1..=2_usize, lease()).prop_map(move |(of, at_most, lease)| Action::Claim {
            process,
            of,
            at_most,
            lease,
        }),
        1 => never_given.prop_map(move |held| Action::Write { process, held }),
        1 => Just(Action::TakeBack { process }),
        2 => Just(Action::Crash { process }),
    ]
    .boxed()
}

/// What a process may do under what it believes to hold. It may be wrong.
fn of_holder(process: usize, believed: Vec<Held>) -> BoxedStrategy<Action> {
    let some = subsequence(believed.clone(), 1..=believed.len());
    let one = select(believed);
    let retry = prop_oneof![
        2 => Just(Retry::Backoff(RETRIES)),
        2 => (0..SECOND).prop_map(|pause| {
            Retry::After(Duration::from_micros(pause.unsigned_abs()))
        }),
        1 => Just(Retry::Never),
    ];
    prop_oneof![
        4 => (some, lease()).prop_map(move |(held, lease)| Action::Renew {
            process,
            held,
            lease,
        }),
        4 => one.clone().prop_map(move |held| Action::Write { process, held }),
        1 => (one.clone(), any::<bool>()).prop_map(move |(held, heard)| Action::Complete {
            process,
            held,
            heard,
        }),
        3 => (one.clone(), retry).prop_map(move |(held, retry)| Action::Fail {
            process,
            held,
            retry,
        }),
        2 => one.clone().prop_map(move |held| Action::Release { process, held }),
        1 => one.prop_map(move |held| Action::Forget { process, held }),
    ]
    .boxed()
}

/// How often each kind of answer was given.
type Tally = BTreeMap<&'static str, usize>;

/// Kinds of answers without which the histories say nothing.
const KINDS: [&str; 12] = [
    "claimed",
    "cancelled",
    "completed",
    "dead letter",
    "illegal",
    "nothing to claim",
    "recovered",
    "released",
    "renewed",
    "requeued",
    "stale",
    "written",
];

fn kinds(answer: &Answer) -> Vec<&'static str> {
    let next = |next: &Next| match next {
        Next::DeadLetter => "dead letter",
        Next::Requeue { .. } => "tried again",
    };
    match answer {
        Answer::Claimed(claimed) if claimed.is_empty() => vec!["nothing to claim"],
        Answer::Claimed(_) => vec!["claimed"],
        Answer::Renewed(answers) => {
            let kind = |answer: &Result<_, _>| answer.as_ref().map_or("stale", |()| "renewed");
            answers.iter().map(kind).collect()
        }
        Answer::Written(_) => vec!["written"],
        Answer::Completed => vec!["completed"],
        Answer::Failed(what) => vec![next(what)],
        Answer::Released => vec!["released"],
        Answer::Stale(_) => vec!["stale"],
        Answer::Swept(swept) => {
            let recovered = swept.iter();
            recovered
                .flat_map(|(.., what)| ["recovered", next(what)])
                .collect()
        }
        Answer::Cancelled => vec!["cancelled"],
        Answer::Requeued => vec!["requeued"],
        Answer::Illegal(_) => vec!["illegal"],
        Answer::Done => vec![],
    }
}

/// Takes a history with both, and counts the answers.
fn play(
    fault: Fault,
    mut state: State,
    moves: &[Move],
    seen: Option<&Arc<AtomicUsize>>,
    tally: &mut Tally,
) {
    let mut product = Product::with(&state.items, &rules(fault));
    product.compare(&state);
    for taken in moves {
        if let Some(seen) = seen {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        match taken {
            Move::Reopen => product.reopen(),
            Move::Step(action) => {
                let (next, expected) = answered(&state, action);
                assert_eq!(product.take(&state, action), expected, "{action:?}");
                for kind in kinds(&expected) {
                    *tally.entry(kind).or_default() += 1;
                }
                state = next;
            }
        }
        product.compare(&state);
    }
    assert!(product.is_sound());
}

fn seed() -> u64 {
    match std::env::var("AGENTOS_TEST_SEED") {
        Ok(seed) => seed.parse().expect("AGENTOS_TEST_SEED is a number"),
        Err(_) => SystemClock.wall().unix_micros().unsigned_abs(),
    }
}

/// The property: it is the same for the sound store and the broken ones.
#[expect(clippy::print_stdout, reason = "a seed that repeats the run")]
fn is_what_the_model_says(fault: Fault) -> Result<Tally, String> {
    let seed = seed();
    println!("{fault:?}: seed {seed}; again with AGENTOS_TEST_SEED={seed}");
    let mut runner = TestRunner::new(Config {
        cases: HISTORIES,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        // A broken store is only to be caught.
        max_shrink_iters: if fault == Fault::None { 4096 } else { 1 },
        ..Config::default()
    });
    let tally = RefCell::new(Tally::new());
    let histories = Histories::sequential_strategy(STEPS);
    let run = runner.run(&histories, |(state, moves, seen)| {
        play(fault, state, &moves, seen.as_ref(), &mut tally.borrow_mut());
        Ok(())
    });
    match run {
        Ok(()) => Ok(tally.into_inner()),
        Err(TestError::Fail(reason, (state, moves, _))) => {
            let items = state.items;
            Err(format!(
                "seed {seed}: {reason}\nfrom {items:#?}\n{moves:#?}"
            ))
        }
        Err(TestError::Abort(reason)) => Err(format!("seed {seed}: {reason}")),
    }
}

/// Goal: the transitions that were explored are those of the SQL.
/// Method: any history of several workers, restarts, operators and clocks that
/// jump, taken by both; after each step the answer and whatever can be read are
/// what the model says.
#[test]
#[expect(clippy::print_stdout, reason = "how much was compared is a result")]
fn the_store_does_what_the_explored_protocol_does() {
    let tally = is_what_the_model_says(Fault::None).unwrap_or_else(|why| panic!("{why}"));
    println!("{tally:?}");
    for kind in KINDS {
        assert!(tally.contains_key(kind), "nothing was {kind}: {tally:?}");
    }
}

#[test]
fn a_store_that_is_broken_is_caught_by_the_same_histories() {
    for fault in [
        Fault::NoFence,
        Fault::RenewById,
        Fault::TokenReset,
        Fault::LossIsFree,
    ] {
        let caught = is_what_the_model_says(fault);
        assert!(caught.is_err(), "{fault:?} was not noticed");
    }
}

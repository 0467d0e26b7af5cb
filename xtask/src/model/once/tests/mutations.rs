//! Sound histories are accepted, and every kind of change that breaks a promise is
//! rejected by its rule.

use fastrand::Rng;

use super::super::{Answer, Call, Ended, Execution, Found, History, Moment, Policy, State};
use super::simulation::sound;
use super::{ASK, Rule, TAKE_OVER, judge_once, rules};

const SEEDS: u64 = 200;

const POLICIES: [Policy; 5] = [
    Policy {
        lease: Moment::MAX / 2,
        ..ASK
    },
    Policy {
        lease: Moment::MAX / 2,
        ..TAKE_OVER
    },
    Policy {
        again: true,
        lease: Moment::MAX / 2,
        ..TAKE_OVER
    },
    Policy {
        ttl: Some(300),
        lease: Moment::MAX / 2,
        ..TAKE_OVER
    },
    Policy {
        ttl: Some(100),
        lease: Moment::MAX / 2,
        ..ASK
    },
];

#[test]
fn sound_histories_are_accepted() {
    let (mut calls, mut deaths) = (0, 0);
    for policy in POLICIES {
        for seed in 0..SEEDS {
            let history = sound(seed, policy);
            calls += history.calls.len();
            deaths += history.dead.len();
            let broken = judge_once(&history, |_| policy);
            let broken: Vec<String> = broken.iter().map(ToString::to_string).collect();
            assert_eq!(broken, [""; 0], "seed {seed}, {policy:?}");
        }
    }
    assert!(
        20_000 < calls && 1_000 < deaths,
        "{calls} calls, {deaths} deaths"
    );
}

/// Changes a history; `None` when it has nothing to change.
type Change = fn(&mut History, &mut Rng) -> Option<()>;

fn pick<T>(random: &mut Rng, all: Vec<T>) -> Option<T> {
    random.choice(all)
}

fn which(history: &History, random: &mut Rng, fits: impl Fn(&Call) -> bool) -> Option<usize> {
    let all = history.calls.iter().enumerate();
    let all = all.filter(|(_, call)| fits(call)).map(|(at, _)| at);
    pick(random, all.collect())
}

fn is_recorded(call: &Call) -> bool {
    let body = call.body.as_ref().and_then(|body| body.ended.as_ref());
    matches!(body, Some((_, Ended::Outcome(_)))) && call.answered(&Answer::Recorded).is_some()
}

fn is_replay(call: &Call) -> bool {
    matches!(call.answer, Some((_, Answer::Replayed(_))))
}

fn end(history: &History) -> Moment {
    let last = history.last.values().chain(history.dead.values());
    last.copied().max().unwrap_or(0)
}

/// A call by a process of its own, at the end of all.
fn later(history: &History, key: &str) -> Call {
    Call {
        process: "late".into(),
        key: key.into(),
        asked: end(history) + 1,
        found: None,
        body: None,
        answer: None,
    }
}

/// Runs the body of a call once more, at the end of all.
fn run_once_more(history: &mut History, at: usize) -> Option<()> {
    let call = history.calls[at].clone();
    let mut again = later(history, &call.key);
    let newest = history.calls.iter().filter(|other| other.key == call.key);
    let newest = newest
        .filter_map(|other| Some(other.body.as_ref()?.execution))
        .max()?;
    let mut body = call.body?;
    body.execution = Execution {
        token: newest.token + 1,
        ..newest
    };
    body.started = again.asked + 1;
    body.ended = Some((again.asked + 2, Ended::Outcome("more".into())));
    again.answer = Some((again.asked + 3, Answer::Recorded));
    again.body = Some(body);
    history.calls.push(again);
    Some(())
}

fn recorded_run_again(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = which(history, random, is_recorded)?;
    run_once_more(history, at)
}

/// The store forgets the answers of killed payers once they were replayed.
fn killed_replayed_and_run_again(history: &mut History, random: &mut Rng) -> Option<()> {
    let replayed = |digest: &String, key: &str| {
        let mut calls = history.calls.iter().filter(|call| call.key == key);
        calls.any(|call| match &call.answer {
            Some((_, Answer::Replayed(replayed))) => replayed == digest,
            _ => false,
        })
    };
    let at = which(history, random, |call| {
        let body = call.body.as_ref().and_then(|body| body.ended.as_ref());
        let killed = call.answer.is_none() && history.dead.contains_key(&call.process);
        matches!(body, Some((_, Ended::Outcome(digest))) if killed && replayed(digest, &call.key))
    })?;
    run_once_more(history, at)
}

fn lost_run_again(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = which(history, random, |call| {
        let body = call.body.as_ref();
        let is_last = body.is_some_and(|body| {
            history.states.get(&call.key) == Some(&State::Pending(body.execution))
        });
        let fresh = body.is_some_and(|body| body.ended.is_none());
        is_last && fresh && history.dead.contains_key(&call.process)
    })?;
    let started = history.calls[at].body.as_ref()?.started;
    let found = |call: &Call| {
        let found = call.found.as_ref();
        call.key == history.calls[at].key && found.is_some_and(|found| started <= found.at)
    };
    (!history.calls.iter().any(found)).then_some(())?;
    run_once_more(history, at)
}

fn token_given_twice(history: &mut History, random: &mut Rng) -> Option<()> {
    let first = which(history, random, |call| call.body.is_some())?;
    let key = history.calls[first].key.clone();
    let second = which(history, random, |call| {
        call.key == key && call.body.is_some()
    })?;
    let execution = history.calls[first].body.as_ref()?.execution;
    history.calls[second].body.as_mut()?.execution = execution;
    (first != second).then_some(())
}

fn body_beside_a_body(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = which(history, random, is_recorded)?;
    let call = history.calls[at].clone();
    let body = call.body.as_ref()?;
    let mut beside = call.clone();
    beside.process = "late".into();
    let other = beside.body.as_mut()?;
    other.execution.token += 1;
    other.started = body.started;
    // At its start the other had not ended.
    (body.started < body.ended.as_ref()?.0).then_some(())?;
    history.calls.push(beside);
    Some(())
}

fn replay_of_another(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = which(history, random, is_replay)?;
    let (told, _) = history.calls[at].answer.clone()?;
    history.calls[at].answer = Some((told, Answer::Replayed("nowhere".into())));
    Some(())
}

fn replay_too_early(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = which(history, random, is_recorded)?;
    let call = history.calls[at].clone();
    let (ended, Ended::Outcome(digest)) = call.body?.ended? else {
        return None;
    };
    // Found out by nobody else.
    let found = |call: &Call| {
        let found = call.found.as_ref();
        found.is_some_and(|found| found.outcome.as_ref() == Some(&digest))
    };
    (!history.calls.iter().any(found)).then_some(())?;
    let mut early = later(history, &call.key);
    early.asked = ended - 2;
    early.answer = Some((ended - 1, Answer::Replayed(digest)));
    history.calls.push(early);
    Some(())
}

fn replay_of_what_was_refused(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = which(history, random, is_replay)?;
    let Some((_, Answer::Replayed(digest))) = history.calls[at].answer.clone() else {
        return None;
    };
    let of_body = |call: &Call| {
        let body = call.body.as_ref().and_then(|body| body.ended.as_ref());
        matches!(body, Some((_, Ended::Outcome(ended))) if *ended == digest)
    };
    let found = |call: &Call| {
        let found = call.found.as_ref();
        found.is_some_and(|found| found.outcome.as_ref() == Some(&digest))
    };
    (!history.calls.iter().any(found)).then_some(())?;
    let owner = which(history, random, of_body)?;
    let told = history.calls[owner].answer.as_ref()?.0;
    history.calls[owner].answer = Some((told, Answer::Refused));
    let process = history.calls[owner].process.clone();
    history.stalled.insert(process, 0);
    Some(())
}

fn doubt_from_nowhere(history: &mut History, _: &mut Rng) -> Option<()> {
    let mut call = later(history, "untouched");
    call.answer = Some((call.asked + 1, Answer::InDoubt));
    history.calls.push(call);
    Some(())
}

fn in_flight_from_nowhere(history: &mut History, _: &mut Rng) -> Option<()> {
    let mut call = later(history, "untouched");
    call.answer = Some((call.asked + 1, Answer::InFlight));
    history.calls.push(call);
    Some(())
}

fn outcome_lost(history: &mut History, random: &mut Rng) -> Option<()> {
    let recorded = history.states.iter();
    let recorded = recorded.filter(|(_, state)| matches!(state, State::Recorded(..)));
    let key = pick(random, recorded.map(|(key, _)| key.clone()).collect())?;
    let Some(State::Recorded(_, digest)) = history.states.insert(key, State::Absent) else {
        return None;
    };
    // Only what was acknowledged must be there.
    let acknowledged = |call: &Call| {
        let body = call.body.as_ref().and_then(|body| body.ended.as_ref());
        let told = call.answered(&Answer::Recorded).is_some();
        told && matches!(body, Some((_, Ended::Outcome(ended))) if *ended == digest)
    };
    history.calls.iter().any(acknowledged).then_some(())
}

fn outcome_of_another(history: &mut History, random: &mut Rng) -> Option<()> {
    let recorded = history.states.values_mut();
    let recorded = recorded.filter_map(|state| match state {
        State::Recorded(_, digest) => Some(digest),
        _ => None,
    });
    *pick(random, recorded.collect())? = "nowhere".into();
    Some(())
}

fn begun_forgotten(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = which(history, random, |call| {
        let body = call.body.as_ref();
        let is_last = body.is_some_and(|body| {
            history.states.get(&call.key) == Some(&State::Pending(body.execution))
        });
        let gave_up = body.is_some_and(|body| matches!(body.ended, Some((_, Ended::Abandoned))));
        is_last && !gave_up && history.dead.contains_key(&call.process)
    })?;
    let key = history.calls[at].key.clone();
    let found = |call: &Call| call.key == key && call.found.is_some();
    (!history.calls.iter().any(found)).then_some(())?;
    history.states.insert(key, State::Absent);
    Some(())
}

fn lost_alive(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = which(history, random, is_recorded)?;
    let key = history.calls[at].key.clone();
    let found = |call: &Call| call.key == key && call.found.is_some();
    (!history.calls.iter().any(found)).then_some(())?;
    history.calls[at].answer.as_mut()?.1 = Answer::Refused;
    Some(())
}

fn left_without_answer(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = which(history, random, |call| {
        call.answer.is_some() && !history.dead.contains_key(&call.process)
    })?;
    history.calls[at].answer = None;
    Some(())
}

fn word_of_the_dead(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = which(history, random, |call| {
        call.answer.is_some() && history.dead.contains_key(&call.process)
    })?;
    let last = end(history) + 1;
    history.calls[at].answer.as_mut()?.0 = last;
    Some(())
}

fn found_out_and_run_again(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = which(history, random, |call| {
        let found = call.found.as_ref();
        let told = call.answered(&Answer::Resolved).is_some();
        told && found.is_some_and(|Found { outcome, .. }| outcome.is_some())
    })?;
    let key = history.calls[at].key.clone();
    let body = which(history, random, |call| {
        call.key == key && call.body.is_some()
    })?;
    run_once_more(history, body)
}

#[test]
fn every_change_is_rejected_by_its_rule() {
    let [ask, take_over, again, _, ask_again] = POLICIES;
    let changes: [(Rule, Policy, Change); 20] = [
        (Rule::NothingAgain, ask, recorded_run_again),
        (Rule::NothingAgain, take_over, recorded_run_again),
        (Rule::NothingAgain, ask, killed_replayed_and_run_again),
        (Rule::NothingAgain, take_over, killed_replayed_and_run_again),
        (Rule::OneOutcome, take_over, recorded_run_again),
        (Rule::NothingAgain, ask, found_out_and_run_again),
        (Rule::NeverSilentlyAgain, ask_again, lost_run_again),
        (Rule::TokensGrow, ask, token_given_twice),
        (Rule::OneBody, take_over, body_beside_a_body),
        (Rule::ReplaysRecord, ask, replay_of_another),
        (Rule::ReplaysRecord, take_over, replay_of_what_was_refused),
        (Rule::RecordedFirst, ask, replay_too_early),
        (Rule::DoubtHasReason, ask, doubt_from_nowhere),
        (Rule::InFlightIsHeld, ask, in_flight_from_nowhere),
        (Rule::NeverForgotten, ask, outcome_lost),
        (Rule::NeverForgotten, take_over, outcome_of_another),
        (Rule::NeverForgotten, again, begun_forgotten),
        (Rule::LossHasReason, take_over, lost_alive),
        (Rule::Answered, ask, left_without_answer),
        (Rule::DeadAreSilent, ask, word_of_the_dead),
    ];
    for (number, (rule, policy, change)) in changes.into_iter().enumerate() {
        let mut made = 0;
        for seed in 0..SEEDS {
            let mut history = sound(seed, policy);
            let mut random = Rng::with_seed(seed);
            if change(&mut history, &mut random).is_none() {
                continue;
            }
            made += 1;
            let found = rules(&history, policy);
            assert!(
                found.contains(&rule),
                "change {number}, seed {seed}: {rule:?} is not among {found:?}"
            );
        }
        assert!(5 <= made, "change {number} was made {made} times");
    }
}

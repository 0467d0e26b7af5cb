//! What must be true of a tool call whose caller was killed: by the place at which it
//! died, and by the policy of the call. Pure.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a caller dies, in the order in which it gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Place {
    /// In the transaction of the intent, when its row is written.
    IntentWritten,
    /// The same, right before the commit.
    IntentUncommitted,
    /// Right after that commit.
    IntentCommitted,
    /// In the body, before it did anything.
    BeforeEffect,
    /// In the body, between the two steps of the effect.
    HalfWay,
    /// In the body, after the effect.
    AfterEffect,
    /// After the body, before anything is recorded of it.
    Returned,
    /// In the transaction of the outcome, when its row is written.
    OutcomeWritten,
    /// The same, right before the commit.
    OutcomeUncommitted,
    /// Right after that commit, before the caller knows.
    OutcomeCommitted,
}

/// What a file knows of a call when its caller is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    Doubt,
    Outcome,
}

impl Place {
    pub(crate) const ALL: [Place; 10] = [
        Place::IntentWritten,
        Place::IntentUncommitted,
        Place::IntentCommitted,
        Place::BeforeEffect,
        Place::HalfWay,
        Place::AfterEffect,
        Place::Returned,
        Place::OutcomeWritten,
        Place::OutcomeUncommitted,
        Place::OutcomeCommitted,
    ];

    /// The place of which nobody saw where it was: by what is left in the file, and by how
    /// many steps of the effect were taken. `None` where that cannot be.
    pub(crate) fn of(left: Left, steps: usize) -> Option<Place> {
        match (left, steps) {
            (Left::Nothing, 0) => Some(Place::IntentWritten),
            (Left::Doubt, 0) => Some(Place::BeforeEffect),
            (Left::Doubt, 1) => Some(Place::HalfWay),
            (Left::Doubt, 2) => Some(Place::AfterEffect),
            (Left::Outcome, 2) => Some(Place::OutcomeCommitted),
            _ => None,
        }
    }

    pub(crate) fn leaves(self) -> Left {
        match self {
            Place::IntentWritten | Place::IntentUncommitted => Left::Nothing,
            Place::OutcomeCommitted => Left::Outcome,
            _ => Left::Doubt,
        }
    }
}

/// What the caller wants in doubt, and what the operator then says, where one is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Policy {
    Retry,
    Verify,
    AskHappened,
    AskDidNotHappen,
    Fail,
}

impl Policy {
    pub(crate) const ALL: [Policy; 5] = [
        Policy::Retry,
        Policy::Verify,
        Policy::AskHappened,
        Policy::AskDidNotHappen,
        Policy::Fail,
    ];

    /// Whether an operator is asked.
    pub(crate) fn asks(self) -> bool {
        matches!(self, Policy::AskHappened | Policy::AskDidNotHappen)
    }
}

/// Who asks, and how often that one has asked so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Turn {
    /// Who is killed.
    First,
    /// Who goes on, twice.
    Second(u32),
    /// Who comes after the operator.
    Third,
}

impl Turn {
    /// Those who come after the kill.
    pub(crate) const LATER: [Turn; 3] = [Turn::Second(1), Turn::Second(2), Turn::Third];
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Turn::First => f.write_str("first"),
            Turn::Second(ask) => write!(f, "second-{ask}"),
            Turn::Third => f.write_str("third"),
        }
    }
}

/// What an effect gives back: who had it made.
pub(crate) fn receipt(call: &str, turn: Turn) -> String {
    format!("{call} booked by {turn}")
}

/// What the operator says that came out.
pub(crate) fn found_by_operator(call: &str) -> String {
    format!("{call} found by the operator")
}

/// Why the operator says so.
pub(crate) fn operators_reason(call: &str) -> String {
    format!("asked the bank about {call}")
}

/// What a caller was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Said {
    /// Its body ran, and this came out.
    Executed(String),
    /// This is recorded.
    Replayed(String),
    /// It is recorded that the call was given up.
    GivenUp,
    /// Nobody knows; by whom it was begun.
    InDoubt(Option<String>),
    /// Anything else.
    Failed(String),
}

/// A step of an effect, as the outside world shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) call: String,
    /// Whether it is the second step, with which the effect takes place.
    pub(crate) booked: bool,
    /// Who took it.
    pub(crate) turn: String,
    /// Why the body was run, as it was told.
    pub(crate) why: String,
}

impl Trace {
    pub(crate) fn parse(line: &str) -> Option<Trace> {
        let [step, call, turn, why] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let booked = match step {
            "prepared" => false,
            "booked" => true,
            _ => return None,
        };
        Some(Trace {
            call: call.into(),
            booked,
            turn: turn.into(),
            why: why.into(),
        })
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = if self.booked { "booked" } else { "prepared" };
        let Trace {
            call, turn, why, ..
        } = self;
        write!(f, "{step} {call} {turn} {why}")
    }
}

/// The line of the audit with which a doubt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) happened: bool,
    pub(crate) reason: String,
}

/// All that is known of a call at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) call: String,
    pub(crate) place: Place,
    pub(crate) policy: Policy,
    /// Who was killed.
    pub(crate) killed: String,
    /// What it left in the world.
    pub(crate) at_death: Vec<Trace>,
    /// Whether it was listed in doubt: before anybody asked again (if that was looked
    /// at), before the operator, and at the end.
    pub(crate) listed: [Option<bool>; 3],
    /// What each later turn was told.
    pub(crate) told: BTreeMap<Turn, Said>,
    /// What is in the world at the end.
    pub(crate) world: Vec<Trace>,
    pub(crate) audited: Vec<Resolved>,
}

/// What is promised of a call.
struct Promise {
    told: [Said; 3],
    /// Who has the effect made after the kill, and why the body was run.
    again: Option<(Turn, &'static str)>,
    /// How the doubt ends: what was found, and what the reason says at least.
    resolved: Option<(bool, String)>,
}

fn promise(case: &Case) -> Promise {
    let (place, call) = (case.place, case.call.as_str());
    let booked = Place::AfterEffect <= place;
    let receipt = |turn| receipt(call, turn);
    let recorded = |what: String| {
        let replayed = || Said::Replayed(what.clone());
        [replayed(), replayed(), replayed()]
    };
    let executed_at_once = || {
        let replayed = || Said::Replayed(receipt(Turn::Second(1)));
        let first = Said::Executed(receipt(Turn::Second(1)));
        [first, replayed(), replayed()]
    };
    let in_doubt = || Said::InDoubt(Some(case.killed.clone()));
    let (told, again, resolved) = match (place.leaves(), case.policy) {
        (Left::Nothing, _) => (executed_at_once(), Some((Turn::Second(1), "First")), None),
        (Left::Outcome, _) => (recorded(receipt(Turn::First)), None, None),
        (Left::Doubt, Policy::Retry) => (
            executed_at_once(),
            Some((Turn::Second(1), "TakenOver")),
            None,
        ),
        (Left::Doubt, Policy::Verify) if booked => (
            recorded(receipt(Turn::First)),
            None,
            Some((true, "a probe says".to_owned())),
        ),
        (Left::Doubt, Policy::Verify) => (
            executed_at_once(),
            Some((Turn::Second(1), "First")),
            Some((false, "a probe says".to_owned())),
        ),
        (Left::Doubt, Policy::AskHappened) => (
            [
                in_doubt(),
                in_doubt(),
                Said::Replayed(found_by_operator(call)),
            ],
            None,
            Some((true, operators_reason(call))),
        ),
        (Left::Doubt, Policy::AskDidNotHappen) => (
            [in_doubt(), in_doubt(), Said::Executed(receipt(Turn::Third))],
            Some((Turn::Third, "First")),
            Some((false, operators_reason(call))),
        ),
        (Left::Doubt, Policy::Fail) => (
            [Said::GivenUp, Said::GivenUp, Said::GivenUp],
            None,
            Some((true, "given up".to_owned())),
        ),
    };
    Promise {
        told,
        again,
        resolved,
    }
}

impl Case {
    /// What an execution by `turn` leaves in the world.
    fn traces(&self, turn: Turn, why: &str) -> [Trace; 2] {
        [false, true].map(|booked| Trace {
            call: self.call.clone(),
            booked,
            turn: turn.to_string(),
            why: why.into(),
        })
    }

    /// What a caller that dies at the place has left in the world by then.
    fn expected_at_death(&self) -> Vec<Trace> {
        let steps = match self.place {
            place if place < Place::HalfWay => 0,
            Place::HalfWay => 1,
            _ => 2,
        };
        let traces = self.traces(Turn::First, "First");
        traces.into_iter().take(steps).collect()
    }

    /// How often the effect took place.
    pub(crate) fn effects(&self) -> usize {
        self.world.iter().filter(|trace| trace.booked).count()
    }

    /// Everything that is not as it was promised.
    pub(crate) fn judge(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let Promise {
            told,
            again,
            resolved,
        } = promise(self);
        let at_death = self.expected_at_death();
        if self.at_death != at_death {
            let (found, expected) = (shown(&self.at_death), shown(&at_death));
            broken.push(format!(
                "at the kill the world has {found}, and must have {expected}"
            ));
        }
        let mut world = at_death;
        if let Some((turn, why)) = again {
            world.extend(self.traces(turn, why));
        }
        let effects = world.iter().filter(|trace| trace.booked).count();
        if self.effects() != effects {
            let found = self.effects();
            broken.push(format!("{found} effects, and must be {effects}"));
        }
        if self.world != world {
            let (found, expected) = (shown(&self.world), shown(&world));
            broken.push(format!("the world has {found}, and must have {expected}"));
        }
        for (turn, expected) in Turn::LATER.into_iter().zip(told) {
            let found = self.told.get(&turn);
            if found != Some(&expected) {
                broken.push(format!(
                    "{turn} was told {found:?}, and must be {expected:?}"
                ));
            }
        }
        let doubt = self.place.leaves() == Left::Doubt;
        let listed = [doubt, doubt && self.policy.asks(), false];
        for (when, (found, expected)) in
            ["before anybody asked", "before the operator", "at the end"]
                .into_iter()
                .zip(self.listed.into_iter().zip(listed))
        {
            if found.is_some_and(|found| found != expected) {
                let not = if expected { "not " } else { "" };
                broken.push(format!("{when} it is {not}listed as in doubt"));
            }
        }
        let as_promised = match (&resolved, self.audited.as_slice()) {
            (None, []) => true,
            (Some((happened, reason)), [line]) => {
                line.happened == *happened && line.reason.contains(reason.as_str())
            }
            _ => false,
        };
        if !as_promised {
            let audited = &self.audited;
            broken.push(format!(
                "the audit has {audited:?}, and must have {resolved:?}"
            ));
        }
        let Case {
            call,
            place,
            policy,
            ..
        } = self;
        let of_call = |reason| format!("{call}, {policy:?}, killed at {place:?}: {reason}");
        broken.into_iter().map(of_call).collect()
    }
}

fn shown(traces: &[Trace]) -> String {
    let lines: Vec<String> = traces.iter().map(Trace::to_string).collect();
    format!("{lines:?}")
}

//! The rules, one function each: key by key, and then process by process.

use std::collections::BTreeMap;

use super::{
    Answer, Body, Broken, COMMIT_UNKNOWN, Call, Ended, Execution, History, Moment, Policy, Rule,
    State,
};

/// Judges a history. Nothing is broken when nothing is returned.
pub(crate) fn judge_once(history: &History, policy: impl Fn(&str) -> Policy) -> Vec<Broken> {
    let mut keys: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for key in history.states.keys() {
        keys.entry(key).or_default();
    }
    for (at, call) in history.calls.iter().enumerate() {
        keys.entry(&call.key).or_default().push(at);
    }
    let mut broken = Vec::new();
    for (key, calls) in keys {
        let judge = Judge {
            history,
            key,
            policy: policy(key),
            outcomes: outcomes(history, &calls),
            calls,
        };
        broken.extend(judge.tokens_grow());
        broken.extend(judge.one_body());
        broken.extend(judge.nothing_again());
        broken.extend(judge.one_outcome());
        broken.extend(judge.replays());
        broken.extend(judge.in_flight_is_held());
        broken.extend(judge.doubt_has_reason());
        broken.extend(judge.never_silently_again());
        broken.extend(judge.never_forgotten());
        broken.extend(judge.loss_has_reason());
        broken.extend(judge.answered());
        broken.extend(judge.the_dead_are_silent());
    }
    broken
}

/// What may have been recorded, by a body or by a finding.
struct Outcome<'h> {
    /// Which call.
    at: usize,
    /// When its execution had begun.
    begun: Moment,
    /// When recording it was asked for at the earliest.
    from: Moment,
    /// When it was acknowledged, if it was.
    to: Option<Moment>,
    /// When it, or another one that is the same, was known to be recorded: it was
    /// acknowledged, or replayed to anybody.
    known: Option<Moment>,
    digest: &'h str,
}

fn outcomes<'h>(history: &'h History, calls: &[usize]) -> Vec<Outcome<'h>> {
    let mut outcomes = Vec::new();
    let known = |digest: &str, from: Moment, told: Option<Moment>| {
        let replays = calls
            .iter()
            .filter_map(|at| match &history.calls[*at].answer {
                Some((told, Answer::Replayed(replayed))) if replayed == digest => Some(*told),
                _ => None,
            });
        replays.filter(|told| from <= *told).chain(told).min()
    };
    for &at in calls {
        let call = &history.calls[at];
        if let Some(found) = &call.found
            && let Some(digest) = &found.outcome
        {
            // A replay of what was found says that it is recorded, as an answer does.
            let told = match &call.answer {
                Some((told, Answer::Resolved)) => Some(*told),
                Some((told, Answer::Replayed(replayed))) if replayed == digest => Some(*told),
                _ => None,
            };
            outcomes.push(Outcome {
                at,
                begun: found.at,
                from: found.at,
                to: told,
                known: known(digest, found.at, told),
                digest,
            });
        }
        if let Some(body) = &call.body
            && let Some((ended, Ended::Outcome(digest))) = &body.ended
            && call.answered(&Answer::Refused).is_none()
        {
            let told = call.answered(&Answer::Recorded);
            outcomes.push(Outcome {
                at,
                begun: body.started,
                from: *ended,
                to: told,
                known: known(digest, *ended, told),
                digest,
            });
        }
    }
    outcomes
}

struct Judge<'h> {
    history: &'h History,
    key: &'h str,
    policy: Policy,
    calls: Vec<usize>,
    outcomes: Vec<Outcome<'h>>,
}

impl Judge<'_> {
    fn broken(&self, rule: Rule, why: impl Into<String>, calls: &[usize]) -> Broken {
        let shown = calls
            .iter()
            .map(|at| format!("; {}", self.history.calls[*at]));
        Broken {
            rule,
            key: self.key.into(),
            why: why.into(),
            calls: calls.to_vec(),
            shown: shown.collect(),
        }
    }

    fn calls(&self) -> impl Iterator<Item = (usize, &Call)> {
        self.calls.iter().map(|&at| (at, &self.history.calls[at]))
    }

    fn bodies(&self) -> impl Iterator<Item = (usize, &Call, &Body)> {
        self.calls()
            .filter_map(|(at, call)| Some((at, call, call.body.as_ref()?)))
    }

    /// Those that were told with this.
    fn told<'s>(&'s self, answer: &'s Answer) -> impl Iterator<Item = (usize, &'s Call, Moment)> {
        self.calls()
            .filter_map(move |(at, call)| Some((at, call, call.answered(answer)?)))
    }

    fn has_died(&self, call: &Call) -> Option<Moment> {
        self.history.dead.get(&call.process).copied()
    }

    /// The earliest moment at which a permit can have been over; `None`: it never was.
    fn over_from(&self, call: &Call, body: &Body) -> Option<Moment> {
        let ended = body.ended.as_ref().map(|(at, _)| *at);
        let died = self.has_died(call).map(|_| {
            let last = self.history.last.get(&call.process);
            last.copied().unwrap_or(body.started)
        });
        let stalled = self.history.stalled.get(&call.process).copied();
        let found = self.found_from(body);
        [ended, died, stalled, found].into_iter().flatten().min()
    }

    /// When something was found out about a key, after a body of it had started.
    fn found_from(&self, body: &Body) -> Option<Moment> {
        let findings = self.calls().filter_map(|(_, call)| call.found.as_ref());
        let later = findings.filter(|found| body.started <= found.at);
        later.map(|found| found.at).min()
    }

    /// Until when a permit can have lived at the latest.
    fn over_until(&self, call: &Call, body: &Body) -> Moment {
        let over = matches!(
            (&body.ended, &call.answer),
            (Some(_), Some((_, Answer::Recorded | Answer::Refused)))
        );
        match (&call.answer, self.has_died(call)) {
            (Some((told, _)), _) if over => *told,
            (_, Some(died)) => died.saturating_add(self.policy.lease),
            _ => Moment::MAX,
        }
    }

    /// Whether what was recorded from this moment on counts until that one, since it
    /// has not expired and is not made again.
    fn counts(&self, from: Moment, until: Moment) -> bool {
        let expired = self
            .policy
            .ttl
            .is_some_and(|ttl| from.saturating_add(ttl) <= until);
        !self.policy.again && !expired
    }

    fn tokens_grow(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        for (first, _, one) in self.bodies() {
            for (second, later_call, other) in self.bodies() {
                if first < second && one.execution == other.execution {
                    let why = format!("{} was given twice", one.execution);
                    broken.push(self.broken(Rule::TokensGrow, why, &[first, second]));
                }
                if one.started < later_call.asked && other.execution < one.execution {
                    let why = format!("{} was given after {}", other.execution, one.execution);
                    broken.push(self.broken(Rule::TokensGrow, why, &[first, second]));
                }
            }
        }
        broken
    }

    fn one_body(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        for (first, call, one) in self.bodies() {
            let over_from = self.over_from(call, one);
            for (second, _, other) in self.bodies() {
                let lives = over_from.is_none_or(|over| other.started < over);
                if one.execution < other.execution && lives {
                    let why = format!("{} started while {} lived", other.execution, one.execution);
                    broken.push(self.broken(Rule::OneBody, why, &[first, second]));
                }
            }
        }
        broken
    }

    fn nothing_again(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        for outcome in &self.outcomes {
            let Some(known) = outcome.known else {
                continue;
            };
            for (at, call, body) in self.bodies() {
                if known < call.asked && self.counts(outcome.from, body.started) {
                    let why = format!(
                        "{} started, and {} was recorded",
                        body.execution, outcome.digest
                    );
                    broken.push(self.broken(Rule::NothingAgain, why, &[outcome.at, at]));
                }
            }
        }
        broken
    }

    fn one_outcome(&self) -> Vec<Broken> {
        let mut told: Vec<_> = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.to.is_some())
            .collect();
        told.sort_by_key(|outcome| outcome.from);
        let mut broken = Vec::new();
        for pair in told.windows(2) {
            let [one, other] = pair else { continue };
            // Two may find out the same of one execution.
            let is_one_finding = one.digest == other.digest && self.is_finding(other);
            if self.counts(one.from, other.begun) && !is_one_finding {
                let why = format!("{} and {} are both recorded", one.digest, other.digest);
                broken.push(self.broken(Rule::OneOutcome, why, &[one.at, other.at]));
            }
        }
        broken
    }

    fn is_finding(&self, outcome: &Outcome<'_>) -> bool {
        self.history.calls[outcome.at].found.is_some()
    }

    fn replays(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        let mut first: Option<(usize, &str)> = None;
        for (at, call) in self.calls() {
            let Some((told, Answer::Replayed(digest))) = &call.answer else {
                continue;
            };
            let (other, before) = *first.get_or_insert((at, digest));
            if before != digest && !self.policy.again && self.policy.ttl.is_none() {
                let why = format!("{digest} was replayed, and {before}");
                broken.push(self.broken(Rule::ReplaysRecord, why, &[other, at]));
            }
            let possible = self.outcomes.iter().filter(|one| one.digest == digest);
            let possible: Vec<_> = possible.collect();
            if possible.is_empty() {
                let why = format!("{digest} was replayed, and nobody recorded it");
                broken.push(self.broken(Rule::ReplaysRecord, why, &[at]));
            } else if possible.iter().all(|outcome| *told < outcome.from) {
                let why = format!("{digest} was replayed before it was recorded");
                let calls = [at, possible[0].at];
                broken.push(self.broken(Rule::RecordedFirst, why, &calls));
            } else if let Some(why) = possible
                .iter()
                .map(|outcome| self.does_not_count(outcome, call.asked))
                .reduce(Option::and)
                .flatten()
            {
                let calls = [at, possible[0].at];
                broken.push(self.broken(Rule::ReplaysRecord, why, &calls));
            }
        }
        broken
    }

    /// Why an outcome does not count any more for who asks at a moment.
    fn does_not_count(&self, outcome: &Outcome<'_>, asked: Moment) -> Option<String> {
        let digest = outcome.digest;
        if let (Some(ttl), Some(told)) = (self.policy.ttl, outcome.to)
            && told.saturating_add(ttl) < asked
        {
            return Some(format!("{digest} was replayed, and had expired"));
        }
        let other = self.outcomes.iter().find(|other| {
            let told = other.to.is_some_and(|told| told < asked);
            let later = self.execution(outcome) < self.execution(other);
            other.digest != digest && told && later
        })?;
        Some(format!(
            "{digest} was replayed, and {} is recorded",
            other.digest
        ))
    }

    /// Which execution recorded an outcome; of a finding, the newest that had started.
    fn execution(&self, outcome: &Outcome<'_>) -> Option<Execution> {
        let call = &self.history.calls[outcome.at];
        match (&call.found, &call.body) {
            (None, Some(body)) => Some(body.execution),
            _ => {
                let before = self
                    .bodies()
                    .filter(|(.., body)| body.started <= outcome.from);
                before.map(|(.., body)| body.execution).max()
            }
        }
    }

    /// Whether a process died, or was told that nobody knows, having asked by a moment
    /// and not been answered by it: it may have begun, and not have come to its body.
    fn may_have_begun(&self, by: Moment, since: Moment) -> bool {
        self.calls().any(|(_, call)| {
            let left = match &call.answer {
                None => self.has_died(call),
                Some((told, Answer::Erred(why))) if why == COMMIT_UNKNOWN => Some(*told),
                Some(_) => None,
            };
            call.body.is_none()
                && call.asked <= by
                && left.is_some_and(|left| since <= left.saturating_add(self.policy.lease))
        })
    }

    fn in_flight_is_held(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        for (at, call, told) in self.told(&Answer::InFlight) {
            let others = self.bodies().any(|(other, held, body)| {
                other != at && held.asked <= told && call.asked <= self.over_until(held, body)
            });
            if !others && !self.may_have_begun(told, call.asked) {
                let why = "it was said to be in flight, and nobody executed it";
                broken.push(self.broken(Rule::InFlightIsHeld, why, &[at]));
            }
        }
        broken
    }

    fn doubt_has_reason(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        for (at, _, told) in self.told(&Answer::InDoubt) {
            if self.policy.take_over {
                let why = "it was said to be in doubt, and is taken over";
                broken.push(self.broken(Rule::DoubtHasReason, why, &[at]));
                continue;
            }
            let left = self.bodies().any(|(_, owner, body)| {
                let unknown = matches!(body.ended, Some((_, Ended::Unknown)));
                let recorded = owner.answered(&Answer::Recorded).is_some() && !unknown;
                let over = self.over_from(owner, body);
                !recorded && over.is_some_and(|over| over <= told)
            });
            if !left && !self.may_have_begun(told, Moment::MIN) {
                let why = "it was said to be in doubt, and nobody left it";
                broken.push(self.broken(Rule::DoubtHasReason, why, &[at]));
            }
        }
        broken
    }

    /// Whether nobody knows what a body did.
    fn is_lost(&self, call: &Call, body: &Body) -> bool {
        match (&body.ended, &call.answer) {
            (Some((_, Ended::Abandoned)), _) => false,
            (Some((_, Ended::Unknown)), _) => true,
            (_, Some((_, Answer::Recorded))) => false,
            (_, Some((_, Answer::Refused))) => true,
            _ => self.has_died(call).is_some() || self.history.stalled.contains_key(&call.process),
        }
    }

    fn never_silently_again(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        if self.policy.take_over {
            return broken;
        }
        for (first, call, one) in self.bodies() {
            if !self.is_lost(call, one) {
                continue;
            }
            // Its outcome may be there, and may have been made again.
            let outcome = self.outcomes.iter().find(|outcome| outcome.at == first);
            for (second, _, other) in self.bodies() {
                if other.execution <= one.execution {
                    continue;
                }
                let recorded =
                    outcome.is_some_and(|outcome| !self.counts(outcome.from, other.started));
                let known = self.calls().any(|(_, call)| {
                    let found = call.found.as_ref();
                    found.is_some_and(|found| one.started <= found.at && found.at <= other.started)
                });
                if !recorded && !known {
                    let why = format!(
                        "{} started, and {} is in doubt",
                        other.execution, one.execution
                    );
                    let calls = [first, second];
                    broken.push(self.broken(Rule::NeverSilentlyAgain, why, &calls));
                }
            }
        }
        broken
    }

    fn never_forgotten(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        let Some(state) = self.history.states.get(self.key) else {
            return broken;
        };
        let rule = Rule::NeverForgotten;
        let newest = match state {
            State::Absent => None,
            State::Pending(execution) | State::Recorded(execution, _) => Some(*execution),
        };
        for (at, _, body) in self.bodies() {
            if newest.is_some_and(|newest| newest < body.execution) {
                let why = format!("{} ran, and the newest is {newest:?}", body.execution);
                broken.push(self.broken(rule, why, &[at]));
            }
        }
        for outcome in self.outcomes.iter().filter(|one| one.known.is_some()) {
            let stays = matches!(state, State::Recorded(_, digest) if digest == outcome.digest);
            if !stays && !self.policy.again && self.policy.ttl.is_none() {
                let why = format!("{} was recorded, and it is {state:?}", outcome.digest);
                broken.push(self.broken(rule, why, &[outcome.at]));
            }
        }
        if let State::Recorded(_, digest) = state
            && !self.outcomes.iter().any(|one| one.digest == digest)
        {
            let why = format!("{digest} is there, and nobody recorded it");
            broken.push(self.broken(rule, why, &[]));
        }
        let found_nothing = self.calls().any(|(_, call)| {
            let found = call.found.as_ref();
            found.is_some_and(|found| found.outcome.is_none())
        });
        let last = self.bodies().max_by_key(|(.., body)| body.execution);
        if let (State::Absent, Some((at, call, body))) = (state, last)
            && self.is_lost(call, body)
            && !found_nothing
            && self.policy.ttl.is_none()
        {
            let why = format!("nothing is there, and {} was begun", body.execution);
            broken.push(self.broken(rule, why, &[at]));
        }
        broken
    }

    fn loss_has_reason(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        for (at, call, told) in self.told(&Answer::Refused) {
            let stalled = self.history.stalled.get(&call.process);
            let held_up = stalled.is_some_and(|stalled| *stalled <= told);
            let body = call.body.as_ref();
            let resolved = body.and_then(|body| self.found_from(body));
            if !held_up && resolved.is_none_or(|found| told < found) {
                let why = "its permit was lost, and nothing held it up";
                broken.push(self.broken(Rule::LossHasReason, why, &[at]));
            }
        }
        broken
    }

    fn answered(&self) -> Vec<Broken> {
        self.calls()
            .filter(|(_, call)| call.answer.is_none() && self.has_died(call).is_none())
            .map(|(at, call)| {
                let why = format!("{} lives and was not answered", call.process);
                self.broken(Rule::Answered, why, &[at])
            })
            .collect()
    }

    fn the_dead_are_silent(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        for (at, call) in self.calls() {
            let body = call.body.as_ref();
            let moments = [
                Some(call.asked),
                call.found.as_ref().map(|found| found.at),
                body.map(|body| body.started),
                body.and_then(|body| body.ended.as_ref().map(|(at, _)| *at)),
                call.answer.as_ref().map(|(at, _)| *at),
            ];
            let last = moments.into_iter().flatten().max();
            if let (Some(died), Some(last)) = (self.has_died(call), last)
                && died < last
            {
                let why = format!("{} was dead since {died}", call.process);
                broken.push(self.broken(Rule::DeadAreSilent, why, &[at]));
            }
        }
        broken
    }
}

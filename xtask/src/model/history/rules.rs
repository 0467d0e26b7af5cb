//! The rules, one function each: item by item, and then process by process.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agentos_core::limits::ATTEMPTS_PER_ITEM_MAX;
use agentos_core::{AttemptOutcome, Fence, FencingToken, WorkItemId, WorkItemStatus};

use super::{Broken, Call, FoundItem, History, Moment, Operation, Reply, Rule};

/// Judges a history. Nothing is broken when nothing is returned.
pub(crate) fn judge_history(history: &History) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (item, of_item) in by_item(history) {
        let judge = Judge {
            history,
            item,
            of_item,
            found: history.items.get(&item),
        };
        broken.extend(judge.tokens_grow());
        broken.extend(judge.claimed_first());
        broken.extend(judge.nothing_after_a_later_claim());
        broken.extend(judge.nothing_after_an_end());
        broken.extend(judge.nothing_after_a_refusal());
        broken.extend(judge.one_completion());
        match judge.found {
            Some(found) => {
                broken.extend(judge.result_stays(found));
                broken.extend(judge.claims_have_rows(found));
                broken.extend(judge.rows_have_claims(found));
                broken.extend(judge.rows_are_closed(found));
                broken.extend(judge.writes_stay(found));
            }
            None => broken.push(judge.broken(Rule::AttemptRows, "the item is not there", &[])),
        }
    }
    broken.extend(the_dead_are_silent(history));
    broken
}

/// What is known of one item.
#[derive(Default)]
struct OfItem {
    /// Claims that were acknowledged: their tokens, and by which operations.
    claims: Vec<(FencingToken, usize)>,
    /// What was asked under its claims.
    calls: Vec<usize>,
}

fn by_item(history: &History) -> BTreeMap<WorkItemId, OfItem> {
    let mut items: BTreeMap<WorkItemId, OfItem> = BTreeMap::new();
    for item in history.items.keys() {
        items.entry(*item).or_default();
    }
    for (at, operation) in history.operations.iter().enumerate() {
        if let Some(fence) = operation.call.fence() {
            items.entry(fence.item).or_default().calls.push(at);
        }
        if let Some((_, Reply::Claimed(fences))) = &operation.reply {
            for fence in fences {
                let of_item = items.entry(fence.item).or_default();
                of_item.claims.push((fence.token, at));
            }
        }
    }
    items
}

struct Judge<'h> {
    history: &'h History,
    item: WorkItemId,
    of_item: OfItem,
    found: Option<&'h FoundItem>,
}

impl Judge<'_> {
    fn broken(&self, rule: Rule, why: impl Into<String>, events: &[usize]) -> Broken {
        broken(self.history, rule, Some(self.item), why, events)
    }

    fn operation(&self, at: usize) -> &Operation {
        &self.history.operations[at]
    }

    /// The calls under the item's claims, with the token of each.
    fn calls(&self) -> impl Iterator<Item = (usize, FencingToken, &Operation)> {
        let calls = self.of_item.calls.iter();
        calls.filter_map(|&at| {
            let operation = self.operation(at);
            let fence = operation.call.fence()?;
            Some((at, fence.token, operation))
        })
    }

    /// When a claim was acknowledged.
    fn acknowledged(&self, at: usize) -> Moment {
        let reply = self.operation(at).reply.as_ref();
        reply.map_or(Moment::MAX, |(moment, _)| *moment)
    }

    fn tokens_grow(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        let claims = &self.of_item.claims;
        for (place, &(token, first)) in claims.iter().enumerate() {
            for &(other, second) in &claims[place + 1..] {
                if token == other {
                    let why = format!("token {token} was given twice");
                    broken.push(self.broken(Rule::TokensGrow, why, &[first, second]));
                }
            }
            for &(other, later) in claims {
                if self.acknowledged(first) < self.operation(later).began && other < token {
                    let why = format!("token {other} was given after {token}");
                    broken.push(self.broken(Rule::TokensGrow, why, &[first, later]));
                }
            }
        }
        broken
    }

    fn claimed_first(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        for (at, token, operation) in self.calls() {
            let own = self.of_item.claims.iter().any(|&(given, claim)| {
                given == token
                    && self.operation(claim).process == operation.process
                    && self.acknowledged(claim) <= operation.began
            });
            if !own {
                let why = format!("{token} was not given to who works under it");
                broken.push(self.broken(Rule::ClaimedFirst, why, &[at]));
            }
        }
        broken
    }

    fn nothing_after_a_later_claim(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        for (at, token, operation) in self.calls() {
            if operation.done().is_none() || matches!(operation.call, Call::Lose(_)) {
                continue;
            }
            let mut claims = self.of_item.claims.iter();
            let later = claims.find(|(given, claim)| {
                token < *given && self.acknowledged(*claim) < operation.began
            });
            if let Some((given, claim)) = later {
                let why = format!("{token} was still taken after {given} was given");
                broken.push(self.broken(Rule::Fenced, why, &[*claim, at]));
            }
        }
        broken
    }

    fn nothing_after_an_end(&self) -> Vec<Broken> {
        let mut ends: HashMap<FencingToken, (Moment, usize)> = HashMap::new();
        for (at, token, operation) in self.calls() {
            if let (Some(_), Some(moment)) = (operation.call.outcome(), operation.done()) {
                let end = ends.entry(token).or_insert((moment, at));
                *end = (*end).min((moment, at));
            }
        }
        self.nothing_after(&ends, Rule::EndedOnce, "it was ended")
    }

    fn nothing_after_a_refusal(&self) -> Vec<Broken> {
        let mut refusals: HashMap<FencingToken, (Moment, usize)> = HashMap::new();
        for (at, token, operation) in self.calls() {
            if let Some((moment, Reply::Stale)) = operation.reply {
                let refusal = refusals.entry(token).or_insert((moment, at));
                *refusal = (*refusal).min((moment, at));
            }
        }
        self.nothing_after(&refusals, Rule::RefusedForGood, "it was refused")
    }

    /// Nothing is done under a claim that begins after the moment named for it.
    fn nothing_after(
        &self,
        moments: &HashMap<FencingToken, (Moment, usize)>,
        rule: Rule,
        what: &str,
    ) -> Vec<Broken> {
        let mut broken = Vec::new();
        for (at, token, operation) in self.calls() {
            if operation.done().is_none() || matches!(operation.call, Call::Lose(_)) {
                continue;
            }
            if let Some((moment, event)) = moments.get(&token)
                && *moment < operation.began
            {
                let why = format!("{token} was taken after {what}");
                broken.push(self.broken(rule, why, &[*event, at]));
            }
        }
        broken
    }

    fn one_completion(&self) -> Vec<Broken> {
        let completions = self.completions(|operation| operation.done().is_some());
        if completions.len() <= 1 {
            return Vec::new();
        }
        let why = format!("{} completions were acknowledged", completions.len());
        vec![self.broken(Rule::OneCompletion, why, &completions)]
    }

    fn completions(&self, which: impl Fn(&Operation) -> bool) -> Vec<usize> {
        let calls = self.calls();
        calls
            .filter(|(.., operation)| matches!(operation.call, Call::Complete(..)))
            .filter(|(.., operation)| which(operation))
            .map(|(at, ..)| at)
            .collect()
    }

    fn result_stays(&self, found: &FoundItem) -> Vec<Broken> {
        let mut broken = Vec::new();
        let succeeded = found.status == WorkItemStatus::Succeeded;
        for at in self.completions(|operation| operation.done().is_some()) {
            if !succeeded {
                let why = format!("it was completed and is {}", found.status);
                broken.push(self.broken(Rule::ResultStays, why, &[at]));
            }
        }
        let is_there = |operation: &Operation| match &operation.call {
            Call::Complete(fence, result) => {
                found.result.as_ref() == Some(result) && found.newest == Some(fence.token)
            }
            _ => false,
        };
        if succeeded {
            let all = self.completions(|operation| !operation.is_refused());
            let acknowledged = |at: &&usize| self.operation(**at).done().is_some();
            let winner = match all.iter().find(acknowledged) {
                Some(at) => is_there(self.operation(*at)),
                None => all.iter().any(|at| is_there(self.operation(*at))),
            };
            if !winner {
                let newest = found.newest.map_or(0, FencingToken::get);
                let why = format!("the result is {:?} of claim {newest}", found.result);
                broken.push(self.broken(Rule::ResultStays, why, &all));
            }
        } else if let Some(result) = &found.result {
            let why = format!("it is {} and has the result {result:?}", found.status);
            broken.push(self.broken(Rule::ResultStays, why, &[]));
        }
        broken
    }

    fn claims_have_rows(&self, found: &FoundItem) -> Vec<Broken> {
        let mut broken = Vec::new();
        let kept_from = kept_from(found);
        for &(token, at) in &self.of_item.claims {
            let mut rows = found.attempts.iter();
            let row = rows.find(|row| row.number == token);
            let process = &self.operation(at).process;
            match row {
                Some(row) if row.process != *process => {
                    let why = format!("attempt {token} is said to be that of {}", row.process);
                    broken.push(self.broken(Rule::AttemptRows, why, &[at]));
                }
                None if kept_from <= token.get() => {
                    let why = format!("attempt {token} is not there");
                    broken.push(self.broken(Rule::AttemptRows, why, &[at]));
                }
                _ => {}
            }
        }
        broken
    }

    /// Rows are numbered without gaps up to the newest claim, and each is of a
    /// claim that was acknowledged, or of which nothing was heard.
    fn rows_have_claims(&self, found: &FoundItem) -> Vec<Broken> {
        let mut broken = Vec::new();
        let numbers: Vec<i64> = found.attempts.iter().map(|row| row.number.get()).collect();
        let newest = found.newest.map_or(0, FencingToken::get);
        if !numbers.iter().copied().eq(kept_from(found)..=newest) {
            let why = format!("the attempts are {numbers:?}, and {newest} is the newest claim");
            broken.push(self.broken(Rule::AttemptRows, why, &[]));
        }
        for row in &found.attempts {
            let claimed = self
                .of_item
                .claims
                .iter()
                .any(|(token, _)| *token == row.number);
            let mut operations = self.history.operations.iter();
            let unheard = operations.any(|operation| {
                operation.process == row.process
                    && operation.call == Call::Claim
                    && operation.reply.is_none()
            });
            if !claimed && !unheard {
                let why = format!("{} made attempt {} unasked", row.process, row.number);
                broken.push(self.broken(Rule::AttemptRows, why, &[]));
            }
        }
        broken
    }

    fn rows_are_closed(&self, found: &FoundItem) -> Vec<Broken> {
        let mut broken = Vec::new();
        for row in &found.attempts {
            let newest = found.newest == Some(row.number);
            let running = newest && found.status == WorkItemStatus::InProgress;
            let final_status = match row.outcome {
                Some(AttemptOutcome::Succeeded) => Some(WorkItemStatus::Succeeded),
                Some(AttemptOutcome::Cancelled) => Some(WorkItemStatus::Cancelled),
                _ => None,
            };
            let fits = row.outcome.is_none() == running
                && final_status.is_none_or(|status| newest && found.status == status);
            if !fits {
                let why = format!(
                    "attempt {} ended as {:?}, and the item is {}",
                    row.number, row.outcome, found.status
                );
                broken.push(self.broken(Rule::AttemptsClosed, why, &[]));
            }
            let ends: Vec<usize> = self
                .calls()
                .filter(|(_, token, operation)| {
                    *token == row.number && operation.call.outcome().is_some()
                })
                .map(|(at, ..)| at)
                .collect();
            let acknowledged = ends.iter().find(|at| self.operation(**at).done().is_some());
            let told = match (acknowledged, row.outcome) {
                (Some(at), outcome) => outcome == self.operation(*at).call.outcome(),
                (None, Some(outcome)) if is_the_holders(outcome) => ends.iter().any(|at| {
                    let operation = self.operation(*at);
                    operation.call.outcome() == Some(outcome) && !operation.is_refused()
                }),
                (None, _) => true,
            };
            if !told {
                let why = format!(
                    "attempt {} ended as {:?}, which is not what was asked",
                    row.number, row.outcome
                );
                broken.push(self.broken(Rule::AttemptsClosed, why, &ends));
            }
        }
        let ended = found.attempts.last().and_then(|row| row.outcome);
        let succeeded = found.status == WorkItemStatus::Succeeded;
        if succeeded && ended != Some(AttemptOutcome::Succeeded) {
            let why = format!("it succeeded, and its last attempt ended as {ended:?}");
            broken.push(self.broken(Rule::AttemptsClosed, why, &[]));
        }
        broken
    }

    fn writes_stay(&self, found: &FoundItem) -> Vec<Broken> {
        let mut broken = Vec::new();
        let mut asked: HashMap<&str, usize> = HashMap::new();
        for (at, _, operation) in self.calls() {
            let Call::Write(_, value) = &operation.call else {
                continue;
            };
            // Who was refused for another reason than its lease may ask once more.
            let other = asked.insert(value, at);
            if let Some(other) = other.filter(|other| !self.asks_again(*other, at)) {
                let why = format!("{value:?} was written by two");
                broken.push(self.broken(Rule::WritesStay, why, &[other, at]));
            }
            if operation.done().is_some() && !found.written.contains(value) {
                let why = format!("{value:?} was acknowledged and is not there");
                broken.push(self.broken(Rule::WritesStay, why, &[at]));
            }
        }
        let mut seen = BTreeSet::new();
        // Who has the greatest token so far, and who began last.
        let mut newest: Option<(FencingToken, usize)> = None;
        let mut latest: Option<(Moment, usize)> = None;
        for value in &found.written {
            if !seen.insert(value) {
                let why = format!("{value:?} is there twice");
                broken.push(self.broken(Rule::WritesStay, why, &[]));
            }
            let Some(&at) = asked.get(value.as_str()) else {
                let why = format!("{value:?} is there unasked");
                broken.push(self.broken(Rule::WritesStay, why, &[]));
                continue;
            };
            let operation = self.operation(at);
            if operation.is_refused() {
                let why = format!("{value:?} was refused and is there");
                broken.push(self.broken(Rule::WritesStay, why, &[at]));
            }
            let Some(Fence { token, .. }) = operation.call.fence() else {
                continue;
            };
            if let Some((later, other)) = newest
                && token < later
            {
                let why = format!("{value:?} of claim {token} follows what {later} wrote");
                broken.push(self.broken(Rule::WritesStay, why, &[other, at]));
            }
            if let (Some((began, other)), Some(done)) = (latest, operation.done())
                && done < began
            {
                let why = format!("{value:?} follows what was written after it");
                broken.push(self.broken(Rule::WritesStay, why, &[at, other]));
            }
            newest = newest.max(Some((token, at)));
            latest = latest.max(Some((operation.began, at)));
        }
        broken
    }

    /// Whether a process makes the same call again after it was refused.
    fn asks_again(&self, first: usize, second: usize) -> bool {
        let (first, second) = (self.operation(first), self.operation(second));
        let same = first.process == second.process && first.call == second.call;
        let refused = |at: &Moment| *at < second.began;
        same && matches!(&first.reply, Some((at, Reply::Refused)) if refused(at))
    }
}

/// The first attempt of which the row is kept.
fn kept_from(found: &FoundItem) -> i64 {
    let newest = found.newest.map_or(0, FencingToken::get);
    (newest - i64::from(ATTEMPTS_PER_ITEM_MAX) + 1).max(1)
}

/// Whether only the holder itself ends an attempt so.
fn is_the_holders(outcome: AttemptOutcome) -> bool {
    use AttemptOutcome::{Cancelled, Expired, Failed, Released, Succeeded};
    match outcome {
        Succeeded | Failed | Released => true,
        Expired | Cancelled => false,
    }
}

fn the_dead_are_silent(history: &History) -> Vec<Broken> {
    let mut all = Vec::new();
    for (at, operation) in history.operations.iter().enumerate() {
        let Some(death) = history.deaths.get(&operation.process) else {
            continue;
        };
        let last = operation
            .reply
            .as_ref()
            .map_or(operation.began, |(end, _)| *end);
        if *death < last.max(operation.began) {
            let why = format!("{} was dead since {death}", operation.process);
            all.push(broken(history, Rule::DeadAreSilent, None, why, &[at]));
        }
    }
    all
}

fn broken(
    history: &History,
    rule: Rule,
    item: Option<WorkItemId>,
    why: impl Into<String>,
    events: &[usize],
) -> Broken {
    let shown = events
        .iter()
        .map(|at| format!("; {}", history.operations[*at]));
    Broken {
        rule,
        item,
        why: why.into(),
        events: events.to_vec(),
        shown: shown.collect(),
    }
}

//! Sound histories are accepted, and one change makes them be rejected.

use agentos_core::{AttemptOutcome, WorkItemId, WorkItemStatus};
use fastrand::Rng;

use super::super::{Call, FoundItem, History, Moment, Operation, Reply, Rule, judge_history};
use super::simulation::history;
use super::{accepted, rules, token};

const HISTORIES: u64 = 300;

/// Changes a sound history into one that cannot be, where it has a place for
/// that.
type Mutation = fn(&mut History, &mut Rng) -> Option<()>;

/// Each with a rule that must be among those that are broken.
const MUTATIONS: [(&str, Mutation, Rule); 22] = [
    ("token given twice", token_given_twice, Rule::TokensGrow),
    ("tokens swapped", tokens_swapped, Rule::TokensGrow),
    ("call by a stranger", call_by_a_stranger, Rule::ClaimedFirst),
    ("taken after takeover", taken_after_takeover, Rule::Fenced),
    ("taken after its end", taken_after_its_end, Rule::EndedOnce),
    (
        "taken after refusal",
        taken_after_refusal,
        Rule::RefusedForGood,
    ),
    ("second completion", second_completion, Rule::OneCompletion),
    ("stale completion", stale_completion, Rule::ResultStays),
    ("other result", other_result, Rule::ResultStays),
    ("completion undone", completion_undone, Rule::ResultStays),
    (
        "result from nowhere",
        result_from_nowhere,
        Rule::ResultStays,
    ),
    ("row lost", row_lost, Rule::AttemptRows),
    ("row twice", row_twice, Rule::AttemptRows),
    ("row of another", row_of_another, Rule::AttemptRows),
    ("row reopened", row_reopened, Rule::AttemptsClosed),
    ("row cancelled", row_cancelled, Rule::AttemptsClosed),
    ("write lost", write_lost, Rule::WritesStay),
    ("stale write", stale_write, Rule::WritesStay),
    ("write refused", write_refused, Rule::WritesStay),
    ("write from nowhere", write_from_nowhere, Rule::WritesStay),
    ("writes swapped", writes_swapped, Rule::WritesStay),
    ("word of the dead", word_of_the_dead, Rule::DeadAreSilent),
];

#[test]
fn sound_histories_are_accepted_and_full_of_trouble() {
    let (mut stale, mut unanswered, mut completed, mut takeovers) = (0, 0, 0, 0);
    for seed in 0..HISTORIES {
        let history = history(seed);
        accepted(&history);
        let replies = || history.operations.iter().map(|one| &one.reply);
        stale += replies()
            .filter(|one| matches!(one, Some((_, Reply::Stale))))
            .count();
        unanswered += replies().filter(|one| one.is_none()).count();
        let items = history.items.values();
        let done = |it: &&FoundItem| it.status == WorkItemStatus::Succeeded;
        completed += items.clone().filter(done).count();
        takeovers += items
            .map(|it| it.attempts.len().saturating_sub(1))
            .sum::<usize>();
    }
    for (what, count) in [
        ("refusals", stale),
        ("unanswered calls", unanswered),
        ("completions", completed),
        ("takeovers", takeovers),
    ] {
        assert!(300 < count, "only {count} {what}");
    }
}

#[test]
fn every_single_change_of_a_sound_history_is_rejected() {
    for (what, mutation, rule) in MUTATIONS {
        let mut made = 0;
        for seed in 0..HISTORIES {
            let mut random = Rng::with_seed(seed);
            let mut changed = history(seed);
            if mutation(&mut changed, &mut random).is_none() {
                continue;
            }
            made += 1;
            let found = rules(&changed);
            assert!(found.contains(&rule), "{what}, seed {seed}: {found:?}");
            for broken in judge_history(&changed) {
                let named = format!("{:?}: ", broken.rule);
                assert!(broken.to_string().starts_with(&named), "{broken}");
            }
        }
        assert!(20 <= made, "{what} was made only {made} times");
    }
}

/// One of the operations for which a question has an answer.
fn pick<T>(
    history: &History,
    random: &mut Rng,
    which: impl Fn(usize, &Operation) -> Option<T>,
) -> Option<T> {
    let operations = history.operations.iter().enumerate();
    let mut all: Vec<T> = operations.filter_map(|(at, one)| which(at, one)).collect();
    let count = all.len();
    (0 < count).then(|| all.swap_remove(random.usize(0..count)))
}

fn pick_item(
    history: &History,
    random: &mut Rng,
    which: impl Fn(&FoundItem) -> bool,
) -> Option<WorkItemId> {
    let fitting = history.items.iter().filter(|(_, it)| which(it));
    let all: Vec<WorkItemId> = fitting.map(|(item, _)| *item).collect();
    random.choice(all)
}

fn found(history: &mut History, item: WorkItemId) -> Option<&mut FoundItem> {
    history.items.get_mut(&item)
}

/// A moment after everything.
fn end(history: &History) -> Moment {
    let operations = history.operations.iter();
    let moments = operations.map(|one| one.reply.as_ref().map_or(one.began, |(at, _)| *at));
    moments.max().unwrap_or(0) + 1
}

/// Two claims of an item, by place in the history and in the claim's answer: the
/// second began after the first was acknowledged.
fn two_claims(history: &History, random: &mut Rng) -> Option<[(usize, usize); 2]> {
    let mut claims = Vec::new();
    for (at, one) in history.operations.iter().enumerate() {
        if let Some((end, Reply::Claimed(given))) = &one.reply {
            let given = given.iter().enumerate();
            claims.extend(given.map(|(place, fence)| (fence.item, one.began, *end, (at, place))));
        }
    }
    let mut pairs = Vec::new();
    for (item, _, end, first) in &claims {
        let later = claims
            .iter()
            .filter(|(other, began, ..)| other == item && end < began);
        pairs.extend(later.map(|(.., second)| [*first, *second]));
    }
    random.choice(pairs)
}

fn given(history: &mut History, (at, place): (usize, usize)) -> Option<&mut agentos_core::Fence> {
    match &mut history.operations[at].reply {
        Some((_, Reply::Claimed(given))) => given.get_mut(place),
        _ => None,
    }
}

fn token_given_twice(history: &mut History, random: &mut Rng) -> Option<()> {
    let [first, second] = two_claims(history, random)?;
    *given(history, second)? = *given(history, first)?;
    Some(())
}

fn tokens_swapped(history: &mut History, random: &mut Rng) -> Option<()> {
    let [first, second] = two_claims(history, random)?;
    let one = *given(history, first)?;
    let other = std::mem::replace(given(history, second)?, one);
    *given(history, first)? = other;
    Some(())
}

fn call_by_a_stranger(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = pick(history, random, |at, one| one.call.fence().map(|_| at))?;
    history.operations[at].process = "stranger".into();
    Some(())
}

fn taken_after_takeover(history: &mut History, random: &mut Rng) -> Option<()> {
    let [first, second] = two_claims(history, random)?;
    let fence = *given(history, first)?;
    let renewal = Operation {
        process: history.operations[first.0].process.clone(),
        call: Call::Renew(fence),
        began: history.operations[second.0].reply.as_ref()?.0 + 1,
        reply: Some((end(history), Reply::Done)),
    };
    history.operations.push(renewal);
    Some(())
}

/// The same process writes once more under a lease, and is not refused.
fn write_once_more(history: &mut History, at: usize) -> Option<()> {
    let one = &history.operations[at];
    let renewal = Operation {
        process: one.process.clone(),
        call: Call::Renew(one.call.fence()?),
        began: one.reply.as_ref()?.0 + 1,
        reply: Some((end(history), Reply::Done)),
    };
    history.operations.push(renewal);
    Some(())
}

fn taken_after_its_end(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = pick(history, random, |at, one| {
        (one.call.outcome().is_some() && one.done().is_some()).then_some(at)
    })?;
    write_once_more(history, at)
}

fn taken_after_refusal(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = pick(history, random, |at, one| {
        matches!(one.reply, Some((_, Reply::Stale))).then_some(at)
    })?;
    write_once_more(history, at)
}

/// A completion with this answer.
fn completion(history: &History, random: &mut Rng, reply: &Reply) -> Option<usize> {
    pick(history, random, |at, one| {
        let fits = one.reply.as_ref().is_some_and(|(_, got)| got == reply);
        (matches!(one.call, Call::Complete(..)) && fits).then_some(at)
    })
}

fn second_completion(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = completion(history, random, &Reply::Done)?;
    let again = history.operations[at].clone();
    history.operations.push(again);
    Some(())
}

fn stale_completion(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = completion(history, random, &Reply::Stale)?;
    let fence = history.operations[at].call.fence()?;
    // Another one was acknowledged: then there are two.
    let other = history.operations.iter().any(|one| {
        let same = one
            .call
            .fence()
            .is_some_and(|other| other.item == fence.item);
        same && one.done().is_some() && matches!(one.call, Call::Complete(..))
    });
    let (moment, _) = history.operations[at].reply.take()?;
    history.operations[at].reply = Some((moment, Reply::Done));
    (!other).then_some(())
}

fn other_result(history: &mut History, random: &mut Rng) -> Option<()> {
    let item = pick_item(history, random, |it| it.result.is_some())?;
    found(history, item)?.result = Some("another".into());
    Some(())
}

fn completion_undone(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = completion(history, random, &Reply::Done)?;
    let item = history.operations[at].call.fence()?.item;
    let it = found(history, item)?;
    it.status = WorkItemStatus::Pending;
    it.result = None;
    it.attempts.last_mut()?.outcome = Some(AttemptOutcome::Expired);
    Some(())
}

fn result_from_nowhere(history: &mut History, random: &mut Rng) -> Option<()> {
    let item = pick_item(history, random, |it| it.result.is_none())?;
    found(history, item)?.result = Some("nowhere".into());
    Some(())
}

fn any_row(history: &History, random: &mut Rng) -> Option<(WorkItemId, usize)> {
    let item = pick_item(history, random, |it| !it.attempts.is_empty())?;
    Some((item, random.usize(0..history.items[&item].attempts.len())))
}

fn row_lost(history: &mut History, random: &mut Rng) -> Option<()> {
    let (item, at) = any_row(history, random)?;
    found(history, item)?.attempts.remove(at);
    Some(())
}

fn row_twice(history: &mut History, random: &mut Rng) -> Option<()> {
    let (item, at) = any_row(history, random)?;
    let rows = &mut found(history, item)?.attempts;
    rows.insert(at, rows[at].clone());
    Some(())
}

fn row_of_another(history: &mut History, random: &mut Rng) -> Option<()> {
    let item = pick_item(history, random, |it| !it.attempts.is_empty())?;
    let claims = pick(history, random, |_, one| match &one.reply {
        Some((_, Reply::Claimed(given))) => given.iter().find(|one| one.item == item).copied(),
        _ => None,
    })?;
    let mut rows = found(history, item)?.attempts.iter_mut();
    rows.find(|row| row.number == claims.token)?.process = "stranger".into();
    Some(())
}

fn row_reopened(history: &mut History, random: &mut Rng) -> Option<()> {
    let (item, at) = any_row(history, random)?;
    let row = &mut found(history, item)?.attempts[at];
    row.outcome.take().map(drop)
}

fn row_cancelled(history: &mut History, random: &mut Rng) -> Option<()> {
    let (item, at) = any_row(history, random)?;
    let it = found(history, item)?;
    it.attempts[at].outcome = Some(AttemptOutcome::Cancelled);
    (it.status != WorkItemStatus::Cancelled).then_some(())
}

/// A write with this answer, by its place, and its value.
fn write(history: &History, random: &mut Rng, reply: &Reply) -> Option<(usize, String)> {
    pick(history, random, |at, one| match (&one.call, &one.reply) {
        (Call::Write(_, value), Some((_, got))) if got == reply => Some((at, value.clone())),
        _ => None,
    })
}

fn write_lost(history: &mut History, random: &mut Rng) -> Option<()> {
    let (at, value) = write(history, random, &Reply::Done)?;
    let item = history.operations[at].call.fence()?.item;
    found(history, item)?
        .written
        .retain(|other| *other != value);
    Some(())
}

fn stale_write(history: &mut History, random: &mut Rng) -> Option<()> {
    let (at, _) = write(history, random, &Reply::Stale)?;
    let (moment, _) = history.operations[at].reply.take()?;
    history.operations[at].reply = Some((moment, Reply::Done));
    Some(())
}

fn write_refused(history: &mut History, random: &mut Rng) -> Option<()> {
    let (at, _) = write(history, random, &Reply::Done)?;
    let (moment, _) = history.operations[at].reply.take()?;
    let reply = random.choice([Reply::Stale, Reply::Refused])?;
    history.operations[at].reply = Some((moment, reply));
    Some(())
}

fn write_from_nowhere(history: &mut History, random: &mut Rng) -> Option<()> {
    let item = pick_item(history, random, |_| true)?;
    found(history, item)?.written.push("nowhere".into());
    Some(())
}

fn writes_swapped(history: &mut History, random: &mut Rng) -> Option<()> {
    let item = pick_item(history, random, |it| 2 <= it.written.len())?;
    let fence_of = |value: &String| {
        let mut calls = history.operations.iter().map(|one| &one.call);
        calls.find_map(|call| match call {
            Call::Write(fence, other) if other == value => Some(fence.token),
            _ => None,
        })
    };
    let written = &history.items[&item].written;
    let claims: Vec<_> = written.iter().map(fence_of).collect();
    let at = (1..claims.len()).find(|at| claims[at - 1] != claims[*at])?;
    found(history, item)?.written.swap(at - 1, at);
    Some(())
}

fn word_of_the_dead(history: &mut History, random: &mut Rng) -> Option<()> {
    let at = pick(history, random, |at, one| {
        (history.deaths.contains_key(&one.process) && one.reply.is_some()).then_some(at)
    })?;
    let last = end(history).max(*history.deaths.values().max()?) + 1;
    history.operations[at].reply.as_mut()?.0 = last;
    Some(())
}

#[test]
fn a_later_token_that_nobody_got_is_rejected() {
    let mut history = history(1);
    for it in history.items.values_mut() {
        let newest = it.newest.map_or(0, |newest| newest.get());
        it.newest = Some(token(newest + 1));
    }
    assert!(rules(&history).contains(&Rule::AttemptRows));
}

//! When leases were taken away, and what must be true of that, given what their
//! holders asked and were told. Pure.
//!
//! A deadline that is counted from before the request is never later than the one
//! that was recorded, and an answer is never earlier than what it speaks of. So what
//! is called too early here was too early, however long a process was kept waiting in
//! between.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use agentos_core::{AttemptOutcome, Fence, FencingToken, WorkItemId};

use super::history::{Call, History, Moment, Reply};

/// A lease that a sweep took away, as the one who swept tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Which.
    pub(crate) fence: Fence,
    /// For which reason.
    pub(crate) why: Why,
    /// Before it was asked for.
    pub(crate) began: Moment,
    /// After the answer was there.
    pub(crate) ended: Moment,
}

/// Why a lease was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It had run out.
    Expired,
    /// An earlier start of the one who took it held it.
    EarlierStart,
}

impl fmt::Display for Taken {
    /// As a process tells of it; [`Taken::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Taken {
            fence,
            why,
            began,
            ended,
        } = self;
        let why = match why {
            Why::Expired => "expired",
            Why::EarlierStart => "earlier-start",
        };
        write!(
            f,
            "taken {} {} {why} {began} {ended}",
            fence.item, fence.token
        )
    }
}

impl Taken {
    /// Reads what [`Display`](fmt::Display) writes; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Taken> {
        let mut words = text.strip_prefix("taken ")?.split(' ');
        let taken = Taken {
            fence: Fence {
                item: WorkItemId::new(words.next()?.parse().ok()?).ok()?,
                token: FencingToken::new(words.next()?.parse().ok()?).ok()?,
            },
            why: match words.next()? {
                "expired" => Why::Expired,
                "earlier-start" => Why::EarlierStart,
                _ => return None,
            },
            began: words.next()?.parse().ok()?,
            ended: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(taken)
    }
}

fn name(fence: Fence) -> String {
    format!("lease {} of item {}", fence.token, fence.item)
}

/// What must be true whatever any clock says: a lease is taken away once, its attempt
/// ended so, and nothing is done under it afterwards.
pub(crate) fn judge_taken(history: &History, taken: &[Taken]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut first: BTreeMap<Fence, Taken> = BTreeMap::new();
    for one in taken {
        let name = name(one.fence);
        if first.insert(one.fence, *one).is_some() {
            broken.push(format!("{name} was taken away twice"));
        }
        let attempts = history.items.get(&one.fence.item);
        let mut attempts = attempts.iter().flat_map(|item| &item.attempts);
        let attempt = attempts.find(|attempt| attempt.number == one.fence.token);
        let outcome = attempt.and_then(|attempt| attempt.outcome);
        if outcome != Some(AttemptOutcome::Expired) {
            broken.push(format!("{name} was taken away and ended as {outcome:?}"));
        }
    }
    for operation in &history.operations {
        let taken = operation.call.fence().and_then(|fence| first.get(&fence));
        if let (Some(taken), Some(_)) = (taken, operation.done())
            && taken.ended < operation.began
        {
            broken.push(format!(
                "{} was gone for {} µs: {operation}",
                name(taken.fence),
                operation.began - taken.ended
            ));
        }
    }
    broken
}

/// What must be true where the clock that decides deadlines does not jump: no lease
/// ended before its deadline, but by its holder's own will.
///
/// `lease` says how long a process was given each of its leases, `may_go` from when on
/// a lease may be taken away before it runs out.
pub(crate) fn judge_deadlines(
    history: &History,
    taken: &[Taken],
    lease: impl Fn(&str) -> Moment,
    may_go: impl Fn(Fence) -> Option<Moment>,
) -> Vec<String> {
    let mut deadlines: BTreeMap<Fence, Moment> = BTreeMap::new();
    // The first moments after which a lease is known to have ended, and how.
    let mut ends: BTreeMap<Fence, (Moment, &str)> = BTreeMap::new();
    let mut end = |fence, moment, how| {
        let known = ends.entry(fence).or_insert((moment, how));
        *known = (*known).min((moment, how));
    };
    let mut claims: Vec<(Fence, Moment)> = Vec::new();
    for operation in &history.operations {
        let Some((at, reply)) = &operation.reply else {
            continue;
        };
        let until = operation.began + lease(&operation.process);
        match (&operation.call, reply) {
            (Call::Claim, Reply::Claimed(fences)) => {
                for fence in fences {
                    deadlines.insert(*fence, until);
                    claims.push((*fence, *at));
                }
            }
            (Call::Renew(fence), Reply::Done) => {
                let known = deadlines.entry(*fence).or_insert(until);
                *known = until.max(*known);
            }
            (call, Reply::Stale) => {
                if let Some(fence) = call.fence() {
                    end(fence, *at, "lost");
                }
            }
            _ => {}
        }
    }
    for one in taken {
        end(one.fence, one.ended, "swept");
    }
    claims.sort_unstable();
    for pair in claims.windows(2) {
        let [(earlier, _), (later, at)] = pair else {
            continue;
        };
        if earlier.item == later.item {
            end(*earlier, *at, "taken over");
        }
    }
    let own = ended_by_holders(history);
    let mut broken = Vec::new();
    for (fence, deadline) in deadlines {
        let deadline = may_go(fence).map_or(deadline, |moment| moment.min(deadline));
        if let Some((moment, how)) = ends.get(&fence)
            && *moment < deadline
            && !own.contains(&fence)
        {
            broken.push(format!(
                "{} was {how} {} µs before its deadline",
                name(fence),
                deadline - moment
            ));
        }
    }
    broken
}

/// Leases that their holders ended: a kill may have swallowed the word, so the file is
/// asked.
fn ended_by_holders(history: &History) -> BTreeSet<Fence> {
    use AttemptOutcome::{Failed, Released, Succeeded};
    let mut ended = BTreeSet::new();
    for (item, found) in &history.items {
        for attempt in &found.attempts {
            if let Some(Succeeded | Released | Failed) = attempt.outcome {
                ended.insert(Fence {
                    item: *item,
                    token: attempt.number,
                });
            }
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use agentos_core::WorkItemStatus;

    use super::super::history::{FoundAttempt, FoundItem, Record};
    use super::*;

    /// Item 1, whose leases ended so; and what two processes told.
    fn history(outcomes: &[AttemptOutcome], lines: &[(&str, &str)]) -> History {
        let mut record = Record::default();
        for (process, line) in lines {
            record.heed(process, line).unwrap();
        }
        let attempts = outcomes
            .iter()
            .zip(1..)
            .map(|(outcome, number)| FoundAttempt {
                number: FencingToken::new(number).unwrap(),
                process: "w".into(),
                outcome: Some(*outcome),
            });
        let item = FoundItem {
            status: WorkItemStatus::Pending,
            newest: None,
            result: None,
            attempts: attempts.collect(),
            written: Vec::new(),
        };
        record.with([(WorkItemId::new(1).unwrap(), item)].into())
    }

    fn taken(texts: &[&str]) -> Vec<Taken> {
        let parse = |text: &&str| Taken::parse(text).unwrap_or_else(|| panic!("{text}"));
        texts.iter().map(parse).collect()
    }

    /// Claimed at 0 and renewed at 50, for 100.
    const HELD: [(&str, &str); 4] = [
        ("v", "begin 1 0 claim"),
        ("v", "end 1 5 claimed 1 1"),
        ("v", "begin 2 50 renew 1 1"),
        ("v", "end 2 55 done"),
    ];

    #[test]
    fn what_is_told_is_read_again() {
        for text in ["taken 7 2 expired 100 105", "taken 7 2 earlier-start 1 1"] {
            assert_eq!(taken(&[text])[0].to_string(), text);
        }
        for text in [
            "taken 7 2 expired 1",
            "taken 7 2 x 1 2",
            "taken 7 2 expired 1 2 3",
        ] {
            assert_eq!(Taken::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_lease_is_taken_away_once_and_ends_with_that() {
        let late = [("v", "begin 3 160 renew 1 1"), ("v", "end 3 165 done")];
        let lost = AttemptOutcome::Expired;
        for (outcome, more, texts, word) in [
            (lost, &[][..], &["taken 1 1 expired 150 155"][..], ""),
            (lost, &late, &["taken 1 1 expired 155 160"], ""),
            (lost, &late, &["taken 1 1 expired 150 155"], "for 5 µs"),
            (
                lost,
                &[],
                &["taken 1 1 expired 150 155", "taken 1 1 expired 156 157"],
                "twice",
            ),
            (
                AttemptOutcome::Succeeded,
                &[],
                &["taken 1 1 expired 150 155"],
                "Succeeded",
            ),
        ] {
            let history = history(&[outcome], &[&HELD[..], more].concat());
            let broken = judge_taken(&history, &taken(texts));
            assert_eq!(broken.len(), usize::from(!word.is_empty()), "{broken:?}");
            assert!(broken.iter().all(|reason| reason.contains(word)));
        }
    }

    #[test]
    fn a_lease_that_ends_before_its_deadline_is_named() {
        let lost = &[AttemptOutcome::Expired][..];
        let next = |end| [("w", "begin 1 110 claim"), ("w", end)];
        let refused = |end| [("v", "begin 3 110 renew 1 1"), ("v", end)];
        let judge = |outcomes, more: &[(&str, &str)], texts: &[&str], may_go: Option<Moment>| {
            let history = history(outcomes, &[&HELD[..], more].concat());
            judge_deadlines(&history, &taken(texts), |_| 100, |_| may_go)
        };
        for (more, texts, word) in [
            (&[][..], &["taken 1 1 expired 110 149"][..], "swept 1 µs"),
            (&refused("end 3 140 stale"), &[], "lost 10 µs"),
            (&next("end 1 120 claimed 1 2"), &[], "taken over 30 µs"),
        ] {
            let broken = judge(lost, more, texts, None);
            assert_eq!(broken.len(), 1, "{word}: {broken:?}");
            assert!(broken[0].contains(word), "{word}: {broken:?}");
            // Its holder had ended it; or it may be taken.
            let own = judge(&[AttemptOutcome::Released], more, texts, None);
            assert_eq!(own, Vec::<String>::new());
            let may = judge(lost, more, texts, Some(110));
            assert_eq!(may, Vec::<String>::new());
        }
        for (more, texts) in [
            (&[][..], &["taken 1 1 expired 110 150"][..]),
            (&refused("end 3 150 stale"), &[]),
            (&next("end 1 150 claimed 1 2"), &[]),
            (&next("end 1 120 claimed"), &[]),
            (&refused("end 3 120 done"), &["taken 1 1 expired 200 210"]),
        ] {
            assert_eq!(judge(lost, more, texts, None), Vec::<String>::new());
        }
    }
}

//! Which strikes follow from a dry run. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agentos_tracer::When;

use super::ANY_MOMENT;
use super::calls::{self, CallSeen};
use super::points::Points;
use super::strike::Strike;
use crate::prng::Prng;

/// A strike, and what it is counted under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) strike: Strike,
    /// The point's name, or the kind of the call.
    pub(crate) label: String,
}

/// Every time at which a process reached a point, in order.
pub(crate) fn points(points: &Points) -> Vec<Planned> {
    let mut known = BTreeSet::new();
    let mut planned = Vec::new();
    for process in &points.reached {
        let mut hits: BTreeMap<&str, u64> = BTreeMap::new();
        for name in process {
            let hit = hits.entry(name).or_default();
            *hit += 1;
            if known.insert((name.as_str(), *hit)) {
                planned.push(Planned {
                    strike: Strike::Point {
                        name: name.clone(),
                        hit: *hit,
                    },
                    label: name.clone(),
                });
            }
        }
    }
    planned
}

/// Both sides of every call, in order.
pub(crate) fn calls(seen: &[CallSeen]) -> Vec<Planned> {
    let sides = |call: &CallSeen| {
        [When::Before, When::After].map(|when| Planned {
            strike: Strike::Call {
                position: call.position.clone(),
                when,
            },
            label: call.kind.clone(),
        })
    };
    seen.iter().flat_map(sides).collect()
}

/// Every way in which each call may fail, in order.
pub(crate) fn faults(seen: &[CallSeen]) -> Vec<Planned> {
    let ways = |call: &CallSeen| {
        let planned = |fault| Planned {
            strike: Strike::Fail {
                position: call.position.clone(),
                fault,
            },
            label: calls::failing(&call.kind, fault),
        };
        call.faults.iter().copied().map(planned).collect::<Vec<_>>()
    };
    seen.iter().flat_map(ways).collect()
}

/// Kills at seeded moments: after any acknowledgement, and at most as long after
/// it as the next one took in the dry run.
pub(crate) fn kills(
    count: u32,
    times: &[Duration],
    ended: Duration,
    rng: &mut Prng,
) -> Vec<Planned> {
    (0..count).map(|_| kill(times, ended, rng)).collect()
}

/// One of them.
pub(crate) fn kill(times: &[Duration], ended: Duration, rng: &mut Prng) -> Planned {
    let acks = usize::try_from(rng.between(0, times.len() as u64)).unwrap_or(0);
    let from = acks.checked_sub(1).and_then(|last| times.get(last));
    let to = times.get(acks).copied().unwrap_or(ended);
    let gap = to.saturating_sub(from.copied().unwrap_or_default());
    planned_kill(acks, rng.duration_between(Duration::ZERO, gap))
}

/// One before the last acknowledgement, and so early in a gap that the victim
/// does not end before it.
pub(crate) fn kill_within(times: &[Duration], ended: Duration, rng: &mut Prng) -> Strike {
    let last = times.len().saturating_sub(1) as u64;
    let acks = usize::try_from(rng.between(0, last)).unwrap_or(0);
    let from = acks.checked_sub(1).and_then(|last| times.get(last));
    let to = times.get(acks).copied().unwrap_or(ended);
    let gap = to.saturating_sub(from.copied().unwrap_or_default());
    planned_kill(acks, rng.duration_between(Duration::ZERO, gap / 2)).strike
}

/// A kill that comes earlier: first in its gap, then after fewer
/// acknowledgements.
pub(crate) fn earlier(strike: &Strike) -> Strike {
    match strike {
        Strike::Kill { acks, offset } if offset.is_zero() => Strike::Kill {
            acks: acks / 2,
            offset: Duration::ZERO,
        },
        Strike::Kill { acks, offset } => Strike::Kill {
            acks: *acks,
            offset: Duration::from_micros(micros(*offset) / 16),
        },
        other => other.clone(),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Kills from the first acknowledgement to the last: at once, after the offset
/// that once showed something, and half-way to it.
pub(crate) fn kills_in_order(acks: usize, offset: Duration) -> Vec<Planned> {
    let mut offsets = vec![Duration::ZERO, offset / 2, offset];
    offsets.dedup();
    (0..=acks)
        .flat_map(|acks| {
            offsets
                .iter()
                .map(move |offset| planned_kill(acks, *offset))
        })
        .collect()
}

fn planned_kill(acks: usize, offset: Duration) -> Planned {
    Planned {
        strike: Strike::Kill {
            acks,
            offset: Duration::from_micros(micros(offset)),
        },
        label: ANY_MOMENT.to_owned(),
    }
}

/// At most `room` of them, in their order: those under this label before any
/// other.
pub(crate) fn likely(
    planned: Vec<Planned>,
    label: &str,
    room: usize,
    rng: &mut Prng,
) -> Vec<Planned> {
    if planned.len() <= room {
        return planned;
    }
    let (alike, others): (Vec<_>, Vec<_>) =
        planned.iter().cloned().partition(|one| one.label == label);
    let rest = room.saturating_sub(alike.len());
    let mut chosen = sample(alike, room, rng);
    chosen.extend(sample(others, rest, rng));
    let in_order = |one: &Planned| chosen.contains(one);
    planned.into_iter().filter(in_order).collect()
}

/// At most `budget` of them, in their order: each label is there before any is
/// there twice, and chance decides the rest.
pub(crate) fn sample(planned: Vec<Planned>, budget: usize, rng: &mut Prng) -> Vec<Planned> {
    if planned.len() <= budget {
        return planned;
    }
    let mut groups: BTreeMap<(_, &str), Vec<usize>> = BTreeMap::new();
    for (place, one) in planned.iter().enumerate() {
        let group = (one.strike.family(), one.label.as_str());
        groups.entry(group).or_default().push(place);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    groups.iter_mut().for_each(|group| rng.shuffle(group));
    rng.shuffle(&mut groups);
    let mut chosen = BTreeSet::new();
    while chosen.len() < budget {
        for group in &mut groups {
            if chosen.len() < budget
                && let Some(place) = group.pop()
            {
                chosen.insert(place);
            }
        }
    }
    planned
        .into_iter()
        .enumerate()
        .filter_map(|(place, one)| chosen.contains(&place).then_some(one))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use agentos_tracer::Fault;

    fn texts(planned: &[Planned]) -> Vec<String> {
        planned.iter().map(|one| one.strike.to_string()).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_hit_of_every_point_is_planned_once_and_in_order() {
        let reached = Points {
            reached: vec![names(&["a", "b", "a"]), names(&["b", "b"])],
            ..Points::default()
        };
        let planned = points(&reached);
        let expected = ["point:a#1", "point:b#1", "point:a#2", "point:b#2"];
        assert_eq!(texts(&planned), expected);
        assert_eq!(planned[2].label, "a");
    }

    #[test]
    fn every_call_is_planned_on_both_sides_and_with_its_faults() {
        let call = |position: &str, faults: &[Fault]| CallSeen {
            position: position.parse().unwrap(),
            kind: "write file".to_owned(),
            faults: faults.to_vec(),
        };
        let seen = [
            call("1/1#1", &[Fault::Eio, Fault::ShortWrite]),
            call("1/1#2", &[]),
        ];
        let sides = [
            "call:1/1#1:before",
            "call:1/1#1:after",
            "call:1/1#2:before",
            "call:1/1#2:after",
        ];
        assert_eq!(texts(&calls(&seen)), sides);
        let failing = faults(&seen);
        assert_eq!(texts(&failing), ["fail:1/1#1:EIO", "fail:1/1#1:short"]);
        assert_eq!(failing[1].label, "write file short");
    }

    #[test]
    fn kills_fall_between_acknowledgements_as_the_dry_run_had_them() {
        let ms = Duration::from_millis;
        let times = [ms(10), ms(11), ms(31)];
        let planned = kills(500, &times, ms(32), &mut Prng::seeded(7));
        assert_eq!(planned, kills(500, &times, ms(32), &mut Prng::seeded(7)));
        let longest = [ms(10), ms(1), ms(20), ms(1)];
        let mut seen = BTreeSet::new();
        for one in &planned {
            let Strike::Kill { acks, offset } = one.strike else {
                panic!("{one:?}");
            };
            assert!(offset <= longest[acks], "{one:?}");
            seen.insert(acks);
        }
        assert_eq!(seen, BTreeSet::from([0, 1, 2, 3]));
        assert_eq!(kills(1, &[], ms(5), &mut Prng::seeded(7)).len(), 1);
    }

    #[test]
    fn what_is_alike_is_tried_before_anything_else() {
        let planned = |labels: &[&str]| -> Vec<Planned> {
            let one = |(label, hit): (&&str, u64)| Planned {
                strike: Strike::Point {
                    name: (*label).to_owned(),
                    hit,
                },
                label: (*label).to_owned(),
            };
            labels.iter().zip(1..).map(one).collect()
        };
        let all = planned(&["a", "b", "a", "b", "b", "a"]);
        let likely = |label, room| texts(&likely(all.clone(), label, room, &mut Prng::seeded(7)));
        assert_eq!(likely("a", 6), texts(&all));
        assert_eq!(likely("a", 3), ["point:a#1", "point:a#3", "point:a#6"]);
        let four = likely("a", 4);
        assert_eq!(four.len(), 4);
        assert_eq!(four.iter().filter(|text| text.contains(":a#")).count(), 3);
        assert_eq!(
            likely("b", 2)
                .iter()
                .filter(|text| text.contains(":b#"))
                .count(),
            2
        );
        assert_eq!(likely("c", 0), Vec::<String>::new());
    }

    #[test]
    fn an_earlier_kill_ends_at_the_start() {
        let mut strike: Strike = "kill:5acks+300us".parse().unwrap();
        let mut seen = Vec::new();
        for _ in 0..6 {
            strike = earlier(&strike);
            seen.push(strike.to_string());
        }
        let expected = [
            "kill:5acks+18us",
            "kill:5acks+1us",
            "kill:5acks+0us",
            "kill:2acks+0us",
            "kill:1acks+0us",
            "kill:0acks+0us",
        ];
        assert_eq!(seen, expected);
    }

    proptest! {
        #[test]
        fn a_sample_has_each_label_before_any_twice(
            labels in proptest::collection::vec(0..8_u8, 0..60),
            budget in 0..70_usize,
            seed in any::<u64>(),
        ) {
            let planned: Vec<Planned> = labels
                .iter()
                .zip(1..)
                .map(|(label, hit)| Planned {
                    strike: Strike::Point { name: label.to_string(), hit },
                    label: label.to_string(),
                })
                .collect();
            let chosen = sample(planned.clone(), budget, &mut Prng::seeded(seed));
            prop_assert_eq!(chosen.len(), budget.min(planned.len()));
            // In order, and each once.
            let places: Vec<usize> = chosen
                .iter()
                .map(|one| planned.iter().position(|known| known == one).unwrap())
                .collect();
            prop_assert!(places.is_sorted_by(|one, next| one < next));
            let count = |all: &[Planned], label: &str| {
                all.iter().filter(|one| one.label == label).count()
            };
            let distinct: BTreeSet<&str> = planned.iter().map(|one| one.label.as_str()).collect();
            for one in &distinct {
                for other in &distinct {
                    // No label is more than one ahead of another that had more to give.
                    if count(&chosen, other) < count(&planned, other) {
                        prop_assert!(count(&chosen, one) <= count(&chosen, other) + 1);
                    }
                }
            }
        }
    }
}

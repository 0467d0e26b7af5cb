//! When an agent that works in iterations shall be killed: chosen by the seed,
//! before it begins, over the whole of its work.
//!
//! A kill comes after a word of the agent, so after counted progress, and a part
//! of an iteration later. The first kills leave room at the end, so that an agent
//! which runs on while its killer is kept waiting is not done.

use agentos_chaos::Prng;

/// A run with fewer proves nothing.
pub(super) const KILLS_MIN: u64 = 3;
/// Beyond them: while an agent begins again, or around the very last commit,
/// which holds more than a checkpoint.
pub(super) const EXTRA_KILLS_MAX: u64 = 2;
/// The last iterations, kept from the first kills: an agent that outruns its
/// killer by so many is not yet done.
const RESERVE: u64 = 2;

/// Words between the effect of a tool and the commit of its outcome.
const IN_DOUBT: [&str; 2] = ["prepare", "commit"];
/// A kill after these comes at once, before the commit is made.
const DOUBT_PERMILLE_MAX: u64 = 20;

/// When a kill shall come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Aim {
    /// The word after which it comes.
    pub(super) word: &'static str,
    /// The iteration of that word; if the work is beyond it, the next one. No
    /// matter when the word is `open`.
    pub(super) iteration: u64,
    /// Then it waits for this part of an iteration, in thousandths.
    pub(super) offset_permille: u64,
}

/// Chooses the kills: one in each third of the work, and up to `extra_max` more. One of
/// the three leaves a tool in doubt, one comes around its start, one around the question
/// to the model.
pub(super) fn plan(rng: &mut Prng, iterations: u64, extra_max: u64) -> Vec<Aim> {
    let mut stages: [&[&'static str]; 3] = [&["begin", "ask"], &["call", "ack"], &IN_DOUBT];
    stages.rotate_left(usize::try_from(rng.between(0, 2)).unwrap_or(0));
    if rng.percent(50) {
        stages.reverse();
    }
    let mut aim = |first: u64, last: u64, words: &[&'static str]| Aim {
        word: rng.pick(words).copied().unwrap_or("begin"),
        iteration: rng.between(first, last),
        offset_permille: rng.between(0, 999),
    };
    let work = iterations - RESERVE;
    let mut plan: Vec<Aim> = (0..)
        .zip(stages)
        .map(|(third, words)| {
            let border = |third| work * third / KILLS_MIN;
            let mut aim = aim(border(third) + 1, border(third + 1), words);
            if words == IN_DOUBT {
                aim.offset_permille %= DOUBT_PERMILLE_MAX;
            }
            aim
        })
        .collect();
    let around_last_commit = aim(iterations, iterations, &["prepare", "commit"]);
    let while_opening = aim(1, iterations, &["open"]);
    // After the kill of that number, when there may be something to resume.
    let place = usize::try_from(rng.between(1, KILLS_MIN)).unwrap_or(1);
    let extra = rng.between(0, extra_max);
    let first = rng.percent(50);
    if extra > 1 || (extra == 1 && first) {
        plan.push(around_last_commit);
    }
    if extra > 1 || (extra == 1 && !first) {
        plan.insert(place, while_opening);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reaches_every_third_and_leaves_room_to_be_late() {
        let mut sizes = [0; 6];
        for seed in 0..2000 {
            let mut rng = Prng::seeded(seed);
            let iterations = rng.between(10, 24);
            let plan = plan(&mut rng, iterations, EXTRA_KILLS_MAX);
            sizes[plan.len()] += 1;
            let work: Vec<&Aim> = plan.iter().filter(|aim| aim.word != "open").collect();
            assert!(work.len() >= 3 && plan[0].word != "open");
            let words = work.iter().take(3).map(|aim| aim.word);
            let stages: std::collections::BTreeSet<_> = words
                .map(|word| match word {
                    "begin" | "ask" => 0,
                    "call" | "ack" => 1,
                    _ => 2,
                })
                .collect();
            assert_eq!(stages.len(), 3);
            let room = iterations - RESERVE;
            for (third, aim) in work.iter().take(3).enumerate() {
                let third = third as u64;
                assert!(
                    room * third / 3 < aim.iteration && aim.iteration <= room * (third + 1) / 3
                );
            }
            let distinct = work
                .windows(2)
                .all(|pair| pair[0].iteration < pair[1].iteration);
            assert!(distinct && work.iter().all(|aim| aim.iteration <= iterations));
        }
        assert!(sizes[..3].iter().all(|count| *count == 0));
        assert!(sizes[3..].iter().all(|count| *count > 300), "{sizes:?}");
    }
}

//! What must be true of the checkpoints that are found, given what was
//! acknowledged. Pure: no file, no process, no clock.

mod answer;
pub(crate) mod cut;
pub(crate) mod doubt;
pub(crate) mod flight;
pub(crate) mod full;
mod history;
mod life;
pub(crate) mod mill;
pub(crate) mod once;
mod passes;
pub(crate) mod persistence;
pub(crate) mod rot;
mod rung;
mod storm;
mod tail;
mod taken;
mod takeover;
mod talk;
mod texts;
mod work;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use self::answer::{Facts, File, differences};
pub(crate) use self::history::{
    Call, FoundItem, History, Moment, Record, Reply, begin_line, end_line, judge_history,
};
pub(crate) use self::life::{
    fraction_done, judge_claims, judge_life, judge_moments, judge_success, judge_work, judge_worked,
};
pub(crate) use self::passes::{
    Output, Pass, Told, judge_calls, judge_effects, judge_pass, judge_struck, output_of,
};
pub(crate) use self::rung::judge_rung;
pub(crate) use self::storm::{STEPS, Step, Stormed, value_after};
pub(crate) use self::tail::{kept_lines, tail};
pub(crate) use self::taken::{Taken, Why, judge_deadlines, judge_taken};
pub(crate) use self::takeover::{Takeover, Timing};
pub(crate) use self::talk::{
    Asking, Kept, Part, conversation, judge_ledger, judge_paid, judge_sent,
};
pub(crate) use self::texts::Texts;
pub(crate) use self::work::{changes, judge_losses};

/// An acknowledged or found checkpoint: its number and what identifies its
/// content.
pub(crate) type Numbered = (u64, String);

/// Judges one task. Every acknowledged checkpoint must be there with its
/// content; beyond them at most `beyond_max`, one for each writer whose
/// acknowledgement a kill swallowed; and numbers have neither gap nor repetition.
pub(crate) fn judge(acked: &[Numbered], found: &[Numbered], beyond_max: usize) -> Vec<String> {
    let mut broken = Vec::new();
    let by_number: BTreeMap<u64, &String> = found
        .iter()
        .map(|(number, content)| (*number, content))
        .collect();
    if by_number.len() != found.len() {
        broken.push(format!(
            "{} checkpoints share {} numbers",
            found.len(),
            by_number.len()
        ));
    }
    if !by_number.keys().copied().eq(1..=found.len() as u64) {
        let numbers: Vec<_> = by_number.keys().collect();
        broken.push(format!("the numbers have gaps: {numbers:?}"));
    }
    for (number, content) in acked {
        match by_number.get(number) {
            None => broken.push(format!(
                "checkpoint {number} was acknowledged and is not there"
            )),
            Some(found) if *found != content => broken.push(format!(
                "checkpoint {number} was acknowledged as {content} and is {found}"
            )),
            Some(_) => {}
        }
    }
    let numbers: BTreeSet<u64> = acked.iter().map(|(number, _)| *number).collect();
    if numbers.len() != acked.len() {
        broken.push("a number was acknowledged twice".into());
    }
    let beyond = by_number
        .keys()
        .filter(|number| !numbers.contains(number))
        .count();
    if beyond > beyond_max {
        broken.push(format!(
            "{beyond} checkpoints were never acknowledged, and at most {beyond_max} may be"
        ));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(list: &[(u64, &str)]) -> Vec<Numbered> {
        list.iter()
            .map(|(number, content)| (*number, (*content).to_string()))
            .collect()
    }

    #[test]
    fn what_was_acknowledged_and_one_more_is_sound() {
        let acked = numbered(&[(1, "a"), (2, "b")]);
        for found in [&[(1, "a"), (2, "b")][..], &[(1, "a"), (2, "b"), (3, "c")]] {
            assert_eq!(judge(&acked, &numbered(found), 1), Vec::<String>::new());
        }
    }

    #[test]
    fn each_way_of_being_wrong_is_named() {
        let acked = numbered(&[(1, "a"), (2, "b")]);
        for (found, word) in [
            (&[(1, "a")][..], "not there"),
            (&[(1, "a"), (2, "x")], "is x"),
            (&[(1, "a"), (2, "b"), (4, "d")], "gaps"),
            (&[(1, "a"), (2, "b"), (2, "b")], "share"),
            (
                &[(1, "a"), (2, "b"), (3, "c"), (4, "d")],
                "never acknowledged",
            ),
        ] {
            let broken = judge(&acked, &numbered(found), 1);
            assert!(
                broken.iter().any(|reason| reason.contains(word)),
                "{word}: {broken:?}"
            );
        }
        let twice = numbered(&[(1, "a"), (1, "a")]);
        assert!(!judge(&twice, &numbered(&[(1, "a")]), 1).is_empty());
    }
}

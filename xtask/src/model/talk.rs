//! What must be true of a conversation with a model and of the tools that it asks for,
//! worked out from the names of the files alone; of the calls that the model counted; and
//! of what the ledger keeps. Pure.

use std::collections::{BTreeMap, BTreeSet};

use agentos_core::{Digest, KeyStatus, Timestamp};

use crate::chat;
use crate::victims::{request, share};

/// A part of the conversation, as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Digest of what the model is asked.
    pub(crate) request: String,
    /// What the tool does: its name and its arguments.
    pub(crate) effect: String,
    /// Digest of all that was said up to here.
    pub(crate) said: String,
}

/// The whole conversation about some files. `None`: the model asks for no tool.
pub(crate) fn conversation(names: &[String], parts: u64) -> Option<Vec<Part>> {
    let mut said = Digest::of(b"").to_string();
    let mut conversation = Vec::new();
    for part in 1..=parts {
        let asked = request(part, parts, &names[share(names.len(), part, parts)], &said);
        let answer = chat::answer(&asked).ok()?;
        let message = answer.pointer("/choices/0/message")?;
        let words = message.get("content")?.as_str()?;
        let call = message.pointer("/tool_calls/0/function")?;
        let tool = call.get("name")?.as_str()?;
        let arguments = call.get("arguments")?.as_str()?;
        // A row of texts, each behind its length in eight bytes, the lowest first.
        let mut row = Vec::new();
        for text in [
            "talk",
            &said,
            words,
            tool,
            arguments,
            &format!("receipt {part}"),
        ] {
            row.extend_from_slice(&(text.len() as u64).to_le_bytes());
            row.extend_from_slice(text.as_bytes());
        }
        said = Digest::of(&row).to_string();
        conversation.push(Part {
            request: chat::digest(&asked).to_string(),
            effect: format!("{tool} {arguments}"),
            said: said.clone(),
        });
    }
    Some(conversation)
}

/// Judges what the tools did: of each part that is done exactly once, in order; of the
/// part that a kill fell into once or not at all. Each line begins with its key.
pub(crate) fn judge_sent(
    lines: &[&str],
    conversation: &[Part],
    done: u64,
    killed: bool,
) -> Vec<String> {
    let mut broken = Vec::new();
    let done = usize::try_from(done).unwrap_or(usize::MAX);
    let most = conversation.len().min(done + usize::from(killed));
    if !(done..=most).contains(&lines.len()) {
        broken.push(format!(
            "tools had {} effects, and {done} parts are done",
            lines.len()
        ));
    }
    let expected = conversation.iter().map(|part| Some(part.effect.as_str()));
    let expected = expected.chain(std::iter::repeat(None));
    let mut keys = BTreeSet::new();
    for ((at, line), expected) in (1..).zip(lines).zip(expected) {
        let (key, effect) = line.split_once(' ').unwrap_or((line, ""));
        if !keys.insert(key) || Some(effect) != expected {
            broken.push(format!("effect {at} is {line:?} and must be {expected:?}"));
            break;
        }
    }
    broken
}

/// One start of an agent, as the model and its words tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asking {
    /// The name under which it asked.
    pub(crate) caller: String,
    /// The part about which it was asking when it was killed, by its last word.
    pub(crate) killed_at: Option<u64>,
}

/// Judges who paid, by the calls that the model counted, in order: who asked, and the
/// digest of what. A part is paid once, and once more only for each start that was
/// killed while it asked. Gives how many calls were paid so.
pub(crate) fn judge_paid(
    calls: &[(&str, &str)],
    lives: &[Asking],
    conversation: &[Part],
    done: u64,
) -> (u64, Vec<String>) {
    let mut broken = Vec::new();
    let mut callers: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (caller, request) in calls {
        let part = (1..)
            .zip(conversation)
            .find(|(_, part)| part.request == *request);
        match part {
            Some((part, _)) => callers.entry(part).or_default().push(caller),
            None => broken.push(format!("{caller} asked what is no part of the work")),
        }
    }
    let mut again = 0;
    for (part, callers) in &callers {
        again += callers.len() as u64 - 1;
        let distinct: BTreeSet<_> = callers.iter().collect();
        let was_cut_off = |caller: &&str| {
            let mut lives = lives.iter();
            lives.any(|life| life.caller == **caller && life.killed_at == Some(*part))
        };
        let earlier = &callers[..callers.len() - 1];
        if distinct.len() < callers.len() || !earlier.iter().all(was_cut_off) {
            broken.push(format!("part {part} was paid again, by {callers:?}"));
        }
    }
    let unpaid = (1..=done).find(|part| !callers.contains_key(part));
    broken.extend(unpaid.map(|part| format!("nobody asked the model about part {part}")));
    (again, broken)
}

/// A tool call as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The part of the work.
    pub(crate) part: u64,
    pub(crate) status: KeyStatus,
    /// When its outcome was recorded, or its execution began.
    pub(crate) at: Timestamp,
    /// Whether it was in doubt, and the outcome is what a probe said.
    pub(crate) was_in_doubt: bool,
}

/// Judges the ledger: an outcome for each checkpoint, in the same commit unless it was in
/// doubt, so of the same moment; and after a kill at most one call more.
pub(crate) fn judge_ledger(kept: &[Kept], checkpoints: &[Timestamp], killed: bool) -> Vec<String> {
    let mut broken = Vec::new();
    let mut parts: Vec<u64> = kept.iter().map(|call| call.part).collect();
    parts.sort_unstable();
    let done = checkpoints.len() as u64;
    let are = |last| parts.iter().copied().eq(1..=last);
    if !are(done) && (!killed || !are(done + 1)) {
        broken.push(format!(
            "the ledger knows the calls {parts:?} at checkpoint {done}"
        ));
    }
    for (part, checkpoint) in (1..).zip(checkpoints) {
        let Some(call) = kept.iter().find(|call| call.part == part) else {
            continue;
        };
        let together = call.at == *checkpoint || call.was_in_doubt && call.at < *checkpoint;
        if call.status != KeyStatus::Succeeded || !together {
            broken.push(format!(
                "the outcome of call {part} was committed at {} ({}) and its checkpoint at {}",
                call.at.to_text(),
                call.status,
                checkpoint.to_text()
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::victims::{Said, Talk};

    fn names() -> Vec<String> {
        (0..7).map(|number| format!("{number}.rs")).collect()
    }

    fn lines(conversation: &[Part]) -> Vec<String> {
        let parts = (1..).zip(conversation);
        let line = |(number, part): (u64, &Part)| format!("key-{number} {}", part.effect);
        parts.map(line).collect()
    }

    #[test]
    fn what_the_agent_links_step_by_step_is_the_conversation() {
        let names = names();
        let expected = conversation(&names, 3).unwrap();
        let mut talk = Talk::start();
        for (number, part) in (1..).zip(&expected) {
            let asked = request(number, 3, &names[share(7, number, 3)], &talk.digest);
            assert_eq!(chat::digest(&asked).to_string(), part.request);
            let said = Said::read(&chat::answer(&asked).unwrap()).unwrap();
            assert_eq!(format!("{} {}", said.tool, said.arguments), part.effect);
            let before = talk.clone();
            talk = talk.after(&said, format!("receipt {number}").as_bytes());
            assert_eq!(talk.digest, part.said);
            assert_eq!(talk.without_last().digest, before.digest);
        }
    }

    #[test]
    fn each_tool_has_its_effect_once_and_in_order() {
        let conversation = conversation(&names(), 4).unwrap();
        let all = lines(&conversation);
        let judged = |lines: &[&String], done, killed| {
            let lines: Vec<&str> = lines.iter().map(|line| line.as_str()).collect();
            judge_sent(&lines, &conversation, done, killed).is_empty()
        };
        let [one, two, three, _] = [&all[0], &all[1], &all[2], &all[3]];
        let whole: Vec<&String> = all.iter().collect();
        assert!(judged(&[one, two], 2, false) && judged(&[one, two], 2, true));
        assert!(judged(&[one, two], 1, true) && judged(&whole, 4, true));
        assert!(!judged(&[one, two], 1, false));
        assert!(!judged(&[one, two, three], 1, true));
        assert!(!judged(&[one], 2, true));
        assert!(!judged(&[two, one], 2, false));
        assert!(!judged(&[one, one], 2, false));
        let again = one.replace("key-1", "key-9");
        assert!(!judged(&[one, &again], 2, false) && !judged(&[one, &again], 1, true));
        let same_key = two.replace("key-2", "key-1");
        assert!(!judged(&[one, &same_key], 2, false));
    }

    #[test]
    fn a_part_is_paid_again_only_for_who_was_killed_while_it_asked() {
        let conversation = conversation(&names(), 2).unwrap();
        let [one, two] = [0, 1].map(|at: usize| conversation[at].request.as_str());
        let life = |caller: &str, killed_at| Asking {
            caller: caller.into(),
            killed_at,
        };
        let lives = [life("a", Some(1)), life("b", Some(2)), life("c", None)];
        for (calls, done, again, wrong) in [
            (&[("a", one), ("b", two)][..], 2, 0, 0),
            (&[("a", one), ("b", one), ("b", two), ("c", two)], 2, 2, 0),
            (&[("b", one), ("b", two)], 2, 0, 0),
            (&[("b", one), ("c", one), ("c", two)], 2, 1, 1),
            (&[("a", one), ("a", one), ("b", two)], 2, 1, 1),
            (&[("b", one), ("a", one)], 1, 1, 1),
            (&[("a", one)], 2, 0, 1),
            (&[("a", "another"), ("a", one)], 1, 0, 1),
            (&[("c", two), ("c", one), ("b", two)], 2, 1, 1),
        ] {
            let judged = judge_paid(calls, &lives, &conversation, done);
            assert_eq!((judged.0, judged.1.len()), (again, wrong), "{calls:?}");
        }
    }

    #[test]
    fn an_outcome_is_committed_with_its_checkpoint() {
        let [first, second, third] = [1, 2, 3].map(Timestamp::from_unix_micros);
        let kept = |part, status, at, was_in_doubt| Kept {
            part,
            status,
            at,
            was_in_doubt,
        };
        use KeyStatus::{Failed, Pending, Succeeded};
        let one = kept(1, Succeeded, first, false);
        for (calls, checkpoints, killed, wrong) in [
            (vec![one.clone()], &[first][..], false, 0),
            (
                vec![one.clone(), kept(2, Pending, second, false)],
                &[first],
                true,
                0,
            ),
            (
                vec![one.clone(), kept(2, Pending, second, false)],
                &[first],
                false,
                1,
            ),
            (vec![kept(1, Succeeded, first, true)], &[second], false, 0),
            (vec![kept(1, Succeeded, third, true)], &[second], false, 1),
            (vec![kept(1, Succeeded, first, false)], &[second], false, 1),
            (vec![kept(1, Failed, first, false)], &[first], false, 1),
            (vec![], &[first], true, 1),
            (vec![one.clone(), one.clone()], &[first], true, 1),
            (
                vec![one.clone(), kept(3, Pending, third, false)],
                &[first],
                true,
                1,
            ),
        ] {
            let broken = judge_ledger(&calls, checkpoints, killed);
            assert_eq!(broken.len(), wrong, "{calls:?}: {broken:?}");
        }
    }
}

//! What must be true when the same things are asked for twice, by one process after the
//! other: the first does all of them, the second none, and both get the same. Pure.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::chat::Call;
use crate::victims::KINDS;

/// So many reasons of one kind are told.
const TOLD_MAX: usize = 5;

/// Which pass is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Nothing was recorded before it.
    First,
    /// Everything was.
    Second,
}

impl Pass {
    /// As it is called in figures and reasons.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Pass::First => "first",
            Pass::Second => "second",
        }
    }
}

/// A numbered thing as a pass tells of it: which, whether it was recorded already, and
/// what it is.
pub(crate) type Told<T> = (u64, bool, T);

/// How a command ends, what it prints, and what it complains.
pub(crate) type Output = (String, Vec<u8>, Vec<u8>);

/// Judges a pass over numbered things. Each is told once, as new in the first pass and
/// as recorded in the second, with exactly what is expected of it.
pub(crate) fn judge_pass<T: PartialEq + Debug>(
    pass: Pass,
    told: &[Told<T>],
    expected: &[T],
) -> Vec<String> {
    let name = pass.name();
    let (mut said, mut given, mut counted) = (Vec::new(), Vec::new(), Vec::new());
    let mut times = vec![0_u64; expected.len()];
    // In an order that no thread decides.
    let mut told: Vec<&Told<T>> = told.iter().collect();
    told.sort_by_key(|(number, _, _)| *number);
    for (number, recorded, found) in told {
        let place = usize::try_from(*number).unwrap_or(usize::MAX);
        let Some(expected) = expected.get(place) else {
            counted.push(format!("the {name} pass tells of {number}"));
            continue;
        };
        times[place] += 1;
        if *recorded != (pass == Pass::Second) {
            let what = if *recorded {
                "was recorded"
            } else {
                "was done"
            };
            said.push(format!("the {name} pass says that {number} {what}"));
        }
        if found != expected {
            given.push(format!(
                "the {name} pass gives {found:?} for {number}, and it is {expected:?}"
            ));
        }
    }
    for (number, times) in times.into_iter().enumerate() {
        if times != 1 {
            counted.push(format!("the {name} pass tells {times} times of {number}"));
        }
    }
    [some_of(said), some_of(given), some_of(counted)].concat()
}

/// Judges two passes of which the first was struck somewhere. Each tells a thing at most
/// once and as it is expected, the second tells all of them. What the first told is
/// recorded then; beyond that at most `beyond_max` are, whose telling was cut off.
pub(crate) fn judge_struck<T: PartialEq + Debug>(
    first: &[Told<T>],
    second: &[Told<T>],
    expected: &[T],
    beyond_max: usize,
) -> Vec<String> {
    let mut broken = Vec::new();
    let by_number = |told: &[Told<T>]| -> BTreeMap<u64, bool> {
        told.iter()
            .map(|(number, recorded, _)| (*number, *recorded))
            .collect()
    };
    let (done, again) = (by_number(first), by_number(second));
    for (name, told, known) in [("struck", first, &done), ("second", second, &again)] {
        if known.len() != told.len() {
            broken.push(format!("the {name} pass tells of a thing twice"));
        }
        for (number, _, found) in told {
            let place = usize::try_from(*number).unwrap_or(usize::MAX);
            if expected.get(place) != Some(found) {
                let expected = expected.get(place);
                broken.push(format!(
                    "the {name} pass gives {found:?} for {number}, and it is {expected:?}"
                ));
            }
        }
    }
    for number in done
        .iter()
        .filter(|(_, recorded)| **recorded)
        .map(|(number, _)| number)
    {
        broken.push(format!("the struck pass says that {number} was recorded"));
    }
    let missing = (0..expected.len() as u64).filter(|number| !again.contains_key(number));
    broken.extend(missing.map(|number| format!("the second pass does not tell of {number}")));
    for number in done
        .keys()
        .filter(|number| again.get(number) == Some(&false))
    {
        broken.push(format!("{number} was told, and was done again"));
    }
    let is_beyond = |(number, recorded): &(&u64, &bool)| **recorded && !done.contains_key(number);
    let beyond = again.iter().filter(is_beyond).count();
    if beyond > beyond_max {
        broken.push(format!(
            "{beyond} were recorded and not told, and at most {beyond_max} may be"
        ));
    }
    some_of(broken)
}

/// Judges what a server counted: each of these requests once, by this caller, answered,
/// and nothing else.
pub(crate) fn judge_calls(calls: &[Call], requests: &[String], caller: &str) -> Vec<String> {
    let (mut odd, mut counted) = (Vec::new(), Vec::new());
    let mut times: BTreeMap<&str, u64> = requests.iter().map(|one| (one.as_str(), 0)).collect();
    for call in calls {
        match times.get_mut(call.request.as_str()) {
            Some(times) => *times += 1,
            None => odd.push(format!("the server was asked for something else: {call:?}")),
        }
        if call.caller != caller || call.answered_us.is_none() {
            let what = "the server has a call by another, or unanswered";
            odd.push(format!("{what}: {call:?}"));
        }
    }
    for (request, times) in times {
        if times != 1 {
            counted.push(format!("the server was asked {times} times for {request}"));
        }
    }
    [some_of(odd), some_of(counted)].concat()
}

/// Judges the lines that commands left in the outside world: one of each, whole.
pub(crate) fn judge_effects(effects: &str, commands: u64) -> Vec<String> {
    let mut broken = Vec::new();
    let mut times: BTreeMap<String, u64> = (0..commands)
        .map(|number| (number.to_string(), 0))
        .collect();
    for line in effects.lines() {
        match times.get_mut(line) {
            Some(times) => *times += 1,
            None => broken.push(format!("there is an effect {line:?} of no command")),
        }
    }
    for (command, times) in times {
        if times != 1 {
            broken.push(format!("command {command} had its effect {times} times"));
        }
    }
    some_of(broken)
}

/// What comes out of a command.
pub(crate) fn output_of(seed: u64, number: u64) -> Output {
    let mut exit = 0;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    match number % KINDS {
        0 => {
            out.extend([0x00, 0xff, 0xfe]);
            out.extend(number.to_string().bytes());
            out.push(0x80);
        }
        1 => out.extend(format!("{}\n", number * (number + 1) / 2).bytes()),
        2 => out.extend(format!("RUN {seed}-{number}\n").bytes()),
        3 => {}
        4 => err.extend(format!("heard {number}\n").bytes()),
        5 => {
            let word = number.to_string();
            out.resize(4096 - word.len(), b' ');
            out.extend(word.bytes());
        }
        6 => {
            exit = 3;
            out.extend(format!("half of {number}\n").bytes());
            err.extend(b"no more\n");
        }
        _ => out.extend(format!("naïve {number:x} 日誌").bytes()),
    }
    (format!("exit code {exit}"), out, err)
}

fn some_of(mut broken: Vec<String>) -> Vec<String> {
    let more = broken.len().saturating_sub(TOLD_MAX);
    if more > 0 {
        broken.truncate(TOLD_MAX);
        broken.push(format!("and {more} more of this kind"));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_tells_once_of_each_as_it_must() {
        let told = [(0, false, "a"), (1, false, "b")];
        let expected = ["a", "b"];
        assert_eq!(judge_pass(Pass::First, &told, &expected), [""; 0]);
        assert_eq!(
            judge_pass(Pass::Second, &told, &expected),
            [
                "the second pass says that 0 was done",
                "the second pass says that 1 was done"
            ]
        );
        let odd = [(1, false, "b"), (1, true, "c"), (2, false, "b")];
        assert_eq!(
            judge_pass(Pass::First, &odd, &expected),
            [
                "the first pass says that 1 was recorded",
                "the first pass gives \"c\" for 1, and it is \"b\"",
                "the first pass tells of 2",
                "the first pass tells 0 times of 0",
                "the first pass tells 2 times of 1",
            ]
        );
    }

    #[test]
    fn a_server_is_asked_once_for_each_request() {
        let call = |request: &str, caller: &str, answered_us| Call {
            caller: caller.into(),
            request: request.into(),
            begun_us: 1,
            answered_us,
        };
        let requests = ["a".to_owned(), "b".to_owned()];
        let right = [call("b", "x", Some(2)), call("a", "x", Some(2))];
        assert_eq!(judge_calls(&right, &requests, "x"), [""; 0]);
        for (wrong, reason) in [
            (
                call("a", "x", Some(2)),
                "the server was asked 2 times for a",
            ),
            (call("c", "x", Some(2)), "asked for something else"),
            (call("a", "y", Some(2)), "by another, or unanswered"),
            (call("a", "x", None), "by another, or unanswered"),
        ] {
            let calls = [&right[..], &[wrong]].concat();
            let broken = judge_calls(&calls, &requests, "x").join("; ");
            assert!(broken.contains(reason), "{broken}");
        }
        let broken = judge_calls(&right[..1], &requests, "x");
        assert_eq!(broken, ["the server was asked 0 times for a"]);
    }

    #[test]
    fn every_command_leaves_one_line() {
        assert_eq!(judge_effects("1\n0\n", 2), [""; 0]);
        assert_eq!(
            judge_effects("0\n10\n0\n", 2),
            [
                "there is an effect \"10\" of no command",
                "command 0 had its effect 2 times",
                "command 1 had its effect 0 times",
            ]
        );
        let many = judge_effects("", 10);
        assert_eq!(many.len(), TOLD_MAX + 1);
        assert_eq!(many[TOLD_MAX], "and 5 more of this kind");
    }
}

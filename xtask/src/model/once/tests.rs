//! Each rule on the smallest histories that keep it and those that break it; the
//! lines; then histories by the hundred, and every kind of change to them.

mod lines;
mod mutations;
mod simulation;

use super::{History, Policy, Rule, Tally, judge_once, parse};

/// In doubt, never again, for ever.
const ASK: Policy = Policy {
    take_over: false,
    again: false,
    ttl: None,
    lease: 100,
};

const TAKE_OVER: Policy = Policy {
    take_over: true,
    ..ASK
};

/// Reads lines of `MOMENT PROCESS CALL EVENT…` about the key `k`.
fn history(lines: &[&str]) -> History {
    let whole = |line: &&str| {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [at, process, call, ref event @ ..] if !event.is_empty() && process != "found" => {
                format!("{at} {process} {call} k {}\n", event.join(" "))
            }
            _ => format!("{line}\n"),
        }
    };
    let text: String = lines.iter().map(whole).collect();
    parse([text.as_str()]).unwrap()
}

fn rules(history: &History, policy: Policy) -> Vec<Rule> {
    let broken = judge_once(history, |_| policy);
    let mut rules: Vec<Rule> = broken.iter().map(|one| one.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

#[track_caller]
fn accepted(policy: Policy, lines: &[&str]) {
    let broken = judge_once(&history(lines), |_| policy);
    let broken: Vec<String> = broken.iter().map(ToString::to_string).collect();
    assert_eq!(broken, [""; 0]);
}

#[track_caller]
fn rejected(policy: Policy, rule: Rule, lines: &[&str]) {
    let found = rules(&history(lines), policy);
    assert!(found.contains(&rule), "{rule:?} is not among {found:?}");
}

/// One executes; another is told that it is in flight, and then replays.
const SOUND: [&str; 10] = [
    "0 one 1 asks",
    "2 one 1 starts 1/1",
    "3 two 1 asks",
    "4 two 1 in-flight",
    "5 one 1 ends d",
    "7 one 1 recorded",
    "8 two 2 asks",
    "9 two 2 replayed d",
    "10 one dead",
    "11 found k recorded 1/1 d",
];

fn sound_but(changes: &[(usize, &'static str)]) -> Vec<&'static str> {
    let mut lines = SOUND.to_vec();
    for (at, line) in changes {
        lines[*at] = line;
    }
    lines.retain(|line| !line.is_empty());
    lines
}

#[test]
fn one_execution_and_replays_are_sound() {
    for policy in [ASK, TAKE_OVER] {
        accepted(policy, &SOUND);
        accepted(policy, &[]);
    }
}

#[test]
fn a_rejection_names_the_rule_the_key_and_the_calls() {
    let lines = sound_but(&[(7, "9 two 2 replayed e")]);
    let broken = judge_once(&history(&lines), |_| ASK);
    let [broken] = &broken[..] else {
        panic!("{broken:?}")
    };
    assert_eq!(
        (broken.rule, &broken.calls[..]),
        (Rule::ReplaysRecord, &[2][..])
    );
    assert_eq!(
        broken.to_string(),
        "ReplaysRecord: key k: e was replayed, and nobody recorded it; \
         two asks at 8, is told at 9: Replayed(\"e\")"
    );
}

/// Two executions, one after the other, as a time to live allows.
fn twice(first: &'static str, second: &'static str) -> Vec<String> {
    let lines = [
        "0 one 1 asks",
        "1 one 1 starts FIRST",
        "2 one 1 ends d",
        "3 one 1 recorded",
        "50 two 1 asks",
        "51 two 1 starts SECOND",
        "52 two 1 ends e",
        "53 two 1 recorded",
    ];
    lines
        .map(|line| line.replace("FIRST", first).replace("SECOND", second))
        .to_vec()
}

fn texts(lines: &[String]) -> Vec<&str> {
    lines.iter().map(String::as_str).collect()
}

#[test]
fn tokens_grow_and_none_is_given_twice() {
    let again = Policy { again: true, ..ASK };
    for (first, second) in [("1/1", "1/2"), ("1/9", "2/1")] {
        accepted(again, &texts(&twice(first, second)));
    }
    for (first, second) in [("1/1", "1/1"), ("1/2", "1/1"), ("2/1", "1/9")] {
        rejected(again, Rule::TokensGrow, &texts(&twice(first, second)));
    }
}

#[test]
fn what_counts_is_not_executed_again() {
    let lines = twice("1/1", "1/2");
    for rule in [Rule::NothingAgain, Rule::OneOutcome] {
        rejected(ASK, rule, &texts(&lines));
        rejected(TAKE_OVER, rule, &texts(&lines));
    }
    // It has expired when the second body starts, at the earliest.
    let expires = |ttl| Policy {
        ttl: Some(ttl),
        ..ASK
    };
    accepted(expires(49), &texts(&lines));
    rejected(expires(50), Rule::NothingAgain, &texts(&lines));
    // A body counts, whether or not its outcome was recorded in the end.
    let mut died = lines.clone();
    died[7] = "53 two dead".into();
    rejected(TAKE_OVER, Rule::NothingAgain, &texts(&died));
    // Who asked before the acknowledgement may have been given the permit before.
    let overlap = twice("1/1", "1/2").join("\n").replace("50 two", "3 two");
    rejected(ASK, Rule::OneOutcome, &overlap.lines().collect::<Vec<_>>());
    let found = rules(&history(&overlap.lines().collect::<Vec<_>>()), ASK);
    assert!(!found.contains(&Rule::NothingAgain), "{found:?}");
}

#[test]
fn no_body_starts_while_the_permit_of_another_lives() {
    let with = |second: &'static str, end: &'static str| {
        [
            "0 one 1 asks",
            "1 one 1 starts 1/1",
            "9 one 1 ends d",
            end,
            "2 two 1 asks",
            second,
            "21 two 1 ends d",
            "22 two 1 recorded",
        ]
    };
    for end in ["12 one 1 recorded", "12 one dead", "12 one 1 refused"] {
        rejected(TAKE_OVER, Rule::OneBody, &with("8 two 1 starts 1/2", end));
    }
    // Who died may have died right after its last line.
    accepted(TAKE_OVER, &with("9 two 1 starts 1/2", "12 one dead"));
    let abandoned = |at: &'static str| {
        let mut lines = with(at, "12 one 1 recorded");
        lines[2] = "9 one 1 abandons";
        lines
    };
    accepted(ASK, &abandoned("9 two 1 starts 2/1"));
    rejected(ASK, Rule::OneBody, &abandoned("8 two 1 starts 2/1"));
    // One that was held up may have lost its permit, from then on.
    let stalled = |at: &'static str| {
        let lines = with("8 two 1 starts 1/2", "30 one 1 refused");
        [&lines[..], &[at]].concat()
    };
    accepted(TAKE_OVER, &stalled("8 one stalls"));
    rejected(TAKE_OVER, Rule::OneBody, &stalled("9 one stalls"));
}

#[test]
fn a_replay_is_what_was_recorded_before() {
    rejected(
        ASK,
        Rule::ReplaysRecord,
        &sound_but(&[(7, "9 two 2 replayed e")]),
    );
    let early = [(6, "3 two 2 asks"), (7, "4 two 2 replayed d")];
    rejected(ASK, Rule::RecordedFirst, &sound_but(&early));
    // It may be recorded before that is acknowledged.
    accepted(
        ASK,
        &sound_but(&[(6, "4 two 2 asks"), (7, "6 two 2 replayed d")]),
    );
    // A body that was not acknowledged may have recorded, or not.
    let unheard = [(5, ""), (8, "7 one dead")];
    accepted(ASK, &sound_but(&unheard));
    // One that was refused has not.
    let refused = [(5, "7 one 1 refused"), (0, "0 one 1 asks")];
    rejected(ASK, Rule::ReplaysRecord, &sound_but(&refused));
    // What was recorded anew is the answer from then on.
    let again = Policy { again: true, ..ASK };
    let mut lines = twice("1/1", "1/2");
    lines.push("54 three 1 asks".into());
    lines.push("55 three 1 replayed d".into());
    rejected(again, Rule::ReplaysRecord, &texts(&lines));
    lines[8] = "53 three 1 asks".into();
    accepted(again, &texts(&lines));
    // What has expired is none.
    let expires = Policy {
        ttl: Some(4),
        ..ASK
    };
    let late = [(6, "12 two 2 asks"), (7, "13 two 2 replayed d"), (9, "")];
    rejected(expires, Rule::ReplaysRecord, &sound_but(&late));
    accepted(
        Policy {
            ttl: Some(5),
            ..ASK
        },
        &sound_but(&late),
    );
}

#[test]
fn replays_of_one_key_are_all_the_same() {
    let lines = [
        "0 one 1 asks",
        "1 one 1 starts 1/1",
        "2 one 1 ends d",
        "3 one dead",
        "50 two 1 asks",
        "51 two 1 starts 1/2",
        "52 two 1 ends e",
        "53 two dead",
        "60 three 1 asks",
        "61 three 1 replayed d",
        "62 three 2 asks",
        "63 three 2 replayed e",
    ];
    rejected(TAKE_OVER, Rule::ReplaysRecord, &lines);
    accepted(TAKE_OVER, &lines[..10]);
}

#[test]
fn in_flight_is_what_somebody_may_execute() {
    let told = |at: &'static str, answer: &'static str| {
        [
            "0 one 1 asks",
            "1 one 1 starts 1/1",
            "2 one 1 ends d",
            "3 one 1 recorded",
            at,
            answer,
        ]
    };
    accepted(ASK, &told("3 two 1 asks", "9 two 1 in-flight"));
    let late = told("4 two 1 asks", "9 two 1 in-flight");
    rejected(ASK, Rule::InFlightIsHeld, &late);
    // The permit of the dead runs out.
    let dead = |asked: &'static str, told: &'static str| {
        [
            "0 one 1 asks",
            "1 one 1 starts 1/1",
            "5 one dead",
            asked,
            told,
        ]
    };
    accepted(ASK, &dead("105 two 1 asks", "106 two 1 in-flight"));
    let late = dead("106 two 1 asks", "107 two 1 in-flight");
    rejected(ASK, Rule::InFlightIsHeld, &late);
    // Who died before its body started may have begun.
    let begun = |asked: &'static str| [asked, "5 one dead", "3 two 1 asks", "4 two 1 in-flight"];
    accepted(ASK, &begun("0 one 1 asks"));
    rejected(ASK, Rule::InFlightIsHeld, &begun("5 one 1 asks"));
}

#[test]
fn doubt_has_a_reason() {
    let lines = [
        "0 one 1 asks",
        "1 one 1 starts 1/1",
        "5 one dead",
        "6 two 1 asks",
        "7 two 1 in-doubt",
    ];
    accepted(ASK, &lines);
    rejected(TAKE_OVER, Rule::DoubtHasReason, &lines);
    rejected(ASK, Rule::DoubtHasReason, &lines[3..]);
    let told = [(6, "8 two 2 asks"), (7, "9 two 2 in-doubt"), (8, "")];
    rejected(ASK, Rule::DoubtHasReason, &sound_but(&told));
    // Before anybody died.
    let early = ["0 two 1 asks", "0 two 1 in-doubt"];
    rejected(ASK, Rule::DoubtHasReason, &[&lines[..3], &early].concat());
    // Who says so itself leaves doubt alive.
    let said = |event: &'static str| {
        [
            "0 one 1 asks",
            "1 one 1 starts 1/1",
            event,
            "3 one 1 recorded",
            "6 two 1 asks",
            "7 two 1 in-doubt",
        ]
    };
    accepted(ASK, &said("2 one 1 doubts"));
    rejected(ASK, Rule::DoubtHasReason, &said("2 one 1 ends d"));
}

#[test]
fn what_is_in_doubt_is_not_run_again_in_silence() {
    let again = |event: &'static str| {
        [
            "0 one 1 asks",
            "1 one 1 starts 1/1",
            "5 one dead",
            "6 two 1 asks",
            event,
            "8 two 1 starts 2/1",
            "9 two 1 ends d",
            "10 two 1 recorded",
        ]
    };
    accepted(ASK, &again("7 two 1 finds-nothing"));
    let silent = [&again("")[..4], &again("")[5..]].concat();
    rejected(ASK, Rule::NeverSilentlyAgain, &silent);
    accepted(TAKE_OVER, &silent);
    // Also after it was left in doubt, or given up by force.
    let mut said = silent.clone();
    said[2] = "4 one 1 doubts";
    said.push("5 one 1 recorded");
    rejected(ASK, Rule::NeverSilentlyAgain, &said);
    said[2] = "4 one 1 abandons";
    accepted(ASK, &said);
}

#[test]
fn what_was_found_out_is_replayed() {
    let lines = |told: &'static str| {
        [
            "0 one 1 asks",
            "1 one 1 starts 1/1",
            "5 one dead",
            "6 two 1 asks",
            "7 two 1 finds f",
            told,
            "9 three 1 asks",
            "10 three 1 replayed f",
            "11 found k recorded 1/1 f",
        ]
    };
    for told in ["8 two 1 resolved", "8 two 1 replayed f"] {
        accepted(ASK, &lines(told));
    }
    let mut other = lines("8 two 1 resolved");
    other[8] = "11 found k pending 1/1";
    rejected(ASK, Rule::NeverForgotten, &other);
    let mut again = lines("8 two 1 resolved").to_vec();
    again[7] = "10 three 1 starts 1/2";
    again.extend(["11 three 1 ends g", "12 three 1 recorded"]);
    rejected(ASK, Rule::NothingAgain, &again);
}

#[test]
fn what_was_begun_or_recorded_is_not_forgotten() {
    for state in [
        "11 found k absent",
        "11 found k pending 1/1",
        "11 found k recorded 1/1 e",
    ] {
        rejected(ASK, Rule::NeverForgotten, &sound_but(&[(9, state)]));
    }
    let begun = |state: &'static str| ["0 one 1 asks", "1 one 1 starts 1/2", "5 one dead", state];
    accepted(ASK, &begun("9 found k pending 1/2"));
    // Somebody else may have begun, and died before its body.
    accepted(ASK, &begun("9 found k pending 1/3"));
    rejected(ASK, Rule::NeverForgotten, &begun("9 found k absent"));
    rejected(ASK, Rule::NeverForgotten, &begun("9 found k pending 1/1"));
    rejected(
        ASK,
        Rule::NeverForgotten,
        &begun("9 found k recorded 1/2 d"),
    );
    let ended = [&begun("9 found k recorded 1/2 d")[..], &["4 one 1 ends d"]].concat();
    let mut ended = ended;
    ended.swap(2, 4);
    accepted(ASK, &ended);
    let expires = Policy {
        ttl: Some(1),
        ..ASK
    };
    accepted(
        expires,
        &sound_but(&[(6, ""), (7, ""), (9, "11 found k absent")]),
    );
}

/// Goal: what was replayed is recorded, whether or not its owner came to hear of it.
/// Method: the owner dies between its commit and the answer; others replay; then the
/// store knows nothing of it.
#[test]
fn what_was_replayed_counts_though_its_owner_died_before_it_was_told() {
    let lines = |last: &[&'static str]| {
        let replayed = [
            "0 one 1 asks",
            "1 one 1 starts 1/1",
            "2 one 1 ends d",
            "3 one dead",
            "4 two 1 asks",
            "5 two 1 replayed d",
        ];
        [&replayed[..], last].concat()
    };
    let again = [
        "6 three 1 asks",
        "7 three 1 starts 2/1",
        "8 three 1 ends d",
        "9 three 1 recorded",
        "11 found k recorded 2/1 d",
    ];
    for policy in [ASK, TAKE_OVER] {
        accepted(policy, &lines(&["11 found k recorded 1/1 d"]));
        rejected(policy, Rule::NothingAgain, &lines(&again));
        rejected(policy, Rule::NeverForgotten, &lines(&["11 found k absent"]));
    }
    // Nobody knows of it before it was replayed.
    let mut early = lines(&again);
    early[4..6].copy_from_slice(&["9 two 1 asks", "10 two 1 replayed d"]);
    accepted(TAKE_OVER, &early);
}

/// Goal: who was given an error waited for nobody.
#[test]
fn an_error_is_neither_a_wait_nor_an_answer() {
    for why in ["busy", "corrupt", "conflict", "stale", "other"] {
        let erred = ["0 one 1 asks".to_owned(), format!("1 one 1 erred {why}")];
        let erred: Vec<&str> = erred.iter().map(String::as_str).collect();
        accepted(ASK, &erred);
        let flies = [&erred[..], &["2 two 1 asks", "3 two 1 in-flight"]].concat();
        rejected(ASK, Rule::InFlightIsHeld, &flies);
    }
    let unknown = ["0 one 1 asks", "1 one 1 erred commit-unknown"];
    let flies = ["2 two 1 asks", "3 two 1 in-flight"];
    accepted(ASK, &[&unknown[..], &flies].concat());
    let late = ["102 two 1 asks", "103 two 1 in-flight"];
    rejected(ASK, Rule::InFlightIsHeld, &[&unknown[..], &late].concat());
}

#[test]
fn a_permit_is_not_lost_without_a_reason() {
    let lines = [
        "0 one 1 asks",
        "1 one 1 starts 1/1",
        "5 one 1 ends d",
        "6 one 1 refused",
    ];
    rejected(ASK, Rule::LossHasReason, &lines);
    accepted(ASK, &[&lines[..], &["4 one stalls"]].concat());
    rejected(
        ASK,
        Rule::LossHasReason,
        &[&lines[..], &["7 one stalls"]].concat(),
    );
    let found = ["2 two 1 asks", "3 two 1 finds f", "4 two 1 resolved"];
    let found = rules(&history(&[&lines[..], &found].concat()), ASK);
    assert!(!found.contains(&Rule::LossHasReason), "{found:?}");
}

#[test]
fn who_lives_is_answered_and_the_dead_say_nothing() {
    rejected(ASK, Rule::Answered, &["0 one 1 asks"]);
    accepted(ASK, &["0 one 1 asks", "1 one dead"]);
    accepted(ASK, &["0 one 1 asks", "1 one 1 failed"]);
    rejected(ASK, Rule::DeadAreSilent, &sound_but(&[(8, "6 one dead")]));
}

#[test]
fn everything_is_counted() {
    let lines = [
        "0 one 1 asks",
        "1 one 1 starts 1/1",
        "5 one dead",
        "6 two 1 asks",
        "7 two 1 in-doubt",
        "8 two 2 asks",
        "9 two 2 finds-nothing",
        "10 two 2 starts 2/1",
        "11 two 2 ends d",
        "12 two 2 recorded",
        "13 two 3 asks",
        "14 two 3 replayed d",
    ];
    let history = history(&lines);
    let expected = Tally {
        executions: 2,
        recorded: 1,
        cut_off: 1,
        replays: 1,
        in_doubt: 1,
        findings: 1,
    };
    assert_eq!(history.tally(|key| key == "k"), expected);
    assert_eq!(history.tally(|key| key == "other"), Tally::default());
}

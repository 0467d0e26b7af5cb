//! The lines: each event comes back from its own, and what is none is told by its kind.

use super::super::{
    Answer, Body, Call, Ended, Event, Execution, Found, LineError, Moment, State, line, parse,
};

fn execution(token: i64) -> Execution {
    Execution { key: 1, token }
}

#[test]
fn every_event_comes_back_from_its_line() {
    let told = |answers: Vec<Answer>| answers.into_iter().map(Event::Told);
    let outcome = || "d41d".to_owned();
    let answers = [
        (
            None,
            told(vec![
                Answer::Replayed(outcome()),
                Answer::InFlight,
                Answer::InDoubt,
                Answer::Erred("busy".into()),
            ]),
        ),
        (
            Some(Event::Finds(Some(outcome()))),
            told(vec![Answer::Resolved, Answer::Failed]),
        ),
        (Some(Event::Finds(None)), told(vec![Answer::Resolved])),
    ];
    for (found, answers) in answers {
        for answer in answers {
            let steps = [Some(Event::Asks), found.clone(), Some(answer.clone())];
            let steps: Vec<Event> = steps.into_iter().flatten().collect();
            let text: String = (0..)
                .zip(&steps)
                .map(|(at, event)| line(at, "p", 7, "k", event))
                .collect();
            let history = parse([text.as_str()]).unwrap();
            let last = steps.len() as Moment - 1;
            let Event::Told(answer) = answer else {
                unreachable!()
            };
            let expected = Call {
                process: "p".into(),
                key: "k".into(),
                asked: 0,
                found: found.as_ref().map(|found| match found {
                    Event::Finds(outcome) => Found {
                        at: 1,
                        outcome: outcome.clone(),
                    },
                    _ => unreachable!(),
                }),
                body: None,
                answer: Some((last, answer)),
            };
            assert_eq!(history.calls, [expected]);
            assert_eq!(history.last["p"], last);
        }
    }
    for ended in [Ended::Outcome(outcome()), Ended::Abandoned, Ended::Unknown] {
        for answer in [Answer::Recorded, Answer::Refused, Answer::Failed] {
            let steps = [
                Event::Asks,
                Event::Starts(execution(3)),
                Event::Ends(ended.clone()),
                Event::Told(answer.clone()),
            ];
            let text: String = (-5..)
                .zip(&steps)
                .map(|(at, event)| line(at, "p", 7, "k", event))
                .collect();
            let body = Body {
                execution: execution(3),
                started: -4,
                ended: Some((-3, ended.clone())),
            };
            let history = parse([text.as_str()]).unwrap();
            assert_eq!(history.calls[0].body, Some(body));
            assert_eq!(history.calls[0].answer, Some((-2, answer)));
        }
    }
    let states = "1 found a absent\n2 found b pending 4/5\n3 found c recorded 6/7 d\n";
    let history = parse([states]).unwrap();
    let execution = |key, token| Execution { key, token };
    let expected = [
        ("a".to_owned(), State::Absent),
        ("b".to_owned(), State::Pending(execution(4, 5))),
        ("c".to_owned(), State::Recorded(execution(6, 7), "d".into())),
    ];
    assert!(history.states.into_iter().eq(expected));
}

#[test]
fn a_line_that_is_none_is_told_by_its_kind() {
    for bad in ["", "one", "x one 1 k asks", " one 1 k asks", "1  1 k asks"] {
        let text = format!("{bad}\n");
        let found = parse([text.as_str()]);
        assert_eq!(found, Err(LineError::NotALine(bad.into())), "{bad:?}");
    }
    for bad in [
        "1 one",
        "1 one 1",
        "1 one 1 k",
        "1 one x k asks",
        "1 one 1 k asked",
        "1 one 1 k asks twice",
        "1 one 1 k starts 1",
        "1 one 1 k starts 0/1",
        "1 one 1 k starts 1/-1",
        "1 one 1 k ends",
        "1 one 1 k replayed",
        "1 found k",
        "1 found k pending",
        "1 one died",
    ] {
        let text = format!("{bad}\n");
        let found = parse([text.as_str()]);
        assert_eq!(found, Err(LineError::NoEvent(bad.into())), "{bad:?}");
    }
    for (before, bad) in [
        ("", "1 one 1 k recorded"),
        ("1 one 1 k asks\n", "1 one 1 k asks"),
        ("1 one 1 k asks\n", "1 one 1 other in-doubt"),
        ("1 one 1 k asks\n", "0 one 1 k in-doubt"),
        ("1 one 1 k asks\n", "1 one 1 k ends d"),
        ("1 one 1 k asks\n", "1 one 1 k recorded"),
        ("1 one 1 k asks\n", "1 one 1 k resolved"),
        ("1 one 1 k asks\n1 one 1 k in-doubt\n", "2 one 1 k in-doubt"),
        (
            "1 one 1 k asks\n1 one 1 k starts 1/1\n",
            "1 one 1 k replayed d",
        ),
        (
            "1 one 1 k asks\n1 one 1 k starts 1/1\n",
            "1 one 1 k starts 1/2",
        ),
        (
            "1 one 1 k asks\n1 one 1 k starts 1/1\n",
            "1 one 1 k recorded",
        ),
        (
            "1 one 1 k asks\n1 one 1 k starts 1/1\n",
            "1 one 1 k finds d",
        ),
        (
            "1 one 1 k asks\n1 one 1 k starts 1/1\n1 one 1 k ends d\n",
            "1 one 1 k ends d",
        ),
    ] {
        let text = format!("{before}{bad}\n");
        let found = parse([text.as_str()]);
        assert_eq!(found, Err(LineError::Misplaced(bad.into())), "{bad:?}");
    }
}

/// The writer was killed in the middle of it.
#[test]
fn a_line_without_an_end_is_none() {
    let whole = "1 one 1 k asks\n2 one 1 k starts 1/1\n";
    let torn = format!("{whole}3 one 1 k en");
    assert_eq!(parse([torn.as_str()]), parse([whole]));
    // Of each file.
    let other = "1 two 1 k asks\n2 two 1 k in-fl";
    let history = parse([torn.as_str(), other]).unwrap();
    assert_eq!((history.calls.len(), history.last["two"]), (2, 1));
}

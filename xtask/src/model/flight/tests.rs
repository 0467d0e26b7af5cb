use super::*;

fn asking(life: &str, thread: u64) -> Asking {
    let life = life.into();
    Asking { life, thread }
}

fn called(who: &Asking, request: usize, at: i64) -> Called {
    Called {
        who: who.clone(),
        request: Some(request),
        at,
    }
}

fn answer(request: usize) -> (usize, String) {
    (request, format!("answer {request}"))
}

/// Two requests, two processes of one thread: one was killed while it called for the
/// second request, the other one got both answers, for the second with a call of its own.
fn kept() -> Flights {
    let (killed, ended) = (asking("a.1", 0), asking("b.1", 0));
    Flights {
        expected: vec![answer(0).1, answer(1).1],
        threads: 1,
        calls: vec![
            called(&killed, 0, 10),
            called(&killed, 1, 20),
            called(&ended, 1, 30),
        ],
        first_answered: [(0, 15), (1, 35)].into(),
        answered: [
            (killed, vec![answer(0)]),
            (ended, vec![answer(0), answer(1)]),
        ]
        .into(),
        killed: ["a.1".to_owned()].into(),
        ended: ["b.1".to_owned()].into(),
    }
}

#[test]
fn one_call_more_is_allowed_for_each_that_a_kill_cut_off() {
    let flights = kept();
    assert_eq!(flights.judge(), [""; 0]);
    assert_eq!((flights.cut_off(), flights.answers_given()), (1, 3));
}

/// What is changed, and what must be said then.
type Change = (fn(&mut Flights), &'static str);

#[test]
fn whatever_is_wrong_is_told() {
    let changes: [Change; 9] = [
        (
            |all| all.calls.push(called(&asking("b.1", 0), 0, 40)),
            "4 calls to the server, and at most 3",
        ),
        (
            |all| all.calls.push(called(&asking("b.1", 0), 0, 40)),
            "2 calls for request 0, of which 0",
        ),
        (
            // What was answered was not in flight.
            |all| {
                all.answered
                    .entry(asking("a.1", 0))
                    .or_default()
                    .push(answer(1))
            },
            "3 calls to the server, and at most 2",
        ),
        (|all| all.killed.clear(), "which nobody was to ask"),
        (
            |all| all.calls[0].request = None,
            "nobody called for request 0",
        ),
        (
            |all| {
                all.answered.entry(asking("a.1", 0)).or_default()[0]
                    .1
                    .push('x')
            },
            "a.1/0 was answered wrongly to request 0",
        ),
        (
            |all| {
                all.answered
                    .entry(asking("b.1", 0))
                    .or_default()
                    .push(answer(1))
            },
            "b.1/0 was answered twice to one request",
        ),
        (
            // Others were given the answer before it was called for again.
            |all| {
                all.first_answered.insert(1, 25);
            },
            "2 calls for request 1, of which 0",
        ),
        (|all| all.threads = 2, "b.1/1 was answered 0 requests of 2"),
    ];
    for (change, told) in changes {
        let mut flights = kept();
        change(&mut flights);
        let broken = flights.judge();
        assert!(
            broken.iter().any(|reason| reason.contains(told)),
            "{told}: {broken:?}"
        );
    }
}

#[test]
fn who_asks_is_read_as_it_is_written() {
    let who = asking("process-3.2", 4);
    assert_eq!(Asking::parse(&who.to_string()), Some(who));
    assert_eq!(Asking::parse("process-3.2"), None);
    assert_eq!(Asking::parse("process/x"), None);
}

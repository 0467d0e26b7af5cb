use super::*;

/// A case as it is when every promise is kept.
fn kept(place: Place, policy: Policy) -> Case {
    let mut case = Case {
        call: "call".into(),
        place,
        policy,
        killed: "first (1)".into(),
        at_death: Vec::new(),
        listed: [None; 3],
        told: BTreeMap::new(),
        world: Vec::new(),
        audited: Vec::new(),
    };
    case.at_death = case.expected_at_death();
    let Promise {
        told,
        again,
        resolved,
    } = promise(&case);
    case.world = case.at_death.clone();
    if let Some((turn, why)) = again {
        case.world.extend(case.traces(turn, why));
    }
    case.told = Turn::LATER.into_iter().zip(told).collect();
    let doubt = place.leaves() == Left::Doubt;
    case.listed = [Some(doubt), Some(doubt && policy.asks()), Some(false)];
    case.audited = resolved
        .into_iter()
        .map(|(happened, reason)| Resolved { happened, reason })
        .collect();
    case
}

/// Goal: the promises are those of the policies. Method: the count of effects at each
/// place, written out.
#[test]
fn an_effect_happens_as_often_as_the_policy_says() {
    let counts = |policy| Place::ALL.map(|place| kept(place, policy).effects());
    assert_eq!(counts(Policy::Retry), [1, 1, 1, 1, 1, 2, 2, 2, 2, 1]);
    assert_eq!(counts(Policy::Verify), [1; 10]);
    assert_eq!(counts(Policy::AskHappened), [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]);
    assert_eq!(
        counts(Policy::AskDidNotHappen),
        [1, 1, 1, 1, 1, 2, 2, 2, 2, 1]
    );
    assert_eq!(counts(Policy::Fail), [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]);
}

fn all() -> impl Iterator<Item = Case> {
    let places = Place::ALL.into_iter();
    places.flat_map(|place| Policy::ALL.map(|policy| kept(place, policy)))
}

#[test]
fn what_is_as_promised_breaks_nothing() {
    for case in all() {
        assert_eq!(case.judge(), [""; 0], "{case:?}");
    }
}

/// What is changed in a case, and what must be said then.
type Change = (fn(&mut Case), &'static str);

/// Goal: nothing that differs is overlooked. Method: each case is changed in one way.
#[test]
fn whatever_differs_is_told() {
    let changes: [Change; 8] = [
        (
            |case| case.at_death.extend(case.traces(Turn::First, "First")),
            "at the kill",
        ),
        (
            |case| case.world.extend(case.traces(Turn::Third, "First")),
            "effects, and must be",
        ),
        (
            |case| {
                case.world
                    .extend(case.traces(Turn::Third, "First").into_iter().take(1))
            },
            "the world has",
        ),
        (
            |case| {
                drop(
                    case.told
                        .insert(Turn::Second(2), Said::Replayed(String::new())),
                )
            },
            "second-2 was told",
        ),
        (
            |case| drop(case.told.remove(&Turn::Third)),
            "third was told None",
        ),
        (
            |case| case.listed[0] = case.listed[0].map(|listed| !listed),
            "before anybody asked it is",
        ),
        (
            |case| case.listed[2] = Some(true),
            "at the end it is listed",
        ),
        (
            |case| {
                let reason = "given up".into();
                case.audited.push(Resolved {
                    happened: true,
                    reason,
                });
            },
            "the audit has",
        ),
    ];
    for case in all() {
        for (change, told) in &changes {
            let mut changed = case.clone();
            change(&mut changed);
            if changed == case {
                continue;
            }
            let broken = changed.judge();
            assert!(
                broken.iter().any(|reason| reason.contains(told)),
                "{told}: {changed:?}"
            );
        }
    }
}

#[test]
fn a_trace_is_read_as_it_is_written() {
    for case in all() {
        for trace in case.world {
            assert_eq!(Trace::parse(&trace.to_string()), Some(trace));
        }
    }
    for strange in [
        "",
        "booked call first",
        "paid call first First",
        "booked call first First x",
    ] {
        assert_eq!(Trace::parse(strange), None, "{strange}");
    }
}

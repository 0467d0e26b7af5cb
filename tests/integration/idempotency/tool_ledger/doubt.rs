//! Calls of which nobody knows whether they happened: what each policy promises, counted
//! in the outside world.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use agentos_core::{Audit, Finding, TaskStorage};
use agentos_idempotency::{CallSummary, DoubtfulCall, Effect, OnDoubt};
use agentos_tests::new_task;

use super::*;

/// Where a process died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Died {
    BeforeTheEffect,
    AfterTheEffect,
}

const DEATHS: [Died; 2] = [Died::BeforeTheEffect, Died::AfterTheEffect];

/// The outside world: counts an effect, and can be asked about it.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Vec<String>>>);

impl World {
    /// What the body of a call does.
    fn charge(&self, context: &CallContext<'_>) -> ToolOutput {
        self.0
            .lock()
            .unwrap()
            .push(context.idempotency_key().to_owned());
        "paid".into()
    }

    fn charges(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn probe(&self) -> OnDoubt {
        let world = self.clone();
        OnDoubt::verify(move |call: &DoubtfulCall| {
            assert_eq!(call.tool, "charge");
            assert_eq!(call.arguments, json!({"order": 42}));
            assert_eq!(call.arguments_text, r#"{"order":42}"#);
            assert_eq!(call.task, Some(task()));
            match world.0.lock().unwrap().contains(&call.key.to_string()) {
                true => Finding::Happened(ToolOutcome::Done("found".into())),
                false => Finding::DidNotHappen,
            }
        })
    }
}

/// A file in which the process that ran the call died there, and the world then.
fn wreck(died: Died) -> (Ground, World) {
    let (ground, world) = (Ground::new(), World::default());
    ground.store.create_task(new_task("task")).unwrap();
    let ledger = ground.ledger();
    let Ok(Started::Run(running)) = ledger.begin(&call()) else {
        panic!("the call was not to be run");
    };
    if died == Died::AfterTheEffect {
        world.charge(&running.context());
    }
    std::mem::forget(running);
    ground.clock.advance(LONGER);
    (ground, world)
}

/// The lines about keys that were in doubt.
fn resolutions(ground: &Ground) -> Vec<Audit> {
    let lines = ground.store.audits(&task(), None, 100).unwrap().items;
    let is_meant = |line: &Audit| line.event == "key_resolved";
    lines.into_iter().filter(is_meant).collect()
}

fn in_doubt(ground: &Ground) -> Vec<CallSummary> {
    ground.ledger().in_doubt(None, 10).unwrap().items
}

#[test]
fn while_its_owner_may_live_a_call_is_in_flight_and_never_in_doubt() {
    let ground = Ground::new();
    die_in(&ground.ledger(), &call());
    ground.clock.advance(Duration::from_secs(29));
    for policy in [OnDoubt::Retry, OnDoubt::Fail, World::default().probe()] {
        let call = call().on_doubt(policy).wait(Duration::ZERO);
        let error = ground.ledger().execute_or_replay(&call, never).unwrap_err();
        assert!(matches!(error, ToolError::InFlight { .. }), "{error:?}");
    }
    assert!(in_doubt(&ground).is_empty());
}

#[test]
fn retry_runs_it_again_at_least_once() {
    for died in DEATHS {
        let (ground, world) = wreck(died);
        let ledger = ground.ledger();
        let call = call().on_doubt(OnDoubt::Retry);
        let answer = ledger.execute_or_replay(&call, |context| {
            assert_eq!(context.execution(), Execution::TakenOver);
            Ok(world.charge(context))
        });
        let answer = answer.unwrap();
        assert_eq!((output(&answer), answer.executions), (&b"paid"[..], 2));
        let expected = 1 + usize::from(died == Died::AfterTheEffect);
        assert_eq!(world.charges(), expected, "{died:?}");
        // A service that knows its key can tell that it is the same call.
        assert!(
            world
                .0
                .lock()
                .unwrap()
                .iter()
                .all(|key| *key == answer.key.as_str())
        );
        assert_eq!(ledger.stats().retried_in_doubt, 1);
        assert!(resolutions(&ground).is_empty());
    }
}

#[test]
fn verify_asks_the_world_and_the_effect_happens_exactly_once() {
    for died in DEATHS {
        let (ground, world) = wreck(died);
        let ledger = ground.ledger();
        let call = call().on_doubt(world.probe());
        let answer = ledger.execute_or_replay(&call, |context| Ok(world.charge(context)));
        let answer = answer.unwrap();
        assert_eq!(world.charges(), 1, "{died:?}");
        let (found, resolution) = match died {
            Died::BeforeTheEffect => ("paid", "did_not_happen"),
            Died::AfterTheEffect => ("found", "happened"),
        };
        assert_eq!(output(&answer), found.as_bytes());
        assert_eq!(answer.replayed, died == Died::AfterTheEffect);
        let lines = resolutions(&ground);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].detail["resolution"], resolution);
        assert!(
            lines[0]
                .reason
                .as_deref()
                .unwrap()
                .starts_with("a probe says")
        );
        let stats = ledger.stats();
        assert_eq!((stats.resolved, stats.verified), (1, 1));
        assert_eq!(stats.executions + stats.replays, 1);
        // From then on it is recorded like any other.
        let again = ground.ledger().execute_or_replay(&call, never).unwrap();
        assert_eq!(output(&again), found.as_bytes());
    }
}

#[test]
fn a_probe_sees_every_digit_of_the_arguments() {
    let ground = Ground::new();
    let text = r#"{"order":123456789012345678901}"#;
    let call = ToolCall::from_text("charge", text).unwrap();
    let call = call.of_task(&task());
    lose(&ground, &call);
    let probe = OnDoubt::verify(move |question: &DoubtfulCall| {
        assert_eq!(question.arguments_text, text);
        Finding::Happened(ToolOutcome::Done("found".into()))
    });
    let answer = ground
        .ledger()
        .execute_or_replay(&call.on_doubt(probe), never);
    assert_eq!(output(&answer.unwrap()), b"found");
}

#[test]
fn a_probe_that_cannot_tell_leaves_it_in_doubt_with_its_reason() {
    for died in DEATHS {
        let (ground, world) = wreck(died);
        let charges = world.charges();
        let silent =
            OnDoubt::verify(|_: &DoubtfulCall| Finding::CannotTell("the bank is closed".into()));
        let ledger = ground.ledger();
        let error = ledger
            .execute_or_replay(&call().on_doubt(silent), never)
            .unwrap_err();
        let ToolError::InDoubt {
            key,
            reason,
            holder,
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(key, call().key().unwrap());
        assert!(
            reason.ends_with("the probe cannot tell: the bank is closed"),
            "{reason}"
        );
        assert_eq!(holder.unwrap().owner.id.as_str(), "agent");
        assert_eq!(world.charges(), charges);
        assert_eq!((in_doubt(&ground).len(), ledger.stats().in_doubt), (1, 1));
    }
}

#[test]
fn fail_never_runs_it_again_and_says_why() {
    for died in DEATHS {
        let (ground, world) = wreck(died);
        let charges = world.charges();
        let ledger = ground.ledger();
        let given_up = call().on_doubt(OnDoubt::Fail);
        // Other policies of failures and of doubt change nothing any more.
        let calls = [given_up.clone(), given_up, call(), call().idempotent()];
        let mut reasons = Vec::new();
        for call in calls {
            let answer = ledger.execute_or_replay(&call, never).unwrap();
            assert!(answer.replayed);
            let ToolOutcome::GivenUp { reason } = answer.outcome else {
                panic!("{:?}", answer.outcome);
            };
            reasons.push(reason);
        }
        assert!(
            reasons[0].starts_with("given up: agent ("),
            "{}",
            reasons[0]
        );
        assert!(reasons.iter().all(|reason| *reason == reasons[0]));
        assert_eq!(world.charges(), charges, "{died:?}");
        assert_eq!(
            status(&ground, &call().key().unwrap()),
            Some(KeyStatus::Failed)
        );
        let lines = resolutions(&ground);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].reason.as_ref(), Some(&reasons[0]));
        let stats = ledger.stats();
        assert_eq!((stats.given_up, stats.resolved, stats.replays), (1, 1, 4));
    }
}

#[test]
fn ask_waits_for_an_operator_whose_finding_is_audited() {
    for died in DEATHS {
        let (ground, world) = wreck(died);
        let ledger = ground.ledger();
        for _ in 0..2 {
            let error = ledger.execute_or_replay(&call(), never).unwrap_err();
            assert!(matches!(error, ToolError::InDoubt { .. }), "{error:?}");
        }
        // The operator looks at what is in doubt, and at the world.
        let operator = ground.ledger();
        let doubts = operator.in_doubt(None, 10).unwrap().items;
        assert_eq!(doubts.len(), 1);
        let doubt = &doubts[0];
        assert_eq!((doubt.tool(), doubt.task()), ("charge", Some(&task())));
        assert!(doubt.is_in_doubt());
        let kept = operator.find(doubt.key()).unwrap().unwrap();
        assert_eq!(kept.arguments, Some(json!({"order": 42})));
        let charged = world.charges() == 1;
        if charged {
            operator.resolve_happened(doubt, ToolOutput::new("receipt 7"), "found receipt 7")
        } else {
            operator.resolve_did_not_happen(doubt, "the bank knows nothing")
        }
        .unwrap();

        let answer = ledger.execute_or_replay(&call(), |context| Ok(world.charge(context)));
        let answer = answer.unwrap();
        assert_eq!(world.charges(), 1, "{died:?}");
        let expected = if charged { "receipt 7" } else { "paid" };
        assert_eq!(
            (output(&answer), answer.replayed),
            (expected.as_bytes(), charged)
        );
        let lines = resolutions(&ground);
        assert_eq!(lines.len(), 1);
        let reason = if charged {
            "found receipt 7"
        } else {
            "the bank knows nothing"
        };
        assert_eq!(lines[0].reason.as_deref(), Some(reason));
        assert_eq!(lines[0].detail["operation"], "charge");
        assert_eq!(operator.stats().resolved, 1);
        // What is no longer in doubt cannot be resolved again.
        let late = operator.resolve_did_not_happen(doubt, "late").unwrap_err();
        assert!(
            matches!(late.storage(), Some(StorageError::StaleLease(_))),
            "{late:?}"
        );
        assert!(operator.resolve_did_not_happen(doubt, "").is_err());
    }
}

#[test]
fn what_is_declared_to_be_repeatable_is_retried_and_all_else_is_asked() {
    for (effect, runs) in [
        (Effect::ReadOnly, true),
        (Effect::Idempotent, true),
        (Effect::Additive, false),
        (Effect::Destructive, false),
    ] {
        let (ground, world) = wreck(Died::BeforeTheEffect);
        let ledger = ground.ledger();
        let call = call().effect(effect);
        let answer = ledger.execute_or_replay(&call, |context| Ok(world.charge(context)));
        assert_eq!(answer.is_ok(), runs, "{effect:?}");
        assert_eq!(world.charges(), usize::from(runs));
    }
}

/// Goal: of those who find a call in doubt at once, the effect of one counts.
/// Method: probes are held until all of them were asked.
#[test]
fn several_who_resolve_at_once_agree() {
    for died in DEATHS {
        let (ground, world) = wreck(died);
        let barrier = std::sync::Barrier::new(4);
        let barrier = Arc::new(barrier);
        let answers: Vec<ToolAnswer> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let (ground, world, barrier) = (&ground, &world, Arc::clone(&barrier));
                    scope.spawn(move || {
                        let (asked, probed) = (AtomicBool::new(false), world.clone());
                        let probe = OnDoubt::verify(move |call: &DoubtfulCall| {
                            let known = probed.0.lock().unwrap().contains(&call.key.to_string());
                            if !asked.swap(true, Ordering::SeqCst) {
                                barrier.wait();
                            }
                            match known {
                                true => Finding::Happened(ToolOutcome::Done("found".into())),
                                false => Finding::DidNotHappen,
                            }
                        });
                        let call = call().on_doubt(probe);
                        let body = |context: &CallContext<'_>| Ok(world.charge(context));
                        ground.ledger().execute_or_replay(&call, body).unwrap()
                    })
                })
                .collect();
            callers
                .into_iter()
                .map(|caller| caller.join().unwrap())
                .collect()
        });
        assert_eq!(world.charges(), 1, "{died:?}");
        assert!(
            answers
                .iter()
                .all(|answer| answer.outcome == answers[0].outcome)
        );
        assert_eq!(resolutions(&ground).len(), 1);
    }
}

#[test]
fn a_panic_of_the_body_leaves_the_call_in_doubt_at_once_and_goes_on() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    let step = ledger.step(&task(), "step");
    let tool = ToolCall::new("charge", json!(null));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        step.execute_or_replay(&tool, |_| panic!("the tool has a bug"))
    }));
    let payload = panicked.unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"the tool has a bug"));
    // No time has passed, and the same call of the step is still the first.
    let error = step.execute_or_replay(&tool, never).unwrap_err();
    assert!(matches!(error, ToolError::InDoubt { .. }), "{error:?}");
    assert_eq!(in_doubt(&ground).len(), 1);
    assert_eq!(ledger.stats().unknown, 1);
}

#[test]
fn a_body_that_does_not_know_leaves_the_call_in_doubt_at_once() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    let said = ledger.execute_or_replay(&call(), |_| Err(ToolFailure::unknown("no answer")));
    let Err(ToolError::InDoubt {
        reason,
        holder: None,
        ..
    }) = said
    else {
        panic!("{said:?}");
    };
    assert_eq!(reason, "no answer");
    let effects = Effects::default();
    let retried = call().on_doubt(OnDoubt::Retry);
    let answer = ground
        .ledger()
        .execute_or_replay(&retried, effects.body("done"));
    assert_eq!(answer.unwrap().executions, 2);
    assert_eq!(ledger.stats().unknown, 1);
}

/// Goal: that a second try did nothing says nothing about the first.
#[test]
fn a_call_that_was_taken_over_and_not_done_is_in_doubt_as_before() {
    let (ground, world) = wreck(Died::AfterTheEffect);
    let ledger = ground.ledger();
    let retried = call().on_doubt(OnDoubt::Retry);
    let refused = ledger.execute_or_replay(&retried, |_| Err(ToolFailure::not_done("no network")));
    assert!(
        matches!(refused, Err(ToolError::NotDone { .. })),
        "{refused:?}"
    );
    let error = ledger.execute_or_replay(&call(), never).unwrap_err();
    assert!(matches!(error, ToolError::InDoubt { .. }), "{error:?}");
    let verified = call().on_doubt(world.probe());
    let answer = ledger.execute_or_replay(&verified, never).unwrap();
    assert_eq!(output(&answer), b"found");
    assert_eq!(world.charges(), 1);
}

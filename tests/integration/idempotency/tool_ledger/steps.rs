//! Steps that are run anew: which of their calls is which.

use agentos_idempotency::Step;

use super::*;

fn tool() -> ToolCall {
    ToolCall::new("send_mail", json!({"to": "ann"}))
}

/// An agent that tries until it has an answer. The mail goes out when the network is up,
/// which it is after the first try.
struct Agent<'g> {
    ground: &'g Ground,
    effects: Effects,
    tries: Effects,
}

impl Agent<'_> {
    fn on(ground: &Ground) -> Agent<'_> {
        Agent {
            ground,
            effects: Effects::default(),
            tries: Effects::default(),
        }
    }

    fn step(&self) -> Step {
        self.ground.ledger().step(&task(), "step")
    }

    fn send(&self, output: &[u8]) -> Result<ToolOutput, ToolFailure> {
        self.tries.happen();
        if self.tries.count() == 1 {
            return Err(ToolFailure::failed("503", output));
        }
        self.effects.happen();
        Ok("sent".into())
    }

    /// Asks until it was sent. Whether each answer was replayed.
    fn insist(&self, step: &Step, output: &[u8]) -> Vec<bool> {
        let mut replayed = Vec::new();
        loop {
            match step.execute_or_replay(&tool(), |_| self.send(output)) {
                Ok(answer) => {
                    replayed.push(answer.replayed);
                    if answer.is_success() {
                        return replayed;
                    }
                }
                Err(ToolError::TooLarge { large, output }) => {
                    assert_eq!(large.failure.as_deref(), Some("503"));
                    replayed.push(output.is_none());
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

#[test]
fn a_failure_that_was_tried_again_with_success_is_not_done_again_after_a_restart() {
    let limits = Limits {
        outcome_bytes: 102,
        ..Limits::default()
    };
    for output in [0, 200] {
        let ground = Ground::with(limits, Duration::from_secs(30));
        let agent = Agent::on(&ground);
        let step = agent.step();
        assert_eq!(agent.insist(&step, &vec![b'x'; output]), [false, false]);
        // The same call on purpose is another one.
        assert_eq!(agent.insist(&step, b""), [false]);
        assert_eq!(agent.effects.count(), 2);
        // Before its checkpoint the agent dies, and begins the step anew.
        let step = agent.step();
        for _ in 0..2 {
            assert_eq!(agent.insist(&step, b""), [true]);
        }
        assert_eq!(agent.effects.count(), 2);
    }
}

#[test]
fn a_failure_that_was_committed_with_other_parts_is_tried_again_as_the_same_call() {
    let ground = Ground::new();
    let agent = Agent::on(&ground);
    let step = agent.step();
    let failed = step.prepare(&tool(), |_| agent.send(b"")).unwrap();
    let commit = Commit::new().part(failed.part().unwrap());
    ground.store.commit(commit).unwrap();
    let failed = failed.committed();
    let sent = step
        .execute_or_replay(&tool(), |_| agent.send(b""))
        .unwrap();
    assert_eq!(sent.key, failed.key);
    assert_eq!((sent.executions, sent.is_success()), (2, true));
}

#[test]
fn a_failure_that_is_replayed_counts_as_a_call_of_its_step() {
    let ground = Ground::new();
    let effects = Effects::default();
    let tool = tool().on_failure(OnFailure::Replay);
    for replayed in [false, true] {
        let step = ground.ledger().step(&task(), "step");
        for said in ["one", "two"] {
            let answer = step.execute_or_replay(&tool, |_| {
                effects.happen();
                Err(ToolFailure::failed(said, ""))
            });
            let answer = answer.unwrap();
            assert_eq!(answer.outcome, ToolOutcome::failed(said, ""));
            assert_eq!(answer.replayed, replayed);
        }
    }
    assert_eq!(effects.count(), 2);
}

/// Goal: that a second try did nothing says nothing about the first.
#[test]
fn a_failure_that_was_tried_again_and_not_done_is_still_that_failure() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    let failed = ToolOutcome::failed("declined", "charged 5");
    ledger
        .execute_or_replay(&call(), |_| {
            Err(ToolFailure::failed("declined", "charged 5"))
        })
        .unwrap();
    for _ in 0..2 {
        let refused = ledger.execute_or_replay(&call(), |context| {
            assert_eq!(context.execution(), Execution::AfterFailure);
            Err(ToolFailure::not_done("no network"))
        });
        let Err(ToolError::NotDone { reason }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(reason, "no network");
        let replaying = call().on_failure(OnFailure::Replay);
        let answer = ground
            .ledger()
            .execute_or_replay(&replaying, never)
            .unwrap();
        assert_eq!((answer.outcome, answer.replayed), (failed.clone(), true));
    }
    assert_eq!((ledger.stats().failures, ledger.stats().not_done), (1, 2));
}

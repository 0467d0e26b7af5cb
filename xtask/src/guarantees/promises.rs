//! The promises: which scenarios test each, and which broken products and victims must
//! be caught for that to mean anything.

use crate::canary::Canary;

/// A promise by its name, and what shows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    pub(super) name: &'static str,
    /// Scenarios, by name.
    pub(super) scenarios: &'static [&'static str],
    pub(super) trials: &'static [Trial],
}

/// A scenario that must catch a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trial {
    pub(super) canary: Canary,
    pub(super) scenario: &'static str,
}

const fn trial(scenario: &'static str, canary: Canary) -> Trial {
    Trial { canary, scenario }
}

/// Every promise of `docs/GUARANTEES.md`, in its order.
pub(super) const PROMISES: &[Promise] = &[
    Promise {
        name: "durable",
        scenarios: &[
            "kill-9-recovery",
            "end-to-end",
            "power-loss",
            "disk-full",
            "io-error",
            "kill-during-upkeep",
            "too-many",
        ],
        trials: &[
            trial("power-loss", Canary::SyncOff),
            trial("power-loss", Canary::RelaxedAsFull),
            trial("power-loss", Canary::SyncLies),
            trial("power-loss", Canary::AckBeforeCommit),
            trial("disk-full", Canary::AckFailure),
            trial("io-error", Canary::AckFailure),
            trial("too-many", Canary::AckFailure),
            trial("kill-9-recovery", Canary::AckWithoutWrite),
            trial("kill-9-recovery", Canary::AckBeforeCommit),
            trial("kill-9-recovery", Canary::AckLate),
            trial("end-to-end", Canary::AckWithoutWrite),
            trial("kill-during-upkeep", Canary::CopyMainFile),
            trial("poison-item", Canary::AckWithoutWrite),
            trial("kill-storm", Canary::SkipStep),
        ],
    },
    Promise {
        name: "atomic",
        scenarios: &["end-to-end", "power-loss"],
        trials: &[
            trial("power-loss", Canary::AuditApart),
            trial("end-to-end", Canary::EarlySuccess),
            trial("end-to-end", Canary::SuccessApart),
            trial("end-to-end", Canary::AnswerApart),
            trial("end-to-end", Canary::AnswerAgain),
            trial("end-to-end", Canary::OutcomeApart),
            trial("end-to-end", Canary::AckBetween),
            trial("end-to-end", Canary::CompleteApart),
        ],
    },
    Promise {
        name: "gapless",
        scenarios: &["concurrent-checkpoints"],
        trials: &[
            trial("concurrent-checkpoints", Canary::OwnNumbers),
            trial("concurrent-checkpoints", Canary::SkipNumber),
        ],
    },
    Promise {
        name: "fenced",
        scenarios: &["zombie-worker", "kill-storm", "clock-jump"],
        trials: &[
            trial("zombie-worker", Canary::NoFence),
            trial("zombie-worker", Canary::RenewById),
            trial("zombie-worker", Canary::FenceByName),
            trial("zombie-worker", Canary::TokenReset),
            trial("zombie-worker", Canary::WriteThenRefuse),
            trial("zombie-worker", Canary::MuteRefusal),
            trial("kill-storm", Canary::NoFence),
            trial("kill-storm", Canary::WriteThenRefuse),
            trial("clock-jump", Canary::NoFence),
            trial("sweep-race", Canary::RenewById),
            trial("lease-expiration", Canary::TokenReset),
        ],
    },
    Promise {
        name: "live",
        scenarios: &[
            "lease-expiration",
            "recovery-sweep",
            "sweep-race",
            "clock-jump",
            "slow-disk",
        ],
        trials: &[
            trial("slow-disk", Canary::RenewLate),
            trial("slow-disk", Canary::ExpireLate),
            trial("lease-expiration", Canary::ExpireLate),
            trial("lease-expiration", Canary::SweepCountsTwice),
            trial("recovery-sweep", Canary::SweepEarly),
            trial("recovery-sweep", Canary::SweepOnce),
            trial("recovery-sweep", Canary::SweepCountsTwice),
            trial("recovery-sweep", Canary::SweepUnrecorded),
            trial("sweep-race", Canary::SweepByKey),
            trial("sweep-race", Canary::SweepEarly),
            trial("clock-jump", Canary::LeasesByWallClock),
        ],
    },
    Promise {
        name: "bounded attempts",
        scenarios: &["poison-item"],
        trials: &[
            trial("poison-item", Canary::LossNotCounted),
            trial("poison-item", Canary::LossCountedTwice),
            trial("poison-item", Canary::ForgetHistory),
        ],
    },
    Promise {
        name: "once",
        scenarios: &["single-flight", "llm-cache", "tool-replay", "end-to-end"],
        trials: &[
            trial("single-flight", Canary::CheckThenAct),
            trial("single-flight", Canary::DoNotWait),
            trial("single-flight", Canary::IgnoreTemperature),
            trial("llm-cache", Canary::IgnoreTemperature),
            trial("llm-cache", Canary::ForgetAnswers),
            trial("llm-cache", Canary::ChangeAnswers),
            trial("llm-cache", Canary::PayTwice),
            trial("tool-replay", Canary::ForgetCalls),
            trial("tool-replay", Canary::RunOnReplay),
            trial("tool-replay", Canary::ReplayNothing),
            trial("end-to-end", Canary::PayAgain),
            trial("end-to-end", Canary::ForgetEffects),
            trial("end-to-end", Canary::KeepFailedTurn),
            trial("kill-storm", Canary::RedoSteps),
        ],
    },
    Promise {
        name: "in doubt",
        scenarios: &["in-doubt", "end-to-end"],
        trials: &[
            trial("in-doubt", Canary::BeginUnwritten),
            trial("in-doubt", Canary::PendingIsAbsent),
            trial("in-doubt", Canary::SkipDoubt),
            trial("end-to-end", Canary::RecordAfter),
            trial("end-to-end", Canary::RetryInDoubt),
        ],
    },
    Promise {
        name: "honest evidence",
        scenarios: &["kill-9-recovery", "end-to-end", "power-loss"],
        trials: &[
            trial("power-loss", Canary::ArtifactUnsynced),
            trial("kill-9-recovery", Canary::ChangeArtifact),
            trial("kill-9-recovery", Canary::ForgetResume),
            trial("end-to-end", Canary::ForgetResume),
            trial("end-to-end", Canary::RedoOnResume),
            trial("end-to-end", Canary::WorkTwice),
        ],
    },
    Promise {
        name: "sealed",
        scenarios: &["end-to-end", "bit-rot"],
        trials: &[
            trial("bit-rot", Canary::SealAnew),
            trial("bit-rot", Canary::StopAtDamage),
            trial("end-to-end", Canary::DoubleCount),
            trial("end-to-end", Canary::ForgetState),
        ],
    },
    Promise {
        name: "typed",
        scenarios: &[
            "zombie-worker",
            "disk-full",
            "io-error",
            "bit-rot",
            "slow-disk",
            "too-many",
        ],
        trials: &[
            trial("zombie-worker", Canary::MuteRefusal),
            trial("disk-full", Canary::UntypedErrors),
            trial("io-error", Canary::UntypedErrors),
            trial("slow-disk", Canary::WaitLonger),
            trial("disk-full", Canary::NoBallast),
            trial("too-many", Canary::HangOnError),
        ],
    },
    Promise {
        name: "bounded cost",
        scenarios: &["kill-during-upkeep"],
        trials: &[
            trial("kill-during-upkeep", Canary::PruneNewestOnly),
            trial("kill-during-upkeep", Canary::PruneChildren),
        ],
    },
];

/// Every trial once.
pub(super) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    for trial in PROMISES.iter().flat_map(|promise| promise.trials) {
        if !trials.contains(trial) {
            trials.push(*trial);
        }
    }
    trials
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::{canary, scenarios};

    #[test]
    fn every_scenario_tests_a_promise_and_every_name_is_one_of_a_scenario() {
        let known: Vec<String> = scenarios::all(None)
            .into_iter()
            .map(|scenario| scenario.name)
            .collect();
        for promise in PROMISES {
            assert!(!promise.scenarios.is_empty(), "{}", promise.name);
            assert!(!promise.trials.is_empty(), "{}", promise.name);
            let of_trials = promise.trials.iter().map(|trial| trial.scenario);
            for name in promise.scenarios.iter().copied().chain(of_trials) {
                assert!(known.iter().any(|one| one == name), "{name}");
            }
            for trial in promise.trials {
                let knows = canary::check(Some(trial.canary), [trial.scenario]);
                assert_eq!(knows, Ok(()));
            }
        }
        for name in &known {
            let tests = |promise: &Promise| promise.scenarios.contains(&name.as_str());
            assert!(PROMISES.iter().any(tests), "{name} tests no promise");
        }
    }

    /// Those that only a crash at a chosen place shows are tried elsewhere.
    #[test]
    fn every_canary_that_a_seeded_scenario_can_catch_is_tried() {
        let only_exhaustive = [
            Canary::RenameBeforeWrite,
            Canary::CopyOver,
            Canary::RewriteApart,
            Canary::WriteThenUndo,
            Canary::SweepApart,
        ];
        let trials = trials();
        let untried: Vec<&Canary> = Canary::value_variants()
            .iter()
            .filter(|canary| !only_exhaustive.contains(canary))
            .filter(|canary| !trials.iter().any(|trial| trial.canary == **canary))
            .collect();
        assert!(untried.is_empty(), "{untried:?}");
    }
}

//! Which canaries a scenario or a subject knows: those that change what one of its victims
//! does, or the store of one. With any other it would run the sound product, and its passing
//! would look like a check that is worth nothing.

use std::fmt;

use super::Canary;
use super::Canary::*;

/// The canaries of a scenario and of the subject of the same name; none for a name that
/// states none.
pub(crate) fn known_to(name: &str) -> &'static [Canary] {
    match name {
        "kill-9-recovery" => &[
            AckWithoutWrite,
            AckBeforeCommit,
            AckLate,
            ChangeArtifact,
            RenameBeforeWrite,
            ForgetResume,
        ],
        "concurrent-checkpoints" => &[AckWithoutWrite, SkipNumber, RewriteApart, OwnNumbers],
        "lease-expiration" => &[
            AckBeforeCommit,
            TokenReset,
            SweepEarly,
            ExpireLate,
            SweepCountsTwice,
            SweepUnrecorded,
        ],
        "recovery-sweep" => &[
            SweepEarly,
            SweepOnce,
            SweepCountsTwice,
            SweepUnrecorded,
            LossCountedTwice,
            SweepByKey,
        ],
        "llm-cache" => &[
            AckBeforeCommit,
            IgnoreTemperature,
            ForgetAnswers,
            ChangeAnswers,
            PayTwice,
        ],
        "tool-replay" => &[ForgetCalls, RunOnReplay, ReplayNothing, BeginUnwritten],
        "end-to-end" => &[
            AckWithoutWrite,
            ForgetResume,
            DoubleCount,
            EarlySuccess,
            ForgetState,
            SuccessApart,
            AnswerApart,
            AnswerAgain,
            RedoOnResume,
            WorkTwice,
            PayAgain,
            ForgetEffects,
            RecordAfter,
            RetryInDoubt,
            KeepFailedTurn,
            OutcomeApart,
            AckBetween,
            CompleteApart,
        ],
        "zombie-worker" => &[
            NoFence,
            RenewById,
            FenceByName,
            TokenReset,
            WriteThenRefuse,
            WriteThenUndo,
            MuteRefusal,
        ],
        "kill-storm" => &[NoFence, WriteThenRefuse, RedoSteps, SkipStep],
        "poison-item" => &[
            AckWithoutWrite,
            LossNotCounted,
            LossCountedTwice,
            ForgetHistory,
        ],
        "clock-jump" => &[NoFence, SweepEarly, SweepApart, LeasesByWallClock],
        "sweep-race" => &[
            RenewById,
            SweepEarly,
            SweepCountsTwice,
            SweepUnrecorded,
            SweepApart,
            SweepByKey,
        ],
        "in-doubt" => &[BeginUnwritten, PendingIsAbsent, SkipDoubt],
        "single-flight" => &[AckBeforeCommit, IgnoreTemperature, CheckThenAct, DoNotWait],
        "kill-during-upkeep" => &[PruneNewestOnly, PruneChildren, CopyMainFile, CopyOver],
        "power-loss" => &[
            AckBeforeCommit,
            AuditApart,
            SyncOff,
            RelaxedAsFull,
            SyncLies,
            ArtifactUnsynced,
        ],
        "disk-full" => &[AckFailure, UntypedErrors, NoBallast],
        "io-error" => &[AckFailure, UntypedErrors],
        "bit-rot" => &[SealAnew, StopAtDamage],
        "slow-disk" => &[ExpireLate, WaitLonger, RenewLate],
        "too-many" => &[AckFailure, HangOnError],
        "store-lifecycle" | "every-row" => &[AuditApart],
        _ => &[],
    }
}

/// A canary, and a scenario or subject that does not know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotKnown {
    canary: Canary,
    name: String,
}

impl fmt::Display for NotKnown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotKnown { canary, name } = self;
        let known: Vec<String> = known_to(name).iter().map(|one| one.name()).collect();
        let known = match known.is_empty() {
            true => "none".to_owned(),
            false => known.join(", "),
        };
        let canary = canary.name();
        write!(
            f,
            "{name} does not know the canary {canary}; it knows {known}"
        )
    }
}

impl std::error::Error for NotKnown {}

/// Refuses a canary that one of these would ignore.
pub(crate) fn check<'name>(
    canary: Option<Canary>,
    names: impl IntoIterator<Item = &'name str>,
) -> Result<(), NotKnown> {
    let Some(canary) = canary else {
        return Ok(());
    };
    match names
        .into_iter()
        .find(|name| !known_to(name).contains(&canary))
    {
        None => Ok(()),
        Some(name) => Err(NotKnown {
            canary,
            name: name.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::{scenarios, subjects};

    /// Goal: nothing is run that no canary can break, and no canary breaks nothing.
    #[test]
    fn every_scenario_and_subject_knows_a_canary_and_every_canary_is_known() {
        let scenarios = scenarios::all(None);
        let subjects = subjects::all(None);
        let names = scenarios.iter().map(|one| one.name.as_str());
        let names: Vec<&str> = names.chain(subjects.iter().map(|one| one.name())).collect();
        for name in &names {
            assert!(!known_to(name).is_empty(), "{name} knows no canary");
        }
        for canary in Canary::value_variants() {
            let knows = |name: &&str| known_to(name).contains(canary);
            assert!(names.iter().any(knows), "nobody knows {canary:?}");
        }
    }

    #[test]
    fn what_one_of_several_would_ignore_is_refused_with_what_it_knows() {
        let both = ["kill-9-recovery", "in-doubt"];
        assert_eq!(check(None, both), Ok(()));
        assert_eq!(check(Some(AckLate), both[..1].to_vec()), Ok(()));
        let error = check(Some(AckLate), both).unwrap_err();
        let words = "in-doubt does not know the canary ack-late; it knows begin-unwritten, \
                     pending-is-absent, skip-doubt";
        assert_eq!(error.to_string(), words);
        let error = check(Some(AckLate), ["nobody"]).unwrap_err();
        let words = "nobody does not know the canary ack-late; it knows none";
        assert_eq!(error.to_string(), words);
    }
}

//! Canaries: victims, and stores, that are broken on purpose.
//!
//! A canary changes the victim or the store that it opens, never the check. The checks do not know that
//! there are canaries; if one passes, the checks are worth nothing.

mod known;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub(crate) use self::known::check;

/// How a victim is broken, or its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Canary {
    /// Acknowledges every third checkpoint without writing it.
    AckWithoutWrite,
    /// Acknowledges what it writes before that is committed.
    AckBeforeCommit,
    /// Acknowledges a checkpoint two iterations after it was committed.
    AckLate,
    /// Changes the artifact after it was verified, before the commit.
    ChangeArtifact,
    /// Gives an artifact its name first, and writes it then.
    RenameBeforeWrite,
    /// Begins again from the first iteration, whatever there is to resume from.
    ForgetResume,
    /// Takes a number now and then and gives it to no checkpoint.
    SkipNumber,
    /// Takes each checkpoint away once more and puts it back in the next transaction.
    RewriteApart,
    /// Reads the next number first and writes it later, on its own connection.
    OwnNumbers,
    /// Adds the last iteration once more after each resume.
    DoubleCount,
    /// Declares success half-way, in a commit before that of the answer.
    EarlySuccess,
    /// Keeps a part of its state in memory only, except at the end.
    ForgetState,
    /// Commits its success apart from the last checkpoint and the answer.
    SuccessApart,
    /// Commits its answer's audit line apart from the last checkpoint and success.
    AnswerApart,
    /// Commits its answer once more when it is started after its success.
    AnswerAgain,
    /// Throws its state away on resume and works everything out again.
    RedoOnResume,
    /// Does the work of each iteration once before it says that it begins.
    WorkTwice,
    /// Asks the model and not the cache.
    PayAgain,
    /// Runs its tools without telling the ledger.
    ForgetEffects,
    /// Tells the ledger of a tool when it has run.
    RecordAfter,
    /// Runs a tool again of which nobody knows whether it ran.
    RetryInDoubt,
    /// Takes the retry of a call that failed for another call of its step.
    KeepFailedTurn,
    /// Commits the outcome of a tool apart from the checkpoint after it.
    OutcomeApart,
    /// Does so, and acknowledges in between.
    AckBetween,
    /// Completes its item apart from the last checkpoint.
    CompleteApart,
    /// Keeps the newest checkpoints of each task, whatever they are.
    PruneNewestOnly,
    /// Removes all audit lines and evidence results with each upkeep.
    PruneChildren,
    /// Backs up by copying the main file alone.
    CopyMainFile,
    /// Writes each backup over the one before.
    CopyOver,
    /// Commits an audit line apart from the checkpoint that it is about.
    AuditApart,
    /// Checks no write and no renewal against the lease under which it is made.
    NoFence,
    /// Renews a lease whoever holds the item.
    RenewById,
    /// Takes a lease for held as long as the worker of that name holds the item.
    FenceByName,
    /// Gives an item that was taken out of a lost lease its first token again.
    TokenReset,
    /// Refuses what comes under a lost lease when it has written it.
    WriteThenRefuse,
    /// Writes before it looks at the lease, and takes that back when the lease is lost.
    WriteThenUndo,
    /// Refuses what comes under a lost lease, and says no more than that.
    MuteRefusal,
    /// Takes leases away that have not run out.
    SweepEarly,
    /// Lets leases last half a second longer than it says.
    ExpireLate,
    /// Says after the first batch of a sweep that nothing is left.
    SweepOnce,
    /// Counts each lost lease twice.
    SweepCountsTwice,
    /// Takes leases away and leaves no trace of that.
    SweepUnrecorded,
    /// Takes leases away in one transaction and records it in the next.
    SweepApart,
    /// Does not count an attempt whose lease was lost.
    LossNotCounted,
    /// Counts an attempt whose lease was lost twice.
    LossCountedTwice,
    /// Keeps only the newest attempt at an item.
    ForgetHistory,
    /// Chooses what a sweep takes away first, and takes it away later by its key.
    SweepByKey,
    /// Has leases run out by the wall clock.
    LeasesByWallClock,
    /// Does every step of an item again after a takeover.
    RedoSteps,
    /// Commits a step now and then without having done it.
    SkipStep,
    /// Knows requests to a model without their temperature.
    IgnoreTemperature,
    /// Keeps no answer of a model.
    ForgetAnswers,
    /// Keeps each answer of a model with one byte more.
    ChangeAnswers,
    /// Asks the model once more for each answer.
    PayTwice,
    /// Knows every tenth call of a tool no more after a restart.
    ForgetCalls,
    /// Runs what it replays.
    RunOnReplay,
    /// Replays that a call happened, and nothing of what came out.
    ReplayNothing,
    /// Writes that a key was begun together with its outcome, and not before.
    BeginUnwritten,
    /// Begins a key again whose execution nobody ended, whatever was asked for.
    PendingIsAbsent,
    /// Takes what is in doubt for done.
    SkipDoubt,
    /// Looks whether a key may be begun, and begins it later on what it saw.
    CheckThenAct,
    /// Asks the model itself while somebody else does.
    DoNotWait,
    /// Turns syncs off behind the back of the store.
    SyncOff,
    /// Says that its store is as durable as can be, and has it relaxed.
    RelaxedAsFull,
    /// Has a drive that says it has synced, and has not.
    SyncLies,
    /// Makes checkpoints of artifacts that it does not sync.
    ArtifactUnsynced,
    /// Gives whatever stands in a file a seal that holds before it opens it.
    SealAnew,
    /// Acknowledges a step whose commit failed.
    AckFailure,
    /// Says of a full disk, or of one that fails, that it is a defect of the program.
    UntypedErrors,
    /// Keeps no room for a full disk.
    NoBallast,
    /// Waits twenty times as long as it says.
    WaitLonger,
    /// Renews a lease when it has waited for as long as that lasts.
    RenewLate,
    /// Waits for ever when it is refused.
    HangOnError,
    /// Goes on from nowhere when the newest checkpoint is damaged.
    StopAtDamage,
}

impl Canary {
    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

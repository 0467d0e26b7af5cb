//! Rows of every kind, written in every way by one process that is struck anywhere. Each
//! step ends with an audit line in its last commit: where the line is, the step is, and
//! whoever goes on does each of the others once. No scenario; each does some of this.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, ScenarioResult, Staged, Subject, Verdict};
use agentos_core::records::audit::WORK_RECOVERED;
use agentos_core::{
    Attempt, AttemptOutcome, KeyStorage, LeaseStorage, TaskId, TaskStorage, Verification,
    WorkItemStatus,
};

use crate::canary::Canary;
use crate::checks::Wreck;
use crate::scenarios::fact;
use crate::victims::{CLERKS_TASK, Clerk, Role, clerks_steps, spec, steps_done};

/// For the one who goes on; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(50);
/// Rows asked for at a time; there are not more.
const PAGE: u32 = 1000;

type Fallible<T> = Result<T, Failure>;

pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    let most = clerks_steps().len();
    Subject::staged("every-row", move |run, steps| {
        let clerk = Clerk {
            db: run.dir().join("rows.db"),
            world: run.dir().join("world.log"),
            steps: usize::try_from(steps)?,
            canary,
        };
        drop(Wreck::open(&clerk.db, run.dir())?);
        let victim = spec("clerk", &Role::Clerk(clerk.clone()))?;
        Ok(Staged::new(victim, move |run, after| {
            judge(run, clerk, &after.acks())
        }))
    })
    .goal("rows of every kind are written wholly or not at all, and once")
    .size(most as u64)
}

fn judge(run: &mut Run, clerk: Clerk, acks: &[String]) -> ScenarioResult {
    let mut outcome = Outcome::passed();
    let result = all(run, clerk, acks, &mut outcome);
    outcome.after(result)
}

fn all(run: &mut Run, clerk: Clerk, acks: &[String], outcome: &mut Outcome) -> Fallible<()> {
    let acked: Vec<String> = acks.iter().map(|ack| fact(ack)).collect::<Fallible<_>>()?;
    let (db, world) = (clerk.db.clone(), clerk.world.clone());
    look(run.dir(), &db, "when it was struck", &acked, 1, outcome)?;
    if outcome.verdict != Verdict::Passed {
        return Ok(());
    }
    let steps = clerks_steps();
    let next = Clerk {
        steps: steps.len(),
        canary: None,
        ..clerk
    };
    let mut next = run.start(&spec("next", &Role::Clerk(next))?)?;
    let exit = next.wait_for_exit(PATIENCE)?;
    outcome.check(exit.success(), || format!("the next one ended with {exit}"));
    if outcome.verdict != Verdict::Passed {
        return Ok(());
    }
    let steps: Vec<String> = steps.into_iter().map(str::to_owned).collect();
    look(run.dir(), &db, "at the end", &steps, 0, outcome)?;
    at_the_end(run.dir(), &db, &world, outcome)
}

/// What is there is a beginning of the steps, with all that was acknowledged and at most
/// so many more; and their rows are there with their lines.
fn look(
    base: &Path,
    db: &Path,
    when: &str,
    acked: &[String],
    more: usize,
    outcome: &mut Outcome,
) -> Fallible<()> {
    let wreck = match Wreck::open(db, base) {
        Ok(wreck) => wreck,
        Err(error) => {
            outcome.violate(format!("{when}: it does not open: {}", error.reason()));
            return Ok(());
        }
    };
    for problem in wreck.problems()? {
        outcome.violate(format!("{when}: {problem}"));
    }
    let done = steps_done(&wreck.store)?;
    outcome.check(
        clerks_steps().into_iter().take(done.len()).eq(done.iter()),
        || format!("{when}: the steps {done:?} are done"),
    );
    let (least, found) = (acked.len(), done.len());
    outcome.check((least..=least + more).contains(&found), || {
        format!("{when}: {least} steps were acknowledged, and {found} are done")
    });
    let has = |step: &str| done.iter().any(|one| one == step);
    let task = TaskId::new(CLERKS_TASK)?;
    let there = wreck.store.task(&task)?.is_some();
    let mut checkpoints = wreck.all(&task)?;
    // Those of lost leases have no state.
    checkpoints.retain(|one| one.snapshot.is_some());
    let items = wreck.store.work_items_of(&task, None, PAGE)?.items;
    let begun = (there, checkpoints.len(), items.len());
    let expected = if has("begin") {
        (true, 1, 3)
    } else {
        (false, 0, 0)
    };
    outcome.check(begun == expected, || {
        format!("{when}: a task, its checkpoints and its items are {begun:?}, and not {expected:?}")
    });
    let verified = checkpoints
        .iter()
        .any(|one| one.summary.verification == Verification::Verified);
    let rows = [
        ("verify", verified, has("begin") && !has("verify")),
        (
            "cancel",
            items
                .iter()
                .any(|item| item.status == WorkItemStatus::Cancelled),
            has("begin") && !has("cancel"),
        ),
    ];
    for (step, row, not_yet) in rows {
        outcome.check(!(row && not_yet) && (row || !has(step)), || {
            format!(
                "{when}: {step} has its rows: {row}, and its line: {}",
                has(step)
            )
        });
    }
    for (step, outcome_of) in [
        ("fail", AttemptOutcome::Failed),
        ("release", AttemptOutcome::Released),
        ("complete", AttemptOutcome::Succeeded),
    ] {
        let mut attempts = 0;
        for item in &items {
            let all = wreck.store.attempts(item.id)?;
            attempts += all
                .iter()
                .filter(|one| ended(one) == Some(outcome_of))
                .count();
        }
        let lines = done.iter().filter(|one| one.starts_with(step)).count();
        outcome.check(attempts == lines, || {
            format!("{when}: {step}: {attempts} attempts ended so, and {lines} lines say it")
        });
    }
    Ok(())
}

/// How an attempt ended, if it did.
fn ended(attempt: &Attempt) -> Option<AttemptOutcome> {
    attempt.end.as_ref().map(|end| end.outcome)
}

/// All is done, and once.
fn at_the_end(base: &Path, db: &Path, world: &PathBuf, outcome: &mut Outcome) -> Fallible<()> {
    let wreck = Wreck::open(db, base)?;
    let written = fs::read_to_string(world)?;
    outcome.check(written == "written\n", || {
        format!("the tool has left {written:?}")
    });
    let mut counts = wreck.store.count_work_items()?;
    counts.retain(|_, count| *count > 0);
    let expected = BTreeMap::from([
        (WorkItemStatus::Succeeded, 2),
        (WorkItemStatus::Cancelled, 1),
    ]);
    outcome.check(counts == expected, || format!("the items are {counts:?}"));
    let in_doubt = wreck.store.keys_in_doubt(None, PAGE)?.items;
    outcome.check(in_doubt.is_empty(), || format!("in doubt is {in_doubt:?}"));
    let keys = wreck.store.keys(&Default::default(), None, PAGE)?.items;
    // The call and what was touched; all others were given up or removed.
    outcome.check(keys.len() == 2, || format!("the keys are {keys:?}"));
    let task = TaskId::new(CLERKS_TASK)?;
    let lines = wreck.store.audits(&task, None, PAGE)?.items;
    let recovered = lines
        .iter()
        .filter(|line| line.event == WORK_RECOVERED)
        .count();
    let mut expired = 0;
    for item in wreck.store.work_items_of(&task, None, PAGE)?.items {
        let attempts = wreck.store.attempts(item.id)?;
        let is_expired = |one: &&Attempt| ended(one) == Some(AttemptOutcome::Expired);
        expired += attempts.iter().filter(is_expired).count();
    }
    outcome.check(recovered == expired && 2 <= expired, || {
        format!("{expired} leases were lost, and {recovered} lines say so")
    });
    Ok(())
}

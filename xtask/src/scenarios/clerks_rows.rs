//! What a clerk has written, read as its next user would: each step wholly or not at all,
//! and at the end each of them once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use agentos_chaos::{Failure, Outcome};
use agentos_core::records::audit::WORK_RECOVERED;
use agentos_core::{
    Attempt, AttemptOutcome, KeyStorage, LeaseStorage, TaskId, TaskStorage, Verification,
    WorkItemStatus,
};

use crate::checks::Wreck;
use crate::victims::{CLERKS_TASK, clerks_steps, steps_done};

/// Rows asked for at a time; there are not more.
const PAGE: u32 = 1000;

type Fallible<T> = Result<T, Failure>;

/// What is there is a beginning of the steps, with all that was acknowledged and at most
/// so many more; and their rows are there with their lines.
pub(crate) fn look(
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
    let done = steps_done(&*wreck.store)?;
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

/// All is done, and once; and so much other work.
pub(crate) fn at_the_end(
    base: &Path,
    db: &Path,
    world: &Path,
    others: u64,
    outcome: &mut Outcome,
) -> Fallible<()> {
    let wreck = Wreck::open(db, base)?;
    let written = fs::read_to_string(world)?;
    outcome.check(written == "written\n", || {
        format!("the tool has left {written:?}")
    });
    let mut counts = wreck.store.count_work_items()?;
    counts.retain(|_, count| *count > 0);
    let expected = BTreeMap::from([
        (WorkItemStatus::Succeeded, 2 + others),
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

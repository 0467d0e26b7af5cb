//! What the processes of a scenario about leases tell, line by line: what each did
//! with leases and when, and what it acknowledged besides. And what the file says of
//! their items then.

use std::collections::BTreeMap;
use std::time::Duration;

use agentos_chaos::{Failure, HarnessError, Outcome, Victim};
use agentos_core::{
    CheckpointStorage, CheckpointType, Fence, LeaseStorage, WorkItemId, WorkItemStatus,
};
use agentos_store::sqlite::SqliteStore;

use crate::model::{
    Call, FoundItem, History, Moment, Record, Reply, Step, Taken, Texts, judge_history,
    judge_losses, judge_taken,
};
use crate::work::{Claim, Work};

/// Rows asked for at a time; no scenario has more.
const PAGE: u32 = 1000;

type Fallible<T> = Result<T, Failure>;

/// What was told so far.
#[derive(Default)]
pub(crate) struct Told {
    record: Record,
    /// Each victim's start that speaks now.
    process: BTreeMap<String, String>,
    /// Leases that sweeps took away.
    pub(crate) taken: Vec<Taken>,
    /// What leases said of their moments.
    pub(crate) texts: Vec<Texts>,
    /// Steps that were acknowledged.
    pub(crate) steps: Vec<Step>,
    /// How many lost leases the processes took away, as their stores counted.
    pub(crate) recovered: u64,
    /// How often a clock jumped.
    pub(crate) jumps: u64,
    /// How often a store was busy.
    pub(crate) busy: u64,
}

impl Told {
    /// Takes a line of a victim.
    pub(crate) fn heed(&mut self, victim: &str, line: &str) -> Fallible<()> {
        if let Some(process) = line.strip_prefix("process ") {
            self.process.insert(victim.to_owned(), process.to_owned());
        } else if let Some(ack) = line.strip_prefix("ack ") {
            self.acknowledged(ack)
                .ok_or_else(|| Failure::new(format!("{victim} acknowledged {ack:?}")))?;
        } else if line.starts_with("wall ") || line.starts_with("boot ") {
            self.jumps += 1;
        } else if line == "busy" {
            self.busy += 1;
        } else if let Some(process) = self.process.get(victim) {
            self.record.heed(process, line).map_err(Failure::new)?;
        }
        Ok(())
    }

    fn acknowledged(&mut self, ack: &str) -> Option<()> {
        if let Some(step) = ack.strip_prefix("step ") {
            self.steps.push(Step::parse(step)?);
        } else if let Some(total) = ack.strip_prefix("total ") {
            self.recovered += total.parse::<u64>().ok()?;
        } else if ack.starts_with("texts ") {
            self.texts.push(Texts::parse(ack)?);
        } else {
            self.taken.push(Taken::parse(ack)?);
        }
        Some(())
    }

    /// A victim was killed and is known to be dead.
    pub(crate) fn died(&mut self, victim: &str, at: Moment) {
        if let Some(process) = self.process.remove(victim) {
            self.record.died(&process, at);
        }
    }

    /// The history, with what the file says of its items; the rest stays.
    pub(crate) fn history(&mut self, found: BTreeMap<WorkItemId, FoundItem>) -> History {
        std::mem::take(&mut self.record).with(found)
    }

    /// What must be true whatever clocks say.
    pub(crate) fn judge(&self, history: &History, work: &Work, outcome: &mut Outcome) {
        for broken in judge_history(history) {
            outcome.violate(broken.to_string());
        }
        let taken = judge_taken(history, &self.taken);
        for broken in taken.into_iter().chain(judge_losses(&lost(work), work)) {
            outcome.violate(broken);
        }
    }
}

/// The leases that were lost, as the attempts say.
pub(crate) fn lost(work: &Work) -> Vec<Claim> {
    let tries = work.tries.iter();
    let lost = tries.filter(|one| one.outcome.as_deref() == Some("expired"));
    lost.map(|one| one.claim.clone()).collect()
}

/// How many operations of a history are of this kind and were answered so.
pub(crate) fn count(history: &History, which: impl Fn(&Call, &Reply) -> bool) -> u64 {
    let answered = history.operations.iter().filter(|operation| {
        let reply = operation.reply.as_ref();
        reply.is_some_and(|(_, reply)| which(&operation.call, reply))
    });
    answered.count() as u64
}

/// The leases that processes of this name were given before a moment.
pub(crate) fn given_to(history: &History, name: &str, before: Moment) -> Vec<Fence> {
    let begins = format!("{name} (");
    let of = history.operations.iter();
    let of = of.filter(|one| one.began < before && one.process.starts_with(&begins));
    let mut given = Vec::new();
    for operation in of {
        if let Some((_, Reply::Claimed(fences))) = &operation.reply {
            given.extend(fences);
        }
        given.extend(operation.call.fence());
    }
    given
}

/// Every item as the store gives it, with what was written under its leases: the
/// checkpoints of its task, by the digests of their states.
pub(crate) fn found(store: &SqliteStore) -> Fallible<BTreeMap<WorkItemId, FoundItem>> {
    let mut all = BTreeMap::new();
    for status in WorkItemStatus::ALL {
        for summary in store.work_items(*status, None, PAGE)?.items {
            let id = summary.id;
            let gone = || Failure::new(format!("item {id} is listed, and not there"));
            let item = store.work_item(id)?.ok_or_else(gone)?;
            let mut written = Vec::new();
            if let Some(task) = &item.summary.task {
                // The newest comes first.
                for summary in store.checkpoints(task, None, PAGE)?.into_iter().rev() {
                    if summary.checkpoint_type == CheckpointType::ErrorBoundary {
                        continue;
                    }
                    let checkpoint = store.checkpoint(task, summary.sequence)?;
                    let snapshot = checkpoint.and_then(|checkpoint| checkpoint.snapshot);
                    written.extend(snapshot.map(|snapshot| snapshot.digest().to_string()));
                }
            }
            all.insert(id, FoundItem::new(&item, &store.attempts(id)?, written));
        }
    }
    Ok(all)
}

/// Reads every line that a victim has printed since, and waits for the first at most
/// so long. Says whether it has ended, by itself or killed by us.
pub(crate) fn listen_to(
    victim: &mut Victim,
    mut wait: Duration,
    mut heed: impl FnMut(String) -> Fallible<()>,
) -> Fallible<bool> {
    loop {
        match victim.wait_for_line("a word", wait, |_| true) {
            Ok(line) => heed(line)?,
            Err(HarnessError::TimedOut { .. }) => return Ok(false),
            Err(HarnessError::Ended { exit, .. }) if exit.success() || exit.is_sigkill() => {
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        }
        wait = Duration::ZERO;
    }
}

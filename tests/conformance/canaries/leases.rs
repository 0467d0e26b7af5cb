//! Stores that are broken about work items and leases, one promise each. What
//! predecessors and other products got wrong is among them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use agentos_core::{
    Attempt, ClaimRequest, Commit, Cursor, Due, Fence, Lease, LeaseStorage, Lost, ManualClock,
    Outlook, Page, Part, PartOutcome, Receipt, RecoveredItem, Renewed, StaleLease, Storage,
    StorageError, SweepRequest, Swept, TaskId, WorkFilter, WorkItem, WorkItemId, WorkItemStatus,
    WorkItemSummary, WorkListener, Worker,
};
use agentos_tests::sqlite_with_clock;

use super::{Canary, Fault};

/// How a store is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseFault {
    /// Whoever writes may: no lease is looked at.
    NoFence,
    /// The lease of a commit is looked at, and those of its parts are not.
    PartsUnfenced,
    /// An item that comes back has its token and its attempts anew.
    TokenReset,
    /// A heartbeat is by the item: it renews whatever lease there is.
    RenewByItem,
    /// Giving back what is not held is called success.
    ReleaseUnheld,
    /// An attempt that was given back counts.
    ReleaseCounts,
    /// Expired leases are chosen first, and taken away by their key later,
    /// whether they were renewed or not.
    SweepTakesRenewed,
    /// A recovery is reported by the next sweep as well.
    SweepTwice,
    /// No audit line is written for a recovery.
    SweepWithoutAudit,
    /// No error boundary is written for a recovery.
    SweepWithoutBoundary,
    /// A claim waits for somebody else to take expired leases away.
    ClaimLeavesExpired,
    /// The wall clock decides whether a lease has run out.
    WallClock,
    /// Deadlines of another boot are read as if they were of this one.
    AnyBoot,
    /// A worker is its name: a later start gives up also what it holds itself.
    WorkerByName,
    /// The holder of an expired lease is refused though nobody took the item.
    ExpiredIsLost,
    /// Attempts are never used up.
    EndlessAttempts,
    /// A requeue forgets the history.
    RequeueForgets,
    /// An empty result is none.
    EmptyResultIsNone,
    /// A unique key is no key.
    KeyIgnored,
    /// Every item is as urgent as any other.
    PriorityIgnored,
    /// Delayed work is due at once.
    DelayIgnored,
    /// Nobody is told of work that arrives.
    Silent,
}

use LeaseFault::*;

/// What a broken store remembers beside its file.
#[derive(Default)]
pub(super) struct Memory {
    /// The deadline with which each lease began, in microseconds.
    deadlines: Mutex<BTreeMap<Fence, i64>>,
    /// What the last sweep recovered.
    recovered: Mutex<Vec<RecoveredItem>>,
}

/// Far beyond every deadline of a test, in microseconds.
const FAR: i64 = 1 << 50;

impl Canary {
    pub(super) fn with_clock(fault: Fault) -> (Canary, std::sync::Arc<ManualClock>) {
        let (store, clock) = sqlite_with_clock();
        let canary = Canary {
            store,
            fault,
            memory: Memory::default(),
        };
        (canary, clock)
    }

    fn is(&self, fault: LeaseFault) -> bool {
        self.fault == Fault::Leases(fault)
    }

    fn run(&self, sql: &str) {
        self.raw()
            .execute_batch(sql)
            .expect("a broken store breaks");
    }

    /// The newest claim of the item, whichever was presented.
    fn newest(&self, fence: Fence) -> Fence {
        let item = self.store.work_item(fence.item).expect("an item");
        let newest = item.and_then(|item| item.summary.newest_token);
        let token = newest.unwrap_or(fence.token);
        Fence { token, ..fence }
    }

    /// The commit as the broken store understands it.
    fn bent(&self, fault: LeaseFault, commit: &Commit) -> Commit {
        let begin = match commit.fence() {
            Some(fence) if fault != NoFence => Commit::under(fence),
            _ => Commit::new(),
        };
        let unfenced = [NoFence, PartsUnfenced].contains(&fault);
        commit
            .parts()
            .iter()
            .cloned()
            .fold(begin, |commit, mut part| {
                match &mut part {
                    Part::CompleteWork(work) if unfenced => work.fence = self.newest(work.fence),
                    Part::FailWork(work) if unfenced => work.fence = self.newest(work.fence),
                    Part::ReleaseWork(work) if unfenced => work.fence = self.newest(work.fence),
                    Part::CompleteWork(work) if fault == EmptyResultIsNone => {
                        work.result = work.result.take().filter(|result| !result.is_empty());
                    }
                    Part::EnqueueWork(item) if fault == KeyIgnored => item.unique_key = None,
                    Part::EnqueueWork(item) if fault == PriorityIgnored => item.priority = 0,
                    Part::EnqueueWork(item) if fault == DelayIgnored => item.due = Due::Now,
                    _ => {}
                }
                commit.part(part)
            })
    }

    pub(super) fn commit_leases(
        &self,
        fault: LeaseFault,
        commit: Commit,
    ) -> Result<Receipt, StorageError> {
        if let (ExpiredIsLost, Some(fence)) = (fault, commit.fence())
            && self.store.outlook(&WorkFilter::any())?.expires == Some(Duration::ZERO)
        {
            let stale = StaleLease {
                fence,
                status: Some(WorkItemStatus::InProgress),
                newest: Some(fence.token),
                holder: None,
            };
            return Err(stale.into());
        }
        let bent = self.bent(fault, &commit);
        let releases = |part: &Part| matches!(part, Part::ReleaseWork(_));
        match self.store.commit(bent) {
            Err(StorageError::StaleLease(_))
                if fault == ReleaseUnheld && commit.parts().iter().all(releases) =>
            {
                let outcomes = vec![PartOutcome::WorkReleased; commit.parts().len()];
                Ok(Receipt { outcomes })
            }
            Err(error) => Err(error),
            Ok(receipt) => {
                for part in commit.parts() {
                    match part {
                        Part::ReleaseWork(work) if fault == ReleaseCounts => self.run(&format!(
                            "UPDATE work_items SET attempts = attempts + 1
                             WHERE work_item_id = {}",
                            work.fence.item
                        )),
                        Part::RequeueWork(work) if fault == RequeueForgets => self.run(&format!(
                            "DELETE FROM work_attempts WHERE work_item_id = {}",
                            work.item
                        )),
                        _ => {}
                    }
                }
                self.after_an_end(fault);
                Ok(receipt)
            }
        }
    }

    /// What is broken about items that have come back.
    fn after_an_end(&self, fault: LeaseFault) {
        match fault {
            TokenReset => self.run(
                "DROP TRIGGER IF EXISTS work_items_token_grows;
                 DELETE FROM work_attempts WHERE work_item_id IN (
                     SELECT work_item_id FROM work_items WHERE status = 'pending');
                 UPDATE work_items SET lease_token = 0 WHERE status = 'pending';",
            ),
            EndlessAttempts => {
                self.run("UPDATE work_items SET attempts = 0 WHERE status = 'pending'");
            }
            _ => {}
        }
    }

    /// What is broken about telling which leases have run out.
    fn before_looking(&self) {
        let now = self.store.boot_now();
        if self.is(WallClock) {
            self.run(&format!(
                "UPDATE work_items SET lease_deadline_us = 0
                 WHERE status = 'in_progress' AND lease_expires_at <= '{}'",
                self.store.now()
            ));
        }
        if self.is(AnyBoot) {
            self.run(&format!(
                "UPDATE work_items SET lease_boot_id = '{}' WHERE status = 'in_progress'",
                now.boot.as_str()
            ));
        }
    }
}

impl LeaseStorage for Canary {
    fn claim(&self, request: &ClaimRequest) -> Result<Vec<Lease>, StorageError> {
        self.before_looking();
        if self.is(ClaimLeavesExpired) {
            let sql = "UPDATE work_items SET lease_deadline_us = lease_deadline_us";
            self.run(&format!("{sql} + {FAR} WHERE status = 'in_progress'"));
            let leases = self.store.claim(request);
            self.run(&format!("{sql} - {FAR} WHERE lease_deadline_us >= {FAR}"));
            return leases;
        }
        let leases = self.answer(self.store.claim(request))?;
        let mut deadlines = self.memory.deadlines.lock().unwrap();
        deadlines.extend(
            leases
                .iter()
                .map(|lease| (lease.fence, lease.deadline.micros)),
        );
        Ok(leases)
    }

    fn renew(
        &self,
        fences: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Result<Renewed, StaleLease>>, StorageError> {
        if self.is(RenewByItem) {
            let newest: Vec<_> = fences.iter().map(|fence| self.newest(*fence)).collect();
            return self.store.renew(&newest, lease);
        }
        self.answer(self.store.renew(fences, lease))
    }

    fn sweep(&self, request: &SweepRequest) -> Result<Swept, StorageError> {
        self.before_looking();
        if self.is(SweepTakesRenewed) {
            for (fence, deadline) in self.memory.deadlines.lock().unwrap().iter() {
                self.run(&format!(
                    "UPDATE work_items SET lease_deadline_us = {deadline}
                     WHERE work_item_id = {} AND lease_token = {} AND status = 'in_progress'",
                    fence.item, fence.token
                ));
            }
        }
        let mut request = request.clone();
        if let (true, Lost::EarlierStarts(worker)) = (self.is(WorkerByName), &mut request.lost) {
            *worker = Worker::start(worker.id.clone());
        }
        let mut swept = self.answer(self.store.sweep(&request))?;
        match self.fault {
            Fault::Leases(SweepWithoutAudit) => {
                self.run("DELETE FROM task_audits WHERE event = 'work_recovered'");
            }
            Fault::Leases(SweepWithoutBoundary) => {
                self.run("DELETE FROM checkpoints WHERE checkpoint_type = 'error_boundary'");
            }
            Fault::Leases(SweepTwice) => {
                let new = swept.recovered.clone();
                let mut before = self.memory.recovered.lock().unwrap();
                swept.recovered.append(&mut before);
                swept.found = u32::try_from(swept.recovered.len()).unwrap();
                *before = new;
            }
            Fault::Leases(fault) => self.after_an_end(fault),
            _ => {}
        }
        Ok(swept)
    }

    fn work_item(&self, id: WorkItemId) -> Result<Option<WorkItem>, StorageError> {
        self.answer(self.store.work_item(id))
    }

    fn work_items(
        &self,
        status: WorkItemStatus,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<WorkItemSummary>, StorageError> {
        self.answer(self.store.work_items(status, after, self.rows(rows)))
    }

    fn work_items_of(
        &self,
        task: &TaskId,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<WorkItemSummary>, StorageError> {
        self.answer(self.store.work_items_of(task, after, self.rows(rows)))
    }

    fn count_work_items(&self) -> Result<BTreeMap<WorkItemStatus, u64>, StorageError> {
        self.answer(self.store.count_work_items())
    }

    fn attempts(&self, item: WorkItemId) -> Result<Vec<Attempt>, StorageError> {
        self.answer(self.store.attempts(item))
    }

    fn outlook(&self, filter: &WorkFilter) -> Result<Outlook, StorageError> {
        self.before_looking();
        self.answer(self.store.outlook(filter))
    }

    fn listen(&self, listener: Weak<dyn WorkListener>) {
        if !self.is(Silent) {
            self.store.listen(listener);
        }
    }
}

/// A check of the suite: it panics when a promise is broken.
type Check = fn(&dyn Storage, &ManualClock);

/// The sound store passes each check, the broken one passes none.
#[track_caller]
fn is_caught(fault: LeaseFault, checks: &[Check]) {
    for check in checks {
        let (sound, clock) = Canary::with_clock(Fault::None);
        check(&sound, &clock);
        let (broken, clock) = Canary::with_clock(Fault::Leases(fault));
        let caught = catch_unwind(AssertUnwindSafe(|| check(&broken, &clock))).is_err();
        assert!(caught, "{fault:?} passed a check");
    }
}

/// A test for each way of being broken, and the checks of the suite that must see
/// it.
macro_rules! caught {
    ($($test:ident: $fault:ident by $($check:ident),+;)+) => {$(
        #[test]
        fn $test() {
            is_caught($fault, &[$(crate::leases::$check),+]);
        }
    )+};
}

caught! {
    a_store_without_a_fence_is_caught: NoFence by
        a_commit_under_a_lost_lease_writes_nothing,
        a_lost_lease_says_who_holds_it_and_since_when;
    parts_without_a_fence_are_caught: PartsUnfenced by
        a_commit_under_a_lost_lease_writes_nothing;
    a_store_that_begins_tokens_anew_is_caught: TokenReset by
        a_token_grows_with_every_claim_and_is_never_reset,
        a_commit_under_a_lost_lease_writes_nothing;
    a_heartbeat_by_the_item_alone_is_caught: RenewByItem by
        a_lost_lease_renews_nothing,
        a_commit_under_a_lost_lease_writes_nothing;
    a_release_of_what_is_not_held_that_succeeds_is_caught: ReleaseUnheld by
        giving_an_item_back_is_no_attempt,
        a_commit_under_a_lost_lease_writes_nothing;
    a_release_that_counts_is_caught: ReleaseCounts by
        giving_an_item_back_is_no_attempt;
    a_sweep_that_takes_renewed_leases_is_caught: SweepTakesRenewed by
        a_lease_that_was_renewed_is_never_taken_away,
        a_renewal_extends_the_lease_from_now_on;
    a_sweep_that_counts_twice_is_caught: SweepTwice by
        a_lost_lease_is_taken_away_with_all_that_belongs_to_it,
        sweeps_and_claims_at_once_recover_each_item_once;
    a_sweep_that_writes_no_audit_line_is_caught: SweepWithoutAudit by
        a_lost_lease_is_taken_away_with_all_that_belongs_to_it;
    a_sweep_that_writes_no_error_boundary_is_caught: SweepWithoutBoundary by
        a_lost_lease_is_taken_away_with_all_that_belongs_to_it;
    a_claim_that_waits_for_the_sweeper_is_caught: ClaimLeavesExpired by
        a_claim_takes_an_expired_lease_over_by_itself;
    leases_by_the_wall_clock_are_caught: WallClock by
        a_wall_clock_that_jumps_touches_no_lease;
    leases_that_outlive_a_reboot_are_caught: AnyBoot by
        a_reboot_ends_every_lease;
    a_worker_that_is_only_a_name_is_caught: WorkerByName by
        only_earlier_starts_of_the_worker_are_given_up;
    a_holder_that_is_refused_too_early_is_caught: ExpiredIsLost by
        a_lease_that_expired_and_was_not_taken_may_still_write;
    attempts_without_an_end_are_caught: EndlessAttempts by
        losses_requeue_at_once_then_with_a_pause_and_end,
        the_last_attempt_ends_in_the_dead_letter;
    a_requeue_that_forgets_is_caught: RequeueForgets by
        a_requeued_dead_letter_keeps_its_history;
    an_empty_result_that_is_lost_is_caught: EmptyResultIsNone by
        an_empty_result_is_a_result;
    a_key_that_is_not_unique_is_caught: KeyIgnored by
        a_unique_key_gives_the_first_item_back;
    a_store_that_knows_no_urgency_is_caught: PriorityIgnored by
        the_most_urgent_comes_first_and_then_the_oldest;
    a_store_that_delays_nothing_is_caught: DelayIgnored by
        delayed_work_is_due_by_the_wall_clock;
    a_store_that_tells_nobody_is_caught: Silent by
        a_listener_is_told_of_work_that_arrives;
}

//! Stores that are broken about idempotency keys, each in one way, and the checks of
//! the suite that must see it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use agentos_core::{
    BeginKey, Begun, Commit, Cursor, Execution, FencingToken, IdempotencyKey, KeyEntry, KeyFence,
    KeyFilter, KeyId, KeyStatus, KeyStorage, KeySummary, ManualClock, OnDamaged, OnLost,
    OnRecorded, Page, Part, PartOutcome, Permit, PermitHolder, Receipt, RecordedKey, RenewedPermit,
    StalePermit, Storage, StorageError, WorkerId,
};
use agentos_core::{Digest, FinishKey, NewOutcome, Worker};

use super::{Canary, Fault};

/// How a store is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyFault {
    /// Whether a key is there is asked first, and it is begun later.
    CheckThenAct,
    /// What is pending counts as absent.
    PendingIsAbsent,
    /// Whoever finishes is taken for who has the permit.
    NoFence,
    /// A renewal goes by the key: it renews whatever permit there is.
    RenewByKey,
    /// The token begins anew with each execution.
    TokenReset,
    /// A key that was removed gives its number to the next one.
    NumberAgain,
    /// What has expired is replayed.
    ExpiredReplays,
    /// The key alone says what is asked for.
    RequestIgnored,
    /// A failure is replayed as a success is.
    FailureReplayed,
    /// What is in doubt is executed again.
    DoubtIgnored,
    /// Only what was said to be in doubt is: nobody looks at deadlines.
    DeadlineIgnored,
    /// Deadlines of another boot are read as if they were of this one.
    AnyBoot,
    /// The wall clock decides whether a permit has run out.
    WallClock,
    /// The lease of the work item is no matter.
    LeaseIgnored,
    /// A permit that is held can be resolved.
    ResolveHeld,
    /// A resolution is of the key, and of no execution.
    ResolveByKey,
    /// A resolution leaves no line.
    ResolveInSilence,
    /// What is pending is removed as well.
    RemovePending,
    /// An empty outcome is none.
    EmptyIsNone,
    /// A use is not noted.
    UseForgotten,
    /// What is damaged is given as it is.
    DamageAsItIs,
    /// The hot look checks no seal.
    HotLookUnsealed,
    /// The hot look does not look when an outcome expires.
    HotLookForgetsExpiry,
}

use KeyFault::*;

impl Canary {
    fn has(&self, fault: KeyFault) -> bool {
        self.fault == Fault::Keys(fault)
    }

    fn run_sql(&self, sql: &str) {
        self.raw()
            .execute_batch(sql)
            .expect("a broken store breaks");
    }

    /// The newest execution of the key of this number, or of the newest key.
    fn newest_of(&self, fence: KeyFence) -> KeyFence {
        let row = self.raw().query_row(
            "SELECT key_id, token FROM idempotency_keys
             ORDER BY key_id = ?1 DESC, key_id DESC LIMIT 1",
            [fence.key.get()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        );
        let Ok((key, token)) = row else { return fence };
        KeyFence {
            key: KeyId::new(key).expect("a number"),
            token: FencingToken::new(token).expect("a token"),
        }
    }

    /// What a part that is broken is instead.
    fn bent_part(&self, fault: KeyFault, mut part: Part) -> Part {
        if fault == NoFence {
            match &mut part {
                Part::FinishKey(key) => key.fence = self.newest_of(key.fence),
                Part::AbandonKey(key) => key.fence = self.newest_of(key.fence),
                Part::DoubtKey(key) => key.fence = self.newest_of(key.fence),
                _ => {}
            }
        }
        match &mut part {
            Part::ResolveKey(key) if fault == ResolveByKey => {
                let found = self.store.find_key(&key.key).ok().flatten();
                if let Some(entry) = found {
                    key.fence.key = entry.summary.id;
                    key.fence.token = entry.summary.token;
                }
            }
            Part::ResolveKey(key) if fault == ResolveHeld => self.run_sql(&format!(
                "UPDATE idempotency_keys SET lease_deadline_us = 0 WHERE key_id = {}",
                key.fence.key
            )),
            Part::RemoveKeys(remove) if fault == RemovePending => {
                for fence in &remove.keys {
                    self.run_sql(&format!(
                        "DELETE FROM idempotency_keys
                         WHERE key_id = {} AND token = {} AND status = 'pending'",
                        fence.key, fence.token
                    ));
                }
            }
            Part::TouchKeys(touch) if fault == UseForgotten => touch.keys.clear(),
            _ => {}
        }
        part
    }

    pub(super) fn commit_keys(
        &self,
        fault: KeyFault,
        commit: &Commit,
    ) -> Result<Receipt, StorageError> {
        let begin = match commit.fence() {
            Some(fence) if fault != LeaseIgnored => Commit::under(fence),
            _ => Commit::new(),
        };
        let parts = commit.parts().iter().cloned();
        let bent = parts
            .map(|part| self.bent_part(fault, part))
            .fold(begin, Commit::part);
        let receipt = self.store.commit(bent)?;
        let removed = receipt.outcomes.iter().any(|outcome| {
            matches!(
                outcome,
                PartOutcome::KeysRemoved(1..) | PartOutcome::KeyAbandoned
            )
        });
        match fault {
            NumberAgain if removed => self.run_sql(
                "DROP TRIGGER IF EXISTS key_counter_grows;
                 UPDATE key_counter SET last_deleted = 0;",
            ),
            ResolveInSilence => {
                self.run_sql("DELETE FROM task_audits WHERE event = 'key_resolved'");
            }
            _ => {}
        }
        Ok(receipt)
    }

    /// What is broken about telling which permits have run out.
    fn before_looking_at_permits(&self) {
        let now = self.store.boot_now();
        match self.fault {
            Fault::Keys(DeadlineIgnored) => self.run_sql(&format!(
                "UPDATE idempotency_keys SET lease_deadline_us = {}, lease_boot_id = '{}'
                 WHERE status = 'pending' AND lease_boot_id <> ''",
                now.micros + 1_000_000,
                now.boot.as_str()
            )),
            Fault::Keys(AnyBoot) => self.run_sql(&format!(
                "UPDATE idempotency_keys SET lease_boot_id = '{}' WHERE status = 'pending'",
                now.boot.as_str()
            )),
            Fault::Keys(WallClock) => self.run_sql(&format!(
                "UPDATE idempotency_keys SET lease_deadline_us = 0
                 WHERE status = 'pending' AND lease_expires_at <= '{}'",
                self.store.now()
            )),
            _ => {}
        }
    }

    /// What is asked for instead.
    fn bent_begin(&self, begin: &BeginKey) -> Result<BeginKey, StorageError> {
        let mut begin = begin.clone();
        match self.fault {
            Fault::Keys(FailureReplayed) if begin.on_recorded == OnRecorded::RunFailedAgain => {
                begin.on_recorded = OnRecorded::Replay;
            }
            Fault::Keys(DoubtIgnored) => begin.on_lost = OnLost::TakeOver,
            Fault::Keys(LeaseIgnored) => begin.under = None,
            Fault::Keys(RequestIgnored) => {
                if let Some(entry) = self.store.find_key(&begin.key)? {
                    begin.request = entry.summary.view.request;
                }
            }
            Fault::Keys(PendingIsAbsent) => self.run_sql(
                "DELETE FROM idempotency_keys WHERE status = 'pending' AND lease_boot_id <> ''",
            ),
            _ => {}
        }
        Ok(begin)
    }

    /// The damaged entry, with whatever is in the file.
    fn as_it_is(&self, key: &IdempotencyKey) -> Option<KeyEntry> {
        let page = self.store.keys(&KeyFilter::default(), None, 1000).ok()?;
        let mut all = page.items.into_iter();
        let summary = all.find(|summary| summary.key == *key)?;
        let outcome = self.raw().query_row(
            "SELECT outcome FROM idempotency_keys WHERE key_id = ?1",
            [summary.id.get()],
            |row| row.get(0),
        );
        Some(KeyEntry {
            summary,
            kept_request: None,
            outcome: outcome.ok(),
        })
    }
}

/// The permit that who looked before thinks to have made.
fn taken(begin: &BeginKey, holder: &PermitHolder, now: agentos_core::BootTime) -> Permit {
    Permit {
        fence: holder.fence,
        key: begin.key.clone(),
        owner: begin.owner.clone(),
        under: begin.under,
        execution: Execution::First,
        deadline: now.plus(begin.lease),
        expires_at: holder.until,
    }
}

impl KeyStorage for Canary {
    fn begin_key(&self, begin: &BeginKey) -> Result<Begun, StorageError> {
        self.before_looking_at_permits();
        let asked = self.bent_begin(begin)?;
        if self.has(CheckThenAct) {
            let was_absent = self.store.find_key(&asked.key)?.is_none();
            std::thread::yield_now();
            return match self.store.begin_key(&asked)? {
                Begun::InFlight(holder) if was_absent => {
                    let permit = taken(&asked, &holder, self.store.boot_now());
                    Ok(Begun::Execute(permit))
                }
                begun => Ok(begun),
            };
        }
        if self.has(ExpiredReplays)
            && let Some(entry) = self.store.find_key(&asked.key)?
            && entry.summary.view.expired
        {
            return Ok(Begun::Replay(Box::new(entry)));
        }
        let mut begun = match self.store.begin_key(&asked) {
            Err(StorageError::Corrupt { .. }) if self.has(DamageAsItIs) => {
                let entry = self.as_it_is(&asked.key).expect("an entry");
                Begun::Replay(Box::new(entry))
            }
            answer => self.answer(answer)?,
        };
        match &mut begun {
            Begun::Execute(permit) if self.has(TokenReset) => {
                self.run_sql(
                    "DROP TRIGGER IF EXISTS idempotency_keys_token_grows;
                     DROP TRIGGER IF EXISTS idempotency_keys_token_of_execution;
                     UPDATE idempotency_keys SET token = 1",
                );
                permit.fence.token = FencingToken::new(1).expect("a token");
            }
            Begun::Replay(entry) if self.has(EmptyIsNone) => {
                entry.outcome = entry.outcome.take().filter(|bytes| !bytes.is_empty());
            }
            _ => {}
        }
        Ok(begun)
    }

    fn renew_keys(
        &self,
        fences: &[KeyFence],
        lease: Duration,
    ) -> Result<Vec<Result<RenewedPermit, StalePermit>>, StorageError> {
        if self.has(RenewByKey) {
            let newest: Vec<_> = fences.iter().map(|fence| self.newest_of(*fence)).collect();
            return self.store.renew_keys(&newest, lease);
        }
        self.answer(self.store.renew_keys(fences, lease))
    }

    fn find_key(&self, key: &IdempotencyKey) -> Result<Option<KeyEntry>, StorageError> {
        match self.store.find_key(key) {
            Err(StorageError::Corrupt { .. }) if self.has(DamageAsItIs) => Ok(self.as_it_is(key)),
            answer => self.answer(answer),
        }
    }

    fn find_recorded(&self, key: &IdempotencyKey) -> Result<Option<RecordedKey>, StorageError> {
        let found = match self.store.find_recorded(key) {
            Err(StorageError::Corrupt { .. })
                if self.has(DamageAsItIs) || self.has(HotLookUnsealed) =>
            {
                Ok(self.as_it_is(key).and_then(RecordedKey::of))
            }
            answer => self.answer(answer),
        };
        found.map(|found| {
            found.map(|mut found| {
                found.view.expired &= !self.has(HotLookForgetsExpiry);
                found
            })
        })
    }

    fn newest_key(&self) -> Result<Option<KeyId>, StorageError> {
        self.answer(self.store.newest_key())
    }

    fn keys(
        &self,
        filter: &KeyFilter,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, StorageError> {
        self.answer(self.store.keys(filter, after, self.rows(rows)))
    }

    fn keys_in_doubt(
        &self,
        after: Option<Cursor>,
        rows: u32,
    ) -> Result<Page<KeySummary>, StorageError> {
        self.before_looking_at_permits();
        self.answer(self.store.keys_in_doubt(after, self.rows(rows)))
    }
}

/// Goal: what is given is what was recorded, or the answer says that it is damaged,
/// or it is executed anew where that was asked for. Method: each column that the seal
/// covers is changed to another good value.
fn an_edited_outcome_is_never_given_back(canary: &Canary, _: &ManualClock) {
    let owner = Worker::start(WorkerId::new("one").unwrap());
    for (column, edit) in [
        ("idempotency_key", "'other'"),
        ("request_digest", "zeroblob(32)"),
        ("token", "99"),
        ("status", "'failed'"),
        ("task_id", "'other'"),
        ("operation", "NULL"),
        ("model", "'other'"),
        ("request", "x'01'"),
        ("detail", "'2'"),
        ("updated_at", "'2026-01-01 00:00:00.000000'"),
        ("expires_at", "'2099-01-01 00:00:00.000000'"),
        ("outcome", "x'00'"),
        ("seal", "zeroblob(32)"),
    ] {
        canary.run_sql("DELETE FROM idempotency_keys");
        let key = IdempotencyKey::new("k").unwrap();
        let begin = BeginKey {
            task: Some(agentos_tests::task_id("a")),
            operation: Some("search".into()),
            model: Some("m-1".into()),
            kept_request: Some(vec![0]),
            detail: 1.into(),
            ..BeginKey::new(key, Digest::of(b"request"), owner.clone())
        };
        let Begun::Execute(permit) = canary.begin_key(&begin).unwrap() else {
            panic!("no permit")
        };
        let finish = FinishKey {
            fence: permit.fence,
            outcome: NewOutcome::success("x").ttl(Some(Duration::from_secs(60))),
        };
        canary.commit(finish.into()).unwrap();
        // A status is not edited to another one by a transition that there is.
        canary.run_sql(&format!(
            "DROP TRIGGER IF EXISTS idempotency_keys_transition;
             UPDATE idempotency_keys SET {column} = {edit}"
        ));
        let name = if column == "idempotency_key" {
            "other"
        } else {
            "k"
        };
        let again = BeginKey {
            key: IdempotencyKey::new(name).unwrap(),
            ..begin
        };
        let found = canary.find_key(&again.key);
        assert!(
            matches!(found, Err(StorageError::Corrupt { .. })),
            "{column}: {found:?}"
        );
        let recorded = canary.find_recorded(&again.key);
        assert!(
            matches!(recorded, Err(StorageError::Corrupt { .. })),
            "{column}: {recorded:?}"
        );
        let begun = canary.begin_key(&again);
        assert!(
            matches!(begun, Err(StorageError::Corrupt { .. })),
            "{column}: {begun:?}"
        );
        let losing = BeginKey {
            on_damaged: OnDamaged::RunAgain,
            ..again
        };
        let Begun::Execute(anew) = canary.begin_key(&losing).unwrap() else {
            panic!("{column}: it is not executed anew")
        };
        assert_eq!(anew.execution, Execution::AfterDamage, "{column}");
        assert_ne!(anew.fence, permit.fence, "{column}");
        let found = canary.find_key(&losing.key).unwrap().expect("the key");
        assert_eq!(found.summary.view.status, KeyStatus::Pending);
    }
}

/// A check: it panics when a promise is broken.
type Check = fn(&Canary, &ManualClock);

/// The sound store passes each check, the broken one passes none.
#[track_caller]
fn is_caught(fault: Fault, checks: &[Check]) {
    for check in checks {
        let (sound, clock) = Canary::with_clock(Fault::None);
        check(&sound, &clock);
        let (broken, clock) = Canary::with_clock(fault);
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
            is_caught(
                Fault::Keys($fault),
                &[$(|canary, clock| crate::keys::$check(canary, clock)),+],
            );
        }
    )+};
}

caught! {
    a_begin_that_is_not_atomic_is_caught: CheckThenAct by
        of_callers_at_once_one_executes;
    a_store_that_takes_pending_for_absent_is_caught: PendingIsAbsent by
        who_comes_second_is_told_that_it_is_in_flight,
        of_callers_at_once_one_executes;
    a_finish_without_a_fence_is_caught: NoFence by
        a_late_finisher_changes_nothing,
        a_permit_that_never_was_is_none;
    a_renewal_by_the_key_alone_is_caught: RenewByKey by
        a_late_finisher_changes_nothing;
    a_store_that_begins_tokens_anew_is_caught: TokenReset by
        tokens_grow_and_numbers_are_given_once,
        a_late_finisher_changes_nothing;
    a_store_that_gives_numbers_again_is_caught: NumberAgain by
        tokens_grow_and_numbers_are_given_once,
        a_late_finisher_changes_nothing;
    an_expired_outcome_that_replays_is_caught: ExpiredReplays by
        an_expired_outcome_counts_as_absent_at_once,
        expiry_goes_by_the_wall_clock;
    a_hot_look_that_forgets_expiry_is_caught: HotLookForgetsExpiry by
        an_expired_outcome_counts_as_absent_at_once,
        expiry_goes_by_the_wall_clock;
    a_store_that_looks_at_the_key_alone_is_caught: RequestIgnored by
        another_request_of_the_same_key_is_a_conflict;
    failures_that_are_replayed_unasked_are_caught: FailureReplayed by
        a_recorded_outcome_is_made_again_only_when_asked_for;
    a_store_that_knows_no_doubt_is_caught: DoubtIgnored by
        a_permit_ends_at_its_deadline,
        who_does_not_know_leaves_it_in_doubt_at_once,
        the_end_of_the_lease_is_the_end_of_the_permit;
    permits_without_an_end_are_caught: DeadlineIgnored by
        a_permit_ends_at_its_deadline;
    permits_that_outlive_a_reboot_are_caught: AnyBoot by
        a_reboot_ends_every_permit;
    permits_by_the_wall_clock_are_caught: WallClock by
        a_wall_clock_that_jumps_touches_no_permit;
    permits_that_outlive_the_lease_are_caught: LeaseIgnored by
        the_end_of_the_lease_is_the_end_of_the_permit,
        under_a_lost_lease_nothing_begins;
    a_resolution_of_what_is_executed_is_caught: ResolveHeld by
        only_the_execution_in_doubt_is_resolved;
    a_resolution_of_any_execution_is_caught: ResolveByKey by
        only_the_execution_in_doubt_is_resolved;
    a_resolution_without_a_line_is_caught: ResolveInSilence by
        what_is_found_out_ends_the_doubt;
    a_removal_of_what_is_pending_is_caught: RemovePending by
        only_recorded_outcomes_are_removed;
    an_empty_outcome_that_is_lost_is_caught: EmptyIsNone by
        an_empty_outcome_is_an_outcome;
    a_use_that_is_forgotten_is_caught: UseForgotten by
        a_use_is_noted;
}

#[test]
fn damage_that_is_given_as_it_is_is_caught() {
    let check = an_edited_outcome_is_never_given_back;
    is_caught(Fault::Keys(DamageAsItIs), &[check]);
    is_caught(Fault::Keys(HotLookUnsealed), &[check]);
}

#[test]
fn outcomes_in_commits_of_their_own_are_caught() {
    is_caught(
        Fault::PartByPart,
        &[|canary, clock| {
            crate::keys::outcomes_checkpoint_and_completion_are_one_commit(canary, clock);
        }],
    );
}

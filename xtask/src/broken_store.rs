//! A store that is broken on purpose: the product as it would be if one of its
//! promises about leases or keys were missing.
//!
//! Everything goes to the sound store; a canary changes what it is asked, what it
//! answers, or, with SQL of its own, what it left in the file. The checks read the
//! file through the sound store and know nothing of this.

mod by_key;
mod keys;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use agentos_core::records::audit::WORK_RECOVERED;
use agentos_core::{
    Attempt, AuditLine, BootTime, ClaimRequest, Commit, Cursor, Fence, Lease, LeaseStorage, Limits,
    Outlook, Page, Part, Receipt, Renewed, Stale, StaleLease, Storage, StorageError, SweepRequest,
    Swept, TaskId, Timestamp, WorkFilter, WorkItem, WorkItemId, WorkItemStatus, WorkItemSummary,
    WorkListener, WorkerId, crash_point,
};
use agentos_store::sqlite::{Config, SqliteStore};
use rusqlite::Connection;
use serde_json::json;

use crate::canary::Canary;
use crate::port::{as_it_is, passes_on};

/// For the SQL of a canary: others may be writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than it says a lease lasts under [`Canary::ExpireLate`].
const LATE: Duration = Duration::from_millis(500);

/// Opens a store, broken as `canary` says; the sound one when there is none.
pub(crate) fn open(
    config: Config,
    canary: Option<Canary>,
) -> Result<Arc<dyn Storage>, StorageError> {
    Ok(over(Arc::new(SqliteStore::open(config)?), canary))
}

/// A store that is open, broken as `canary` says; as it is when there is none.
pub(crate) fn over(store: Arc<SqliteStore>, canary: Option<Canary>) -> Arc<dyn Storage> {
    match canary {
        None => store,
        Some(canary) => Arc::new(BrokenStore {
            db: store.path().to_owned(),
            store,
            canary,
            holders: Mutex::default(),
            unwritten: Mutex::default(),
        }),
    }
}

struct BrokenStore {
    store: Arc<SqliteStore>,
    db: PathBuf,
    canary: Canary,
    /// Who was given what by this process.
    holders: Mutex<HashMap<Fence, WorkerId>>,
    /// What was begun under keys and not written.
    unwritten: Mutex<keys::Unwritten>,
}

impl BrokenStore {
    fn is(&self, canary: Canary) -> bool {
        self.canary == canary
    }

    fn holders(&self) -> MutexGuard<'_, HashMap<Fence, WorkerId>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the file beside the store.
    fn tamper(&self, sql: &str) -> Result<(), StorageError> {
        self.told(tamper(&self.db, sql))
    }

    fn told<T>(&self, result: rusqlite::Result<T>) -> Result<T, StorageError> {
        result.map_err(|error| StorageError::Internal {
            context: "breaking the file".into(),
            cause: error.into(),
        })
    }

    /// What is done before leases that have run out are looked for.
    fn before_sweep(&self) -> Result<(), StorageError> {
        let now = self.store.boot_now().micros;
        match self.canary {
            Canary::SweepEarly => self
                .tamper("UPDATE work_items SET lease_deadline_us = 0 WHERE status = 'in_progress'"),
            Canary::LossNotCounted => self.tamper(&format!(
                "UPDATE work_items SET attempts = max(attempts - 1, 0)
                 WHERE status = 'in_progress' AND lease_deadline_us <= {now}"
            )),
            Canary::LossCountedTwice => self.tamper(&format!(
                "UPDATE work_items SET attempts = min(attempts + 1, max_attempts)
                 WHERE status = 'in_progress' AND lease_deadline_us <= {now}"
            )),
            _ => Ok(()),
        }
    }

    /// What is done after they were taken away.
    fn after_sweep(&self) -> Result<(), StorageError> {
        match self.canary {
            Canary::SweepUnrecorded => self.tamper(
                "UPDATE work_attempts SET ended_at = NULL, outcome = NULL, error = NULL
                 WHERE outcome = 'expired';
                 DELETE FROM task_audits WHERE event = 'work_recovered';
                 DELETE FROM checkpoints WHERE checkpoint_type = 'error_boundary';",
            ),
            Canary::TokenReset => self.told(reset_tokens(&self.db)),
            _ => Ok(()),
        }
    }

    fn postpone(&self, item: WorkItemId) -> Result<(), StorageError> {
        let late = LATE.as_micros();
        self.tamper(&format!(
            "UPDATE work_items SET lease_deadline_us = lease_deadline_us + {late}
             WHERE work_item_id = {item}"
        ))
    }

    /// The fence that is looked at in the place of the one that is presented.
    fn weakened(&self, fence: Fence) -> Result<Fence, StorageError> {
        let Some(item) = self.store.work_item(fence.item)? else {
            return Ok(fence);
        };
        let holder = item.summary.holder.map(|holder| holder.worker.id);
        let passes = match self.canary {
            Canary::FenceByName => {
                holder.is_some() && holder == self.holders().get(&fence).cloned()
            }
            _ => true,
        };
        Ok(match item.summary.newest_token {
            Some(token) if passes => Fence { token, ..fence },
            _ => fence,
        })
    }

    /// A commit whose fences are weakened, in its parts too.
    fn weakened_commit(&self, commit: &Commit) -> Result<Commit, StorageError> {
        let fence = match commit.fence() {
            Some(_) if !self.is(Canary::FenceByName) => None,
            Some(fence) => Some(self.weakened(fence)?),
            None => None,
        };
        let begun = fence.map_or_else(Commit::new, Commit::under);
        commit.parts().iter().cloned().try_fold(begun, |all, part| {
            let mut part = part;
            let own = match &mut part {
                Part::CompleteWork(work) => Some(&mut work.fence),
                Part::FailWork(work) => Some(&mut work.fence),
                Part::ReleaseWork(work) => Some(&mut work.fence),
                _ => None,
            };
            if let Some(own) = own {
                *own = self.weakened(*own)?;
            }
            Ok(all.part(part))
        })
    }

    /// An error as this store tells it.
    fn untyped(&self, error: StorageError) -> StorageError {
        if self.is(Canary::UntypedErrors) {
            return StorageError::Internal {
                context: "working".into(),
                cause: error.into(),
            };
        }
        error
    }

    /// [`Canary::WriteThenUndo`]: the item is another one until the fence was looked at.
    fn commit_and_undo(&self, commit: Commit) -> Result<Receipt, StorageError> {
        let Some(Fence { item, .. }) = commit.fence() else {
            return self.store.commit(commit);
        };
        let change = |by: &str| {
            self.tamper(&format!(
                "UPDATE work_items SET priority = priority {by} WHERE work_item_id = {item}"
            ))
        };
        change("+ 1")?;
        let answer = self.store.commit(commit);
        crash_point!("canary.not_undone");
        change("- 1")?;
        answer
    }

    /// What a sweep took away is taken out of the record, and recorded in a commit of its
    /// own.
    fn record_again(&self, swept: &Swept) -> Result<(), StorageError> {
        for lost in &swept.recovered {
            let (Some(task), Some(holder)) = (&lost.task, &lost.holder) else {
                continue;
            };
            let Fence { item, token } = lost.fence;
            self.tamper(&format!(
                "DELETE FROM task_audits WHERE event = '{WORK_RECOVERED}'
                 AND detail ->> 'work_item' = {item} AND detail ->> 'token' = {token}"
            ))?;
            let line = AuditLine::new(task.clone(), WORK_RECOVERED).detail(json!({
                "work_item": item.get(),
                "token": token.get(),
                "worker": holder.worker.id.as_str(),
                "incarnation": holder.worker.incarnation.as_str(),
            }));
            self.store.commit(line.into())?;
        }
        Ok(())
    }

    /// A refusal as this store words it.
    fn refuse(&self, stale: StaleLease) -> StaleLease {
        if self.is(Canary::MuteRefusal) {
            return StaleLease {
                status: None,
                newest: None,
                holder: None,
                ..stale
            };
        }
        stale
    }
}

fn connect(db: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(db)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn tamper(db: &Path, sql: &str) -> rusqlite::Result<()> {
    connect(db)?.execute_batch(&format!("BEGIN IMMEDIATE; {sql}; COMMIT;"))
}

/// Past the trigger that forbids it, which is there again afterwards.
fn reset_tokens(db: &Path) -> rusqlite::Result<()> {
    let trigger: String = connect(db)?.query_row(
        "SELECT sql FROM sqlite_master WHERE name = 'work_items_token_grows'",
        [],
        |row| row.get(0),
    )?;
    tamper(
        db,
        &format!(
            "DROP TRIGGER work_items_token_grows;
             DELETE FROM work_attempts WHERE work_item_id IN (
                 SELECT work_item_id FROM work_items WHERE status = 'pending');
             UPDATE work_items SET lease_token = 0 WHERE status = 'pending';
             {trigger}"
        ),
    )
}

impl Storage for BrokenStore {
    fn commit(&self, commit: Commit) -> Result<Receipt, StorageError> {
        let commit = match self.canary {
            Canary::NoFence | Canary::FenceByName => self.weakened_commit(&commit)?,
            Canary::WriteThenUndo => return self.commit_and_undo(commit),
            Canary::BeginUnwritten => self.written_after(commit)?,
            _ => commit,
        };
        let late = self.is(Canary::WriteThenRefuse).then(|| commit.clone());
        match self.store.commit(commit) {
            Err(StorageError::StaleLease(Stale::Work(stale))) => {
                if let Some(late) = late {
                    // What cannot be done even so is not what this is about.
                    let _ = self.store.commit(self.weakened_commit(&late)?);
                }
                Err(self.refuse(*stale).into())
            }
            answer => answer.map_err(|error| self.untyped(error)),
        }
    }

    as_it_is! {
        fn limits(&self) -> &Limits;
        fn now(&self) -> Timestamp;
        fn boot_now(&self) -> BootTime;
        fn own_files(&self) -> Vec<PathBuf>;
    }
}

impl LeaseStorage for BrokenStore {
    fn claim(&self, request: &ClaimRequest) -> Result<Vec<Lease>, StorageError> {
        if self.is(Canary::TokenReset) {
            // Its sweep is not the claim's own.
            self.sweep(&SweepRequest {
                after_loss: request.after_loss,
                ..SweepRequest::default()
            })?;
        }
        self.before_sweep()?;
        let leases = self
            .store
            .claim(request)
            .map_err(|error| self.untyped(error))?;
        if !self.is(Canary::TokenReset) {
            self.after_sweep()?;
        }
        for lease in &leases {
            let item = lease.fence.item;
            match self.canary {
                Canary::ExpireLate => self.postpone(item)?,
                Canary::ForgetHistory => self.tamper(&format!(
                    "DELETE FROM work_attempts WHERE work_item_id = {item} AND number < {}",
                    lease.fence.token
                ))?,
                _ => {}
            }
            self.holders()
                .insert(lease.fence, request.worker.id.clone());
        }
        Ok(leases)
    }

    fn renew(
        &self,
        fences: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Result<Renewed, StaleLease>>, StorageError> {
        let weak = match self.canary {
            Canary::NoFence | Canary::RenewById | Canary::FenceByName => fences
                .iter()
                .map(|fence| self.weakened(*fence))
                .collect::<Result<_, _>>()?,
            _ => fences.to_vec(),
        };
        if self.is(Canary::RenewLate) {
            thread::park_timeout(lease);
        }
        let answers = self
            .store
            .renew(&weak, lease)
            .map_err(|error| self.untyped(error))?;
        if self.is(Canary::ExpireLate) {
            for renewed in answers.iter().flatten() {
                self.postpone(renewed.fence.item)?;
            }
        }
        let answered = |(fence, answer): (&Fence, Result<Renewed, StaleLease>)| match answer {
            Ok(renewed) => Ok(Renewed {
                fence: *fence,
                ..renewed
            }),
            Err(stale) => Err(self.refuse(stale)),
        };
        Ok(fences.iter().zip(answers).map(answered).collect())
    }

    fn sweep(&self, request: &SweepRequest) -> Result<Swept, StorageError> {
        if self.is(Canary::SweepByKey) {
            return by_key::sweep(&self.store, &self.db, request);
        }
        self.before_sweep()?;
        let mut swept = self.store.sweep(request)?;
        self.after_sweep()?;
        if self.is(Canary::SweepApart) {
            self.record_again(&swept)?;
        }
        if self.is(Canary::SweepOnce) {
            swept.more = false;
        }
        if self.is(Canary::SweepCountsTwice) {
            swept.found *= 2;
            swept.recovered.extend_from_within(..);
        }
        Ok(swept)
    }

    fn outlook(&self, filter: &WorkFilter) -> Result<Outlook, StorageError> {
        let mut outlook = self.store.outlook(filter)?;
        if self.is(Canary::SweepEarly) {
            outlook.expires = outlook.expires.map(|_| Duration::ZERO);
        }
        Ok(outlook)
    }

    as_it_is! {
        fn work_item(&self, id: WorkItemId) -> Result<Option<WorkItem>, StorageError>;
        fn work_items(&self, status: WorkItemStatus, after: Option<Cursor>, rows: u32)
            -> Result<Page<WorkItemSummary>, StorageError>;
        fn work_items_of(&self, task: &TaskId, after: Option<Cursor>, rows: u32)
            -> Result<Page<WorkItemSummary>, StorageError>;
        fn count_work_items(&self) -> Result<BTreeMap<WorkItemStatus, u64>, StorageError>;
        fn attempts(&self, item: WorkItemId) -> Result<Vec<Attempt>, StorageError>;
        fn listen(&self, listener: Weak<dyn WorkListener>);
    }
}

passes_on!(BrokenStore);

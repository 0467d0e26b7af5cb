//! Group commit: the only way into the read-write connection.
//!
//! Commits that wait together share one `BEGIN IMMEDIATE` transaction and one
//! sync. A caller gets its answer only after COMMIT has returned: an
//! acknowledged write is as durable as configured.
//!
//! A commit that fails leaves its neighbours untouched: the group is undone and
//! run again, each commit in a savepoint of its own. When the whole transaction
//! is gone even so (a full disk, `RAISE(ROLLBACK)`), the commits are run again
//! one by one. When COMMIT itself fails on I/O nobody can know: every member is
//! told so, and all connections are opened anew.
//!
//! Claims, renewals and sweeps are members of a group as commits are: none of them
//! sees or commits another's half-finished work, since a member is applied from
//! its first statement to its last before the next one begins.
//!
//! When the disk is full the ballast is given up. Until its room is back only
//! what frees space is written, and what keeps leases true. Chores of the upkeep
//! come after the commits that wait with them, each in transactions of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agentos_core::{Clock, Deadline, Fence, StorageError, crash_point};
use rusqlite::Connection;

use super::ballast::Ballast;
use super::chores::{self, Chore};
use super::claims::{self, Moment};
use super::config::Config;
use super::connection::{check_writer, open_untouched, set_up_writer};
use super::error::{SqliteError, is_fatal, of_commit, of_sqlite, spoils_connection};
use super::jobs::{Done, Job};
use super::listeners::Listeners;
use super::log_bound::LogBound;
use super::migrate::{self, MIGRATIONS};
use super::queue::Writer;
use super::readers::Readers;
use super::write_lock::{Held, WriteLock};
use super::{parts, permits, sweep};

type Answer = Result<Done, StorageError>;

/// The read-write connection of one store.
pub(crate) struct SqliteWriter {
    path: PathBuf,
    config: Config,
    lock: WriteLock,
    readers: Arc<Readers>,
    counters: Arc<Counters>,
    listeners: Arc<Listeners>,
    ballast: Ballast,
    log: LogBound,
    /// `None` after an I/O error, until the next turn opens it anew.
    connection: Option<Connection>,
}

/// What the writer has done since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) largest_group: AtomicU64,
    pub(crate) run_alone_again: AtomicU64,
    pub(crate) recovered: AtomicU64,
    pub(crate) reopened: AtomicU64,
    pub(crate) ballast_given_up: AtomicU64,
}

/// What a writer has in common with its store.
pub(crate) struct Shared {
    pub(crate) readers: Arc<Readers>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) listeners: Arc<Listeners>,
}

/// How the commits of a group are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Apart {
    /// Not at all: the first that fails takes all of them down.
    Together,
    /// Each in a savepoint of its own, and each item of a sweep too: one that fails
    /// is undone alone.
    Savepoints,
}

/// The whole transaction of a group was undone: none of it was committed.
struct Undone;

impl SqliteWriter {
    pub(crate) fn new(
        config: Config,
        path: PathBuf,
        lock: WriteLock,
        shared: Shared,
        connection: Connection,
    ) -> SqliteWriter {
        SqliteWriter {
            ballast: Ballast::new(&path, config.ballast_bytes),
            log: LogBound::new(&path, config.log_bytes),
            path,
            config,
            lock,
            readers: shared.readers,
            counters: shared.counters,
            listeners: shared.listeners,
            connection: Some(connection),
        }
    }

    /// Closes the connection, under the write lock where that comes in time.
    pub(crate) fn close(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        // Without the lock SQLite's own locks still keep the file sound: only
        // fairness would suffer.
        let turn = self
            .lock
            .acquire(&Deadline::after(self.config.busy_timeout));
        crash_point!("close.before_log_moved");
        if let Err((_, error)) = connection.close() {
            tracing::warn!(%error, "the writing connection could not be closed");
        }
        crash_point!("close.log_moved");
        drop(turn);
    }

    /// Whether the connection still has every setting; `None` after an error,
    /// until the next turn opens it anew.
    pub(crate) fn check_settings(&self) -> Option<Result<(), StorageError>> {
        let connection = self.connection.as_ref()?;
        let (durability, log_bytes) = (self.config.durability, self.config.log_bytes);
        Some(check_writer(connection, durability, log_bytes))
    }

    fn give_up_for(&self, error: &StorageError) -> bool {
        let given_up = self.ballast.give_up_for(error);
        if given_up {
            self.counters
                .ballast_given_up
                .fetch_add(1, Ordering::Relaxed);
        }
        given_up
    }

    fn reopen(&mut self) -> Result<(), StorageError> {
        if self.connection.is_some() {
            return Ok(());
        }
        let connection = open_untouched(&self.path, self.config.busy_timeout)?;
        migrate::check(&connection, MIGRATIONS)?;
        set_up_writer(&connection, self.config.durability, self.config.log_bytes)?;
        self.counters.reopened.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(path = %self.path.display(), "connections opened anew");
        self.connection = Some(connection);
        Ok(())
    }

    fn run_group(
        &mut self,
        commits: &[&Job],
        apart: Apart,
        deadline: &Deadline,
    ) -> Result<Vec<Answer>, Undone> {
        let Some(connection) = &self.connection else {
            return Ok(commits.iter().map(|_| Err(lost_connection())).collect());
        };
        if let Err(error) = begin(connection, deadline) {
            let unusable = is_unusable(&error);
            let answers = commits
                .iter()
                .map(|_| Err(of_begin(error.clone(), deadline)))
                .collect();
            self.put_away_if(unusable);
            return Ok(answers);
        }
        let mut answers = Vec::with_capacity(commits.len());
        let mut unusable = false;
        for commit in commits {
            let clock = self.config.clock.as_ref();
            let (answer, undo) = match apart {
                Apart::Together => match apply(connection, commit, clock, apart) {
                    // One item of many failed: all others are recovered once it is
                    // apart from them.
                    Err(error) if commit.recovers() && !is_fatal(connection, &error) => {
                        unusable |= !undone(connection);
                        self.put_away_if(unusable);
                        return Err(Undone);
                    }
                    answer => {
                        let undo = answer.is_err();
                        (answer, undo)
                    }
                },
                Apart::Savepoints => match apply_in_savepoint(connection, commit, clock) {
                    Ok(answer) => (answer, false),
                    // What stands in the transaction is unknown.
                    Err(error) => (Err(of_sqlite(error, "using a savepoint")), true),
                },
            };
            unusable |= answer.as_ref().is_err_and(spoils_connection);
            answers.push(answer);
            if undo || connection.is_autocommit() {
                unusable |= !undone(connection);
                self.put_away_if(unusable);
                return if commits.len() == 1 {
                    Ok(answers)
                } else {
                    Err(Undone)
                };
            }
        }
        if answers.iter().all(Result::is_err) {
            unusable |= !undone(connection);
            self.put_away_if(unusable);
            return Ok(answers);
        }
        crash_point!("store.before_commit");
        let committed = run(connection, "COMMIT");
        if let Err(error) = committed {
            let mut unknown = !undone(connection);
            for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                let error = of_commit(error.clone());
                unknown |= matches!(error, StorageError::CommitUnknown(_));
                *answer = Err(error);
            }
            self.put_away_if(unknown || unusable);
            return Ok(answers);
        }
        crash_point!("store.after_commit");
        self.put_away_if(unusable);
        Ok(answers)
    }

    /// Runs what may be written now: first the commits as one group, then each
    /// chore.
    fn run_jobs(&mut self, jobs: &[&Job], deadline: &Deadline) -> Vec<Answer> {
        let log = match &self.connection {
            Some(connection) => self.log.keep(connection, deadline),
            None => Ok(()),
        };
        let has_room = self.ballast.keep();
        if let (false, Some(connection)) = (has_room, &self.connection) {
            self.log.spare(connection, self.ballast.bytes());
        }
        let refusal = |job: &Job| match &log {
            Err(_) if matches!(job, Job::Chore(Chore::CutLog)) => None,
            Err(StorageError::LogFull { bytes, bound }) => {
                let (bytes, bound) = (*bytes, *bound);
                Some(StorageError::LogFull { bytes, bound })
            }
            // It may grow the log beyond its bound: on a full disk
            // nothing else helps.
            Err(_) if job.may_use_reserve() => None,
            Err(error) => Some(match error {
                StorageError::DiskFull(cause) => StorageError::DiskFull(cause.to_string().into()),
                error => StorageError::Io(error.to_string().into()),
            }),
            Ok(()) if !has_room && !job.may_use_reserve() => Some(StorageError::DiskFull(
                "the room that is kept for recovery is given up, and has not come back".into(),
            )),
            Ok(()) => None,
        };
        let mut answers: Vec<Option<Answer>> =
            jobs.iter().map(|job| refusal(job).map(Err)).collect();
        let mut places: Vec<usize> = (0..jobs.len())
            .filter(|&place| !matches!(jobs[place], Job::Chore(_)) && answers[place].is_none())
            .collect();
        // A lease whose renewal was asked for in time is not lost to a claim or a sweep
        // that happens to share its group.
        places.sort_by_key(|&place| !jobs[place].is_urgent());
        let commits: Vec<&Job> = places.iter().map(|&place| jobs[place]).collect();
        for (place, answer) in places.into_iter().zip(self.run_commits(&commits, deadline)) {
            answers[place] = Some(answer);
        }
        for (place, job) in jobs.iter().enumerate() {
            if let (Job::Chore(chore), None) = (job, &answers[place]) {
                answers[place] = Some(self.run_chore(*chore, deadline));
            }
        }
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(Self::panicked))
            .collect()
    }

    fn run_commits(&mut self, commits: &[&Job], deadline: &Deadline) -> Vec<Answer> {
        if commits.is_empty() {
            return Vec::new();
        }
        let mut transactions = 1;
        // Commits seldom fail, and savepoints cost: first all of them without,
        // then each in one, at last each in a transaction.
        let answers = self
            .run_group(commits, Apart::Together, deadline)
            .or_else(|Undone| {
                self.reopen().map_err(|_| Undone)?;
                self.run_group(commits, Apart::Savepoints, deadline)
            })
            .unwrap_or_else(|Undone| {
                transactions = commits.len();
                self.run_each_alone(commits, deadline)
            });
        self.count(&answers, transactions);
        answers
    }

    fn run_chore(&mut self, chore: Chore, deadline: &Deadline) -> Answer {
        self.reopen()?;
        let Some(connection) = &self.connection else {
            return Err(lost_connection());
        };
        let now = self.config.clock.wall();
        let answer = connection
            .busy_timeout(deadline.remaining())
            .map_err(|error| of_sqlite(SqliteError::from(&error), "waiting"))
            .and_then(|()| chores::run(connection, chore, now));
        let unusable = !undone(connection) || answer.as_ref().is_err_and(spoils_connection);
        self.put_away_if(unusable);
        answer.map(Done::Chore)
    }

    fn run_each_alone(&mut self, commits: &[&Job], deadline: &Deadline) -> Vec<Answer> {
        self.counters
            .run_alone_again
            .fetch_add(commits.len() as u64, Ordering::Relaxed);
        let alone = |&commit: &&Job| {
            self.reopen()?;
            let apart = if commit.recovers() {
                Apart::Savepoints
            } else {
                Apart::Together
            };
            match self.run_group(slice::from_ref(&commit), apart, deadline) {
                Ok(mut answers) => answers.pop().unwrap_or_else(Self::panicked),
                Err(Undone) => Err(lost_connection()),
            }
        };
        commits.iter().map(alone).collect()
    }

    /// After an I/O error what the connections have cached cannot be trusted.
    fn put_away_if(&mut self, unusable: bool) {
        if unusable {
            self.readers.discard();
            self.connection = None;
        }
    }

    fn count(&self, answers: &[Answer], transactions: usize) {
        let add = |counter: &AtomicU64, count: usize| {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        };
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        add(&self.counters.commits, answers.len() - failed);
        add(&self.counters.failed, failed);
        add(&self.counters.groups, transactions);
        let recovered = answers.iter().flatten().map(Done::recovered).sum();
        add(&self.counters.recovered, recovered);
        self.counters
            .largest_group
            .fetch_max(answers.len() as u64, Ordering::Relaxed);
    }
}

impl Writer for SqliteWriter {
    type Job = Job;
    type Answer = Answer;
    type Turn = Held;

    fn take_turn(&mut self, deadline: &Deadline) -> Result<Held, Answer> {
        let turn = self.lock.acquire(deadline).map_err(Err)?;
        self.reopen()
            .or_else(|error| {
                // A full disk must not keep anybody from recovering.
                if self.give_up_for(&error) {
                    self.reopen()
                } else {
                    Err(error)
                }
            })
            .map_err(Err)?;
        Ok(turn)
    }

    fn run(&mut self, turn: Held, jobs: Vec<Job>, deadline: &Deadline) -> Vec<Answer> {
        let jobs: Vec<&Job> = jobs.iter().collect();
        let mut answers = self.run_jobs(&jobs, deadline);
        let is_full = |answer: &Answer| matches!(answer, Err(StorageError::DiskFull(_)));
        let full = answers.iter().find(|answer| is_full(answer));
        let full = full.and_then(|answer| answer.as_ref().err());
        if full.is_some_and(|error| self.give_up_for(error)) {
            // Now there is room for what frees more of it.
            let again: Vec<usize> = (0..jobs.len())
                .filter(|&place| is_full(&answers[place]) && jobs[place].may_use_reserve())
                .collect();
            let jobs: Vec<&Job> = again.iter().map(|&place| jobs[place]).collect();
            for (place, answer) in again.into_iter().zip(self.run_jobs(&jobs, deadline)) {
                answers[place] = answer;
            }
        }
        drop(turn);
        let done = || answers.iter().flatten();
        let lost: Vec<Fence> = done().flat_map(Done::lost).collect();
        self.listeners.tell(done().any(Done::brings_work), &lost);
        answers
    }

    fn recover(&mut self) {
        self.put_away_if(true);
    }

    fn weight(job: &Job) -> usize {
        job.weight()
    }

    fn is_urgent(job: &Job) -> bool {
        job.is_urgent()
    }

    fn is_refusal(answer: &Answer) -> bool {
        answer.is_err()
    }

    fn busy(deadline: &Deadline) -> Answer {
        Err(StorageError::Busy {
            waited: deadline.waited(),
        })
    }

    fn closed() -> Answer {
        Err(StorageError::Closed)
    }

    fn panicked() -> Answer {
        // The panic may have come after COMMIT.
        Err(StorageError::CommitUnknown("the writer panicked".into()))
    }
}

fn apply(connection: &Connection, job: &Job, clock: &dyn Clock, apart: Apart) -> Answer {
    // A defect in one commit's code must not take its neighbours with it.
    catch_unwind(AssertUnwindSafe(|| match job {
        Job::Commit(commit) => {
            parts::apply(connection, commit, &Moment::of(clock)).map(Done::Committed)
        }
        Job::Claim(request) => {
            claims::claim(connection, request, &Moment::of(clock), apart).map(Done::Claimed)
        }
        Job::Renew { fences, lease } => {
            claims::renew(connection, fences, *lease, &Moment::of(clock)).map(Done::Renewed)
        }
        Job::Sweep(request) => {
            sweep::batch(connection, request, &Moment::of(clock), apart).map(Done::Swept)
        }
        Job::BeginKey(begin) => {
            permits::begin(connection, begin, &Moment::of(clock)).map(Done::Begun)
        }
        Job::RenewKeys { fences, lease } => {
            permits::renew(connection, fences, *lease, &Moment::of(clock)).map(Done::RenewedKeys)
        }
        Job::Chore(_) => Err(StorageError::Internal {
            context: "applying a commit".into(),
            cause: "a chore is no member of a group".into(),
        }),
    }))
    .unwrap_or_else(|panic| {
        // Dropping what is unknown could panic again.
        std::mem::forget(panic);
        Err(StorageError::Internal {
            context: "applying a commit".into(),
            cause: "it panicked".into(),
        })
    })
}

fn apply_in_savepoint(
    connection: &Connection,
    commit: &Job,
    clock: &dyn Clock,
) -> Result<Answer, SqliteError> {
    run(connection, "SAVEPOINT one")?;
    let answer = apply(connection, commit, clock, Apart::Savepoints);
    // A full disk or RAISE(ROLLBACK) takes the savepoint away as well.
    if !connection.is_autocommit() {
        if answer.is_err() {
            run(connection, "ROLLBACK TO one")?;
        }
        run(connection, "RELEASE one")?;
    }
    Ok(answer)
}

/// Another program may write without our lock: SQLite waits for it, as long as
/// a member of the group still has time.
fn begin(connection: &Connection, deadline: &Deadline) -> Result<(), SqliteError> {
    connection
        .busy_timeout(deadline.remaining())
        .map_err(|error| SqliteError::from(&error))?;
    run(connection, "BEGIN IMMEDIATE")
}

fn of_begin(error: SqliteError, deadline: &Deadline) -> StorageError {
    match of_sqlite(error, "beginning a transaction") {
        StorageError::Busy { .. } => StorageError::Busy {
            waited: deadline.waited(),
        },
        error => error,
    }
}

/// Rolls back what still stands; `false` when it could not be. Then only closing
/// the connection undoes it, and nothing more may be done with it.
fn undone(connection: &Connection) -> bool {
    if !connection.is_autocommit()
        && let Err(error) = run(connection, "ROLLBACK")
    {
        tracing::warn!(%error, "a transaction could not be rolled back");
    }
    connection.is_autocommit()
}

fn run(connection: &Connection, sql: &str) -> Result<(), SqliteError> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute([]))
        .map(drop)
        .map_err(|error| SqliteError::from(&error))
}

fn is_unusable(error: &SqliteError) -> bool {
    spoils_connection(&of_sqlite(error.clone(), ""))
}

fn lost_connection() -> StorageError {
    StorageError::Io("the writing connection was lost".into())
}

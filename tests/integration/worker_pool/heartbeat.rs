//! Heartbeats: everything in one commit, losses told at once, and on time while
//! the store hangs.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use agentos_core::limits::RENEW_LEASES_MAX;
use agentos_core::{
    ClaimRequest, Commit, Deadline, Lease, LeaseStorage as _, Lost, NewWorkItem, Storage,
    SweepRequest, WorkFilter, WorkItemStatus,
};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{PATIENCE, Victim, Work, config, manual_clock, new_worker, wait_until};
use agentos_worker_pool::{CancelCause, Heartbeat, Held, LeaseManager, Loss, WorkQueue};

use super::LONG;
use crate::group_commit::hold_write_lock;

/// A lease whose heartbeats come each second.
const LEASE: Duration = Duration::from_secs(3);

fn heartbeat(work: &Work, lease: Duration) -> Heartbeat {
    Heartbeat::start(work.storage(), lease).unwrap()
}

fn claim_many(work: &Work, leases: &LeaseManager, count: usize) -> Vec<Lease> {
    for some in vec![NewWorkItem::new("page"); count].chunks(1000) {
        work.queue.enqueue_all(some.to_vec()).unwrap();
    }
    let mut claimed = Vec::new();
    while claimed.len() < count {
        let some = leases.claim_up_to(&WorkFilter::any(), 256).unwrap();
        assert!(!some.is_empty());
        claimed.extend(some);
    }
    claimed
}

/// Holds a lease; what it is told on a loss comes through the channel.
fn hold_and_hear(heartbeat: &Heartbeat, lease: &Lease) -> (Held, mpsc::Receiver<Loss>) {
    let (tell, hear) = mpsc::channel();
    let held = heartbeat.hold_with(lease, move |loss| tell.send(loss.clone()).unwrap());
    (held, hear)
}

/// Goal: all that is held is renewed together, in as few commits as there can be.
/// Method: the clock stands, so nothing is due until it is moved beyond a third of
/// the lease.
#[test]
fn one_commit_renews_everything_that_is_held() {
    for (count, commits) in [(300, 1), (RENEW_LEASES_MAX + 1, 2)] {
        let clock = manual_clock();
        let work = Work::configured(|config| config.clock(clock.clone()));
        let leases = work.leases("w", LONG);
        let claimed = claim_many(&work, &leases, count);
        let heartbeat = heartbeat(&work, LONG);
        let held: Vec<Held> = claimed.iter().map(|lease| heartbeat.hold(lease)).collect();
        assert_eq!(heartbeat.stats().held, count);
        let before = work.store.counters().groups;
        for renewals in 1..=3 {
            clock.advance_boot(LONG / 3);
            wait_until("a renewal", || {
                heartbeat.stats().renewals == commits * renewals
            });
            assert_eq!(work.store.counters().groups - before, commits * renewals);
            assert_eq!(heartbeat.stats().renewed, count as u64 * renewals);
        }
        // Without the renewals all would be over now.
        assert_eq!(
            work.store.boot_now().until(&claimed[0].deadline),
            Duration::ZERO
        );
        assert!(held.iter().all(|held| !held.is_lost()));
        drop(held);
        let stats = heartbeat.stats();
        assert_eq!((stats.held, stats.lost, stats.errors), (0, 0, 0));
    }
}

/// What the process itself takes away is told at once: here the next beat would
/// come in twenty minutes.
#[test]
fn what_this_process_cancels_or_sweeps_is_told_at_once() {
    let work = Work::fresh();
    let leases = work.leases("w", LONG);
    let claimed = claim_many(&work, &leases, 2);
    let heartbeat = heartbeat(&work, LONG);
    let (_cancelled, hear_cancelled) = hold_and_hear(&heartbeat, &claimed[0]);
    let (_swept, hear_swept) = hold_and_hear(&heartbeat, &claimed[1]);
    work.queue.cancel(claimed[0].fence.item, None).unwrap();
    assert!(matches!(
        hear_cancelled.recv_timeout(PATIENCE).unwrap(),
        Loss::Taken(stale) if stale.status == Some(WorkItemStatus::Cancelled)
    ));
    let give_up = SweepRequest {
        lost: Lost::EarlierStarts(new_worker("w")),
        ..SweepRequest::default()
    };
    assert_eq!(work.store.sweep(&give_up).unwrap().recovered.len(), 1);
    assert!(matches!(
        hear_swept.recv_timeout(PATIENCE).unwrap(),
        Loss::Taken(stale) if stale.status == Some(WorkItemStatus::Pending)
    ));
}

/// What another process does is told with the next beat.
#[test]
fn a_cancelled_item_is_told_within_a_heartbeat() {
    let work = Work::fresh();
    let leases = work.leases("w", LEASE);
    let id = work.queue.enqueue(NewWorkItem::new("page")).unwrap().id;
    let lease = work.claim(&leases);
    let heartbeat = heartbeat(&work, LEASE);
    let (held, hear) = hold_and_hear(&heartbeat, &lease);
    let cancellation = held.cancellation();
    assert!(!cancellation.is_cancelled());
    // Past the store that the heartbeat listens to.
    let other = Arc::new(SqliteStore::open(config(work.store.path())).unwrap());
    let other = WorkQueue::new(other as Arc<dyn Storage>);
    other.cancel(id, Some("not wanted")).unwrap();
    // A heartbeat comes each second; the lease lasts two more.
    let told = Deadline::after(2 * LEASE / 3);
    assert!(cancellation.wait(told), "it was not told in time");
    let Loss::Taken(stale) = hear.recv_timeout(PATIENCE).unwrap() else {
        panic!("it was told something else");
    };
    assert_eq!(stale.status, Some(WorkItemStatus::Cancelled));
    assert_eq!(stale.fence, lease.fence);
    assert_eq!(
        cancellation.cause(),
        Some(CancelCause::Lost(Loss::Taken(stale)))
    );
    assert!(held.is_lost());
    assert_eq!((heartbeat.stats().lost, heartbeat.stats().held), (1, 0));
}

/// A later start of the same worker gives up what the earlier one held.
#[test]
fn a_lease_that_is_swept_is_told_with_what_became_of_the_item() {
    let work = Work::fresh();
    let leases = work.leases("w", LEASE);
    work.queue.enqueue(NewWorkItem::new("page")).unwrap();
    let lease = work.claim(&leases);
    let heartbeat = heartbeat(&work, LEASE);
    let (_held, hear) = hold_and_hear(&heartbeat, &lease);
    let request = SweepRequest {
        lost: Lost::EarlierStarts(new_worker("w")),
        ..SweepRequest::default()
    };
    // Past the store that the heartbeat listens to: it asks once both are done.
    let beside = SqliteStore::open(config(work.store.path())).unwrap();
    assert_eq!(beside.sweep(&request).unwrap().found, 1);
    let other = ClaimRequest::new(new_worker("other"));
    assert_eq!(beside.claim(&other).unwrap().len(), 1);
    let Loss::Taken(stale) = hear.recv_timeout(PATIENCE).unwrap() else {
        panic!("it was told something else");
    };
    assert_eq!(stale.holder.unwrap().worker, other.worker);
}

/// The clock of deadlines jumps: nothing needs to come and raise the flag.
#[test]
fn a_deadline_that_has_passed_is_seen_by_whoever_asks() {
    let clock = manual_clock();
    let work = Work::configured(|config| config.clock(clock.clone()));
    let leases = work.leases("w", LONG);
    work.queue.enqueue(NewWorkItem::new("page")).unwrap();
    let lease = work.claim(&leases);
    let heartbeat = heartbeat(&work, LONG);
    let (held, hear) = hold_and_hear(&heartbeat, &lease);
    let cancellation = held.cancellation();
    clock.advance_boot(LONG - Duration::from_micros(1));
    assert!(!cancellation.is_cancelled());
    clock.advance_boot(Duration::from_micros(1));
    assert!(cancellation.is_cancelled());
    assert_eq!(held.loss(), Some(Loss::Overdue));
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), Loss::Overdue);
    // It was not taken away: under the fence it can still be ended.
    leases.complete(&lease, None).unwrap();
}

/// Goal: a renewal that hangs in the store for longer than the lease lasts holds
/// nobody up. Method: another process stands in its transaction with the write
/// lock; the busy timeout is 30 s, the lease 600 ms.
#[test]
fn a_loss_is_told_on_time_while_another_process_holds_the_write_lock() {
    const SHORT: Duration = Duration::from_millis(600);
    let work = Work::fresh();
    let leases = work.leases("w", SHORT);
    work.queue.enqueue(NewWorkItem::new("page")).unwrap();
    let heartbeat = heartbeat(&work, SHORT);
    let path = work.store.path().to_str().unwrap();
    // It stops in its second commit; the first makes the task.
    let point = ["store.before_commit", "2", "write", path, "stopped"];
    let lease = work.claim(&leases);
    let (tell, hear) = mpsc::channel();
    let clock = work.storage();
    let held = heartbeat.hold_with(&lease, move |loss| {
        tell.send((loss.clone(), clock.boot_now())).unwrap();
    });
    let victim = Victim::start(crate::VICTIM, "stop-at", point);
    victim.wait_until_stopped();
    let cancellation = held.cancellation();
    assert!(cancellation.wait(Deadline::after(PATIENCE)));
    assert_eq!(held.loss(), Some(Loss::Overdue));
    let (loss, told_at) = hear.recv_timeout(PATIENCE).unwrap();
    assert_eq!(loss, Loss::Overdue);
    let stats = heartbeat.stats();
    assert_eq!(
        (stats.lost, stats.errors),
        (1, 0),
        "the renewal still hangs"
    );
    // Some renewals may have come before the victim stood still; the last of them
    // was made before the lock was gone.
    let recorded: i64 = rusqlite::Connection::open(work.store.path())
        .unwrap()
        .query_row("SELECT lease_deadline_us FROM work_items", [], |row| {
            row.get(0)
        })
        .unwrap();
    let late = Duration::from_micros(u64::try_from(told_at.micros - recorded).unwrap_or(0));
    assert!(late < Duration::from_millis(500), "told {late:?} late");
    // The answer comes at last, and takes nothing back.
    victim.kill();
    wait_until("the renewal", || {
        heartbeat.stats().renewals > stats.renewals
    });
    assert_eq!(held.loss(), Some(Loss::Overdue));
}

#[test]
fn a_renewal_that_fails_is_tried_again_before_the_deadline() {
    let work = Work::configured(|config| config.busy_timeout(Duration::from_millis(50)));
    let leases = work.leases("w", LEASE);
    work.queue.enqueue(NewWorkItem::new("page")).unwrap();
    let lease = work.claim(&leases);
    let heartbeat = heartbeat(&work, LEASE);
    let held = heartbeat.hold(&lease);
    let lock = hold_write_lock(work.directory());
    wait_until("two errors", || heartbeat.stats().errors == 2);
    drop(lock);
    wait_until("a renewal", || heartbeat.stats().renewals == 1);
    assert!(!held.is_lost());
    let now = work.store.boot_now();
    assert!(
        Duration::ZERO < now.until(&lease.deadline),
        "it was in time"
    );
}

#[test]
fn a_callback_that_panics_keeps_nobody_from_being_told() {
    let work = Work::fresh();
    let leases = work.leases("w", LEASE);
    let claimed = claim_many(&work, &leases, 2);
    let heartbeat = heartbeat(&work, LEASE);
    let _first = heartbeat.hold_with(&claimed[0], |_| panic!("a careless callback"));
    work.queue.cancel(claimed[0].fence.item, None).unwrap();
    wait_until("the first loss", || heartbeat.stats().lost == 1);
    let (_second, hear) = hold_and_hear(&heartbeat, &claimed[1]);
    work.queue.cancel(claimed[1].fence.item, None).unwrap();
    assert!(matches!(hear.recv_timeout(PATIENCE), Ok(Loss::Taken(_))));
}

/// A renewal may find an item that its holder has just ended. That is no loss, and
/// no reason to ask again and again.
#[test]
fn who_ends_a_lease_is_told_of_no_loss() {
    let clock = manual_clock();
    let work = Work::configured(|config| config.clock(clock.clone()));
    let leases = work.leases("w", LONG);
    let claimed = claim_many(&work, &leases, 2);
    let heartbeat = heartbeat(&work, LONG);
    let held: Vec<Held> = claimed.iter().map(|lease| heartbeat.hold(lease)).collect();
    held[0].settling();
    let end = leases.prepare_complete(&claimed[0], None);
    let commit = Commit::under(&claimed[0]).part(end);
    work.store.commit(commit).unwrap();
    for renewals in 1..=2 {
        clock.advance_boot(LONG / 3);
        wait_until("a renewal", || heartbeat.stats().renewals == renewals);
        // Nothing is due before the clock goes on: this waits in vain.
        let cancellation = held[0].cancellation();
        assert!(!cancellation.wait(Deadline::after(Duration::from_millis(100))));
        let stats = heartbeat.stats();
        assert_eq!((stats.renewals, stats.renewed), (renewals, renewals));
    }
    // Its holder thinks again.
    held[0].not_settled();
    clock.advance_boot(LONG / 3 - Duration::from_secs(1));
    assert!(matches!(wait_for_loss(&held[0]), Loss::Taken(_)));
}

fn wait_for_loss(held: &Held) -> Loss {
    assert!(held.cancellation().wait(Deadline::after(PATIENCE)));
    held.loss().unwrap()
}

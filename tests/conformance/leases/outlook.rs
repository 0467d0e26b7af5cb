//! What will be to do, and who is told when work arrives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use agentos_core::{FailWork, ManualClock, ReleaseWork, RequeueWork, Retry, WorkListener};
use agentos_tests::new_task;

use super::*;

/// What comes next is told in durations from now: the port has no moments.
pub(crate) fn the_outlook_tells_the_next_lease_and_the_next_work(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    assert_eq!((claimable(store), expires(store)), (None, None));
    enqueue(store, page().delay(60 * SECOND).priority(50));
    enqueue(store, page().delay(30 * SECOND));
    assert_eq!(claimable(store), Some(30 * SECOND));
    for seconds in [9, 3, 6] {
        enqueue(store, NewWorkItem::new("now"));
        let lease = ClaimRequest {
            lease: seconds * SECOND,
            ..request("w")
        };
        assert_eq!(claim_of(store, &lease).len(), 1);
    }
    assert_eq!(
        (claimable(store), expires(store)),
        (Some(30 * SECOND), Some(3 * SECOND))
    );
    clock.advance(2 * SECOND);
    assert_eq!(
        (claimable(store), expires(store)),
        (Some(28 * SECOND), Some(SECOND))
    );
    clock.advance(2 * SECOND);
    assert_eq!(expires(store), Some(Duration::ZERO));
    assert_eq!(sweep(store).recovered.len(), 1);
    assert_eq!(
        (claimable(store), expires(store)),
        (Some(Duration::ZERO), Some(2 * SECOND))
    );
    let other = store.outlook(&WorkFilter::types(["page"])).unwrap();
    assert_eq!(other.claimable, Some(26 * SECOND), "of this type");
    assert_eq!(other.expires, Some(2 * SECOND), "whatever the filter");
}

struct Heard(AtomicU64);

impl WorkListener for Heard {
    fn work_arrived(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Goal: who waits for work in this process is told of every commit that makes
/// some claimable. Method: each such commit, and some that do not.
pub(crate) fn a_listener_is_told_of_work_that_arrives(store: &dyn Storage, clock: &ManualClock) {
    let heard = Arc::new(Heard(AtomicU64::new(0)));
    let count = |what: &dyn Fn()| {
        heard.0.store(0, Ordering::SeqCst);
        what();
        0 < heard.0.load(Ordering::SeqCst)
    };
    let listener: Arc<dyn WorkListener> = Arc::<Heard>::clone(&heard);
    store.listen(Arc::downgrade(&listener));
    assert!(count(&|| drop(done(store, page()))), "enqueued");
    assert!(!count(&|| drop(done(store, new_task("a")))));
    assert!(!count(&|| {
        let commit = Commit::new().part(page()).part(note("absent"));
        store.commit(commit).unwrap_err();
    }));
    let lease = claim(store, "w").unwrap();
    let back = ReleaseWork {
        fence: lease.fence,
        reason: None,
    };
    assert!(count(&|| drop(done(store, back.clone()))), "released");
    claim(store, "w").unwrap();
    clock.advance(PAST_LEASE);
    assert!(
        count(&|| assert_eq!(sweep(store).recovered.len(), 1)),
        "recovered"
    );
    assert!(!count(&|| assert_eq!(sweep(store).recovered.len(), 0)));
    let lease = claim(store, "w").unwrap();
    let dead = FailWork {
        fence: lease.fence,
        reason: "no".into(),
        retry: Retry::Never,
    };
    done(store, dead);
    let requeue = RequeueWork {
        item: lease.fence.item,
        reason: None,
    };
    assert!(count(&|| drop(done(store, requeue.clone()))), "requeued");
    drop(listener);
    let weak: Weak<Heard> = Arc::downgrade(&heard);
    drop(heard);
    assert_eq!(weak.strong_count(), 0, "the store keeps no listener");
    enqueue(store, page());
}

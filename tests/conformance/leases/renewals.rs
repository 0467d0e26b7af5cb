//! Renewals: they extend a lease that is held, whatever the time, and never
//! another's.

use agentos_core::limits::{LEASE_MAX, LEASE_MIN, RENEW_LEASES_MAX};
use agentos_core::{BootTime, FencingToken, ManualClock, Renewed};

use super::*;

pub(crate) fn a_renewal_extends_the_lease_from_now_on(store: &dyn Storage, clock: &ManualClock) {
    let item = enqueue(store, page());
    let lease = claim_item(store, "w", item);
    let claimed = store.now();
    for _ in 0..5 {
        clock.advance(LEASE - SECOND);
        let (wall, boot) = (store.now(), store.boot_now());
        let expected = Renewed {
            fence: lease.fence,
            expires_at: wall.plus(LEASE),
            deadline: boot.plus(LEASE),
        };
        let answers = store.renew(&[lease.fence], LEASE).unwrap();
        assert_eq!(answers, [Ok(expected)]);
        assert_eq!(expires(store), Some(LEASE));
        let holder = summary(store, item).holder.unwrap();
        assert_eq!((holder.since, holder.until), (claimed, wall.plus(LEASE)));
        assert_eq!((claim(store, "other"), sweep(store).found), (None, 0));
    }
    // Also to a shorter one.
    store.renew(&[lease.fence], SECOND).unwrap()[0]
        .as_ref()
        .unwrap();
    assert_eq!(expires(store), Some(SECOND));
    done(store, Commit::under(&lease).part(complete(&lease)));
    assert_eq!(outcomes(store, item), [Some(AttemptOutcome::Succeeded)]);
}

pub(crate) fn an_expired_lease_that_nobody_took_is_renewed(
    store: &dyn Storage,
    clock: &ManualClock,
) {
    let item = enqueue(store, page());
    let lease = claim_item(store, "w", item);
    clock.advance(10 * LEASE);
    store.renew(&[lease.fence], LEASE).unwrap()[0]
        .as_ref()
        .unwrap();
    assert_eq!((sweep(store).found, claim(store, "other")), (0, None));
    // Also one of another boot.
    clock.reboot();
    assert_eq!(expires(store), Some(Duration::ZERO));
    let answers = store.renew(&[lease.fence], LEASE).unwrap();
    let BootTime { boot, .. } = &answers[0].as_ref().unwrap().deadline;
    assert_eq!(*boot, store.boot_now().boot);
    assert_eq!((sweep(store).found, expires(store)), (0, Some(LEASE)));
    done(store, Commit::under(&lease).part(complete(&lease)));
}

/// In another product a heartbeat of an abandoned attempt extended the lease of
/// its replacement.
pub(crate) fn a_lost_lease_renews_nothing(store: &dyn Storage, clock: &ManualClock) {
    let item = enqueue(store, page());
    let old = claim_item(store, "old", item);
    clock.advance(PAST_LEASE);
    let new = claim_item(store, "new", item);
    clock.advance(SECOND);
    let before = everything(store);
    let answer = store.renew(&[old.fence], LEASE).unwrap().pop().unwrap();
    let stale = answer.unwrap_err();
    assert_eq!(stale.newest, Some(new.fence.token));
    assert_eq!(stale.holder.unwrap().worker, worker("new"));
    assert_eq!(everything(store), before);
    assert_eq!(expires(store), Some(LEASE - SECOND));
}

/// Goal: one commit renews many leases, and answers for each. Method: held, lost
/// and invented ones in one call.
pub(crate) fn many_leases_are_renewed_at_once(store: &dyn Storage, clock: &ManualClock) {
    for _ in 0..100 {
        enqueue(store, page());
    }
    let batch = ClaimRequest {
        items: 100,
        ..request("w")
    };
    let leases = claim_of(store, &batch);
    for lease in leases.iter().step_by(3) {
        done(store, complete(lease));
    }
    clock.advance(SECOND);
    let mut fences: Vec<Fence> = leases.iter().map(|lease| lease.fence).collect();
    fences.push(Fence {
        item: WorkItemId::new(4096).unwrap(),
        token: FencingToken::new(1).unwrap(),
    });
    let answers = store.renew(&fences, 2 * LEASE).unwrap();
    assert_eq!(answers.len(), 101);
    for (place, (fence, answer)) in fences.iter().zip(answers).enumerate() {
        match answer {
            Ok(renewed) => {
                assert_eq!((renewed.fence, place % 3 != 0), (*fence, true));
                let until = summary(store, fence.item).holder.unwrap().until;
                assert_eq!(until, store.now().plus(2 * LEASE));
            }
            Err(stale) => {
                assert_eq!(
                    (stale.fence, place % 3),
                    (*fence, if place < 100 { 0 } else { 1 })
                );
            }
        }
    }
    assert_eq!(store.renew(&[], LEASE).unwrap(), []);
    for bad in [
        LEASE_MIN - Duration::from_nanos(1),
        LEASE_MAX + Duration::from_nanos(1),
    ] {
        let answer = store.renew(&fences, bad);
        assert!(matches!(answer, Err(StorageError::Invalid(_))));
    }
    let many = vec![fences[1]; RENEW_LEASES_MAX + 1];
    let answer = store.renew(&many, LEASE);
    assert!(matches!(answer, Err(StorageError::LimitExceeded(_))));
    let until = summary(store, fences[1].item).holder.unwrap().until;
    assert_eq!(until, store.now().plus(2 * LEASE), "nothing was renewed");
}

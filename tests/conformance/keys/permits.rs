//! How long a permit lasts, and who ends it.

use agentos_core::limits::{KEYS_PER_PART_MAX, LEASE_MAX, LEASE_MIN};
use agentos_core::{ManualClock, RenewedPermit};

use super::*;

const MICROSECOND: Duration = Duration::from_micros(1);

/// One microsecond before its deadline it is held, at its deadline it is not.
pub(crate) fn a_permit_ends_at_its_deadline(store: &dyn Storage, clock: &ManualClock) {
    let permit = first(store, "one");
    clock.advance_boot(LEASE - MICROSECOND);
    assert_eq!(in_flight(store, &begin("two")).left, Some(MICROSECOND));
    assert_eq!(doubts(store), []);
    clock.advance_boot(MICROSECOND);
    let holder = in_doubt(store, &begin("two"));
    assert_eq!(holder.fence, permit.fence);
    assert_eq!((holder.owner, holder.left), (worker("one"), None));
    assert_eq!(doubts(store), [permit.fence]);
    assert_eq!(view(store).permit.unwrap().left, None);
    // Also for itself, and whatever is to be done with a recorded outcome.
    in_doubt(store, &begin("one"));
    in_doubt(store, &run_again("one"));
    let successor = executes(store, &take_over("two"));
    assert_eq!(successor.execution, Execution::TakenOver);
    follows(&successor, &permit);
    assert_eq!(doubts(store), []);
    assert_eq!(in_flight(store, &take_over("one")).owner, worker("two"));
}

pub(crate) fn a_reboot_ends_every_permit(store: &dyn Storage, clock: &ManualClock) {
    let permit = first(store, "one");
    clock.reboot();
    assert_eq!(in_doubt(store, &begin("two")).fence, permit.fence);
    assert_eq!(doubts(store), [permit.fence]);
    // The new boot's clock passes what was the deadline in the one before.
    clock.advance_boot(2 * LEASE);
    in_doubt(store, &begin("two"));
    executes(store, &take_over("two"));
    in_flight(store, &begin("one"));
}

pub(crate) fn a_wall_clock_that_jumps_touches_no_permit(store: &dyn Storage, clock: &ManualClock) {
    let permit = first(store, "one");
    let now = store.now();
    for jumped in [now.plus(1000 * LEASE), now.minus(1000 * LEASE)] {
        clock.set(jumped);
        assert_eq!(in_flight(store, &begin("two")).left, Some(LEASE));
        assert_eq!(doubts(store), []);
    }
    clock.set(now);
    clock.advance_boot(LEASE);
    assert_eq!(in_doubt(store, &begin("two")).fence, permit.fence);
}

/// A worker whose name runs once at a time knows that its earlier start is gone.
pub(crate) fn a_sole_start_ends_the_permits_of_earlier_ones(store: &dyn Storage, _: &ManualClock) {
    let asks = |name: &str, number: u32, sole_start: bool| BeginKey {
        sole_start,
        ..begin_of("k", start(name, number))
    };
    let permit = executes(store, &asks("one", 2, false));
    for other in [
        asks("one", 3, false),
        asks("one", 2, true),
        asks("one", 1, true),
        asks("two", 3, true),
    ] {
        assert_eq!(
            in_flight(store, &other).left,
            Some(LEASE),
            "{:?}",
            other.owner
        );
    }
    let holder = in_doubt(store, &asks("one", 3, true));
    assert_eq!(
        (holder.fence, holder.owner),
        (permit.fence, start("one", 2))
    );
    // It is in doubt for those only who know that the owner is gone.
    assert_eq!(doubts(store), []);
    in_flight(store, &asks("two", 1, false));
    let again = BeginKey {
        on_lost: OnLost::TakeOver,
        ..asks("one", 3, true)
    };
    let successor = executes(store, &again);
    assert_eq!(successor.execution, Execution::TakenOver);
    assert_eq!(successor.owner, start("one", 3));
    stale(store.commit(finish(&permit, NewOutcome::success("late")).into()));
    done(store, finish(&successor, NewOutcome::success("x")));
}

pub(crate) fn a_renewal_extends_the_permit_from_now_on(store: &dyn Storage, clock: &ManualClock) {
    let permit = first(store, "one");
    clock.advance(LEASE - SECOND);
    let renewed = store.renew_keys(&[permit.fence], 2 * LEASE).unwrap();
    let deadline = store.boot_now().plus(2 * LEASE);
    let expected = RenewedPermit {
        fence: permit.fence,
        deadline,
    };
    assert_eq!(renewed, [Ok(expected)]);
    let holder = in_flight(store, &begin("two"));
    assert_eq!(holder.left, Some(2 * LEASE));
    assert_eq!(holder.until, store.now().plus(2 * LEASE));
    assert_eq!(holder.since.plus(LEASE - SECOND), store.now(), "since then");
    // It may also become shorter.
    store.renew_keys(&[permit.fence], SECOND).unwrap()[0]
        .as_ref()
        .unwrap();
    clock.advance(SECOND);
    assert_eq!(doubts(store), [permit.fence]);
    // One that has run out and was not taken over goes on.
    store.renew_keys(&[permit.fence], LEASE).unwrap()[0]
        .as_ref()
        .unwrap();
    assert_eq!(doubts(store), []);
    assert_eq!(in_flight(store, &take_over("two")).left, Some(LEASE));
    done(store, finish(&permit, NewOutcome::success("x")));
    // Also after a reboot, which ended it.
    let permit = executes(store, &run_again("one"));
    clock.reboot();
    store.renew_keys(&[permit.fence], LEASE).unwrap()[0]
        .as_ref()
        .unwrap();
    assert_eq!(in_flight(store, &take_over("two")).left, Some(LEASE));
}

pub(crate) fn many_permits_are_renewed_at_once(store: &dyn Storage, clock: &ManualClock) {
    let permits: Vec<Permit> = (0..7)
        .map(|number| executes(store, &begin_of(&format!("key {number}"), worker("one"))))
        .collect();
    done(store, finish(&permits[3], NewOutcome::success("x")));
    clock.advance(LEASE / 2);
    let mut fences: Vec<KeyFence> = permits.iter().map(|permit| permit.fence).collect();
    fences.reverse();
    // The same twice is renewed twice.
    fences.push(fences[0]);
    let renewed = store.renew_keys(&fences, LEASE).unwrap();
    assert_eq!(renewed.len(), fences.len());
    let deadline = store.boot_now().plus(LEASE);
    for (fence, answer) in fences.iter().zip(&renewed) {
        if *fence == permits[3].fence {
            let expected = StalePermit {
                fence: *fence,
                status: Some(KeyStatus::Succeeded),
                newest: Some(fence.token),
                owner: None,
            };
            assert_eq!(*answer, Err(expected));
        } else {
            let expected = RenewedPermit {
                fence: *fence,
                deadline: deadline.clone(),
            };
            assert_eq!(*answer, Ok(expected));
        }
    }
    assert_eq!(store.renew_keys(&[], LEASE).unwrap(), []);
    for lease in [LEASE_MIN - MICROSECOND, LEASE_MAX + MICROSECOND] {
        let answer = store.renew_keys(&fences, lease);
        assert!(
            matches!(answer, Err(StorageError::Invalid(_))),
            "{answer:?}"
        );
    }
    let many = vec![fences[0]; KEYS_PER_PART_MAX + 1];
    assert!(matches!(
        store.renew_keys(&many, LEASE),
        Err(StorageError::LimitExceeded(_))
    ));
}

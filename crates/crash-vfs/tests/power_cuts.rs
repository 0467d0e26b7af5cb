//! A plain SQLite program under power cuts: what holds, and what must be
//! caught. The check is one and the same for all of them.

mod support;

use agentos_crash_vfs::Shim;
use support::{Settings, Tally, WAL_FULL, Wrong, check_all, place, record};

const SEED: u64 = 8141;
const STEPS: i64 = 30;

/// Records the program and checks all images of it.
fn cut(settings: &Settings, shim: impl FnOnce(Shim) -> Shim) -> Tally {
    let place = place();
    let dir = place.path().join("data");
    std::fs::create_dir(&dir).unwrap();
    let shim = shim(Shim::over(&dir));
    let log = record(&place.path().join("log"), shim, &dir, settings, STEPS);
    assert_eq!(log.unused_bytes(), 0);
    let tally = check_all(&log, &place.path().join("image"), SEED, 6);
    assert!(tally.images > 100, "{}", tally.images);
    tally
}

#[test]
fn a_wal_with_full_syncs_keeps_all_that_was_acknowledged() {
    let tally = cut(&WAL_FULL, |shim| shim);
    assert_eq!(tally.wrong, [], "seed {SEED}");
}

#[test]
fn a_journal_whose_deletion_is_synced_keeps_all_that_was_acknowledged() {
    for journal in ["DELETE", "TRUNCATE", "PERSIST"] {
        let settings = Settings {
            journal,
            synchronous: "EXTRA",
            ..WAL_FULL
        };
        let tally = cut(&settings, |shim| shim);
        assert_eq!(tally.wrong, [], "{journal}, seed {SEED}");
    }
}

/// SQLite's documentation says so: FULL does not sync the directory after a
/// journal is deleted, so that the journal may come back and undo the commit.
#[test]
fn a_journal_whose_deletion_is_not_synced_may_undo_the_last_commit() {
    let settings = Settings {
        journal: "DELETE",
        ..WAL_FULL
    };
    let tally = cut(&settings, |shim| shim);
    assert_eq!(tally.kinds(), [Wrong::LostAcknowledged]);
}

#[test]
fn no_syncs_at_all_are_caught() {
    let settings = Settings {
        synchronous: "OFF",
        ..WAL_FULL
    };
    let tally = cut(&settings, |shim| shim);
    assert!(tally.kinds().contains(&Wrong::LostAcknowledged));
    assert!(tally.kinds().contains(&Wrong::Corrupt));
}

#[test]
fn normal_claimed_as_full_loses_what_was_acknowledged_and_never_corrupts() {
    let settings = Settings {
        synchronous: "NORMAL",
        ..WAL_FULL
    };
    let tally = cut(&settings, |shim| shim);
    assert_eq!(tally.kinds(), [Wrong::LostAcknowledged]);
    assert!(tally.wrong.len() * 5 > tally.images, "{tally:?}");
}

#[test]
fn a_drive_whose_syncs_lie_is_caught() {
    let tally = cut(&WAL_FULL, Shim::lying_syncs);
    assert!(tally.kinds().contains(&Wrong::LostAcknowledged));
    assert!(
        tally.wrong.len() * 2 > tally.images,
        "{}",
        tally.wrong.len()
    );
}

#[test]
fn an_acknowledgement_before_the_commit_is_caught() {
    let settings = Settings {
        hasty: true,
        ..WAL_FULL
    };
    let tally = cut(&settings, |shim| shim);
    assert_eq!(tally.kinds(), [Wrong::LostAcknowledged]);
}

#[test]
fn two_transactions_for_one_step_are_caught() {
    let settings = Settings {
        one_transaction: false,
        ..WAL_FULL
    };
    let tally = cut(&settings, |shim| shim);
    assert_eq!(tally.kinds(), [Wrong::HalfAStep]);
}

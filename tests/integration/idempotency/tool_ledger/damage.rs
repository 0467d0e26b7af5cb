//! A record that is damaged is said to be so: it is neither replayed nor run again.

use rusqlite::Connection;

use super::*;

/// Goal: whatever of a record is damaged, its call says `Corrupt` and runs nothing. Method:
/// one column of a row is edited in the file, of a success and of a failure.
#[test]
fn a_damaged_record_is_an_error_and_nothing_is_run() {
    for (fails, column, edit) in [
        (false, "outcome", "CAST(x'0100' || 'paid 900' AS BLOB)"),
        (false, "status", "'failed'"),
        (false, "seal", "zeroblob(32)"),
        (true, "outcome", "CAST(outcome || 'x' AS BLOB)"),
        (true, "status", "'succeeded'"),
        (true, "seal", "randomblob(32)"),
    ] {
        let ground = Ground::new();
        let ledger = ground.ledger();
        ledger
            .execute_or_replay(&call(), |_| match fails {
                true => Err(ToolFailure::failed("declined", "")),
                false => Ok("paid 100".into()),
            })
            .unwrap();
        let raw = Connection::open(&ground.path).unwrap();
        raw.execute_batch(&format!(
            "DROP TRIGGER IF EXISTS idempotency_keys_transition;
             UPDATE idempotency_keys SET {column} = {edit};"
        ))
        .unwrap();
        drop(raw);
        let calls = [
            call(),
            call().idempotent(),
            call().on_failure(OnFailure::Replay),
        ];
        for call in calls {
            let error = ledger.execute_or_replay(&call, never).unwrap_err();
            assert!(
                matches!(error.storage(), Some(StorageError::Corrupt { .. })),
                "{column}: {error:?}"
            );
            assert!(!error.happened());
        }
        let found = ledger.find(&call().key().unwrap()).unwrap_err();
        assert!(
            matches!(found.storage(), Some(StorageError::Corrupt { .. })),
            "{column}: {found:?}"
        );
        assert_eq!((ledger.stats().executions, ledger.stats().replays), (1, 0));
    }
}

//! A store that checks no seal, as [`Canary::SealAnew`](crate::canary::Canary) has it:
//! whatever stands in its rows is given a seal that holds, before the sound store opens it.
//! What a seal would have told is then told by nobody.

use std::path::Path;

use agentos_core::records::checkpoint::{Sealed, SnapshotSummary};
use agentos_core::{
    CheckpointType, Codec, Digest, FencingToken, IdempotencyKey, KeyStatus, SealedKey,
    SequenceNumber, TaskId, Timestamp,
};
use rusqlite::{Connection, Row, params};

/// A checkpoint's row, its seal, and the digest and length of its state.
type Anew = (i64, Digest, Option<Digest>, i64);

/// Seals each row that can be read; what is too damaged for that stays as it is.
pub(crate) fn seal_anew(db: &Path) {
    if let Ok(connection) = Connection::open(db) {
        let _ = checkpoints(&connection);
        let _ = keys(&connection);
        let _ = connection.close();
    }
}

fn checkpoints(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT checkpoint_id, task_id, sequence_number, checkpoint_type, created_at, codec,
             state_version, metadata, evidence, snapshot
         FROM checkpoints",
    )?;
    let seal = |row: &Row<'_>| -> rusqlite::Result<Option<Anew>> {
        let id: i64 = row.get(0)?;
        let (task, number, checkpoint_type): (String, i64, String) =
            (row.get(1)?, row.get(2)?, row.get(3)?);
        let (created_at, codec, version): (String, Option<u8>, Option<u32>) =
            (row.get(4)?, row.get(5)?, row.get(6)?);
        let (metadata, evidence): (Option<String>, Option<String>) = (row.get(7)?, row.get(8)?);
        let state: Option<Vec<u8>> = row.get(9)?;
        let digest = state.as_deref().map(Digest::of);
        let length = state.as_ref().map_or(0, Vec::len);
        let sealed = || {
            let snapshot = match digest {
                None => None,
                Some(digest) => Some(SnapshotSummary {
                    codec: Codec::from_id(codec?)?,
                    version: version?,
                    bytes: length as u64,
                    digest,
                }),
            };
            let seal = Sealed {
                task: &TaskId::new(task).ok()?,
                sequence: SequenceNumber::new(number.try_into().ok()?).ok()?,
                checkpoint_type: CheckpointType::parse(&checkpoint_type)?,
                snapshot,
                evidence: evidence.as_deref(),
                metadata: metadata.as_deref(),
                created_at: Timestamp::parse(&created_at)?,
            }
            .seal();
            Some((id, seal, digest, i64::try_from(length).ok()?))
        };
        Ok(sealed())
    };
    let rows = statement.query_map([], seal)?;
    for (id, seal, digest, length) in rows.flatten().flatten() {
        // One that cannot be written stays as it is.
        let _ = connection.execute(
            "UPDATE checkpoints SET seal = ?2, state_digest = ?3,
                 state_bytes = iif(?3 IS NULL, NULL, ?4)
             WHERE checkpoint_id = ?1",
            params![
                id,
                seal.as_bytes(),
                digest.as_ref().map(|digest| digest.as_bytes().as_slice()),
                length
            ],
        );
    }
    Ok(())
}

fn keys(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT key_id, idempotency_key, request_digest, token, status, task_id, operation,
             model, request, detail, updated_at, expires_at, outcome
         FROM idempotency_keys WHERE outcome IS NOT NULL",
    )?;
    let seal = |row: &Row<'_>| -> rusqlite::Result<Option<(i64, Digest)>> {
        let id: i64 = row.get(0)?;
        let (key, request): (String, Vec<u8>) = (row.get(1)?, row.get(2)?);
        let (token, status): (i64, String) = (row.get(3)?, row.get(4)?);
        let texts: [Option<String>; 3] = [row.get(5)?, row.get(6)?, row.get(7)?];
        let kept: Option<Vec<u8>> = row.get(8)?;
        let (detail, recorded_at): (Option<String>, String) = (row.get(9)?, row.get(10)?);
        let (expires_at, outcome): (Option<String>, Vec<u8>) = (row.get(11)?, row.get(12)?);
        let sealed = || {
            let seal = SealedKey {
                key: &IdempotencyKey::new(key).ok()?,
                request: &Digest::from_bytes(request.try_into().ok()?),
                token: FencingToken::new(token).ok()?,
                status: KeyStatus::parse(&status)?,
                task: texts[0].as_deref(),
                operation: texts[1].as_deref(),
                model: texts[2].as_deref(),
                kept_request: kept.as_deref(),
                detail: detail.as_deref(),
                recorded_at: &recorded_at,
                expires_at: expires_at.as_deref(),
                outcome: &outcome,
            }
            .seal();
            Some((id, seal))
        };
        Ok(sealed())
    };
    let rows = statement.query_map([], seal)?;
    for (id, seal) in rows.flatten().flatten() {
        let _ = connection.execute(
            "UPDATE idempotency_keys SET seal = ?2, outcome_bytes = length(outcome)
             WHERE key_id = ?1",
            params![id, seal.as_bytes()],
        );
    }
    Ok(())
}

//! Reads of checkpoints. What is loaded has its seal checked here.

use agentos_core::records::checkpoint::{Sealed, SnapshotSummary};
use agentos_core::{
    Checkpoint, CheckpointStorage, CheckpointSummary, CheckpointType, Codec, Digest,
    EvidenceOutcome, EvidenceResult, FoundCheckpoint, SequenceNumber, Snapshot, StorageError,
    TaskId, Timestamp, Verification,
};
use rusqlite::{Connection, OptionalExtension, Row, ffi, named_params};

use super::error::SqliteError;
use super::readers::ReadError;
use super::tasks::{check_page, decode_json};
use super::{SqliteStore, statements};

impl CheckpointStorage for SqliteStore {
    fn checkpoint(
        &self,
        task: &TaskId,
        sequence: SequenceNumber,
    ) -> Result<Option<Checkpoint>, StorageError> {
        self.readers.read("reading a checkpoint", |connection| {
            let found = connection
                .prepare_cached(statements::CHECKPOINTS_GET)?
                .query_row(
                    named_params! {
                        ":task": task.as_str(),
                        ":sequence": sequence.get().cast_signed(),
                    },
                    RawCheckpoint::read,
                )
                .optional();
            match found {
                Ok(None) => Ok(None),
                Ok(Some(raw)) => raw
                    .decode(task)
                    .and_then(|checkpoint| in_its_place(checkpoint, sequence))
                    .map(Some)
                    .map_err(|detail| {
                        StorageError::corrupt_checkpoint(task.as_str(), sequence, detail).into()
                    }),
                Err(error) => match unreadable(&error) {
                    Some(detail) => {
                        Err(
                            StorageError::corrupt_checkpoint(task.as_str(), sequence, detail)
                                .into(),
                        )
                    }
                    None => Err(error.into()),
                },
            }
        })
    }

    fn newest_checkpoint(
        &self,
        task: &TaskId,
        below: Option<SequenceNumber>,
    ) -> Result<Option<FoundCheckpoint>, StorageError> {
        let below = bound(below);
        self.readers
            .read("reading the newest checkpoint", |connection| {
                let found = connection
                    .prepare_cached(statements::CHECKPOINTS_NEWEST)?
                    .query_row(
                        named_params! { ":task": task.as_str(), ":below": below },
                        RawCheckpoint::read,
                    )
                    .optional();
                let detail = match found {
                    Ok(None) => return Ok(None),
                    Ok(Some(raw)) => match raw.decode(task) {
                        Ok(checkpoint)
                            if checkpoint.summary.sequence.get().cast_signed() >= below =>
                        {
                            return Err(misplaced(task, below).into());
                        }
                        Ok(checkpoint) => {
                            return Ok(Some(FoundCheckpoint::Sound(Box::new(checkpoint))));
                        }
                        Err(detail) => detail,
                    },
                    Err(error) => match unreadable(&error) {
                        Some(detail) => detail,
                        None => return Err(error.into()),
                    },
                };
                // The number in a damaged row may be what is damaged: the index
                // gives one that is below `below`, so a walk down always ends.
                let number = match newest_number(connection, task, below) {
                    Ok(number) if number < below => number,
                    Ok(_) => return Err(misplaced(task, below).into()),
                    Err(ReadError::Sqlite(error)) if error.primary() == ffi::SQLITE_CORRUPT => {
                        return newest_unindexed(connection, task, below);
                    }
                    Err(error) => return Err(error),
                };
                Ok(Some(FoundCheckpoint::Damaged {
                    sequence: sequence(number)?,
                    detail,
                }))
            })
    }

    fn checkpoints(
        &self,
        task: &TaskId,
        below: Option<SequenceNumber>,
        rows: u32,
    ) -> Result<Vec<CheckpointSummary>, StorageError> {
        check_page(rows)?;
        self.readers.read("listing checkpoints", |connection| {
            let mut statement = connection.prepare_cached(statements::CHECKPOINTS_LIST)?;
            let found = statement.query_map(
                named_params! {
                    ":task": task.as_str(),
                    ":below": bound(below),
                    ":rows": rows,
                },
                Columns::read,
            )?;
            let mut summaries = Vec::new();
            let mut before = bound(below);
            for columns in found {
                let columns = columns?;
                let number = columns.sequence;
                if number >= before {
                    return Err(misplaced(task, before).into());
                }
                before = number;
                summaries.push(columns.decode(task).map_err(|detail| {
                    StorageError::corrupt(format!("checkpoint {number} of task {task}"), detail)
                })?);
            }
            Ok(summaries)
        })
    }

    fn evidence_results(
        &self,
        task: &TaskId,
        sequence: SequenceNumber,
    ) -> Result<Vec<EvidenceResult>, StorageError> {
        self.readers
            .read("reading recorded evidence", |connection| {
                let mut statement = connection.prepare_cached(statements::EVIDENCE_LIST)?;
                let mut found = statement.query(named_params! {
                    ":task": task.as_str(),
                    ":sequence": sequence.get().cast_signed(),
                })?;
                let mut results = Vec::new();
                while let Some(row) = found.next()? {
                    let outcome: String = row.get(2)?;
                    let checked_at: String = row.get(4)?;
                    let damaged = |what: &str| {
                        let what = format!("its recorded evidence: {what}");
                        StorageError::corrupt_checkpoint(task.as_str(), sequence, what)
                    };
                    results.push(EvidenceResult {
                        item: row.get(0)?,
                        kind: row.get(1)?,
                        outcome: EvidenceOutcome::parse(&outcome)
                            .ok_or_else(|| damaged("outcome"))?,
                        reason: row.get(3)?,
                        checked_at: Timestamp::parse(&checked_at)
                            .ok_or_else(|| damaged("checked_at"))?,
                    });
                }
                Ok(results)
            })
    }
}

/// A stored number as a sequence number.
pub(crate) fn sequence(number: i64) -> Result<SequenceNumber, StorageError> {
    u64::try_from(number)
        .ok()
        .and_then(|number| SequenceNumber::new(number).ok())
        .ok_or_else(|| StorageError::corrupt(format!("checkpoint number {number}"), "below one"))
}

/// The checkpoint, if it is the one that was asked for: a damaged index leads
/// to another, whose own seal holds.
fn in_its_place(checkpoint: Checkpoint, asked: SequenceNumber) -> Result<Checkpoint, String> {
    let found = checkpoint.summary.sequence;
    if found == asked {
        Ok(checkpoint)
    } else {
        Err(format!("in its place is number {found}"))
    }
}

/// As the port's method, past an index that is damaged: reads every row.
fn newest_unindexed(
    connection: &Connection,
    task: &TaskId,
    below: i64,
) -> Result<Option<FoundCheckpoint>, ReadError> {
    tracing::warn!(task = task.as_str(), "the index of checkpoints is damaged");
    let found = connection
        .prepare_cached(statements::CHECKPOINTS_NEWEST_UNINDEXED)?
        .query_row(
            named_params! { ":task": task.as_str(), ":below": below },
            RawCheckpoint::read,
        )
        .optional()?;
    let Some(raw) = found else { return Ok(None) };
    let number = raw.columns.sequence;
    Ok(Some(match raw.decode(task) {
        Ok(checkpoint) => FoundCheckpoint::Sound(Box::new(checkpoint)),
        Err(detail) => FoundCheckpoint::Damaged {
            sequence: sequence(number)?,
            detail,
        },
    }))
}

/// The index gave a row that belongs elsewhere: it is damaged.
fn misplaced(task: &TaskId, below: i64) -> StorageError {
    let what = format!("the index of the checkpoints of task {:?}", task.as_str());
    StorageError::corrupt(what, format!("a number below {below} was asked for"))
}

/// "Below this number" for SQL; none means all of them.
fn bound(below: Option<SequenceNumber>) -> i64 {
    below.map_or(i64::MAX, |sequence| sequence.get().cast_signed())
}

/// The number of a row that cannot be trusted, from the index.
fn newest_number(connection: &Connection, task: &TaskId, below: i64) -> Result<i64, ReadError> {
    Ok(connection
        .prepare_cached(statements::CHECKPOINTS_NEWEST_NUMBER)?
        .query_row(
            named_params! { ":task": task.as_str(), ":below": below },
            |row| row.get(0),
        )?)
}

/// Why this one row cannot be read; `None` when the error is not about the row.
fn unreadable(error: &rusqlite::Error) -> Option<String> {
    let primary = SqliteError::from(error).primary();
    (primary == ffi::SQLITE_CORRUPT).then(|| error.to_string())
}

/// The columns of a summary, as stored.
struct Columns {
    sequence: i64,
    checkpoint_type: String,
    verification: String,
    created_at: String,
    codec: Option<u8>,
    version: Option<u32>,
    bytes: Option<i64>,
    digest: Option<[u8; Digest::BYTES]>,
    seal: [u8; Digest::BYTES],
}

impl Columns {
    fn read(row: &Row<'_>) -> rusqlite::Result<Columns> {
        Ok(Columns {
            sequence: row.get(0)?,
            checkpoint_type: row.get(1)?,
            verification: row.get(2)?,
            created_at: row.get(3)?,
            codec: row.get(4)?,
            version: row.get(5)?,
            bytes: row.get(6)?,
            digest: row.get(7)?,
            seal: row.get(8)?,
        })
    }

    fn decode(self, task: &TaskId) -> Result<CheckpointSummary, String> {
        let snapshot = match (self.codec, self.version, self.bytes, self.digest) {
            (None, None, None, None) => None,
            (Some(codec), Some(version), Some(bytes), Some(digest)) => Some(SnapshotSummary {
                codec: Codec::from_id(codec).ok_or_else(|| format!("unknown codec {codec}"))?,
                version,
                bytes: u64::try_from(bytes).map_err(|_| "a negative length".to_string())?,
                digest: Digest::from_bytes(digest),
            }),
            _ => return Err("half of a snapshot".into()),
        };
        Ok(CheckpointSummary {
            task: task.clone(),
            sequence: sequence(self.sequence).map_err(|error| error.to_string())?,
            checkpoint_type: CheckpointType::parse(&self.checkpoint_type)
                .ok_or("unknown checkpoint_type")?,
            snapshot,
            verification: Verification::parse(&self.verification).ok_or("unknown verification")?,
            created_at: Timestamp::parse(&self.created_at).ok_or("created_at is no timestamp")?,
            seal: Digest::from_bytes(self.seal),
        })
    }
}

/// A whole row, as stored.
struct RawCheckpoint {
    columns: Columns,
    metadata: Option<String>,
    evidence: Option<String>,
    snapshot: Option<Vec<u8>>,
}

impl RawCheckpoint {
    fn read(row: &Row<'_>) -> rusqlite::Result<RawCheckpoint> {
        Ok(RawCheckpoint {
            columns: Columns::read(row)?,
            metadata: row.get(9)?,
            evidence: row.get(10)?,
            snapshot: row.get(11)?,
        })
    }

    /// Checks that it is what was stored.
    fn decode(self, task: &TaskId) -> Result<Checkpoint, String> {
        let summary = self.columns.decode(task)?;
        let snapshot = match (self.snapshot, &summary.snapshot) {
            (None, None) => None,
            (Some(bytes), Some(stored)) => {
                let snapshot = Snapshot::new(stored.codec, stored.version, bytes);
                if snapshot.summary() != *stored {
                    return Err("its state is not what was stored".into());
                }
                Some(snapshot)
            }
            _ => return Err("half of a snapshot".into()),
        };
        let seal = Sealed {
            task,
            sequence: summary.sequence,
            checkpoint_type: summary.checkpoint_type,
            snapshot: summary.snapshot,
            evidence: self.evidence.as_deref(),
            metadata: self.metadata.as_deref(),
            created_at: summary.created_at,
        }
        .seal();
        if seal != summary.seal {
            return Err("its seal does not hold".into());
        }
        let metadata = decode_json(self.metadata.as_deref()).ok_or("its metadata is not JSON")?;
        Ok(Checkpoint {
            summary,
            snapshot,
            evidence: self.evidence,
            metadata,
        })
    }
}

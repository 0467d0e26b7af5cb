-- Reads every row: only for a database whose index is damaged.
SELECT sequence_number, checkpoint_type, verification, created_at, codec, state_version,
       state_bytes, state_digest, seal, metadata, evidence, snapshot
FROM checkpoints NOT INDEXED
WHERE task_id = :task AND sequence_number < :below
ORDER BY sequence_number DESC
LIMIT 1

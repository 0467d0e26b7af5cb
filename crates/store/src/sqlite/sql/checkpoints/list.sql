SELECT sequence_number, checkpoint_type, verification, created_at, codec, state_version,
       state_bytes, state_digest, seal
FROM checkpoints
WHERE task_id = :task AND sequence_number < :below
ORDER BY sequence_number DESC
LIMIT :rows

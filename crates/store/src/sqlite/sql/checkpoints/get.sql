SELECT sequence_number, checkpoint_type, verification, created_at, codec, state_version,
       state_bytes, state_digest, seal, metadata, evidence, snapshot
FROM checkpoints
WHERE task_id = :task AND sequence_number = :sequence

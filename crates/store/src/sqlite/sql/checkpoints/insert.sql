INSERT INTO checkpoints (task_id, sequence_number, checkpoint_type, verification, created_at,
    codec, state_version, state_bytes, state_digest, seal, metadata, evidence, snapshot)
VALUES (:task, :sequence, :type, :verification, :now,
    :codec, :version, :bytes, :digest, :seal, :metadata, :evidence, :snapshot)

DELETE FROM checkpoints
WHERE checkpoint_id = :checkpoint

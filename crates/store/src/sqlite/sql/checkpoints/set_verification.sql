UPDATE checkpoints
SET verification = :verification
WHERE task_id = :task AND sequence_number = :sequence
RETURNING checkpoint_id

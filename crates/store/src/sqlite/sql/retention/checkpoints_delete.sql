-- The index told of this row: what it said is asked of the row itself.
DELETE FROM checkpoints
WHERE checkpoint_id = :checkpoint AND task_id = :task AND sequence_number = :sequence

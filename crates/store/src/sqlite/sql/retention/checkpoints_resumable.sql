SELECT 1
FROM checkpoints
WHERE task_id = :task AND sequence_number = :sequence
  AND state_bytes IS NOT NULL AND verification <> 'failed'

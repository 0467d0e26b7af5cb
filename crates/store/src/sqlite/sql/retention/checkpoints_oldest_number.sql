SELECT sequence_number, created_at
FROM checkpoints
WHERE task_id = :task AND sequence_number >= 1
ORDER BY sequence_number
LIMIT 1

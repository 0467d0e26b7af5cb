SELECT sequence_number, coalesce(state_bytes, 0), state_bytes IS NOT NULL, verification
FROM checkpoints
WHERE task_id = :task AND sequence_number >= :from AND sequence_number <= :up_to
ORDER BY sequence_number

-- Answered by the index alone: it tells the number of a row that cannot be read.
SELECT sequence_number
FROM checkpoints
WHERE task_id = :task AND sequence_number < :below
ORDER BY sequence_number DESC
LIMIT 1

-- Taken under the write lock, in the transaction that uses it: a number is
-- given once, whoever appends. No row means that there is no such task.
UPDATE checkpoint_counters
SET last_sequence = last_sequence + 1
WHERE task_id = :task
RETURNING last_sequence

-- The index told of this row: what it said is asked of the row itself.
DELETE FROM tasks
WHERE task_key = :key AND updated_at = :at AND status IN ('succeeded', 'cancelled')

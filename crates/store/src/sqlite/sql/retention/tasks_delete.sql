DELETE FROM tasks
WHERE task_key = :key

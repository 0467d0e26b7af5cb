SELECT task_key, task_id, task_type, status, metadata, created_at, updated_at
FROM tasks
WHERE task_id = :task

SELECT task_key, task_id, task_type, status, metadata, created_at, updated_at
FROM tasks
WHERE status = :status AND task_key > :after
ORDER BY task_key
LIMIT :rows

SELECT updated_at, task_key
FROM tasks INDEXED BY idx_tasks_finished
WHERE status IN ('succeeded', 'cancelled')
  AND updated_at > ''
ORDER BY updated_at DESC, task_key DESC
LIMIT 1 OFFSET :rows

SELECT task_key, updated_at, octet_length(coalesce(metadata, '')), task_id,
       EXISTS (SELECT 1 FROM work_items WHERE work_items.task_id = tasks.task_id)
       OR EXISTS (SELECT 1 FROM idempotency_keys AS k INDEXED BY idx_idempotency_keys_task
                  WHERE k.task_id = tasks.task_id AND k.status = 'pending')
FROM tasks INDEXED BY idx_tasks_finished
WHERE status IN ('succeeded', 'cancelled')
  AND (updated_at, task_key) > (:at, :key)
ORDER BY updated_at, task_key
LIMIT 1

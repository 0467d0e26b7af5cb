SELECT count(*), coalesce(sum(octet_length(coalesce(metadata, ''))), 0)
FROM tasks INDEXED BY idx_tasks_finished
WHERE status IN ('succeeded', 'cancelled')
  AND (updated_at, task_key) <= (:at, :key)
  AND NOT EXISTS (SELECT 1 FROM work_items WHERE work_items.task_id = tasks.task_id)
  AND NOT EXISTS (SELECT 1 FROM idempotency_keys AS k INDEXED BY idx_idempotency_keys_task
                  WHERE k.task_id = tasks.task_id AND k.status = 'pending')

SELECT key_id, outcome_bytes
FROM idempotency_keys INDEXED BY idx_idempotency_keys_task
WHERE task_id = :task AND status IN ('succeeded', 'failed')
LIMIT 1

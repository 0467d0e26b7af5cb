SELECT work_item_id, work_type, task_id, status, priority, unique_key, attempts, max_attempts,
    losses, available_at, lease_token, lease_holder, lease_incarnation, lease_acquired_at,
    lease_expires_at, last_error, created_at, updated_at
FROM work_items INDEXED BY idx_work_items_in_state
WHERE status = :status AND work_item_id > :after
ORDER BY work_item_id
LIMIT :rows

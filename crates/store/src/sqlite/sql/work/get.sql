SELECT work_item_id, work_type, task_id, status, priority, unique_key, attempts, max_attempts,
    losses, available_at, lease_token, lease_holder, lease_incarnation, lease_acquired_at,
    lease_expires_at, last_error, created_at, updated_at, payload, result
FROM work_items
WHERE work_item_id = :item

SELECT status, lease_token, task_id, attempts, max_attempts, losses,
    lease_holder, lease_incarnation, lease_acquired_at, lease_expires_at
FROM work_items
WHERE work_item_id = :item

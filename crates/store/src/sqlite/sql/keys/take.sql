UPDATE idempotency_keys
SET status = 'pending', token = token + 1, task_id = :task, operation = :operation,
    model = :model, request_digest = :digest, owner = :owner, owner_incarnation = :incarnation,
    lease_item = :item, lease_item_token = :item_token, lease_expires_at = :until,
    lease_boot_id = :boot, lease_deadline_us = :deadline_us, updated_at = :now, used_at = :now,
    detail = :detail, request = :request, expires_at = NULL, outcome_bytes = NULL, seal = NULL,
    outcome = NULL
WHERE key_id = :id AND token = :token

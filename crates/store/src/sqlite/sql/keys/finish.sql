UPDATE idempotency_keys
SET status = :status, outcome = :outcome, outcome_bytes = :bytes, seal = :seal,
    expires_at = :expires_at, updated_at = :now, used_at = :now,
    owner = NULL, owner_incarnation = NULL, lease_item = NULL, lease_item_token = NULL,
    lease_expires_at = NULL, lease_boot_id = NULL, lease_deadline_us = NULL
WHERE key_id = :id AND token = :token AND status = 'pending'

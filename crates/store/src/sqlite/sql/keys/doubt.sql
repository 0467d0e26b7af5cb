-- No boot has this name: the permit is over.
UPDATE idempotency_keys
SET lease_item = NULL, lease_item_token = NULL, lease_boot_id = '', lease_deadline_us = 0,
    lease_expires_at = :now
WHERE key_id = :id AND token = :token AND status = 'pending'

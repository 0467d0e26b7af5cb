UPDATE idempotency_keys
SET lease_expires_at = :until, lease_boot_id = :boot, lease_deadline_us = :deadline_us
WHERE key_id = :id AND token = :token AND status = 'pending' AND lease_item IS NULL
  AND lease_boot_id <> ''

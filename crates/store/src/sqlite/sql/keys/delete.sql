DELETE FROM idempotency_keys WHERE key_id = :id

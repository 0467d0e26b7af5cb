DELETE FROM idempotency_keys
WHERE key_id = :id AND token = :token AND status = 'pending'

SELECT max(key_id) FROM idempotency_keys

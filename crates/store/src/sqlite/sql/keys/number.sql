-- What can be read of a key of which the rest cannot.
SELECT key_id FROM idempotency_keys WHERE idempotency_key = :key

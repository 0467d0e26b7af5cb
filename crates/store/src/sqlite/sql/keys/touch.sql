UPDATE idempotency_keys SET used_at = :now
WHERE key_id = :id AND status IN ('succeeded', 'failed') AND used_at < :now

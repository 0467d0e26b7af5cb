SELECT key_id, expires_at, outcome_bytes
FROM idempotency_keys INDEXED BY idx_idempotency_keys_expires
WHERE expires_at IS NOT NULL AND status IN ('succeeded', 'failed') AND is_cached = :cached
  AND expires_at <= :now
ORDER BY expires_at
LIMIT 1

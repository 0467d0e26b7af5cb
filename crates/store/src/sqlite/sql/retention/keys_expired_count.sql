-- Those that the rule of age does not remove already: each is counted once.
SELECT count(*), coalesce(sum(outcome_bytes), 0)
FROM idempotency_keys INDEXED BY idx_idempotency_keys_expires
WHERE expires_at IS NOT NULL AND status IN ('succeeded', 'failed') AND is_cached = :cached
  AND expires_at <= :now
  AND (used_at, key_id) > (:at, :key)

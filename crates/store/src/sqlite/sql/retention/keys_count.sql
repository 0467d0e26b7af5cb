SELECT count(*), coalesce(sum(outcome_bytes), 0)
FROM idempotency_keys INDEXED BY idx_idempotency_keys_finished
WHERE status IN ('succeeded', 'failed') AND is_cached = :cached
  AND (used_at, key_id) <= (:at, :key)

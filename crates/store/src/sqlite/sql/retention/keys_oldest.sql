SELECT key_id, used_at, outcome_bytes
FROM idempotency_keys INDEXED BY idx_idempotency_keys_finished
WHERE status IN ('succeeded', 'failed') AND is_cached = :cached
  AND (used_at, key_id) > (:at, :key)
ORDER BY used_at, key_id
LIMIT 1

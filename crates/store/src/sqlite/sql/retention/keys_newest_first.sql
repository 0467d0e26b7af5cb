SELECT used_at, key_id, outcome_bytes
FROM idempotency_keys INDEXED BY idx_idempotency_keys_finished
WHERE status IN ('succeeded', 'failed') AND is_cached = :cached
  AND used_at > ''
ORDER BY used_at DESC, key_id DESC

SELECT key_id, updated_at, octet_length(coalesce(outcome, ''))
FROM idempotency_keys INDEXED BY idx_idempotency_keys_finished
WHERE status IN ('succeeded', 'failed')
  AND (updated_at, key_id) > (:at, :key)
ORDER BY updated_at, key_id
LIMIT 1

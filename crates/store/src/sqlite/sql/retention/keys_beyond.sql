SELECT updated_at, key_id
FROM idempotency_keys INDEXED BY idx_idempotency_keys_finished
WHERE status IN ('succeeded', 'failed')
  AND updated_at > ''
ORDER BY updated_at DESC, key_id DESC
LIMIT 1 OFFSET :rows

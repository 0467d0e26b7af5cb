SELECT count(*), coalesce(sum(octet_length(coalesce(outcome, ''))), 0)
FROM idempotency_keys INDEXED BY idx_idempotency_keys_finished
WHERE status IN ('succeeded', 'failed')
  AND (updated_at, key_id) <= (:at, :key)

-- Those that the rule of age does not remove already: each is counted once.
SELECT count(*), coalesce(sum(octet_length(coalesce(outcome, ''))), 0)
FROM idempotency_keys INDEXED BY idx_idempotency_keys_expires
WHERE expires_at IS NOT NULL AND status IN ('succeeded', 'failed')
  AND expires_at <= :now
  AND (updated_at, key_id) > (:at, :key)

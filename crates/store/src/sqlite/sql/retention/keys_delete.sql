-- The index told of this row: what it said is asked of the row itself.
DELETE FROM idempotency_keys
WHERE key_id = :key AND used_at = :at AND status IN ('succeeded', 'failed')

-- The hot look: a recorded outcome alone, without what only pending keys have.
SELECT key_id, status, request_digest, token, task_id, operation, model, detail, created_at,
       updated_at, used_at, expires_at, seal, request, outcome
FROM idempotency_keys
WHERE idempotency_key = :key AND status <> 'pending'

-- The hot look: a recorded outcome, what a replay needs of its key, and what its seal covers.
SELECT key_id, status, request_digest, token, task_id, operation, model, detail, updated_at,
       used_at, expires_at, seal, request, outcome
FROM idempotency_keys
WHERE idempotency_key = :key AND status <> 'pending'

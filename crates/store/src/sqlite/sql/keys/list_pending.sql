SELECT k.key_id, k.idempotency_key, k.status, k.request_digest, k.token, k.task_id, k.operation,
       k.model, k.detail, k.created_at, k.updated_at, k.used_at, k.expires_at, k.outcome_bytes,
       k.owner, k.owner_incarnation, k.lease_item, k.lease_item_token, k.lease_expires_at,
       k.lease_boot_id, k.lease_deadline_us,
       w.lease_expires_at, w.lease_boot_id, w.lease_deadline_us
FROM idempotency_keys k INDEXED BY idx_idempotency_keys_pending
LEFT JOIN work_items w
    ON w.work_item_id = k.lease_item AND w.status = 'in_progress'
    AND w.lease_token = k.lease_item_token
WHERE k.status = 'pending' AND k.key_id > :after AND k.is_cached = 0
ORDER BY k.key_id
LIMIT :rows

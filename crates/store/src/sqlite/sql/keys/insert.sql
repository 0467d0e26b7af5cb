-- A number is given once, also when the newest key was deleted.
INSERT INTO idempotency_keys (key_id, idempotency_key, status, task_id, operation, model,
    request_digest, token, owner, owner_incarnation, lease_item, lease_item_token,
    lease_expires_at, lease_boot_id, lease_deadline_us, created_at, updated_at, used_at, detail,
    request)
VALUES (
    1 + max(coalesce((SELECT max(key_id) FROM idempotency_keys), 0),
            (SELECT last_deleted FROM key_counter WHERE one = 1)),
    :key, 'pending', :task, :operation, :model, :digest, 1, :owner, :incarnation, :item,
    :item_token, :until, :boot, :deadline_us, :now, :now, :now, :detail, :request)

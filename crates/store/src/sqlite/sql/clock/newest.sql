-- The moment of the newest row, as the last of each table says; '' in an empty
-- database.
SELECT MAX(
    COALESCE((SELECT created_at FROM checkpoints
              WHERE checkpoint_id = (SELECT MAX(checkpoint_id) FROM checkpoints)), ''),
    COALESCE((SELECT created_at FROM task_audits
              WHERE audit_id = (SELECT MAX(audit_id) FROM task_audits)), ''),
    COALESCE((SELECT created_at FROM work_items
              WHERE work_item_id = (SELECT MAX(work_item_id) FROM work_items)), ''),
    COALESCE((SELECT created_at FROM idempotency_keys
              WHERE key_id = (SELECT MAX(key_id) FROM idempotency_keys)), ''))

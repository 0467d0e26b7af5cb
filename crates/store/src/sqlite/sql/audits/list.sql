SELECT audit_id, event, from_status, to_status, reason, detail, created_at
FROM task_audits
WHERE task_id = :task AND audit_id > :after
ORDER BY audit_id
LIMIT :rows

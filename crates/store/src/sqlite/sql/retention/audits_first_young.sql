SELECT created_at, audit_id
FROM task_audits
WHERE audit_id > :key AND created_at >= :before
ORDER BY audit_id
LIMIT 1

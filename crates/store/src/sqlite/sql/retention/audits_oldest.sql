SELECT audit_id, created_at, octet_length(coalesce(reason, '')) + octet_length(coalesce(detail, ''))
FROM task_audits
WHERE audit_id > :key
ORDER BY audit_id
LIMIT 1

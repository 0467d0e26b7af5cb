DELETE FROM task_audits
WHERE audit_id = :key

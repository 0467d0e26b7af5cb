SELECT count(*),
       coalesce(sum(octet_length(coalesce(reason, '')) + octet_length(coalesce(detail, ''))), 0)
FROM task_audits
WHERE audit_id > 0 AND audit_id <= :key

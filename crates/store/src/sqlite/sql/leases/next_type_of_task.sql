SELECT work_type
FROM work_items INDEXED BY idx_work_items_task_due
WHERE status = 'pending' AND task_id = :task AND work_type > :after
ORDER BY work_type
LIMIT 1

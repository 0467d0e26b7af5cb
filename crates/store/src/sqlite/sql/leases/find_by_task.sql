SELECT work_item_id, priority, available_at
FROM work_items INDEXED BY idx_work_items_task_due
WHERE status = 'pending' AND task_id = :task AND work_type = :type AND priority <= :at_most AND work_item_id > 0
ORDER BY priority DESC, available_at, work_item_id
LIMIT 1

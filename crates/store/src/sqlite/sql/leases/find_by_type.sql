SELECT work_item_id, priority, available_at
FROM work_items INDEXED BY idx_work_items_due
WHERE status = 'pending' AND work_type = :type AND priority < :below
ORDER BY priority DESC, available_at, work_item_id
LIMIT 1

-- The item that has been due for longest, or will be due first, of the highest
-- priority up to the given one.
SELECT work_item_id, priority, available_at
FROM work_items INDEXED BY idx_work_items_status_priority
WHERE status = 'pending' AND priority <= :at_most AND work_item_id > 0
ORDER BY priority DESC, available_at, work_item_id
LIMIT 1

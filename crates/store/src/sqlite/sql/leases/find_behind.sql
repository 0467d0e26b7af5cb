-- The next of one priority behind an item that could not be claimed. Only there:
-- it looks at items of other types and tasks on its way.
SELECT work_item_id, priority, available_at
FROM work_items INDEXED BY idx_work_items_status_priority
WHERE status = 'pending' AND priority = :priority
  AND (available_at, work_item_id) > (:available_at, :item)
  AND (:type IS NULL OR work_type = :type) AND (:task IS NULL OR task_id = :task)
ORDER BY available_at, work_item_id
LIMIT 1

SELECT updated_at, work_item_id
FROM work_items INDEXED BY idx_work_items_dead
WHERE status = 'failed'
  AND updated_at > ''
ORDER BY updated_at DESC, work_item_id DESC
LIMIT 1 OFFSET :rows

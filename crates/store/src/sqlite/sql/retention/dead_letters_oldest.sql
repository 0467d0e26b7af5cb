SELECT work_item_id, updated_at, octet_length(coalesce(payload, '')) + octet_length(coalesce(result, ''))
FROM work_items INDEXED BY idx_work_items_dead
WHERE status = 'failed'
  AND (updated_at, work_item_id) > (:at, :key)
ORDER BY updated_at, work_item_id
LIMIT 1

SELECT count(*), coalesce(sum(octet_length(coalesce(payload, '')) + octet_length(coalesce(result, ''))), 0)
FROM work_items INDEXED BY idx_work_items_finished
WHERE status IN ('succeeded', 'cancelled')
  AND (updated_at, work_item_id) <= (:at, :key)

-- Looks at every lease that is held. Incarnations sort by their start.
SELECT work_item_id
FROM work_items INDEXED BY idx_work_items_lease
WHERE status = 'in_progress' AND lease_expires_at > ''
  AND lease_holder = :worker AND lease_incarnation < :incarnation
LIMIT :rows OFFSET :skip

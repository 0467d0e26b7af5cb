-- Of another boot, or past their deadline in this one.
SELECT work_item_id FROM work_items INDEXED BY idx_work_items_deadline
WHERE status = 'in_progress' AND lease_boot_id < :boot
UNION ALL
SELECT work_item_id FROM work_items INDEXED BY idx_work_items_deadline
WHERE status = 'in_progress' AND lease_boot_id > :boot
UNION ALL
SELECT work_item_id FROM work_items INDEXED BY idx_work_items_deadline
WHERE status = 'in_progress' AND lease_boot_id = :boot AND lease_deadline_us <= :now_us
LIMIT :rows OFFSET :skip

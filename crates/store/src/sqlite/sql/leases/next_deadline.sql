-- The first deadline of this boot, in microseconds; of another boot it is over.
SELECT min(deadline_us) FROM (
    SELECT (SELECT :now_us FROM work_items INDEXED BY idx_work_items_deadline
            WHERE status = 'in_progress' AND lease_boot_id < :boot LIMIT 1) AS deadline_us
    UNION ALL
    SELECT (SELECT :now_us FROM work_items INDEXED BY idx_work_items_deadline
            WHERE status = 'in_progress' AND lease_boot_id > :boot LIMIT 1)
    UNION ALL
    SELECT (SELECT lease_deadline_us FROM work_items INDEXED BY idx_work_items_deadline
            WHERE status = 'in_progress' AND lease_boot_id = :boot
            ORDER BY lease_deadline_us LIMIT 1)
)

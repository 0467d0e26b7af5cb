SELECT count(*) FROM work_items INDEXED BY idx_work_items_status WHERE status = :status

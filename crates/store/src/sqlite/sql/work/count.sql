SELECT count(*) FROM work_items INDEXED BY idx_work_items_in_state WHERE status = :status

DELETE FROM work_items
WHERE work_item_id = :key

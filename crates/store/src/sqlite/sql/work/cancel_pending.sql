UPDATE work_items
SET status = 'cancelled', updated_at = :now
WHERE work_item_id = :item AND status = 'pending'

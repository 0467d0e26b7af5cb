-- The index told of this row: what it said is asked of the row itself.
DELETE FROM work_items
WHERE work_item_id = :key AND updated_at = :at AND status IN ('succeeded', 'cancelled')

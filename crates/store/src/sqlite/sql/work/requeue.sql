-- All attempts are there again; the token goes on, and so do the attempts' rows.
UPDATE work_items
SET status = 'pending', attempts = 0, losses = 0, available_at = min(available_at, :now), updated_at = :now
WHERE work_item_id = :item AND status = 'failed'

UPDATE work_items
SET lease_expires_at = :expires_at, lease_boot_id = :boot, lease_deadline_us = :deadline_us
WHERE work_item_id = :item AND status = 'in_progress' AND lease_token = :token

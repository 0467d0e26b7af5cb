UPDATE work_items
SET status = :to,
    losses = losses + 1,
    available_at = coalesce(:available_at, available_at),
    last_error = :error,
    lease_holder = NULL,
    lease_incarnation = NULL,
    lease_acquired_at = NULL,
    lease_expires_at = NULL,
    lease_boot_id = NULL,
    lease_deadline_us = NULL,
    checkpoint_sequence = NULL,
    updated_at = :now
WHERE work_item_id = :item AND status = 'in_progress' AND lease_token = :token
  AND lease_holder = :worker AND lease_incarnation < :incarnation

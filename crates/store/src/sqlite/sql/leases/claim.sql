-- SQLite has one writer, so finding and taking the item in one transaction is
-- enough; PostgreSQL needs FOR UPDATE SKIP LOCKED. An item whose attempts are
-- used up all the same (from a shell) is tried once more rather than for ever
-- in the way. Of its task the newest 100 numbers are looked at.
UPDATE work_items
SET status = 'in_progress',
    attempts = min(attempts + 1, max_attempts),
    lease_holder = :worker,
    lease_incarnation = :incarnation,
    lease_token = lease_token + 1,
    lease_acquired_at = :now,
    lease_expires_at = :expires_at,
    lease_boot_id = :boot,
    lease_deadline_us = :deadline_us,
    checkpoint_sequence = (
        SELECT sequence_number FROM checkpoints
        WHERE checkpoints.task_id = work_items.task_id
          AND sequence_number > -100 + (
            SELECT last_sequence FROM checkpoint_counters
            WHERE checkpoint_counters.task_id = work_items.task_id)
          AND state_bytes IS NOT NULL AND verification <> 'failed'
        ORDER BY sequence_number DESC LIMIT 1),
    updated_at = :now
WHERE work_item_id = :item AND status = 'pending' AND available_at <= :now
RETURNING lease_token, work_type, task_id, priority, payload, attempts, max_attempts,
    checkpoint_sequence

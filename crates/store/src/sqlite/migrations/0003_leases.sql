-- What claims, renewals and sweeps need: an index for each way to look.
--
-- As in the first migration everything here holds with foreign keys off.

-- Work of any type: the first due item of each priority. Runbooks make an index
-- of this name, over a prefix of these columns, where there is none.
DROP INDEX idx_work_items_status_priority;

CREATE INDEX idx_work_items_status_priority
ON work_items(status, priority DESC, available_at);

-- The same among the items of one type, and of one task and type.
CREATE INDEX idx_work_items_due
ON work_items(work_type, priority DESC, available_at) WHERE status = 'pending';

CREATE INDEX idx_work_items_task_due
ON work_items(task_id, work_type, priority DESC, available_at)
WHERE status = 'pending' AND task_id IS NOT NULL;

-- Leases by the clock that decides; idx_work_items_lease has them by the wall
-- clock, for people.
CREATE INDEX idx_work_items_deadline
ON work_items(lease_boot_id, lease_deadline_us) WHERE status = 'in_progress';

-- Lists of the items in a state, the oldest first.
CREATE INDEX idx_work_items_status ON work_items(status);

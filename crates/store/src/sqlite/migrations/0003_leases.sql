-- What claims, renewals and sweeps need: an index for each way to look, ids that
-- are given once, and a history that releases do not push out.
--
-- As in the first migration everything here holds with foreign keys off.

-- Work of any type: the first due item of each priority. Runbooks make an index
-- of this name, over a prefix of these columns, where there is none.
DROP INDEX IF EXISTS idx_work_items_status_priority;

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
CREATE INDEX idx_work_items_in_state ON work_items(status);

-- An id is given once, also when the newest item is deleted, by whomever: a
-- fence names an item by its id, and must never fit another one.
CREATE TABLE work_item_counter (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    last_deleted INTEGER NOT NULL CHECK (last_deleted >= 0)
) STRICT;

INSERT INTO work_item_counter (one, last_deleted) VALUES (1, 0);

CREATE TRIGGER work_items_ids_are_given_once AFTER INSERT ON work_items
WHEN NEW.work_item_id < 1
    OR NEW.work_item_id <= (SELECT last_deleted FROM work_item_counter WHERE one = 1)
BEGIN
    SELECT RAISE(ABORT, 'an id of a work item is given once');
END;

CREATE TRIGGER work_items_ids_are_kept AFTER DELETE ON work_items
BEGIN
    UPDATE work_item_counter SET last_deleted = OLD.work_item_id
    WHERE one = 1 AND last_deleted < OLD.work_item_id;
END;

CREATE TRIGGER work_item_counter_grows BEFORE UPDATE ON work_item_counter
WHEN NEW.last_deleted < OLD.last_deleted
BEGIN
    SELECT RAISE(ABORT, 'an id of a work item is given once');
END;

-- A lease has a token; without one nothing could be fenced.
CREATE TRIGGER work_items_leases_have_tokens BEFORE UPDATE OF status ON work_items
WHEN NEW.status = 'in_progress' AND NEW.lease_token < 1
BEGIN
    SELECT RAISE(ABORT, 'a lease has a token');
END;

-- An item keeps its newest 100 attempts that were not given back, and of those
-- that were the ones among its newest 100 claims: giving an item back again and
-- again pushes no failure out of its history. At most 200 rows are looked at.
DROP TRIGGER work_attempts_bounded;

CREATE TRIGGER work_attempts_bounded AFTER INSERT ON work_attempts
BEGIN
    DELETE FROM work_attempts
    WHERE work_item_id = NEW.work_item_id AND number <= NEW.number - 100
      AND outcome = 'released';
    DELETE FROM work_attempts
    WHERE work_item_id = NEW.work_item_id AND number < (
        SELECT number FROM work_attempts
        WHERE work_item_id = NEW.work_item_id AND outcome IS NOT 'released'
        ORDER BY number DESC LIMIT 1 OFFSET 99);
END;

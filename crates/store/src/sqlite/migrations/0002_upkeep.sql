-- What upkeep needs: which checkpoints are worked from, every attempt at a work
-- item, what integrity checks found, and indexes by age over what may go.
--
-- As in the first migration everything here holds with foreign keys off.

-- Integrity checks ------------------------------------------------------------

CREATE TABLE integrity_checks (
    check_id   INTEGER PRIMARY KEY,
    problems   INTEGER NOT NULL CHECK (problems >= 0),
    checked_at TEXT NOT NULL CHECK (checked_at GLOB '????-??-?? ??:??:??.??????')
) STRICT;

-- The newest 1000 stay.
CREATE TRIGGER integrity_checks_bounded AFTER INSERT ON integrity_checks
BEGIN
    DELETE FROM integrity_checks WHERE check_id <= NEW.check_id - 1000;
END;

-- Work items ------------------------------------------------------------------

-- The checkpoint of its task from which the lease's holder works. While the
-- item is in progress, retention leaves that checkpoint alone.
ALTER TABLE work_items
ADD COLUMN checkpoint_sequence INTEGER CHECK (checkpoint_sequence >= 1);

CREATE INDEX idx_work_items_checkpoint
ON work_items(task_id, checkpoint_sequence)
WHERE status = 'in_progress' AND checkpoint_sequence IS NOT NULL;

CREATE INDEX idx_work_items_finished
ON work_items(updated_at) WHERE status IN ('succeeded', 'cancelled');

CREATE INDEX idx_work_items_dead
ON work_items(updated_at) WHERE status = 'failed';

CREATE TABLE work_attempts (
    attempt_id   INTEGER PRIMARY KEY,
    work_item_id INTEGER NOT NULL REFERENCES work_items(work_item_id),
    number       INTEGER NOT NULL CHECK (number >= 1),
    worker       TEXT NOT NULL CHECK (worker <> ''),
    incarnation  TEXT NOT NULL CHECK (incarnation <> ''),
    started_at   TEXT NOT NULL CHECK (started_at GLOB '????-??-?? ??:??:??.??????'),
    ended_at     TEXT CHECK (ended_at GLOB '????-??-?? ??:??:??.??????'),
    outcome      TEXT CHECK (
                 outcome IN ('succeeded', 'failed', 'expired', 'released', 'cancelled')),
    error        TEXT,
    UNIQUE (work_item_id, number),
    CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    CHECK (error IS NULL OR outcome IS NOT NULL)
) STRICT;

-- Before the row itself, so that it also holds with foreign keys on.
CREATE TRIGGER work_items_delete_children BEFORE DELETE ON work_items
BEGIN
    DELETE FROM work_attempts WHERE work_item_id = OLD.work_item_id;
END;

-- An item keeps its newest 100 attempts, however often it is tried: the bound
-- holds whoever writes, and costs one look at an index.
CREATE TRIGGER work_attempts_bounded AFTER INSERT ON work_attempts
BEGIN
    DELETE FROM work_attempts
    WHERE work_item_id = NEW.work_item_id AND number <= NEW.number - 100;
END;

-- Tasks -----------------------------------------------------------------------

CREATE INDEX idx_tasks_finished
ON tasks(updated_at) WHERE status IN ('succeeded', 'cancelled');

-- Idempotency keys --------------------------------------------------------------

-- Pending keys are in neither index: what is in doubt is never looked for to be
-- removed, and costs nothing to pass over.
DROP INDEX idx_idempotency_keys_expires;

CREATE INDEX idx_idempotency_keys_expires
ON idempotency_keys(expires_at)
WHERE expires_at IS NOT NULL AND status IN ('succeeded', 'failed');

CREATE INDEX idx_idempotency_keys_finished
ON idempotency_keys(updated_at) WHERE status IN ('succeeded', 'failed');

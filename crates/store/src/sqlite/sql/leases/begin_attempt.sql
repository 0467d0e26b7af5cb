INSERT INTO work_attempts (work_item_id, number, worker, incarnation, started_at)
VALUES (:item, :number, :worker, :incarnation, :now)
-- A row of this number can only be left from somebody else's hand.
ON CONFLICT (work_item_id, number) DO UPDATE
SET worker = excluded.worker, incarnation = excluded.incarnation,
    started_at = excluded.started_at, ended_at = NULL, outcome = NULL, error = NULL

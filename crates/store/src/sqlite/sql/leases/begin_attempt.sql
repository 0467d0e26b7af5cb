INSERT INTO work_attempts (work_item_id, number, worker, incarnation, started_at)
VALUES (:item, :number, :worker, :incarnation, :now)

SELECT number, worker, incarnation, started_at, ended_at, outcome, error
FROM work_attempts
WHERE work_item_id = :item
ORDER BY number

INSERT INTO checkpoint_counters (task_id, last_sequence)
VALUES (:task, 0)

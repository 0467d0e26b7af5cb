-- An id is given once, also when the newest item was deleted.
INSERT INTO work_items (work_item_id, task_id, work_type, status, priority, unique_key, max_attempts,
    available_at, created_at, updated_at, payload)
VALUES (
    1 + max(coalesce((SELECT max(work_item_id) FROM work_items), 0),
            (SELECT last_deleted FROM work_item_counter WHERE one = 1)),
    :task, :type, 'pending', :priority, :key, :max_attempts, :available_at, :now, :now, :payload)

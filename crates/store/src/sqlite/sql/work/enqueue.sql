INSERT INTO work_items (task_id, work_type, status, priority, unique_key, max_attempts,
    available_at, created_at, updated_at, payload)
VALUES (:task, :type, 'pending', :priority, :key, :max_attempts, :available_at, :now, :now, :payload)

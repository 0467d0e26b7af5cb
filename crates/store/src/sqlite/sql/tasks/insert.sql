INSERT INTO tasks (task_id, task_type, status, metadata, created_at, updated_at)
VALUES (:task, :type, 'created', :metadata, :now, :now)
ON CONFLICT (task_id) DO NOTHING

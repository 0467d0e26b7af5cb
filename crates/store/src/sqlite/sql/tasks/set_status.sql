UPDATE tasks
SET status = :to, updated_at = :now
WHERE task_id = :task AND status = :from

INSERT INTO task_audits (task_id, event, from_status, to_status, reason, detail, created_at)
VALUES (:task, :event, :from, :to, :reason, :detail, :now)

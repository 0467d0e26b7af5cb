-- Of any state, and nothing else of the row is read.
SELECT task_key, task_id
FROM tasks
WHERE task_key > :after
ORDER BY task_key
LIMIT :rows

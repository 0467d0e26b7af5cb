SELECT DISTINCT checkpoint_sequence
FROM work_items
WHERE status = 'in_progress' AND checkpoint_sequence IS NOT NULL
  AND task_id = :task AND checkpoint_sequence <= :up_to
ORDER BY checkpoint_sequence

SELECT item, kind, outcome, reason, checked_at
FROM evidence_results
WHERE checkpoint_id = (
    SELECT checkpoint_id FROM checkpoints WHERE task_id = :task AND sequence_number = :sequence
)
ORDER BY item

UPDATE work_attempts
SET ended_at = :now, outcome = :outcome, error = :error
WHERE work_item_id = :item AND number = :number AND outcome IS NULL

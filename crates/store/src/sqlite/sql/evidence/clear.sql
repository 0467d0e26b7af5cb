DELETE FROM evidence_results
WHERE checkpoint_id = :checkpoint

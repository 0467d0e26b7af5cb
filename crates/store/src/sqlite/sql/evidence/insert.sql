INSERT INTO evidence_results (checkpoint_id, item, kind, outcome, reason, checked_at)
VALUES (:checkpoint, :item, :kind, :outcome, :reason, :checked_at)

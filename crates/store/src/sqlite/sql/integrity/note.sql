INSERT INTO integrity_checks (problems, checked_at)
VALUES (:problems, :now)

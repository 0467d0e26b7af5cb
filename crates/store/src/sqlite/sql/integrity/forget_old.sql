DELETE FROM integrity_checks
WHERE check_id <= (SELECT MAX(check_id) FROM integrity_checks) - 100

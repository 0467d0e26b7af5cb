-- When the newest check was made, if it found something; else NULL.
SELECT (SELECT checked_at FROM integrity_checks
        WHERE check_id = (SELECT MAX(check_id) FROM integrity_checks) AND problems > 0)

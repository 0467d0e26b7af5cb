-- The last check that found nothing; a file that was never checked was sound
-- when it was made.
SELECT COALESCE(
    (SELECT checked_at FROM integrity_checks WHERE problems = 0 ORDER BY check_id DESC LIMIT 1),
    (SELECT applied_at FROM schema_migrations WHERE version = 1))

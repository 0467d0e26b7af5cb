//! Names each statement's file once.

/// Declares one constant a file of `sql/`, and the list of all of them.
macro_rules! statements {
    ($($name:ident = $file:literal;)+) => {
        $( pub(crate) const $name: &str = include_str!(concat!("sql/", $file)); )+

        #[cfg(test)]
        pub(crate) const ALL: &[(&str, &str)] = &[$( ($file, $name), )+];
    };
}

statements! {
    AUDITS_INSERT = "audits/insert.sql";
    AUDITS_LIST = "audits/list.sql";
    CHECKPOINTS_GET = "checkpoints/get.sql";
    CHECKPOINTS_INSERT = "checkpoints/insert.sql";
    CHECKPOINTS_LIST = "checkpoints/list.sql";
    CHECKPOINTS_NEWEST = "checkpoints/newest.sql";
    CHECKPOINTS_NEWEST_UNINDEXED = "checkpoints/newest_unindexed.sql";
    CHECKPOINTS_NEWEST_NUMBER = "checkpoints/newest_number.sql";
    CHECKPOINTS_NEXT_NUMBER = "checkpoints/next_number.sql";
    CHECKPOINTS_SET_VERIFICATION = "checkpoints/set_verification.sql";
    CHECKPOINTS_START_NUMBERS = "checkpoints/start_numbers.sql";
    CLOCK_NEWEST = "clock/newest.sql";
    EVIDENCE_CLEAR = "evidence/clear.sql";
    EVIDENCE_INSERT = "evidence/insert.sql";
    EVIDENCE_LIST = "evidence/list.sql";
    INTEGRITY_LAST_SOUND = "integrity/last_sound.sql";
    INTEGRITY_UNSOUND = "integrity/unsound.sql";
    INTEGRITY_NOTE = "integrity/note.sql";
    KEYS_ABANDON = "keys/abandon.sql";
    KEYS_DELETE = "keys/delete.sql";
    KEYS_DOUBT = "keys/doubt.sql";
    KEYS_FIND = "keys/find.sql";
    KEYS_FINISH = "keys/finish.sql";
    KEYS_HELD = "keys/held.sql";
    KEYS_INSERT = "keys/insert.sql";
    KEYS_LIST = "keys/list.sql";
    KEYS_LIST_OF_TASK = "keys/list_of_task.sql";
    KEYS_LIST_PENDING = "keys/list_pending.sql";
    KEYS_NEWEST = "keys/newest.sql";
    KEYS_NUMBER = "keys/number.sql";
    KEYS_RECORDED = "keys/recorded.sql";
    KEYS_REMOVE = "keys/remove.sql";
    KEYS_RENEW = "keys/renew.sql";
    KEYS_TAKE = "keys/take.sql";
    KEYS_TOUCH = "keys/touch.sql";
    LEASES_BEGIN_ATTEMPT = "leases/begin_attempt.sql";
    LEASES_CLAIM = "leases/claim.sql";
    LEASES_DEADLINE = "leases/deadline.sql";
    LEASES_EARLIER_STARTS = "leases/earlier_starts.sql";
    LEASES_END = "leases/end.sql";
    LEASES_END_ATTEMPT = "leases/end_attempt.sql";
    LEASES_END_EARLIER_START = "leases/end_earlier_start.sql";
    LEASES_END_EXPIRED = "leases/end_expired.sql";
    LEASES_EXPIRED = "leases/expired.sql";
    LEASES_FIND_ANY = "leases/find_any.sql";
    LEASES_FIND_BEHIND = "leases/find_behind.sql";
    LEASES_FIND_BY_TASK = "leases/find_by_task.sql";
    LEASES_FIND_BY_TYPE = "leases/find_by_type.sql";
    LEASES_HELD = "leases/held.sql";
    LEASES_NEXT_DEADLINE = "leases/next_deadline.sql";
    LEASES_NEXT_TYPE_OF_TASK = "leases/next_type_of_task.sql";
    LEASES_RENEW = "leases/renew.sql";
    RETENTION_AUDITS_BEYOND = "retention/audits_beyond.sql";
    RETENTION_AUDITS_COUNT = "retention/audits_count.sql";
    RETENTION_AUDITS_DELETE = "retention/audits_delete.sql";
    RETENTION_AUDITS_FIRST_YOUNG = "retention/audits_first_young.sql";
    RETENTION_AUDITS_OLDEST = "retention/audits_oldest.sql";
    RETENTION_CHECKPOINTS_DELETE = "retention/checkpoints_delete.sql";
    RETENTION_CHECKPOINTS_LEASED = "retention/checkpoints_leased.sql";
    RETENTION_CHECKPOINTS_OLDEST = "retention/checkpoints_oldest.sql";
    RETENTION_CHECKPOINTS_OLDEST_NUMBER = "retention/checkpoints_oldest_number.sql";
    RETENTION_CHECKPOINTS_RESUMABLE = "retention/checkpoints_resumable.sql";
    RETENTION_CHECKPOINTS_ROWS = "retention/checkpoints_rows.sql";
    RETENTION_DEAD_LETTERS_BEYOND = "retention/dead_letters_beyond.sql";
    RETENTION_DEAD_LETTERS_COUNT = "retention/dead_letters_count.sql";
    RETENTION_DEAD_LETTERS_DELETE = "retention/dead_letters_delete.sql";
    RETENTION_DEAD_LETTERS_OLDEST = "retention/dead_letters_oldest.sql";
    RETENTION_KEYS_COUNT = "retention/keys_count.sql";
    RETENTION_KEYS_DELETE = "retention/keys_delete.sql";
    RETENTION_KEYS_EXPIRED_COUNT = "retention/keys_expired_count.sql";
    RETENTION_KEYS_EXPIRED_DELETE = "retention/keys_expired_delete.sql";
    RETENTION_KEYS_EXPIRED_OLDEST = "retention/keys_expired_oldest.sql";
    RETENTION_KEYS_NEWEST_FIRST = "retention/keys_newest_first.sql";
    RETENTION_KEYS_OLDEST = "retention/keys_oldest.sql";
    RETENTION_TASKS_BEYOND = "retention/tasks_beyond.sql";
    RETENTION_TASKS_COUNT = "retention/tasks_count.sql";
    RETENTION_TASKS_DELETE = "retention/tasks_delete.sql";
    RETENTION_TASKS_OLDEST = "retention/tasks_oldest.sql";
    RETENTION_TASK_KEYS_RECORDED = "retention/task_keys_recorded.sql";
    RETENTION_TASK_IDS = "retention/task_ids.sql";
    RETENTION_WORK_ITEMS_BEYOND = "retention/work_items_beyond.sql";
    RETENTION_WORK_ITEMS_COUNT = "retention/work_items_count.sql";
    RETENTION_WORK_ITEMS_DELETE = "retention/work_items_delete.sql";
    RETENTION_WORK_ITEMS_OLDEST = "retention/work_items_oldest.sql";
    TASKS_GET = "tasks/get.sql";
    TASKS_INSERT = "tasks/insert.sql";
    TASKS_LIST = "tasks/list.sql";
    TASKS_SET_STATUS = "tasks/set_status.sql";
    WORK_ATTEMPTS = "work/attempts.sql";
    WORK_BY_KEY = "work/by_key.sql";
    WORK_CANCEL_PENDING = "work/cancel_pending.sql";
    WORK_COUNT = "work/count.sql";
    WORK_ENQUEUE = "work/enqueue.sql";
    WORK_GET = "work/get.sql";
    WORK_LIST = "work/list.sql";
    WORK_LIST_OF_TASK = "work/list_of_task.sql";
    WORK_REQUEUE = "work/requeue.sql";
}

#[cfg(test)]
pub(crate) use self::tests::growing;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use agentos_core::Timestamp;
    use rusqlite::Connection;

    use super::*;
    use crate::sqlite::migrate::{MIGRATIONS, migrate};

    fn newest_schema() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, MIGRATIONS, Timestamp::from_unix_micros(0)).unwrap();
        connection
    }

    fn plan(connection: &Connection, sql: &str) -> String {
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let nulls = vec![rusqlite::types::Value::Null; statement.parameter_count()];
        let rows = statement
            .query_map(rusqlite::params_from_iter(nulls), |row| {
                row.get::<_, String>(3)
            })
            .unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn every_statement_prepares_against_the_newest_schema() {
        let connection = newest_schema();
        for (file, sql) in ALL {
            connection
                .prepare(sql)
                .unwrap_or_else(|error| panic!("{file}: {error}"));
        }
    }

    /// The statements whose costs would grow with history: they scan or sort.
    pub(crate) fn growing(connection: &Connection) -> Vec<&'static str> {
        let grows = |sql| {
            // A row of constants is no table.
            let plan = plan(connection, sql).replace("SCAN CONSTANT ROW", "");
            plan.contains("SCAN") || plan.contains("TEMP B-TREE")
        };
        ALL.iter()
            .filter(|(_, sql)| grows(sql))
            .map(|(file, _)| *file)
            .collect()
    }

    #[test]
    fn no_statement_scans_or_sorts() {
        assert_eq!(
            growing(&newest_schema()),
            [
                "checkpoints/newest_unindexed.sql", // only where an index is damaged
                "integrity/last_sound.sql",         // of a thousand rows at most
            ]
        );
    }

    /// The canary of the check above.
    #[test]
    fn a_missing_index_is_noticed() {
        let connection = newest_schema();
        connection
            .execute_batch("DROP INDEX idx_checkpoints_task_seq")
            .unwrap();
        assert!(growing(&connection).contains(&"checkpoints/newest.sql"));
    }

    #[test]
    fn every_file_of_the_folder_is_named() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sqlite/sql");
        let mut files = 0;
        for area in std::fs::read_dir(folder).unwrap() {
            for file in std::fs::read_dir(area.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                assert!(
                    ALL.iter().any(|(named, _)| path.ends_with(named)),
                    "{} is not used",
                    path.display()
                );
                files += 1;
            }
        }
        assert_eq!(files, ALL.len());
    }
}

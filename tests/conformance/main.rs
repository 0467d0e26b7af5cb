//! One suite, every adapter: the behaviour of the port, through the port alone.
//!
//! What is specified here, every engine keeps. What only one engine has
//! (pragmas, query plans, group commit) is tested elsewhere. A new adapter adds
//! one line at the end of this file.

mod canaries;
mod checkpoints;
mod commits;
mod retention;
mod rows;
mod tasks;

macro_rules! conformance {
    ($adapter:ident, $open:expr; $($area:ident: $($test:ident),+;)+) => {
        mod $adapter {
            $(mod $area {
                $(
                    #[test]
                    fn $test() {
                        crate::$area::$test($open().as_ref());
                    }
                )+
            })+
        }
    };
    ($adapter:ident, $open:expr) => {
        conformance! { $adapter, $open;
            tasks:
                a_created_task_is_read_back,
                a_task_that_is_not_there_is_none,
                creating_the_same_task_again_gives_the_one_that_is_there,
                another_task_of_the_same_id_is_a_conflict,
                ids_keep_every_letter,
                legal_transitions_are_made_and_others_refused,
                every_step_has_an_audit_line_in_order,
                lists_show_each_task_of_a_state_once,
                audit_lines_are_paged_in_order,
                a_page_has_a_bound;
            checkpoints:
                numbers_begin_at_one_and_have_no_gap,
                tasks_are_numbered_apart,
                what_is_loaded_is_what_was_stored,
                the_newest_is_found_and_the_walk_down_ends,
                lists_show_the_newest_first_and_are_paged,
                a_checkpoint_without_a_task_is_refused,
                an_error_boundary_carries_no_state,
                a_verification_replaces_the_one_before,
                a_verification_of_nothing_is_refused,
                threads_append_without_gaps;
            commits:
                parts_see_what_earlier_parts_did,
                a_failing_part_undoes_the_whole_commit,
                a_number_of_a_failed_commit_is_given_again,
                a_receipt_answers_every_part,
                a_commit_without_parts_is_refused,
                limits_name_themselves,
                all_rows_of_a_commit_carry_one_moment;
            retention:
                the_oldest_go_and_no_number_is_given_again,
                what_is_protected_stays,
                a_plan_that_is_out_of_date_removes_nothing,
                without_anything_to_protect_what_may_hold_stays,
                what_is_newer_than_the_protected_and_may_hold_stays,
                a_batch_ends_where_the_next_begins,
                the_ends_of_a_history_are_found,
                every_task_is_named_once,
                audit_lines_beyond_a_number_go,
                finished_tasks_go_with_their_checkpoints,
                every_batch_makes_progress,
                a_commit_prunes_once_and_within_its_bound;
            rows:
                a_row_is_matched_told_apart_and_missed,
                a_question_that_cannot_be_asked_is_an_answer,
                names_are_never_read_as_language;
        }
    };
}

conformance!(sqlite, agentos_tests::sqlite);
// conformance!(postgres, agentos_tests::postgres);

//! One suite, every adapter: the behaviour of the port, through the port alone.
//!
//! What is specified here, every engine keeps. What only one engine has
//! (pragmas, query plans, group commit) is tested elsewhere. A new adapter adds
//! one line at the end of this file.

mod canaries;
mod checkpoints;
mod commits;
mod keys;
mod leases;
mod retention;
mod rows;
mod tasks;

macro_rules! conformance {
    ($open:expr; $($area:ident: $($test:ident),+;)+) => {
        $(mod $area {
            $(
                #[test]
                fn $test() {
                    crate::$area::$test($open().as_ref());
                }
            )+
        })+
    };
    (clock: $open:expr; $($area:ident: $($test:ident),+;)+) => {
        $(mod $area {
            $(
                #[test]
                fn $test() {
                    let (store, clock) = $open();
                    crate::$area::$test(store.as_ref(), &clock);
                }
            )+
        })+
    };
    ($adapter:ident, $open:expr, $open_with_clock:expr) => { mod $adapter {
        conformance! { $open;
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
        conformance! { clock: $open_with_clock;
            leases:
                an_enqueued_item_is_read_back,
                a_unique_key_gives_the_first_item_back,
                work_that_can_never_be_right_is_refused,
                delayed_work_is_due_by_the_wall_clock,
                the_most_urgent_comes_first_and_then_the_oldest,
                lists_show_each_item_once_and_counts_agree,
                a_claim_says_what_is_to_be_done,
                a_held_item_is_not_due,
                a_type_that_is_named_twice_is_looked_for_once,
                a_claim_takes_at_most_as_many_as_it_asks_for,
                a_claim_takes_only_what_its_filter_names,
                a_token_grows_with_every_claim_and_is_never_reset,
                what_a_claim_can_never_ask_for_is_refused,
                threads_share_the_items_and_each_is_claimed_once,
                an_empty_result_is_a_result,
                a_failure_is_tried_again_after_a_pause,
                a_failure_that_shall_not_be_tried_again_is_a_dead_letter,
                the_last_attempt_ends_in_the_dead_letter,
                giving_an_item_back_is_no_attempt,
                pending_and_held_work_can_be_cancelled,
                what_is_finished_stays_finished,
                a_requeued_dead_letter_keeps_its_history,
                every_attempt_leaves_a_row,
                the_newest_hundred_attempts_are_kept,
                a_commit_under_a_lost_lease_writes_nothing,
                a_lost_lease_says_who_holds_it_and_since_when,
                a_lease_that_expired_and_was_not_taken_may_still_write,
                a_step_is_one_commit,
                a_renewal_extends_the_lease_from_now_on,
                an_expired_lease_that_nobody_took_is_renewed,
                a_lost_lease_renews_nothing,
                many_leases_are_renewed_at_once,
                a_lost_lease_is_taken_away_with_all_that_belongs_to_it,
                losses_requeue_at_once_then_with_a_pause_and_end,
                a_lease_that_was_renewed_is_never_taken_away,
                a_sweep_is_done_in_bounded_batches,
                sweeps_and_claims_at_once_recover_each_item_once,
                a_claim_takes_an_expired_lease_over_by_itself,
                a_reboot_ends_every_lease,
                a_wall_clock_that_jumps_touches_no_lease,
                only_earlier_starts_of_the_worker_are_given_up,
                the_outlook_tells_the_next_lease_and_the_next_work,
                a_listener_is_told_of_work_that_arrives;
            keys:
                a_first_execution_is_pending_under_a_permit,
                who_comes_second_is_told_that_it_is_in_flight,
                what_is_recorded_is_replayed_as_it_was,
                another_request_of_the_same_key_is_a_conflict,
                of_callers_at_once_one_executes,
                a_recorded_outcome_is_made_again_only_when_asked_for,
                an_execution_anew_keeps_what_it_was_begun_with,
                keys_keep_every_letter,
                what_can_never_be_begun_is_refused,
                an_empty_outcome_is_an_outcome,
                an_outcome_has_a_bound,
                an_expired_outcome_counts_as_absent_at_once,
                expiry_goes_by_the_wall_clock,
                a_time_to_live_of_zero_is_refused,
                outcomes_checkpoint_and_completion_are_one_commit,
                parts_of_keys_see_each_other,
                a_late_finisher_changes_nothing,
                who_has_the_permit_may,
                a_permit_that_ran_out_and_was_not_taken_may_still_finish,
                tokens_grow_and_numbers_are_given_once,
                an_abandoned_key_was_never_begun,
                a_permit_that_never_was_is_none,
                a_permit_ends_at_its_deadline,
                a_reboot_ends_every_permit,
                a_wall_clock_that_jumps_touches_no_permit,
                a_sole_start_ends_the_permits_of_earlier_ones,
                a_renewal_extends_the_permit_from_now_on,
                many_permits_are_renewed_at_once,
                a_permit_under_a_lease_lasts_as_long_as_the_lease,
                the_end_of_the_lease_is_the_end_of_the_permit,
                under_a_lost_lease_nothing_begins,
                an_expired_lease_that_nobody_took_still_records,
                who_claims_the_item_next_finds_what_its_predecessor_left,
                who_does_not_know_leaves_it_in_doubt_at_once,
                who_left_it_in_doubt_does_not_go_on,
                doubt_under_a_lease_does_not_wait_for_its_end,
                what_is_found_out_ends_the_doubt,
                doubt_without_a_task_ends_as_well,
                only_the_execution_in_doubt_is_resolved,
                a_sole_start_resolves_what_its_earlier_start_left,
                a_resolution_says_why_and_has_bounds,
                a_resolution_and_what_goes_with_it_are_one_commit,
                doubts_are_listed_in_pages,
                lists_show_what_the_filter_fits,
                lists_show_each_key_once,
                the_newest_key_has_the_greatest_number,
                only_recorded_outcomes_are_removed,
                a_use_is_noted,
                parts_of_keys_have_bounds;
        }
    } };
}

conformance!(
    sqlite,
    agentos_tests::sqlite,
    agentos_tests::sqlite_with_clock
);
// conformance!(postgres, agentos_tests::postgres, agentos_tests::postgres_with_clock);

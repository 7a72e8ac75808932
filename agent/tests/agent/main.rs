//! A whole agent against a coordinator of the test: this very binary is the shim when it is asked to
//! be.
//!
//! Owns the cases that show the agent's promises to the coordinator. It never sleeps: it waits for
//! conditions, bounded. `cargo test` calls it.

mod boots;
mod checkpoints;
mod datasets;
mod fake;
mod gangs;
mod gpus;
mod harness;
mod lives;
mod orders;
mod owed;
mod points;
mod sets;
mod store;
mod tasks;
mod told;
mod trouble;

use std::path::Path;
use std::process::ExitCode;

use harness::LIMIT;
use libtest_mimic::{Arguments, Failed, Trial};
use trainyard_agent::exec::shim;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, task_dir] = arguments.as_slice()
        && command == "shim"
    {
        return ExitCode::from(u8::try_from(shim::main(Path::new(task_dir))).unwrap_or(u8::MAX));
    }
    libtest_mimic::run(&Arguments::from_args(), cases()).exit_code()
}

macro_rules! cases {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        fn cases() -> Vec<Trial> {
            vec![$($(Trial::test(stringify!($name), || run(stringify!($name), $module::$name()))),+),+]
        }
    };
}

cases! {
    tasks: a_command_runs_and_all_it_says_arrives_once_and_in_order,
        a_node_says_who_it_is_and_when_its_trainer_ran,
        a_repeated_start_runs_once,
        a_stop_ends_a_trainer_with_its_grace,
        a_stop_while_preparing_leaves_no_process,
        a_trainer_that_calls_back_is_heard,
        a_time_limit_stops_a_trainer,
        a_time_limit_whose_signal_fails_once_is_enforced_nevertheless,
        a_missing_dataset_is_the_users_error_and_named,
        a_dataset_without_its_snapshot_is_not_taken_for_a_path,
        a_missing_program_is_the_users_error_and_named,
        an_unknown_framework_is_answered_with_the_known_ones;
    lives: records_of_a_lost_data_stream_come_again_and_none_is_missing,
        a_new_agent_goes_on_with_the_trainers_of_the_last_one,
        a_trainer_that_calls_while_the_agent_is_replaced_is_never_refused,
        an_agent_that_died_is_followed_by_one_that_goes_on,
        why_a_task_is_stopped_is_kept_once_the_disk_takes_it,
        an_end_that_was_not_heard_is_told_by_the_next_agent,
        a_task_whose_run_fails_again_and_again_is_given_up_soon_when_it_is_to_stop,
        a_forgotten_task_leaves_its_checkpoints_only;
    trouble: a_task_that_cannot_begin_for_a_while_begins_once_it_can,
        a_trainer_whose_processes_cannot_be_read_goes_on_until_they_can,
        a_trainer_whose_order_cannot_be_read_is_told_of_and_goes_on_until_it_can,
        a_trainer_whose_order_cannot_be_read_is_stopped_when_it_is_to_stop,
        a_task_whose_order_is_damaged_is_ended_and_put_aside_before_the_first_word,
        a_trainer_that_has_ended_keeps_its_outcome_though_what_it_called_its_checkpoints_is_damaged,
        a_trainer_is_stopped_in_order_though_it_can_never_be_read_what_it_called_its_checkpoints,
        an_end_says_that_nothing_is_kept_of_a_task_whose_records_are_damaged,
        an_end_says_that_its_last_record_is_lost_once_all_before_it_are_delivered,
        an_end_says_that_all_records_are_lost_where_their_file_is_gone,
        an_end_waits_while_what_its_task_told_cannot_be_opened_and_loses_nothing;
    points: a_process_that_has_gone_is_told_once_by_the_next_agent,
        a_task_that_had_no_process_yet_is_run_by_the_next_agent,
        a_stop_reaches_a_task_that_is_found_at_any_point,
        a_time_limit_that_is_over_when_the_agent_comes_back_changes_no_end,
        after_a_new_start_of_the_machine_nobody_else_is_taken_for_the_trainer;
    datasets: every_format_and_method_shows_exactly_the_recorded_split,
        a_trainer_is_told_of_its_dataset_and_finds_it_read_only,
        pictures_without_a_class_are_told_by_number,
        the_first_file_that_differs_is_named_and_the_job_is_at_fault,
        a_path_that_leads_out_is_refused,
        a_split_that_comes_out_another_way_runs_nothing,
        ways_that_expire_and_connections_that_break_are_borne,
        jobs_that_start_together_fetch_each_file_once,
        the_cache_stays_within_its_bound_when_datasets_follow_each_other,
        a_cancel_while_fetching_works_at_once,
        an_agent_that_restarts_while_fetching_begins_again;
    checkpoints: checkpoints_are_stored_and_their_place_is_told,
        a_file_below_the_folder_that_its_trainer_calls_its_checkpoint_is_stored_as_the_last_one,
        checkpoints_of_a_trainer_that_ended_while_the_coordinator_was_away_are_stored_when_it_is_back,
        a_store_that_takes_no_checkpoint_fails_no_job,
        what_is_not_published_is_not_told,
        an_answer_that_is_lost_is_asked_for_again_and_no_byte_is_sent_for_it,
        parts_whose_attempt_is_over_when_they_are_there_are_not_told_and_not_sent_again,
        a_large_checkpoint_goes_in_parts_and_a_part_that_is_there_is_not_sent_again,
        what_the_store_will_say_again_is_asked_once_and_its_words_are_told,
        a_checkpoint_gets_its_name_once_what_was_told_before_it_is_delivered,
        a_trainer_that_has_ended_is_cancelled_while_its_checkpoint_is_on_its_way,
        a_job_that_is_cancelled_while_it_trains_ends_though_its_store_takes_nothing,
        a_stored_checkpoint_is_a_file_of_the_task_when_its_trainer_begins,
        a_stored_checkpoint_that_is_gone_fails_the_job_in_words,
        a_checkpoint_that_the_node_knows_by_its_path_is_left_as_it_is;
    gpus: the_end_of_a_task_is_told_when_the_memory_of_its_gpu_is_free,
        a_gpu_whose_memory_stays_in_use_is_blocked_before_the_end_is_told_and_until_it_is_free,
        a_gpu_that_is_held_when_the_agent_starts_gets_no_jobs,
    a_restarted_agent_says_at_once_that_what_an_ended_task_left_on_its_gpu_is_still_there,
        a_gpu_stays_held_while_it_cannot_be_seen_what_its_task_has_left_behind,
        killing_the_parent_of_a_trainer_leaves_no_process_and_no_gpu_memory,
        a_task_whose_gpu_another_one_still_has_starts_when_that_has_ended,
        a_task_that_waits_for_what_another_one_has_is_cancelled_at_once,
        a_restarted_agent_gives_nobody_the_gpu_of_a_trainer_that_it_has_not_adopted_yet;
    told: what_a_trainer_has_called_its_last_checkpoint_is_stored_by_the_next_life_of_its_agent,
        the_last_checkpoint_comes_behind_what_a_killed_trainer_had_said_to_nobody,
        what_a_trainer_calls_its_checkpoint_is_on_the_disk_before_it_is_answered;
    owed: a_checkpoint_that_was_written_while_its_agent_was_away_has_no_name_before_the_report_of_its_epoch,
        a_trainer_that_ends_holds_up_none_of_its_checkpoints_by_what_it_still_keeps;
    orders: a_task_whose_order_is_still_being_written_is_in_the_next_hello,
        a_stop_that_a_failing_run_takes_with_it_reaches_the_next_one,
        a_restarted_agent_tells_no_end_of_a_task_that_was_forgotten_and_could_not_be_removed,
        an_order_of_a_number_that_another_task_has_is_begun_once_that_has_ended,
        an_order_begins_in_no_folder_that_another_task_has_left_and_waits_until_that_has_gone,
        an_order_that_waits_for_a_folder_to_go_is_cancelled_at_once;
    gangs: a_rank_is_told_where_all_meet,
        a_rank_waits_for_the_word_and_starts_once_however_often_it_is_said,
        the_checkpoints_of_a_gang_are_stored_by_its_rank_0_alone,
        a_stop_while_it_waits_leaves_no_process,
        a_port_is_one_attempts_until_its_task_has_ended,
        an_agent_that_restarts_while_a_rank_waits_has_it_wait_again_at_the_same_port,
        a_restarted_agent_lends_no_port_that_a_task_it_finds_later_has,
        the_word_that_comes_before_a_rank_is_prepared_is_kept,
        a_port_that_somebody_took_while_the_gang_waited_is_the_nodes_fault,
        a_stop_for_a_peer_gives_the_trainer_its_grace,
        torchrun_is_started_where_it_is_wanted,
        the_absence_of_torchrun_is_told_before_the_gang_waits;
    boots: a_wrong_token_ends_the_agent,
        a_coordinator_that_comes_later_is_found,
        a_data_folder_has_one_agent,
        a_data_folder_that_cannot_be_written_is_named;
}

fn run(name: &str, case: impl Future<Output = ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(async { tokio::time::timeout(LIMIT, case).await })
        .map_err(|_late| Failed::from(format!("{name} took more than {LIMIT:?}")))
}

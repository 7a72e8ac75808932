//! The process side with real processes: this very binary is the shim when it is asked to be.
//!
//! Owns the cases that only a kernel can answer. It never sleeps: it waits for conditions, bounded.
//! `cargo test` calls it.

mod found;
mod full;
mod lines;
mod remains;
mod starts;
mod stops;
mod support;
mod zygotes;

use std::{path::Path, process::ExitCode, time::Duration};

use libtest_mimic::{Arguments, Failed, Trial};
use trainyard_agent::exec::shim;

use self::{found::*, full::*, lines::*, remains::*, starts::*, stops::*, zygotes::*};

const LIMIT: Duration = Duration::from_secs(30);
/// The command under which this binary watches a task without any file descriptor left.
const STARVED: &str = "starved";
/// The command under which it runs a task on a small disk that it mounts at the task's folder.
const CRAMPED: &str = "cramped";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, task_dir] = arguments.as_slice()
        && command == "shim"
    {
        return ExitCode::from(u8::try_from(shim::main(Path::new(task_dir))).unwrap_or(u8::MAX));
    }
    if let [_, command, task_dir] = arguments.as_slice()
        && command == STARVED
    {
        return starved(Path::new(task_dir));
    }
    if let [_, command, task_dir] = arguments.as_slice()
        && command == CRAMPED
    {
        return cramped(Path::new(task_dir));
    }
    libtest_mimic::run(&Arguments::from_args(), cases()).exit_code()
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        fn cases() -> Vec<Trial> {
            vec![$(Trial::test(stringify!($name), || run(stringify!($name), $name()))),*]
        }
    };
}

cases! {
    an_exit_code_is_recorded, a_death_by_signal_is_recorded, a_missing_program_is_named,
    a_file_without_x_bit_is_named, a_missing_folder_is_named,
    what_no_machine_could_start_is_the_jobs_own_fault, a_program_that_is_being_written_is_nobodys_fault,
    the_environment_is_whole_and_nothing_is_inherited,
    a_trainer_that_ignores_sigterm_is_killed_after_the_grace,
    a_trainer_that_heeds_sigterm_ends_by_itself, a_sigterm_that_no_agent_asked_for_is_told_apart_from_a_stop,
    a_second_stop_can_shorten_the_grace_and_a_late_one_reaches_nobody,
    leftovers_are_killed_even_in_a_session_of_their_own, lines_of_both_streams_keep_their_order,
    a_line_of_one_megabyte_is_whole_in_pieces, a_progress_bar_leaves_its_last_state,
    a_last_line_without_end_is_kept, bytes_that_are_not_text_are_read_leniently,
    output_that_cannot_be_written_is_counted_and_blocks_nobody, reading_goes_on_where_it_was_left,
    a_stopped_trainer_is_woken_to_be_ended, a_task_is_found_again_by_its_folder,
    a_running_task_is_not_launched_twice,
    a_shim_that_has_not_said_who_it_is_keeps_a_second_one_away,
    shims_are_forked_from_one_process_that_ends_with_whoever_kept_it,
    what_a_forked_shim_cannot_start_is_named, a_killed_zygote_takes_no_task_with_it_and_is_replaced,
    an_order_that_a_stopped_zygote_reads_late_does_not_run_a_task_again_that_has_ended,
    tasks_begun_while_zygotes_are_killed_again_and_again_all_run_once, a_killed_shim_leaves_no_process_of_its_trainer,
    a_killed_shim_leaves_no_process_of_its_trainer_where_there_are_no_control_groups,
    what_a_trainer_has_put_into_a_control_group_below_its_own_ends_with_the_rest,
    what_a_shim_left_that_never_said_who_it_is_ends_before_the_task_is_launched_again,
    many_launches_leave_no_zombie, a_task_that_cannot_be_looked_at_is_not_given_up,
    an_exit_is_recorded_on_a_disk_that_is_full_to_the_end,
}

fn run(name: &str, case: impl Future<Output = ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(async { tokio::time::timeout(LIMIT, case).await })
        .map_err(|_late| Failed::from(format!("{name} took more than {LIMIT:?}")))
}

//! The simulation as a test: its seeds, and that a seed is a seed.
//!
//! Runs the binary `simulate`, which owns everything else but the disk, of which one promise is checked here.

use std::process::{Command, Output};

use rand::{SeedableRng as _, rngs::StdRng};
use redb::StorageBackend as _;

#[path = "../sim/disk.rs"]
#[expect(dead_code, reason = "most of it is for the simulation alone")]
mod disk;

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulate"));
    command.args(arguments).output().expect("it starts")
}

fn passed(arguments: &[&str]) -> String {
    let output = simulate(arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// A seed of the plan that it was found with.
fn pinned(plan: &str, seeds: &[&str]) {
    for seed in seeds {
        passed(&["--only", seed, "--plan", plan]);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let trace = |seed| passed(&["--only", seed, "--trace"]);
    let first = trace("7");
    for stored in ["stored: jobs ", "stored: logs ", "stored: users "] {
        assert!(first.contains(stored), "{first}");
    }
    assert_eq!(first, trace("7"));
    assert_ne!(first, trace("8"));
}

/// The node is lost while the last records of a job are awaited: it ends without them, and not before.
#[test]
fn records_that_a_lost_node_had_not_delivered_are_the_only_ones_that_a_completed_job_lacks() {
    pinned("1", &["1075", "2059"]);
}

/// Seed 11 once damaged the store: a database of before the cut was closed after it, and wrote.
#[test]
fn who_had_the_disk_open_before_a_power_cut_reaches_it_no_more() {
    let disk = disk::Disk::default();
    disk.boot();
    let before = disk.open();
    before.write(0, b"old").unwrap();
    before.sync_data().unwrap();
    disk.cut(&mut StdRng::seed_from_u64(1));
    disk.leave();
    disk.boot();
    let after = disk.open();
    assert!(before.write(0, b"new").is_err());
    assert!(before.sync_data().is_err());
    let mut there = [0; 3];
    after.read(0, &mut there).unwrap();
    assert_eq!(&there, b"old");
    pinned("1", &["11"]);
}

/// A batch that came twice was acknowledged while it was on its way to the disk, which then was full.
#[test]
fn what_is_acknowledged_to_an_agent_outlives_a_full_disk_of_the_coordinator() {
    pinned("2", &["17", "20"]);
}

/// What a rank of a gang had given back was held by two jobs after a restart.
#[test]
fn what_a_rank_of_a_gang_has_given_back_is_given_out_once_whoever_restarts() {
    pinned("3", &["25", "29", "32", "38"]);
}

/// What a node had lost while it was off was used by what had been placed there before: a GPU, memory, CPUs.
#[test]
fn nothing_starts_on_a_node_that_came_back_with_less_beyond_what_it_has() {
    pinned("4", &["39", "40"]);
}

/// A slow disk of the coordinator, and a cancel that met the kill of a trainer with its shim: one seed for each fault of
/// those that found them.
#[test]
fn a_job_always_has_a_reason_to_wait_and_a_cancel_outlives_its_trainer() {
    pinned("2", &["167", "129"]);
}

/// Of a submission that a slow disk held up, a second try was refused, since a job that it waits for was cancelled meanwhile;
/// an attempt went on from a checkpoint of the one before the last, and the epochs until then were not shown; a rank
/// whose machine lost power made its peer fail, which was taken for the user's fault, and again where nobody had heard yet
/// that it had started; one that was told to leave a node with a full disk and another clock was not known to have left
/// for that.
#[test]
fn what_the_long_run_has_found_stays_found() {
    pinned("7", &["591", "799", "1054"]);
    pinned("8", &["637"]);
    pinned("9", &["676", "841"]);
    pinned("10", &["120", "486", "2800"]);
}

#[test]
fn a_power_cut_at_any_sync_of_the_store_loses_nothing() {
    passed(&["--sweep", "--seed", "1", "--stride", "160"]);
}

#[test]
fn an_agent_that_is_gone_at_any_of_its_writes_loses_nothing() {
    let said = passed(&["--sweep-agents", "--seed", "2", "--stride", "700"]);
    assert!(said.contains("agents were gone amid a write"), "{said}");
}

/// A trainer that is there twice is what the simulation itself does to be found out.
#[test]
fn a_seed_that_fails_prints_the_one_command_that_shows_it_again() {
    let verdict = |output: &Output| {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success(), "{said}");
        let verdict = said.lines().find(|line| line.contains("seed 3: "));
        verdict.expect(&said).trim().to_owned()
    };
    let failed = simulate(&["--seeds", "1", "--seed", "3", "--broken"]);
    let found = verdict(&failed);
    assert!(found.contains("two trainers"), "{found}");
    let said = String::from_utf8_lossy(&failed.stdout);
    let command = "cargo run -p tests --bin simulate -- ";
    let mut commands = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix(command));
    let words: Vec<_> = commands.next().expect(&said).split(' ').collect();
    assert_eq!(commands.next(), None, "{said}");
    assert_eq!(verdict(&simulate(&words)), found);
}

/// Trainers end meanwhile, and one runs on until it is back; that each point and line is there once is the simulation's
/// own to check.
#[test]
fn a_coordinator_that_is_away_for_an_hour_gets_all_that_was_said_meanwhile() {
    let said = passed(&["--only", "5", "--plan", "5", "--away", "3600", "--trace"]);
    let when = |line: &str| line.split_whitespace().next()?.parse::<f64>().ok();
    let at = |word: &str| {
        let lines = said.lines().filter(|line| line.contains(word));
        lines.filter_map(when).collect::<Vec<_>>()
    };
    let (gone, back) = (at("fault: KillProgram"), at("fault: StartCoordinator"));
    assert_eq!((gone.len(), back.len()), (1, 1), "{said}");
    let (gone, back) = (gone[0], back[0]);
    assert!(back - gone >= 3_600.0, "{said}");
    let meanwhile = |at: &&f64| (gone..back).contains(*at);
    let ends = at(" ends code=Some(0)");
    assert!(ends.iter().filter(meanwhile).count() >= 2, "{said}");
    assert!(ends.iter().any(|at| *at > back), "{said}");
    assert_eq!(at(" is completed").iter().filter(meanwhile).count(), 0);
}

/// A clock that was set forward opened the gate of a job, and until the next look it had no reason to wait.
#[test]
fn a_job_whose_time_has_come_by_a_clock_that_was_set_still_has_a_reason() {
    pinned("5", &["12"]);
}

/// What the newest plan is for is also what happens in it.
#[test]
fn whatever_happens_in_a_hundred_seeds_nothing_is_lost_doubled_or_stuck() {
    let seeds = std::env::var("TRAINYARD_SEEDS").unwrap_or_else(|_| "100".to_owned());
    let said = passed(&["--seeds", &seeds]);
    for what in [
        "jobs made room and completed",
        "jobs left nodes out of service and completed",
        "jobs ran after others",
        "jobs could never start",
        "jobs of arrays completed",
        "writes found the disk of an agent full",
        "agents were gone amid a write",
        "trainers were to be gone",
    ] {
        assert!(said.contains(what), "{said}");
    }
}

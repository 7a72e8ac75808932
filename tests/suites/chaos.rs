//! A small run of real chaos as a test; the large one is started by hand (docs/reliability.md).
//!
//! Runs the binary `chaos`, which owns everything else.

use std::{
    io::Write as _,
    process::{Command, Output},
};

fn chaos(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    let output = command.args(arguments).output().expect("it starts");
    // That it is skipped is said past the capture of this test's output.
    if output.status.success() {
        std::io::stderr().write_all(&output.stderr).ok();
    }
    output
}

#[test]
fn whatever_is_killed_cut_off_frozen_or_full_each_job_ends_as_it_should_and_leaves_nothing() {
    let output = chaos(&[
        "--seed", "1", "--jobs", "8", "--faults", "15", "--agents", "3",
    ]);
    let said = String::from_utf8_lossy(&output.stdout);
    let cried = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{cried}");
}

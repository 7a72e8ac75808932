//! A small run of real chaos as a test; the large one is started by hand (docs/reliability.md).
//!
//! Runs the binary `chaos`, which owns everything else but what explains the loss of a node, which is checked here.

use std::{
    io::Write as _,
    process::{Command, Output},
};

#[path = "../chaos/silence.rs"]
#[expect(dead_code, reason = "some of it is for the run alone")]
mod silence;

use silence::{By, Silences};

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

#[test]
fn jobs_are_cancelled_while_their_nodes_are_cut_off_within_their_lease_and_beyond() {
    let output = chaos(&["--cancels-behind-a-cut"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let cried = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{cried}");
}

const SECOND: i128 = 1_000_000;

/// A lease of 4 s, and faults between these seconds.
fn explained(spans: &[(i128, i128)], lost: i128) -> bool {
    let mut silences = Silences::default();
    for (from, to) in spans {
        silences.begins(1, By::Network, from * SECOND);
        silences.ends(1, By::Network, to * SECOND);
    }
    silences.explain(1, lost * SECOND, 4)
}

#[test]
fn a_loss_is_explained_by_faults_that_kept_its_own_node_silent_until_then() {
    assert!(explained(&[(10, 18)], 15), "while it goes on");
    assert!(
        explained(&[(10, 11)], 14),
        "whoever was cut off comes back some time later"
    );
    assert!(explained(&[(6, 7), (10, 11)], 13), "two together");
    assert!(!explained(&[], 15), "by nothing");
    assert!(!explained(&[(10, 18)], 11), "it had only just begun");
    assert!(!explained(&[(10, 11)], 30), "it was long over");
    let mut silences = Silences::default();
    silences.begins(2, By::Death, 0);
    assert!(
        silences.explain(2, 100 * SECOND, 4),
        "it was never heard again"
    );
    assert!(!silences.explain(1, 100 * SECOND, 4), "it is another's");
}

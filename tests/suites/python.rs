//! Runs the unit tests of the Python parts (SDK, trainers), which need nothing but python3.
//! Those that need a trainer's environment skip themselves with a word that says so.

use std::process::Command;

#[test]
fn the_python_sdk_and_the_trainers_pass_their_own_tests() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let output = Command::new("python3")
        .args(["-m", "unittest", "discover", "-s", "tests/python"])
        .current_dir(root)
        .output()
        .expect("python3 runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    assert!(words.contains("\nOK"), "{words}");
}

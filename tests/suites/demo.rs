//! The demonstration, as a stranger runs it: a real trainer in its real environment (some 90 MB are
//! downloaded), on a cluster of real processes.

use std::process::Command;

use serde_json::Value;
use tests::cluster::processes;

use crate::{TRAINYARD, text};

#[test]
fn the_demo_trains_three_real_models_on_two_agents_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(TRAINYARD);
    command
        .args(["demo", "--json"])
        .env("TMPDIR", folder.path());
    let output = command.output().expect("it starts");
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let jobs = shown["jobs"].as_array().expect("jobs");
    assert_eq!(jobs.len(), 3);
    for job in jobs {
        assert_eq!(job["state"], "completed", "{job}");
        assert_eq!(job["progress"]["epoch"], 10);
        // Ten classes: guessing gives 0.1.
        let accuracy = job["final_metrics"]["accuracy"]
            .as_f64()
            .expect("an accuracy");
        assert!(accuracy > 0.8, "{accuracy}");
        for checkpoint in ["best_checkpoint", "last_checkpoint"] {
            let size = job[checkpoint]["size_bytes"].as_u64().expect("a size");
            assert!(size > 10_000, "{job}");
        }
    }
    let node = |job: usize| {
        jobs[job]["attempts"][0]["node"]
            .as_str()
            .expect("a node")
            .to_owned()
    };
    assert_ne!(node(0), node(1));
    // The third waited for a slot.
    let at = |job: usize, when: &str| jobs[job][when].as_str().expect("a time").to_owned();
    let first_end = at(0, "ended_at").min(at(1, "ended_at"));
    assert!(at(2, "started_at") > first_end, "{shown}");
    let mark = folder.path().display().to_string();
    let left: Vec<_> = processes()
        .into_iter()
        .filter(|(_, words)| words.contains(&mark))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let files = std::fs::read_dir(folder.path())
        .expect("the folder is read")
        .count();
    assert_eq!(files, 0);
}

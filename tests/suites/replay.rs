//! A trace that is replayed by the command: no coordinator, no clock but a virtual one.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{TRAINYARD, text};

/// Two GPUs, on which three jobs of one project and one of another want more than there is.
const TRACE: &str = "job_id,submit_time_s,user,vc,gpus,duration_s,walltime_s
1,0,ada,one,2,4000,7200
2,60,bob,two,1,100,600
3,120,ada,one,2,300,600
4,180,ada,one,1,50,600
";

/// What each policy is told by, besides its median wait and how many jobs never ran.
const FIELDS: [&str; 18] = [
    "policy",
    "jct_mean",
    "jct_p50",
    "jct_p99",
    "wait_mean",
    "wait_p99",
    "wait_p999",
    "wait_max",
    "wait_mean_8gpu",
    "bsld_mean",
    "util_window",
    "ftf_unfair",
    "iso_unfair",
    "makespan",
    "preemptions",
    "pass_p99_us",
    "wall_s",
    "stuck",
];

/// What depends on the machine that replays.
const TIMES: [&str; 2] = ["pass_p99_us", "wall_s"];

fn replay(folder: &Path, arguments: &[&str]) -> Output {
    let replay = ["--json", "replay", "--trace", "trace.csv", "--nodes", "1x2"];
    let mut command = Command::new(TRAINYARD);
    command.current_dir(folder).args(replay).args(arguments);
    command.output().expect("the program runs")
}

/// The figures of all policies.
fn figures(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let document = told.as_object().expect("an object");
    assert!(document.keys().eq(["policies"]), "{told}");
    let policies = told.get("policies").and_then(Value::as_array);
    policies.expect("a list").clone()
}

#[test]
fn a_trace_is_replayed_into_figures_by_name_and_a_picture_and_twice_the_same_but_for_the_times() {
    let folder = TempDir::new().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("trace.csv"), TRACE).expect("it is written");
    let once = |svg: &str| {
        let output = replay(folder, &["--policy", "all", "--svg", svg]);
        let drawn = fs::read_to_string(folder.join(svg)).expect("a picture");
        (figures(&output), drawn)
    };
    let (mut first, picture) = once("one.svg");
    let (mut second, again) = once("two.svg");
    let wanted: BTreeSet<&str> = FIELDS.into_iter().chain(["wait_p50"]).collect();
    for row in first.iter_mut().chain(&mut second) {
        let row = row.as_object_mut().expect("an object");
        let names: BTreeSet<&str> = row.keys().map(String::as_str).collect();
        assert_eq!(names, wanted);
        for time in TIMES {
            let took = row.remove(time).expect("it is there");
            assert!(took.as_f64() >= Some(0.0), "{time}: {took}");
        }
    }
    assert_eq!(first, second);
    let policies: Vec<&str> = first
        .iter()
        .filter_map(|row| row["policy"].as_str())
        .collect();
    assert_eq!(policies.len(), 4 + 14, "{policies:?}");
    // Strictly in order: 2 waits for 1, 3 for 2, 4 for 3.
    let fifo = first.iter().find(|row| row["policy"] == "fifo");
    let fifo = fifo.expect("it is among them");
    let waits = [0.0, 3_940.0, 3_980.0, 4_220.0];
    let mean = waits.iter().sum::<f64>() / 4.0;
    assert_eq!(fifo["wait_mean"].as_f64(), Some(mean));
    assert_eq!(fifo["makespan"].as_f64(), Some(4_450.0));
    assert_eq!(
        fifo["iso_unfair"],
        Value::Null,
        "nobody has nodes of its own"
    );
    assert_eq!(picture, again);
    assert_eq!(shown(&picture), policies.len());
}

/// How many policies a picture shows.
fn shown(picture: &str) -> usize {
    assert!(picture.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" "));
    assert!(picture.trim_end().ends_with("</svg>"));
    picture.matches("<text ").count()
}

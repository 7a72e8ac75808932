//! A node that is taken out of service with a trainer on it.

use std::collections::BTreeMap;

use tests::{
    cluster::Cluster,
    jobs::{Jobs, shell},
    wait::until,
};
use trainyard_proto::v1::{FailureClass, JobState, RetryPolicy};

use crate::{TRAINYARD, resume, text};

/// What a command prints that succeeds.
fn says(cluster: &Cluster, arguments: &[&str]) -> String {
    let done = cluster.cli(arguments);
    assert!(done.status.success(), "{}", text(&done.stderr));
    text(&done.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_node_is_drained_goes_on_at_another_node_with_each_epoch_once_and_no_retry() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let mut jobs = Jobs::of(&cluster).await;
    cluster.agent("one", &["--slots", "1"]).await;
    let mut spec = resume::job();
    spec.retry = Some(RetryPolicy {
        limit: Some(0),
        ..RetryPolicy::default()
    });
    let id = jobs.submit(spec).await;
    until("the second epoch is stored", async || {
        let points = jobs.clone().points(id).await;
        (points.len() == 2).then_some(())
    })
    .await;
    cluster.agent("two", &["--slots", "1"]).await;
    let drain = [
        "node",
        "drain",
        "one",
        "--deadline",
        "0s",
        "--reason",
        "new fan",
    ];
    let told = says(&cluster, &drain);
    assert!(told.starts_with("node one gets no new jobs; "), "{told}");
    let ended = jobs.ends(id).await;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    let all = resume::epochs(&mut jobs, id).await;
    assert_eq!(all, BTreeMap::from([(1, vec![1, 2]), (2, vec![3, 4])]));
    assert_eq!(jobs.output(id).await, ["two goes on true last.pt"]);
    let first = ended.attempts.first().expect("there are two");
    let why = first.outcome.clone().expect("it has ended");
    assert_eq!(why.failure_class(), FailureClass::Infrastructure, "{why:?}");
    assert_eq!(why.message, "stopped: node one is drained: new fan");
    let shown = says(&cluster, &["nodes"]);
    assert!(shown.contains(" drained "), "{shown}");
    assert!(
        shown.contains("one: nobody is left there (new fan)"),
        "{shown}"
    );
    let told = says(&cluster, &["node", "resume", "one"]);
    assert_eq!(told.trim_end(), "node one gets jobs again");
    let told = says(&cluster, &["--json", "events", &id.to_string()]);
    assert!(
        told.contains("vacates") && told.contains("new fan"),
        "{told}"
    );
    plans_and_takes_back(&cluster);
    labels_and_takes_back(&cluster);
    foresees_and_explains(&cluster, &mut jobs).await;
}

/// What becomes of a job, before and after it is submitted.
async fn foresees_and_explains(cluster: &Cluster, jobs: &mut Jobs) {
    let submit = |more: &[&'static str]| {
        let command = ["submit", "--cpus", "1"];
        says(cluster, &[&command, more, &["--", "true"]].concat())
    };
    let told = submit(&["--dry-run"]);
    let nodes = ["one", "two"]
        .map(|node| format!("it would start at once on {node}; nothing was submitted"));
    assert!(nodes.contains(&told.trim_end().to_owned()), "{told}");
    let go = cluster.path("go");
    let script = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(jobs.submit(shell(&script)).await);
    }
    for id in &ids {
        jobs.reaches(*id, JobState::Running).await;
    }
    let foreseen = submit(&["--dry-run"]);
    let number = submit(&["--quiet"]);
    let explained = says(cluster, &["explain", number.trim()]);
    let reason = "waits for cpus: asks for 1, has 0 free on node";
    for (told, head) in [
        (&foreseen, "it would wait".to_owned()),
        (&explained, format!("job {} waits", number.trim())),
    ] {
        assert!(told.contains(&head) && told.contains(reason), "{told}");
        assert!(told.contains("first, of 1 that wait"), "{told}");
        for id in &ids {
            assert!(told.contains(&format!("job {id}")), "{told}");
        }
    }
    std::fs::write(&go, "").expect("the go is given");
    ids.extend(number.trim().parse::<u64>());
    for id in ids {
        let ended = jobs.ends(id).await;
        assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    }
    let told = says(cluster, &["explain", number.trim()]);
    assert!(told.contains("does not wait: it is completed"), "{told}");
}

/// Labels by the command line, which anybody who sees nodes can read back.
fn labels_and_takes_back(cluster: &Cluster) {
    let label = ["node", "label", "one"];
    let with = |labels: &[&'static str]| says(cluster, &[&label, labels].concat());
    let told = with(&["zone=a", "rack=7"]);
    let words = "node one is labelled rack=7 (set), zone=a (set)";
    assert_eq!(told.trim_end(), words);
    let shown = says(cluster, &["--json", "node", "label", "one", "zone-"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let left = serde_json::json!({"rack": "7"});
    assert_eq!(shown.get("set_labels"), Some(&left), "{shown}");
    let refused = cluster.cli(&[&label[..], &["zone"]].concat());
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
}

/// Maintenance by the command line.
fn plans_and_takes_back(cluster: &Cluster) {
    let plan = [
        "node",
        "maintenance",
        "add",
        "one",
        "--from",
        "+2h",
        "--for",
        "4h",
        "--why",
        "new switch",
    ];
    let told = says(cluster, &plan);
    assert!(
        told.starts_with("maintenance 1 of one is planned: "),
        "{told}"
    );
    let told = says(cluster, &["--json", "events", "--node", "one"]);
    assert!(
        told.contains("maintenance_planned") && told.contains("new switch"),
        "{told}"
    );
    let shown = says(cluster, &["node", "maintenance", "list"]);
    assert!(
        shown.contains("planned") && shown.contains("new switch"),
        "{shown}"
    );
    let shown = says(cluster, &["nodes"]);
    assert!(
        shown.contains("one: maintenance in 1h5") && shown.contains("(new switch)"),
        "{shown}"
    );
    says(cluster, &["node", "maintenance", "remove", "1"]);
    let shown = says(cluster, &["--json", "node", "maintenance", "list"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown, serde_json::json!({"windows": []}));
}

//! A node whose disk is full: it says so, takes no work, and is back by itself.

use tests::{
    cluster::Cluster,
    disk::SmallDisk,
    jobs::{Jobs, command, shell},
    process::Process,
    wait::until,
};
use trainyard_proto::v1::{self, JobState};

use crate::text;

/// An agent whose data folder is the small disk.
async fn agent(cluster: &Cluster, disk: &SmallDisk) -> Process {
    let own = cluster.agent_command("one", &cluster.join_token);
    let mut command = disk.inside();
    command.arg(own.get_program()).args(own.get_args());
    command.args(["--slots", "4"]);
    let process = Process::start(&mut command, &cluster.path("one.log"));
    until("the node is there", async || node(cluster).await.map(drop)).await;
    process
}

async fn node(cluster: &Cluster) -> Option<v1::Node> {
    let request = v1::ListNodesRequest::default();
    let listed = cluster.nodes().await.list_nodes(request).await;
    let nodes = listed.expect("nodes are listed").into_inner().nodes;
    nodes.into_iter().next()
}

/// Waits until the node says that its disk is full, or that it is not.
async fn says(cluster: &Cluster, full: bool) -> String {
    until("the node says how its disk is", async || {
        let condition = node(cluster).await?.condition;
        (condition.is_empty() != full).then_some(condition)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_is_full_says_so_takes_no_task_goes_on_after_a_restart_and_is_back_when_there_is_room()
 {
    let cluster = Cluster::start(crate::TRAINYARD).await;
    let at = cluster.agent_data("one");
    let Some(disk) = SmallDisk::mount(&at, 80).await else {
        return;
    };
    let first = agent(&cluster, &disk).await;
    let mut jobs = Jobs::of(&cluster).await;
    let go = cluster.path("go");
    let script = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    let runs = jobs.submit(shell(&script)).await;
    jobs.reaches(runs, JobState::Running).await;
    // Some come before the node has noticed, and more than are needed to cordon one.
    disk.sh("cat /dev/zero > filler 2> /dev/null");
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(jobs.submit(command(&["true"])).await);
    }
    let condition = says(&cluster, true).await;
    assert!(condition.starts_with("disk full: "), "{condition}");
    assert!(
        condition.ends_with(" free of 80 MiB, needs 4 MiB"),
        "{condition}"
    );
    let shown = cluster.cli(&["nodes"]);
    let shown = text(&shown.stdout);
    assert!(shown.contains("disk full: "), "{shown}");
    for _ in 0..4 {
        let id = jobs.submit(command(&["true"])).await;
        let job = jobs.get(id).await;
        assert_eq!(job.state(), JobState::Queued, "{job:?}");
        ids.push(id);
    }
    for id in &ids {
        let job = jobs.get(*id).await;
        let waits = [JobState::Queued, JobState::Starting].contains(&job.state());
        assert!(waits && job.attempts.len() < 2, "{job:?}");
    }
    // It is started anew while not a byte is free, adopts its trainer, and takes nothing still.
    drop(first);
    let seen = node(&cluster).await.expect("it is there").last_seen_at;
    let _second = agent(&cluster, &disk).await;
    until("it is back", async || {
        let node = node(&cluster).await?;
        let heard = node.last_seen_at.map(|at| (at.seconds, at.nanos));
        let before = seen.map(|at| (at.seconds, at.nanos));
        (heard > before && node.state() == v1::NodeState::Ready).then_some(())
    })
    .await;
    says(&cluster, true).await;
    let job = jobs.get(runs).await;
    assert_eq!((job.state(), job.attempts.len()), (JobState::Running, 1));
    std::fs::write(&go, "").expect("the go is given");
    disk.sh("rm filler");
    says(&cluster, false).await;
    ids.push(runs);
    for id in ids {
        let ended = jobs.ends(id).await;
        assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
        assert_eq!(ended.attempts.len(), 1, "no attempt is burnt: {ended:?}");
    }
    let node = node(&cluster).await.expect("it is there");
    assert!(!node.draining, "{node:?}");
}

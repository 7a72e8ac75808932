//! Jobs of two nodes, each an agent of its own with an address of its own: they meet, and a real model that learns on
//! both comes to what it comes to in one process.

use std::path::{Path, PathBuf};

use tests::{
    cluster::Cluster,
    jobs::{Jobs, command, is_over, variables},
    needs::skipped,
    wait::until_within,
};
use trainyard_agent::environment::EnvironmentStore;
use trainyard_proto::v1::{self, JobState, Launcher};

use crate::{
    TRAINYARD,
    formats::{TRAINS_WITHIN, environments, trained::wanted},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Two agents of this machine, which meet at ports from this one on: tests run beside each other. That which starts
/// first has the higher address.
async fn two_nodes(first: u16) -> (Cluster, Jobs) {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let ports = |from: u16| format!("{from}-{}", from + 49);
    for (name, address, ports) in [
        ("one", "127.0.0.9", ports(first)),
        ("two", "127.0.0.2", ports(first + 50)),
    ] {
        let settings = [
            ("TRAINYARD_AGENT__NODE__ADDRESS", address),
            ("TRAINYARD_AGENT__GANG__PORTS", ports.as_str()),
        ];
        cluster.agent_with(name, &["--slots", "1"], &settings).await;
    }
    let jobs = Jobs::of(&cluster).await;
    (cluster, jobs)
}

async fn completes(jobs: &Jobs, id: u64) -> v1::Job {
    let over = async || {
        let job = jobs.clone().get(id).await;
        is_over(&job).then_some(job)
    };
    let job = until_within(TRAINS_WITHIN, "it has ended", over).await;
    let said = jobs.clone().output(id).await;
    assert_eq!(job.state(), JobState::Completed, "{job:?}: {said:?}");
    job
}

/// What ranks do that meet by the variables alone: rank 0 listens, the other one says who it is.
const MEETS: &str = r#"
import os, socket, time
own = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "NNODES", "TRAINYARD_NODE")}
place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
addresses = os.environ["TRAINYARD_NODE_ADDRESSES"].split(",")
assert own["RANK"] == own["NODE_RANK"] and own["WORLD_SIZE"] == own["NNODES"] == "2" and own["LOCAL_RANK"] == "0", own
assert len(addresses) == 2 and place[0] == addresses[0], addresses
if own["RANK"] == "0":
    server = socket.create_server(place)
    server.settimeout(60)
    peer, _ = server.accept()
    print("rank 0 met", peer.recv(100).decode(), flush=True)
else:
    for _ in range(600):
        try:
            peer = socket.create_connection(place)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    peer.sendall(b"rank 1 on " + own["TRAINYARD_NODE"].encode())
    print("rank 1 was heard", flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_ranks_of_a_gang_meet_by_what_their_variables_say() {
    let (_cluster, mut jobs) = two_nodes(28_500).await;
    let mut spec = command(&["python3", "-c", MEETS]);
    spec.nodes = 2;
    let id = jobs.submit(spec).await;
    completes(&jobs, id).await;
    let mut said = jobs.output(id).await;
    said.sort();
    assert!(
        said[0].starts_with("rank 0 met rank 1 on "),
        "the lines of both: {said:?}"
    );
    assert_eq!(said[1..], ["rank 1 was heard"]);
}

/// The Python of a trainer that has torch; none, with a word, where that is not to be built.
async fn python_with_torch() -> Option<PathBuf> {
    if !wanted() {
        skipped(
            "TRAINYARD_TRAINERS=1 is not set, which builds PyTorch (gigabytes), as .ci/run does",
        );
        return None;
    }
    let store = EnvironmentStore::new(environments());
    let trainer = Path::new(ROOT).join("trainers/timm");
    let built = store.prepare(&trainer, &mut |_| {}).await;
    Some(built.expect("the environment of timm is built").python)
}

/// The program that the documentation shows.
fn learning(python: &Path) -> v1::JobSpec {
    let python = python.to_str().expect("UTF-8");
    let program = Path::new(ROOT).join("examples/ddp.py");
    v1::JobSpec {
        epochs: 4,
        batch_size: 32,
        learning_rate: 0.1,
        environment: variables(&[("OMP_NUM_THREADS", "1")]),
        ..command(&[python, program.to_str().expect("UTF-8")])
    }
}

/// The loss of each epoch, as the job's clients see it.
async fn losses(jobs: &Jobs, id: u64) -> Vec<f64> {
    let points = jobs.clone().points(id).await;
    let epochs: Vec<u32> = points.iter().map(|point| point.epoch).collect();
    assert_eq!(epochs, [1, 2, 3, 4], "each once, by one rank");
    let loss = |point: &v1::MetricPoint| point.values.get("loss").copied();
    points.iter().filter_map(loss).collect()
}

/// Sums of floats in another order.
const CLOSE: f64 = 1e-5;

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_learns_on_two_nodes_comes_to_the_loss_of_one_process() {
    let Some(python) = python_with_torch().await else {
        return;
    };
    let (_cluster, mut jobs) = two_nodes(28_600).await;
    let mut spec = learning(&python);
    (spec.nodes, spec.procs_per_node) = (2, 1);
    spec.set_launcher(Launcher::Torchrun);
    let id = jobs.submit(spec).await;
    let job = completes(&jobs, id).await;
    let said = jobs.output(id).await;
    for rank in 0..2 {
        let begins = format!("rank {rank} of 2 on ");
        let own: Vec<_> = said
            .iter()
            .filter(|line| line.starts_with(&begins))
            .collect();
        assert_eq!(own.len(), 1, "{said:?}");
        let ends = format!(", node {rank}");
        assert!(
            own[0].ends_with(&ends),
            "torchrun's rank is the node's: {own:?}"
        );
    }
    let last = job.last_checkpoint.expect("that of rank 0");
    assert!(
        last.path.contains("artifacts"),
        "it is in the store: {last:?}"
    );
    let together = losses(&jobs, id).await;

    let mut spec = learning(&python);
    spec.set_launcher(Launcher::Torchrun);
    let id = jobs.submit(spec).await;
    completes(&jobs, id).await;
    let alone = losses(&jobs, id).await;
    assert!(alone[3] < alone[0], "it learns: {alone:?}");
    println!("together {together:?}, alone {alone:?}");
    for (one, other) in together.iter().zip(&alone) {
        assert!((one - other).abs() < CLOSE, "{together:?} and {alone:?}");
    }
}

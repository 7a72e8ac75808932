//! One rank of a gang: it waits, is told where all meet, and starts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use trainyard_proto::v1::{
    JobSpec, LaunchTask, Launcher, LogStream, StartTask, StopCause, StopTask, TaskKey, TaskPhase,
    TaskReport, connect_response::Frame,
};

use crate::fake::Fake;
use crate::harness::{
    Agent, cluster, command, folder, launch, options, said, shell, stop_of, task_folder,
};
use crate::store::Store;

fn task(job: u64, rank: u32) -> Option<TaskKey> {
    Some(TaskKey {
        job_id: job,
        attempt: 1,
        rank,
    })
}

fn start(job: u64, rank: u32, spec: JobSpec) -> Frame {
    Frame::Start(StartTask {
        task: task(job, rank),
        spec: Some(JobSpec { nodes: 2, ..spec }),
        gpu_uuids: Vec::new(),
        world_size: 2,
        secret: format!("secret-{job}"),
        snapshot: None,
    })
}

fn go(job: u64, rank: u32, port: u32) -> Frame {
    Frame::Launch(LaunchTask {
        task: task(job, rank),
        addresses: vec!["127.0.0.1".to_owned(), "127.0.0.2".to_owned()],
        port,
    })
}

async fn waits(fake: &Fake, job: u64) -> TaskReport {
    fake.until(|known| {
        let report = known.reports.get(&job)?;
        (report.phase() == TaskPhase::Waiting).then(|| report.clone())
    })
    .await
}

/// A cluster whose node has `count` ports for gangs.
async fn with_ports(count: u16, from: u16) -> (Fake, Agent, tempfile::TempDir) {
    let (fake, data) = (Fake::start().await, folder());
    let mut options = options(&fake, data.path());
    let last = from + count - 1;
    options.ports = format!("{from}-{last}").parse().expect("a range");
    (fake, launch(options), data)
}

pub(crate) async fn a_rank_waits_for_the_word_and_is_then_told_where_all_meet() {
    let (fake, agent, data) = cluster().await;
    assert_eq!(fake.hello(0).await.address, "127.0.0.1");
    let mut spec = shell("echo run >> runs; env");
    spec.environment
        .insert("MASTER_ADDR".to_owned(), "mine".to_owned());
    fake.send(start(1, 0, spec)).await;
    let report = waits(&fake, 1).await;
    assert!((29_500..30_000).contains(&report.port), "{report:?}");
    assert_eq!(report.detail, "waiting for the other nodes of the gang");
    assert!(!task_folder(&data, 1).join("launch.json").exists());
    for _ in 0..3 {
        fake.send(go(1, 0, report.port)).await;
    }
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    let said = fake.lines(1, LogStream::Stdout);
    let port = format!("MASTER_PORT={}", report.port);
    for line in [
        "RANK=0",
        "WORLD_SIZE=2",
        "LOCAL_RANK=0",
        "LOCAL_WORLD_SIZE=1",
        "NODE_RANK=0",
        "NNODES=2",
        "MASTER_ADDR=127.0.0.1",
        port.as_str(),
        "TRAINYARD_NODE_ADDRESSES=127.0.0.1,127.0.0.2",
        "GLOO_SOCKET_IFNAME=lo",
        "NCCL_SOCKET_IFNAME==lo",
    ] {
        assert!(said.iter().any(|one| one == line), "{line}: {said:?}");
    }
    let own = fake.lines(1, LogStream::System).join("\n");
    assert!(own.contains("variable MASTER_ADDR is set by the platform"));
    let runs = data.path().join("jobs/1/attempt-1/runs");
    let runs = std::fs::read_to_string(runs).expect("it ran");
    assert_eq!(runs, "run\n", "a word that is said again starts nothing");
    agent.stop().await;
}

pub(crate) async fn the_checkpoints_of_a_gang_are_stored_by_its_rank_0_alone() {
    let (fake, agent, _data) = cluster().await;
    let store = Store::start().await;
    fake.known().uploads = Some(store.clone());
    let script = "echo x > $CHECKPOINT_DIR/last.pt; echo $RANK $NODE_RANK";
    fake.send(start(1, 1, shell(script))).await;
    assert_eq!(waits(&fake, 1).await.port, 0, "the port is rank 0's");
    fake.send(go(1, 1, 29_500)).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    assert_eq!(fake.lines(1, LogStream::Stdout), ["1 1"]);
    assert!(fake.known().published.is_empty() && store.shelf().uploads.is_empty());
    fake.send(start(2, 0, shell(script))).await;
    let port = waits(&fake, 2).await.port;
    fake.send(go(2, 0, port)).await;
    assert_eq!(fake.whole_end(2).await.exit_code, Some(0));
    assert_eq!(fake.known().published, ["last.pt"]);
    agent.stop().await;
}

pub(crate) async fn a_stop_while_it_waits_leaves_no_process_and_gives_the_port_back() {
    let (fake, agent, data) = with_ports(1, 28_431).await;
    fake.send(start(1, 0, shell("exit 0"))).await;
    assert_eq!(waits(&fake, 1).await.port, 28_431);
    fake.send(start(2, 0, shell("exit 0"))).await;
    let report = fake.end(2).await;
    assert_eq!(report.phase(), TaskPhase::NotStarted);
    let end = report.end.expect("it has ended");
    assert!(end.infrastructure, "{end:?}");
    assert!(
        end.error.contains("no port of 28431-28431"),
        "{}",
        end.error
    );
    fake.send(Frame::Stop(StopTask {
        task: task(1, 0),
        cause: StopCause::PeerFailed.into(),
        grace_period: None,
    }))
    .await;
    let report = fake.end(1).await;
    assert_eq!(report.phase(), TaskPhase::NotStarted);
    let end = report.end.expect("it has ended");
    assert_eq!(end.stop_cause(), StopCause::PeerFailed);
    assert!(!task_folder(&data, 1).join("launch.json").exists());
    fake.whole_end(1).await;
    let own = fake.lines(1, LogStream::System).join("\n");
    assert!(
        own.contains("another rank of the gang has failed"),
        "{own:?}"
    );
    fake.send(start(3, 0, shell("exit 0"))).await;
    assert_eq!(waits(&fake, 3).await.port, 28_431, "it is free again");
    // And so it is after one that ran.
    fake.send(go(3, 0, 28_431)).await;
    fake.whole_end(3).await;
    fake.send(start(4, 0, shell("exit 0"))).await;
    assert_eq!(waits(&fake, 4).await.port, 28_431);
    fake.send(stop_of(4, crate::harness::LIMIT)).await;
    fake.end(4).await;
    agent.stop().await;
}

pub(crate) async fn an_agent_that_restarts_while_a_rank_waits_has_it_wait_again_at_the_same_port() {
    let (fake, agent, data) = with_ports(2, 28_441).await;
    fake.send(start(1, 0, shell("echo ran"))).await;
    let port = waits(&fake, 1).await.port;
    agent.stop().await;
    fake.hang_up();
    fake.known().reports.clear();
    let mut next = options(&fake, data.path());
    next.ports = "28441-28442".parse().expect("a range");
    let second = launch(next);
    assert_eq!(waits(&fake, 1).await.port, port);
    // Whoever asks meanwhile gets the other one.
    fake.send(start(2, 0, shell("exit 0"))).await;
    assert_ne!(waits(&fake, 2).await.port, port);
    fake.send(go(1, 0, port)).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    assert_eq!(fake.lines(1, LogStream::Stdout), ["ran"]);
    second.stop().await;
}

pub(crate) async fn the_word_that_comes_before_a_rank_is_prepared_is_kept() {
    let (fake, agent, _data) = cluster().await;
    fake.send(start(1, 1, shell("echo $MASTER_PORT"))).await;
    fake.send(go(1, 1, 29_512)).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    assert_eq!(fake.lines(1, LogStream::Stdout), ["29512"]);
    agent.stop().await;
}

pub(crate) async fn a_port_that_somebody_took_while_the_gang_waited_is_the_nodes_fault() {
    let (fake, agent, _data) = with_ports(1, 28_451).await;
    fake.send(start(1, 0, shell("exit 0"))).await;
    assert_eq!(waits(&fake, 1).await.port, 28_451);
    let taker = std::net::TcpListener::bind(("127.0.0.1", 28_451)).expect("it was kept free");
    fake.send(go(1, 0, 28_451)).await;
    let report = fake.end(1).await;
    assert_eq!(report.phase(), TaskPhase::NotStarted);
    let end = report.end.expect("it has ended");
    assert!(end.infrastructure, "{end:?}");
    assert!(end.error.contains("port 28451"), "{}", end.error);
    drop(taker);
    agent.stop().await;
}

pub(crate) async fn a_stop_for_a_peer_gives_the_trainer_its_grace() {
    let (fake, agent, _data) = cluster().await;
    let script = "trap 'echo saved; exit 5' TERM; echo ready; sleep 1000 & wait";
    fake.send(start(1, 1, shell(script))).await;
    waits(&fake, 1).await;
    fake.send(go(1, 1, 29_500)).await;
    said(&fake, 1, "ready").await;
    fake.send(Frame::Stop(StopTask {
        task: task(1, 1),
        cause: StopCause::PeerFailed.into(),
        grace_period: Some(trainyard_proto::convert::duration(crate::harness::LIMIT)),
    }))
    .await;
    let end = fake.whole_end(1).await;
    assert_eq!(
        (end.exit_code, end.stop_cause()),
        (Some(5), StopCause::PeerFailed)
    );
    agent.stop().await;
}

/// A program of that name in a folder of its own.
fn program(folder: &Path, name: &str, script: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, script).expect("the program is written");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, all).expect("it can be run");
    path.display().to_string()
}

fn with_torchrun(argv: &[&str], path: &str) -> JobSpec {
    let mut spec = command(argv);
    spec.set_launcher(Launcher::Torchrun);
    spec.environment.insert("PATH".to_owned(), path.to_owned());
    spec
}

pub(crate) async fn torchrun_is_started_where_it_is_wanted_and_its_absence_is_told_before_the_gang_waits()
 {
    let (fake, agent, data) = cluster().await;
    let bin = data.path().join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    program(&bin, "torchrun", "#!/bin/sh\necho \"$@\"\n");
    fake.send(start(1, 1, with_torchrun(&["t.py", "--x"], &path)))
        .await;
    waits(&fake, 1).await;
    fake.send(go(1, 1, 29_500)).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    let said = fake.lines(1, LogStream::Stdout).concat();
    assert!(
        said.starts_with("--nnodes=2 --rdzv-backend=c10d --rdzv-id=1-1 --rdzv-endpoint=127.0.0.1:29500 --rdzv-conf=is_host=false --local-addr=")
            && said.ends_with("@127.0.0.2 --nproc-per-node=1 t.py --x"),
        "{said}"
    );
    let without = program(&bin, "python-without", "#!/bin/sh\nexit 1\n");
    for (job, spec, words) in [
        (
            2,
            with_torchrun(&["t.py"], "/nowhere"),
            "there is no torchrun in /nowhere on node n1",
        ),
        (
            3,
            with_torchrun(&[&without, "t.py"], &path),
            "python-without on node n1 has no PyTorch",
        ),
        (
            4,
            with_torchrun(&["/nowhere/python3", "t.py"], &path),
            "/nowhere/python3 on node n1 cannot be started",
        ),
    ] {
        fake.send(start(job, 0, spec)).await;
        let report = fake.end(job).await;
        assert_eq!(report.phase(), TaskPhase::NotStarted);
        let end = report.end.expect("it has ended");
        assert!(!end.infrastructure, "{}", end.error);
        assert!(end.error.contains(words), "{}", end.error);
        assert!(end.error.contains("name a Python that has PyTorch"));
    }
    agent.stop().await;
}

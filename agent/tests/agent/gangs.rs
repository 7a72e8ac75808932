//! One rank of a gang: it waits, is told where all meet, and starts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use trainyard_proto::v1::{
    JobSpec, LaunchTask, Launcher, LogStream, StartTask, StopCause, StopTask, TaskEnd, TaskKey,
    TaskPhase, TaskReport, connect_response::Frame,
};

use crate::fake::Fake;
use crate::harness::{
    Agent, LIMIT, cluster, command, folder, launch, options, said, shell, stop_of, task_folder,
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
    options.slots = Some(u32::from(count));
    options.ports = format!("{from}-{last}").parse().expect("a range");
    (fake, launch(options), data)
}

/// A job that does not get as far as waiting.
async fn refused(fake: &Fake, job: u64, spec: JobSpec) -> TaskEnd {
    fake.send(start(job, 0, spec)).await;
    not_started(fake, job).await
}

async fn not_started(fake: &Fake, job: u64) -> TaskEnd {
    let report = fake.end(job).await;
    assert_eq!(report.phase(), TaskPhase::NotStarted);
    report.end.expect("it has ended")
}

/// A rank that waits, is told to launch and ends well; the port that it named.
async fn runs(fake: &Fake, (job, rank): (u64, u32), spec: JobSpec) -> u32 {
    fake.send(start(job, rank, spec)).await;
    let port = waits(fake, job).await.port;
    let told = if port == 0 { 29_500 } else { port };
    fake.send(go(job, rank, told)).await;
    assert_eq!(fake.whole_end(job).await.exit_code, Some(0));
    port
}

pub(crate) async fn a_rank_is_told_where_all_meet() {
    let (fake, agent, _data) = cluster().await;
    let mut spec = shell("env");
    spec.environment
        .insert("MASTER_ADDR".to_owned(), "mine".to_owned());
    let port = runs(&fake, (1, 0), spec).await;
    assert!((29_500..30_000).contains(&port), "{port}");
    let said = fake.lines(1, LogStream::Stdout);
    let port = format!("MASTER_PORT={port}");
    let expected = [
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
    ];
    let is_missing = |line: &&str| !said.iter().any(|one| one == line);
    let missing: Vec<_> = expected.into_iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "{missing:?} of {said:?}");
    let own = fake.lines(1, LogStream::System).join("\n");
    assert!(own.contains("variable MASTER_ADDR is set by the platform"));
    agent.stop().await;
}

pub(crate) async fn a_rank_waits_for_the_word_and_starts_once_however_often_it_is_said() {
    let (fake, agent, data) = cluster().await;
    assert_eq!(fake.hello(0).await.address, "127.0.0.1");
    fake.send(start(1, 0, shell("echo run >> runs"))).await;
    let report = waits(&fake, 1).await;
    assert_eq!(report.detail, "waiting for the other nodes of the gang");
    assert!(!task_folder(&data, 1).join("launch.json").exists());
    for _ in 0..3 {
        fake.send(go(1, 0, report.port)).await;
    }
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    let runs = data.path().join("jobs/1/attempt-1/runs");
    let runs = std::fs::read_to_string(runs).expect("it ran");
    assert_eq!(runs, "run\n");
    agent.stop().await;
}

pub(crate) async fn the_checkpoints_of_a_gang_are_stored_by_its_rank_0_alone() {
    let (fake, agent, _data) = cluster().await;
    let store = Store::start().await;
    fake.known().uploads = Some(store.clone());
    let script = || shell("echo x > $CHECKPOINT_DIR/last.pt; echo $RANK $NODE_RANK");
    assert_eq!(runs(&fake, (1, 1), script()).await, 0, "it is rank 0's");
    assert_eq!(fake.lines(1, LogStream::Stdout), ["1 1"]);
    assert_eq!(fake.known().published, [""; 0]);
    runs(&fake, (2, 0), script()).await;
    assert_eq!(fake.known().published, ["last.pt"]);
    agent.stop().await;
}

pub(crate) async fn a_stop_while_it_waits_leaves_no_process() {
    let (fake, agent, data) = cluster().await;
    fake.send(start(1, 0, shell("exit 0"))).await;
    let port = waits(&fake, 1).await.port;
    fake.send(Frame::Stop(StopTask {
        task: task(1, 0),
        cause: StopCause::PeerFailed.into(),
        grace_period: None,
    }))
    .await;
    let end = not_started(&fake, 1).await;
    assert_eq!(end.stop_cause(), StopCause::PeerFailed);
    fake.send(go(1, 0, port)).await;
    fake.whole_end(1).await;
    assert!(!task_folder(&data, 1).join("launch.json").exists());
    let own = fake.lines(1, LogStream::System).join("\n");
    assert!(own.contains("another rank of the gang has failed"), "{own}");
    agent.stop().await;
}

pub(crate) async fn a_port_is_one_attempts_until_its_task_has_ended() {
    let (fake, agent, _data) = with_ports(1, 28_431).await;
    fake.send(start(1, 0, shell("exit 0"))).await;
    assert_eq!(waits(&fake, 1).await.port, 28_431);
    let end = refused(&fake, 2, shell("exit 0")).await;
    assert!(end.infrastructure, "{end:?}");
    let text = end.error;
    assert!(text.contains("no port of 28431-28431"), "{text}");
    fake.send(stop_of(1, LIMIT)).await;
    not_started(&fake, 1).await;
    // Given back by one that never ran, and by one that did.
    assert_eq!(runs(&fake, (3, 0), shell("exit 0")).await, 28_431);
    assert_eq!(runs(&fake, (4, 0), shell("exit 0")).await, 28_431);
    agent.stop().await;
}

pub(crate) async fn an_agent_that_restarts_while_a_rank_waits_has_it_wait_again_at_the_same_port() {
    // It gets what it would not get again if nobody remembered.
    let taker = std::net::TcpListener::bind(("127.0.0.1", 28_441)).expect("it is free");
    let (fake, agent, data) = with_ports(2, 28_441).await;
    fake.send(start(1, 0, shell("echo ran"))).await;
    let port = waits(&fake, 1).await.port;
    assert_eq!(port, 28_442);
    drop(taker);
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
    fake.whole_end(1).await;
    assert_eq!(fake.lines(1, LogStream::Stdout), ["ran"]);
    second.stop().await;
}

pub(crate) async fn a_restarted_agent_lends_no_port_that_a_task_it_finds_later_has() {
    const COUNT: u16 = 12;
    let (fake, agent, data) = with_ports(COUNT, 28_461).await;
    for job in 1..=u64::from(COUNT) {
        fake.send(start(job, 0, shell("exit 0"))).await;
    }
    for job in 1..=u64::from(COUNT) {
        waits(&fake, job).await;
    }
    agent.stop().await;
    fake.hang_up();
    fake.known().reports.clear();
    // Only the one that is found last has got as far as a port: that which the first one looks at first.
    let found = std::fs::read_dir(data.path().join("tasks")).expect("the tasks");
    let found: Vec<_> = found.map(|one| one.expect("a task").path()).collect();
    let name = found.first().and_then(|path| path.file_name()?.to_str());
    let first = name.and_then(|name| name.split('-').next()?.parse().ok());
    let first: u16 = first.expect("the number of its job");
    for task in &found {
        std::fs::remove_file(task.join("port.json")).expect("it has one");
    }
    let taken = 28_461 + (first * 31 + 1) % COUNT;
    let last = found.last().expect("there are some").join("port.json");
    std::fs::write(last, taken.to_string()).expect("it is written");
    let mut next = options(&fake, data.path());
    next.slots = Some(u32::from(COUNT));
    next.ports = "28461-28472".parse().expect("a range");
    let second = launch(next);
    let mut ports = Vec::new();
    for job in 1..=u64::from(COUNT) {
        ports.push(waits(&fake, job).await.port);
    }
    ports.sort_unstable();
    assert!(ports.iter().copied().eq(28_461..28_473), "{ports:?}");
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
    let end = not_started(&fake, 1).await;
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
        grace_period: Some(trainyard_proto::convert::duration(LIMIT)),
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

pub(crate) async fn torchrun_is_started_where_it_is_wanted() {
    let (fake, agent, data) = cluster().await;
    let path = format!("{}:/usr/bin:/bin", data.path().display());
    program(data.path(), "torchrun", "#!/bin/sh\necho \"$@\"\n");
    runs(&fake, (1, 1), with_torchrun(&["t.py", "--x"], &path)).await;
    let said = fake.lines(1, LogStream::Stdout).concat();
    let begins = "--nnodes=2 --rdzv-backend=c10d --rdzv-id=1-1 --rdzv-endpoint=127.0.0.1:29500 --rdzv-conf=is_host=false --local-addr=";
    assert!(said.starts_with(begins), "{said}");
    let ends = "@127.0.0.2 --nproc-per-node=1 t.py --x";
    assert!(said.ends_with(ends), "{said}");
    agent.stop().await;
}

pub(crate) async fn the_absence_of_torchrun_is_told_before_the_gang_waits() {
    let (fake, agent, data) = cluster().await;
    let without = program(data.path(), "python-without", "#!/bin/sh\nexit 1\n");
    let cases = [
        (
            with_torchrun(&["t.py"], "/nowhere"),
            "there is no torchrun in /nowhere on node n1",
        ),
        (
            with_torchrun(&[&without, "t.py"], "/usr/bin:/bin"),
            "python-without on node n1 has no PyTorch",
        ),
        (
            with_torchrun(&["/nowhere/python3", "t.py"], "/usr/bin:/bin"),
            "/nowhere/python3 on node n1 cannot be started",
        ),
    ];
    for ((spec, words), job) in cases.into_iter().zip(1..) {
        let end = refused(&fake, job, spec).await;
        assert!(!end.infrastructure, "{}", end.error);
        assert!(end.error.contains(words), "{}", end.error);
        assert!(end.error.contains("name a Python that has PyTorch"));
    }
    agent.stop().await;
}

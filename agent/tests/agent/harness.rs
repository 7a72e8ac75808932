//! What the cases share: an agent to start and stop, jobs to give it, and waiting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use trainyard_agent::boot::{self, AgentOptions, BootError};
use trainyard_agent::ports::PortRange;
use trainyard_core::device::GivingBack;
use trainyard_net::{ClientTls, Plain};
use trainyard_proto::convert::duration;
use trainyard_proto::v1::{
    JobSpec, LogStream, ResourceRequest, StartTask, StopCause, StopTask, TaskKey,
    connect_response::Frame,
};

use crate::fake::{Fake, TOKEN, lines};

/// How long a case may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A running agent.
pub(crate) struct Agent {
    stop: oneshot::Sender<()>,
    pub(crate) ended: JoinHandle<Result<(), BootError>>,
}

impl Agent {
    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("the agent runs");
        let outcome = self.ended.await.expect("the agent does not panic");
        outcome.expect("the agent stops in order");
    }
}

pub(crate) fn options(fake: &Fake, data: &Path) -> AgentOptions {
    let me = std::env::current_exe().expect("the path of this test");
    AgentOptions {
        coordinator: format!("http://{}", fake.address),
        tls: ClientTls::default(),
        plain: Plain::Loopback,
        token: TOKEN.to_owned(),
        name: Some("n1".to_owned()),
        data_dir: data.to_owned(),
        address: None,
        ports: PortRange::default(),
        slots: Some(4),
        simulated_gpus: Some(Vec::new()),
        spool_bytes: 128 << 20,
        reserve_bytes: 0,
        devices: None,
        trainers: None,
        giving_back: GivingBack::default(),
        trainers_dir: Some(data.join("own-trainers")),
        labels: BTreeMap::from([("room".to_owned(), "7".to_owned())]),
        shim_command: vec![me.display().to_string(), "shim".to_owned()],
        datasets: trainyard_agent::dataset::DatasetOptions::default(),
        ready_file: None,
    }
}

pub(crate) fn launch(options: AgentOptions) -> Agent {
    let (stop, stopped) = oneshot::channel();
    let wait = async {
        stopped.await.ok();
    };
    let ended = TaskTracker::new().spawn(boot::run(options, wait));
    Agent { stop, ended }
}

/// A coordinator, an agent with an empty data folder, and the folder.
pub(crate) async fn cluster() -> (Fake, Agent, TempDir) {
    let (fake, data) = (Fake::start().await, folder());
    let agent = launch(options(&fake, data.path()));
    (fake, agent, data)
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a data folder")
}

pub(crate) fn task(job: u64) -> Option<TaskKey> {
    Some(TaskKey {
        job_id: job,
        attempt: 1,
        rank: 0,
    })
}

pub(crate) fn command(argv: &[&str]) -> JobSpec {
    JobSpec {
        framework: "command".to_owned(),
        command: argv.iter().map(|&word| word.to_owned()).collect(),
        resources: Some(ResourceRequest {
            cpus: 1,
            ..ResourceRequest::default()
        }),
        ..JobSpec::default()
    }
}

pub(crate) fn shell(script: &str) -> JobSpec {
    command(&["sh", "-c", script])
}

pub(crate) fn start_of(job: u64, spec: JobSpec) -> Frame {
    Frame::Start(StartTask {
        task: task(job),
        spec: Some(spec),
        gpu_uuids: Vec::new(),
        world_size: 1,
        secret: format!("secret-{job}"),
        snapshot: None,
    })
}

pub(crate) fn stop_of(job: u64, grace: Duration) -> Frame {
    Frame::Stop(StopTask {
        task: task(job),
        cause: StopCause::Cancelled.into(),
        grace_period: Some(duration(grace)),
    })
}

pub(crate) fn task_folder(data: &TempDir, job: u64) -> PathBuf {
    data.path().join(format!("tasks/{job}-1-0"))
}

/// Waits until the trainer of `job` has said `text`.
pub(crate) async fn said(fake: &Fake, job: u64, text: &str) {
    fake.until(|known| {
        let all = lines(known, job, LogStream::Stdout);
        all.iter().any(|line| line == text).then_some(())
    })
    .await;
}

/// Waits until `condition` holds; the case's own limit bounds it.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while !condition() {
        tick.tick().await;
    }
}

//! The agent's side of `AgentService.Connect`, by hand: each step is a call of a test.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use trainyard_core::{
    record::{LogLine, LogStream, Progress, Record},
    time::Timestamp,
};
use trainyard_proto::v1::{
    self, agent_service_client::AgentServiceClient, connect_request, connect_response::Frame,
};

use crate::world::{PATIENCE, World};

/// One stream of an agent.
pub(crate) struct Stream {
    out: mpsc::Sender<v1::ConnectRequest>,
    answers: Streaming<v1::ConnectResponse>,
}

/// A registered agent.
pub(crate) struct Agent {
    pub(crate) control: Stream,
    pub(crate) session: u64,
    name: String,
    token: String,
}

pub(crate) fn hello(world: &World, name: &str, cpus: u32) -> v1::Hello {
    v1::Hello {
        node_name: name.to_owned(),
        token: world.join_token.clone(),
        protocol_version: 1,
        agent_version: "0.1.0".to_owned(),
        agent_id: format!("id-of-{name}"),
        capacity: Some(v1::Capacity {
            cpus,
            memory_bytes: 8 << 30,
            gpus: Vec::new(),
        }),
        ..v1::Hello::default()
    }
}

impl Stream {
    /// Opens a stream; a join token in the first frame is exchanged first, as agents do.
    pub(crate) async fn open(world: &World, first: connect_request::Frame) -> Result<Self, Status> {
        Self::open_with(world, world.entered(first).await?).await
    }

    /// As above, with the first frame as it is.
    pub(crate) async fn open_with(
        world: &World,
        first: connect_request::Frame,
    ) -> Result<Self, Status> {
        let (out, requests) = mpsc::channel(16);
        let frame = Some(first);
        out.send(v1::ConnectRequest { frame }).await.unwrap();
        let mut client = AgentServiceClient::new(world.channel().await);
        let answers = client.connect(ReceiverStream::new(requests)).await?;
        let answers = answers.into_inner();
        Ok(Self { out, answers })
    }

    pub(crate) async fn send(&self, frame: connect_request::Frame) {
        let frame = Some(frame);
        self.out.send(v1::ConnectRequest { frame }).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Frame {
        let message = tokio::time::timeout(PATIENCE, self.answers.message());
        let message = message.await.expect("a frame in time");
        message.unwrap().expect("the stream goes on").frame.unwrap()
    }

    /// Waits until the coordinator closes the stream; false when it does not.
    pub(crate) async fn ends(&mut self) -> bool {
        let over = async { while let Ok(Some(_)) = self.answers.message().await {} };
        tokio::time::timeout(PATIENCE, over).await.is_ok()
    }

    /// Sends records of a task, and waits until they are acknowledged.
    pub(crate) async fn deliver(&mut self, task: v1::TaskKey, first_seq: u64, records: &[Record]) {
        self.deliver_from((task, 1), first_seq, records).await;
    }

    /// As an agent that has let go of what was before `kept_from`.
    pub(crate) async fn deliver_from(
        &mut self,
        (task, kept_from): (v1::TaskKey, u64),
        first_seq: u64,
        records: &[Record],
    ) {
        let last = first_seq + u64::try_from(records.len()).unwrap() - 1;
        let batch = v1::RecordBatch {
            task: Some(task),
            first_seq,
            records: records.iter().cloned().map(Into::into).collect(),
            kept_from_seq: kept_from,
        };
        self.send(connect_request::Frame::Batch(batch)).await;
        let frame = self.next().await;
        let Frame::Ack(ack) = frame else {
            panic!("not an acknowledgement: {frame:?}");
        };
        assert_eq!((ack.task, ack.seq), (Some(task), last));
    }
}

impl Agent {
    pub(crate) async fn join(world: &World, name: &str, cpus: u32) -> Self {
        Self::connect(world, hello(world, name, cpus)).await
    }

    pub(crate) async fn connect(world: &World, hello: v1::Hello) -> Self {
        let (name, token) = (hello.node_name.clone(), hello.token.clone());
        let first = connect_request::Frame::Hello(hello);
        let mut control = Stream::open(world, first).await.unwrap();
        let frame = control.next().await;
        let Frame::Welcome(welcome) = frame else {
            panic!("not a welcome: {frame:?}");
        };
        Self {
            control,
            session: welcome.session,
            name,
            token,
        }
    }

    pub(crate) async fn attach(&self, world: &World) -> Stream {
        let attach = v1::Attach {
            node_name: self.name.clone(),
            session: self.session,
            token: self.token.clone(),
        };
        let first = connect_request::Frame::Attach(attach);
        Stream::open(world, first).await.unwrap()
    }

    /// Waits to be told to start a task.
    pub(crate) async fn start(&mut self) -> v1::StartTask {
        let frame = self.control.next().await;
        let Frame::Start(start) = frame else {
            panic!("not a start: {frame:?}");
        };
        start
    }

    /// Waits to be told that its gang is complete.
    pub(crate) async fn launch(&mut self) -> v1::LaunchTask {
        let frame = self.control.next().await;
        let Frame::Launch(launch) = frame else {
            panic!("not a launch: {frame:?}");
        };
        launch
    }

    /// Waits to be told to stop a task.
    pub(crate) async fn stop(&mut self) -> v1::StopTask {
        let frame = self.control.next().await;
        let Frame::Stop(stop) = frame else {
            panic!("not a stop: {frame:?}");
        };
        stop
    }

    /// Waits to be told that a task may be forgotten: then its end is stored.
    pub(crate) async fn forget(&mut self) -> v1::TaskKey {
        let frame = self.control.next().await;
        let Frame::Forget(forget) = frame else {
            panic!("not a forget: {frame:?}");
        };
        forget.task.unwrap()
    }

    pub(crate) async fn report(&self, report: v1::TaskReport) {
        self.control
            .send(connect_request::Frame::Report(report))
            .await;
    }

    /// Starts the next task and says that its process runs.
    pub(crate) async fn run(&mut self) -> v1::StartTask {
        let start = self.start().await;
        self.report(running(start.task.unwrap())).await;
        start
    }
}

pub(crate) fn running(task: v1::TaskKey) -> v1::TaskReport {
    let started = trainyard_coordinator::clock::now();
    v1::TaskReport {
        task: Some(task),
        phase: v1::TaskPhase::Running.into(),
        started_at: Some(trainyard_proto::convert::timestamp(started)),
        ..v1::TaskReport::default()
    }
}

pub(crate) fn exited(task: v1::TaskKey, code: i32, last_seq: u64) -> v1::TaskReport {
    let end = v1::TaskEnd {
        exit_code: Some(code),
        last_seq,
        ..v1::TaskEnd::default()
    };
    v1::TaskReport {
        task: Some(task),
        phase: v1::TaskPhase::Exited.into(),
        end: Some(end),
        ..v1::TaskReport::default()
    }
}

pub(crate) fn line(stream: LogStream, level: &str, text: &str) -> Record {
    Record::Log(LogLine {
        at: Timestamp(1_795_396_822_543_843),
        stream,
        level: level.to_owned(),
        text: text.to_owned(),
    })
}

pub(crate) fn epoch(epoch: u32, values: &[(&str, f64)]) -> Record {
    let value = |(name, value): &(&str, f64)| ((*name).to_owned(), *value);
    Record::Progress(Progress {
        at: Timestamp(1_795_396_822_543_843),
        epoch,
        total_epochs: 2,
        step: None,
        values: values.iter().map(value).collect(),
        has_metrics: !values.is_empty(),
        checkpoint: None,
        best_checkpoint: None,
    })
}

//! An agent of a later version at this coordinator: what it says that nobody here knows is left out, and breaks nothing.

use http::uri::PathAndQuery;
use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{DecodeContext, WireType, encode_key, encode_varint, skip_field},
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, client::Grpc};
use trainyard_core::record::LogStream;
use trainyard_proto::{
    codec::Codec,
    v1::{self, connect_request, connect_response::Frame},
};

use crate::{
    agent::{epoch, exited, hello, line, running},
    world::{PATIENCE, World, command},
};

/// Fields that later versions may have.
const LATER: u32 = 1_999;
/// Values of enumerations that they may have.
const OTHER: i32 = 77;

/// A message as bytes.
#[derive(Clone, Debug, Default)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        kind: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(kind, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// A field with these bytes.
fn field(tag: u32, bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    encode_key(tag, WireType::LengthDelimited, &mut all);
    encode_varint(bytes.len() as u64, &mut all);
    all.extend_from_slice(bytes);
    all
}

/// A message with fields of a later version before and behind its own.
fn later(message: &impl Message) -> Vec<u8> {
    later_bytes(&message.encode_to_vec())
}

fn later_bytes(own: &[u8]) -> Vec<u8> {
    [&field(LATER, b"before"), own, &field(LATER + 1, b"behind")].concat()
}

/// A frame by its field's number, whose message has fields of a later version, as has the frame.
fn frame(tag: u32, message: &impl Message) -> Raw {
    Raw(later_bytes(&field(tag, &later(message))))
}

/// Fields of `ConnectRequest`.
const HELLO: u32 = 1;
const ATTACH: u32 = 2;
const HEARTBEAT: u32 = 3;
const REPORT: u32 = 4;
const BATCH: u32 = 5;

struct Later {
    out: mpsc::Sender<Raw>,
    answers: Streaming<v1::ConnectResponse>,
}

impl Later {
    async fn open(world: &World, first: Raw) -> Self {
        let (out, requests) = mpsc::channel(16);
        out.send(first).await.unwrap();
        let mut client = Grpc::new(world.channel().await);
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static("/trainyard.v1.AgentService/Connect");
        let request = tonic::Request::new(ReceiverStream::new(requests));
        let codec = Codec::<Raw, v1::ConnectResponse>::default();
        let answers = client.streaming(request, path, codec).await.unwrap();
        let answers = answers.into_inner();
        Self { out, answers }
    }

    /// A session, and its number.
    async fn join(world: &World, hello: v1::Hello) -> (Self, u64) {
        let entered = world.entered(connect_request::Frame::Hello(hello)).await;
        let connect_request::Frame::Hello(hello) = entered.unwrap() else {
            panic!("a hello stays one");
        };
        let mut stream = Self::open(world, frame(HELLO, &hello)).await;
        let Frame::Welcome(welcome) = stream.next().await else {
            panic!("a welcome comes first");
        };
        (stream, welcome.session)
    }

    async fn say(&self, frame: Raw) {
        self.out.send(frame).await.unwrap();
    }

    async fn next(&mut self) -> Frame {
        let message = tokio::time::timeout(PATIENCE, self.answers.message());
        let message = message.await.expect("a frame in time");
        message.unwrap().expect("the stream goes on").frame.unwrap()
    }
}

/// How a task stands, in a word that nobody here knows.
fn otherwise(task: v1::TaskKey) -> v1::TaskReport {
    v1::TaskReport {
        phase: OTHER,
        ..running(task)
    }
}

/// Three records: a line from somewhere else, one of a kind that nobody here knows, and an epoch.
fn batch(task: v1::TaskKey) -> Raw {
    let mut elsewhere = v1::Record::from(line(LogStream::Stdout, "", "from elsewhere"));
    if let Some(v1::record::Body::Log(line)) = &mut elsewhere.body {
        line.stream = OTHER;
    }
    let records = [
        later(&elsewhere),
        field(LATER, b"of another kind"),
        later(&v1::Record::from(epoch(1, &[("loss", 0.5)]))),
    ];
    let head = v1::RecordBatch {
        task: Some(task),
        first_seq: 1,
        records: Vec::new(),
        kept_from_seq: 0,
    };
    let records = records.map(|record| field(3, &record)).concat();
    Raw(field(BATCH, &[head.encode_to_vec(), records].concat()))
}

async fn seen(world: &World, job_id: u64) -> v1::Job {
    let mut jobs = world.jobs().await;
    let answer = jobs.get_job(v1::GetJobRequest { job_id }).await;
    answer.unwrap().into_inner().job.unwrap()
}

#[tokio::test]
async fn what_only_a_later_agent_knows_is_left_out_and_its_job_runs_to_its_end() {
    let world = World::start().await;
    let (mut control, session) = Later::join(&world, hello(&world, "one", 2)).await;
    let job = world.submit(&command()).await;
    let Frame::Start(start) = control.next().await else {
        panic!("it is told to start");
    };
    let task = start.task.unwrap();
    control.say(frame(REPORT, &running(task))).await;
    world.until(job, "running").await;
    control.say(Raw(field(LATER, b"a frame"))).await;
    control.say(frame(REPORT, &otherwise(task))).await;
    let beat = v1::Heartbeat {
        tasks: vec![otherwise(task)],
        ..v1::Heartbeat::default()
    };
    control.say(frame(HEARTBEAT, &beat)).await;

    let attach = v1::Attach {
        node_name: "one".to_owned(),
        session,
        token: world.credential("one").unwrap(),
    };
    let mut data = Later::open(&world, frame(ATTACH, &attach)).await;
    data.say(batch(task)).await;
    let Frame::Ack(ack) = data.next().await else {
        panic!("records are acknowledged");
    };
    assert_eq!(ack.seq, 3);

    // It comes back, with a task that stands as nobody here knows: it has it all the same.
    let again = v1::Hello {
        tasks: vec![otherwise(task)],
        ..hello(&world, "one", 2)
    };
    let (control, _) = Later::join(&world, again).await;
    control.say(frame(REPORT, &exited(task, 0, 3))).await;
    world.until(job, "completed").await;
    assert_eq!(seen(&world, job).await.attempts.len(), 1);
    let (_, lines) = world.get(&format!("/training/jobs/{job}/logs")).await;
    let texts: Vec<_> = lines.as_array().unwrap().iter().collect();
    assert!(lines.to_string().contains("from elsewhere"), "{lines}");
    assert!(lines.to_string().contains("does not know"), "{lines}");
    assert_eq!(texts.len(), 2, "{lines}");
    let (_, points) = world.get(&format!("/training/jobs/{job}/metrics")).await;
    assert_eq!(points[0]["epoch"], json!(1), "{points}");
}

#[tokio::test]
async fn a_trainer_that_a_later_agent_stopped_for_a_reason_of_its_own_has_not_failed_by_itself() {
    let world = World::start().await;
    let (mut control, _) = Later::join(&world, hello(&world, "one", 2)).await;
    let mut body = command();
    body["config"]["retry"] = json!({"limit": 0});
    let job = world.submit(&body).await;
    let Frame::Start(start) = control.next().await else {
        panic!("it is told to start");
    };
    let mut report = exited(start.task.unwrap(), 143, 0);
    if let Some(end) = &mut report.end {
        end.stop_cause = OTHER;
    }
    control.say(frame(REPORT, &report)).await;
    world.until(job, "failed").await;
    let outcome = seen(&world, job).await.outcome.unwrap();
    assert_eq!(outcome.failure_class(), v1::FailureClass::Infrastructure);
}

//! Points of metrics in, on disk: many agents, each with a task that reports as fast as it is acknowledged.
//!
//! A point is one value of one metric at one step; a report holds several. Batches are those of a real agent (256
//! reports, at most 4,096 under way), but were encoded before: an agent's encoding runs on another machine.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use prost::Message as _;
use serde_json::{Value, json};
use tests::{
    cluster::Cluster,
    jobs::{Jobs, command},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming, client::Grpc, codegen::http::uri::PathAndQuery};
use trainyard_proto::v1::{
    ConnectResponse, ProgressRecord, Record, RecordBatch, connect_request::Frame,
    connect_response::Frame as Order, record::Body,
};

use crate::{
    clock::now,
    fleet::{self, Fleet, Offer, Running},
    machine,
    raw::{Codec, Raw},
    throughput::rate,
};

/// Reports in a batch, and those under way of one task: as real agents have it.
const BATCH: u64 = 256;
const WINDOW: u64 = 4_096;
/// Before anything counts.
const WARM_UP: Duration = Duration::from_secs(2);

/// `agents` tasks that report `values` metrics each time, for `span`.
pub(crate) async fn measure(
    binary: &str,
    agents: usize,
    (values, span): (usize, Duration),
) -> Result<Value> {
    let mut cluster = Cluster::start(binary).await;
    let offer = Offer::of(1, 0);
    let mut fleet = Fleet::connect(&cluster, agents, offer).await?;
    let (stop, stopped) = watch::channel(false);
    let (telling, told) = mpsc::channel(agents);
    let mut senders = JoinSet::new();
    for mut sender in begin(&cluster, (&mut fleet, agents), (encoded(values), stopped)).await? {
        let telling = telling.clone();
        senders.spawn(async move { sender.run(telling).await });
    }
    drop(telling);
    let pid = cluster.coordinator().pid();
    tokio::time::sleep(WARM_UP).await;
    let mut measured = watch_for(span, (pid, values), told).await?;
    stop.send_replace(true);
    let mut all = 0;
    while let Some(done) = senders.join_next().await {
        all += done??;
    }
    fleet.check()?;
    ensure!(
        stored(&cluster).await? == all,
        "not every report that was acknowledged is stored"
    );
    if let Some(fields) = measured.as_object_mut() {
        fields.insert("agents".to_owned(), agents.into());
        fields.insert("stored_reports".to_owned(), all.into());
    }
    Ok(measured)
}

/// A task on each agent, and who reports for it.
async fn begin(
    cluster: &Cluster,
    (fleet, agents): (&mut Fleet, usize),
    (records, stopped): (prost::bytes::Bytes, watch::Receiver<bool>),
) -> Result<Vec<Sender>> {
    let mut jobs = Jobs::of(cluster).await;
    for _ in 0..agents {
        jobs.submit(command(&["train"])).await;
    }
    let mut senders = Vec::with_capacity(agents);
    for _ in 0..agents {
        senders.push(Sender {
            stream: open(cluster, fleet.started().await?).await?,
            records: records.clone(),
            stopped: stopped.clone(),
        });
    }
    Ok(senders)
}

/// Counts what is acknowledged. Nobody is heard behind it: who reports does not wait to be.
async fn watch_for(
    span: Duration,
    (pid, values): (Pid, usize),
    mut told: mpsc::Receiver<u64>,
) -> Result<Value> {
    let begin = now();
    let (cpu, bytes) = (machine::cpu_seconds(pid)?, machine::written_bytes(pid)?);
    let (mut reports, mut batches) = (0_u64, 0_u64);
    while let Ok(Some(news)) = tokio::time::timeout_at((begin + span).into(), told.recv()).await {
        reports += news;
        batches += 1;
    }
    let taken = begin.elapsed();
    let cpu = machine::cpu_seconds(pid)? - cpu;
    let bytes = machine::written_bytes(pid)?.saturating_sub(bytes);
    let points = reports * u64::try_from(values)?;
    Ok(json!({
        "metrics_a_report": values,
        "seconds": taken.as_secs_f64(),
        "points_per_second": rate(usize::try_from(points)?, taken),
        "reports_per_second": rate(usize::try_from(reports)?, taken),
        "batches_per_second": rate(usize::try_from(batches)?, taken),
        "coordinator_cores": cpu / taken.as_secs_f64(),
        "coordinator_ns_a_point": cpu * 1e9 / whole(points),
        "written_bytes_a_point": whole(bytes) / whole(points),
        "coordinator_mib": machine::resident_mib(pid)?,
    }))
}

/// One task's way.
struct Stream {
    running: Running,
    outgoing: mpsc::Sender<Raw>,
    incoming: Streaming<ConnectResponse>,
}

struct Sender {
    stream: Stream,
    records: prost::bytes::Bytes,
    stopped: watch::Receiver<bool>,
}

impl Sender {
    /// Reports until it is stopped and all is acknowledged; how many that were.
    async fn run(&mut self, telling: mpsc::Sender<u64>) -> Result<u64> {
        let (mut sent, mut acked) = (0, 0);
        loop {
            let stops = *self.stopped.borrow();
            if stops && sent == acked {
                return Ok(acked);
            }
            if !stops && sent - acked + BATCH <= WINDOW {
                let head = RecordBatch {
                    task: Some(self.stream.running.task),
                    first_seq: sent + 1,
                    records: Vec::new(),
                    kept_from_seq: acked + 1,
                };
                let batch = Raw::batch(&head, self.records.clone());
                self.stream.outgoing.send(batch).await?;
                sent += BATCH;
                continue;
            }
            let said = self.stream.incoming.message().await?;
            let Some(Order::Ack(ack)) = said.and_then(|said| said.frame) else {
                continue;
            };
            let news = ack.seq.saturating_sub(acked);
            acked = ack.seq;
            telling.try_send(news).ok();
        }
    }
}

/// A data stream of this task's agent over a connection of its own.
async fn open(cluster: &Cluster, running: Running) -> Result<Stream> {
    let mut grpc = Grpc::new(fleet::channel(cluster).await?);
    grpc.ready().await?;
    let (outgoing, requests) = mpsc::channel(8);
    let attach = fleet::attach(&running.node, running.session, &running.credential);
    outgoing
        .send(Raw::frame(&fleet::request(Frame::Attach(attach))))
        .await?;
    let mut request = Request::new(ReceiverStream::new(requests));
    let header = format!("Bearer {}", running.credential).parse()?;
    request.metadata_mut().insert("authorization", header);
    let path = PathAndQuery::from_static("/trainyard.v1.AgentService/Connect");
    let incoming = grpc.streaming(request, path, Codec).await?.into_inner();
    Ok(Stream {
        running,
        outgoing,
        incoming,
    })
}

/// The reports of a batch as bytes.
fn encoded(values: usize) -> prost::bytes::Bytes {
    let names = [
        "train/loss",
        "train/accuracy",
        "val/loss",
        "val/accuracy",
        "lr",
        "grad_norm",
        "throughput",
        "gpu_memory",
    ];
    let record = |step: u32| {
        let value = |at: usize| f64::from(step).mul_add(0.001, 1.0 / (at + 1) as f64);
        let name = |at: usize| {
            names
                .get(at)
                .map_or_else(|| format!("metric/{at}"), |&name| name.to_owned())
        };
        Record {
            recorded_at: Some(prost_types::Timestamp {
                seconds: 1_790_000_000 + i64::from(step),
                nanos: 0,
            }),
            body: Some(Body::Progress(ProgressRecord {
                epoch: step,
                total_epochs: 1_000,
                step: Some(u64::from(step)),
                values: (0..values).map(|at| (name(at), value(at))).collect(),
                has_metrics: true,
                ..ProgressRecord::default()
            })),
        }
    };
    let batch = RecordBatch {
        task: None,
        first_seq: 0,
        records: (0..u32::try_from(BATCH).unwrap_or(u32::MAX))
            .map(record)
            .collect(),
        kept_from_seq: 0,
    };
    batch.encode_to_vec().into()
}

/// Reports that the coordinator says it has stored.
async fn stored(cluster: &Cluster) -> Result<u64> {
    let url = format!("{}/metrics", cluster.url());
    let answer = reqwest::Client::new()
        .get(url)
        .bearer_auth(cluster.token())
        .send()
        .await?;
    let text = answer.error_for_status()?.text().await?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("trainyard_store_points_total "));
    Ok(line
        .context("the coordinator counts no points")?
        .trim()
        .parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn whole(number: u64) -> f64 {
    number as f64
}

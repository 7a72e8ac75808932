//! A coordinator for tests: it speaks the protocol, keeps what it is told, and loses what it should.
//!
//! Owns no rule of its own beyond those of the wire. The cases of `agent.rs` call it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use trainyard_proto::convert::duration;
use trainyard_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use trainyard_proto::v1::{
    self, ConnectRequest, ConnectResponse, FetchManifestRequest, FetchManifestResponse, Hello,
    Record, SignUploadRequest, SignUploadResponse, SnapshotFile, TaskKey, TaskReport,
    connect_request, connect_response::Frame, record::Body,
};

use crate::store::Store;

pub(crate) const TOKEN: &str = "right-token";
/// What it is exchanged for.
const CREDENTIAL: &str = "right-credential";

type Out = mpsc::Sender<Result<ConnectResponse, Status>>;

/// What the coordinator knows.
#[derive(Default)]
pub(crate) struct Known {
    sessions: u64,
    control: Option<Out>,
    data: CancellationToken,
    /// Whether records are acknowledged.
    pub(crate) deaf: bool,
    /// Records that came again.
    pub(crate) doubled: usize,
    pub(crate) hellos: Vec<Hello>,
    pub(crate) attached: usize,
    pub(crate) records: BTreeMap<u64, BTreeMap<u64, Record>>,
    /// The newest by job.
    pub(crate) reports: BTreeMap<u64, TaskReport>,
    /// The manifest by job.
    pub(crate) manifests: BTreeMap<u64, Manifest>,
    /// Requests for a manifest: after which path.
    pub(crate) asked: Vec<String>,
    /// Streams of manifests that break after their first message.
    pub(crate) broken: u32,
    /// Where uploads go; refused without.
    pub(crate) uploads: Option<Store>,
    /// The newest upload that was given a way, by file.
    signed: BTreeMap<String, u64>,
    /// Uploads that were given their names.
    pub(crate) published: Vec<String>,
    /// Whether the attempt is over when an upload is there.
    pub(crate) refuse_publication: bool,
    /// Answers that are lost, of what makes parts one upload and of publications.
    pub(crate) lost: (u32, u32),
    /// It was refused.
    over: bool,
    /// The checkpoint that a job's resume_from names in the artifact store; without, it names nothing.
    pub(crate) beginning: Option<(Store, String)>,
    /// Requests for its way that are refused for now.
    pub(crate) busy: u32,
    /// Uploads go in parts of so many bytes.
    pub(crate) part_bytes: Option<u64>,
    /// GPUs that get no jobs.
    pub(crate) blocked: Vec<v1::BlockedGpu>,
    /// Details of reports, in order.
    pub(crate) details: Vec<String>,
}

/// The files of a snapshot, with ways made when they are asked for.
#[derive(Clone)]
pub(crate) struct Manifest {
    pub(crate) files: Vec<SnapshotFile>,
    pub(crate) named_parts_json: String,
    pub(crate) store: Store,
}

/// Files in one message.
const PAGE: usize = 3;

/// The coordinator. A cheap handle.
#[derive(Clone)]
pub(crate) struct Fake {
    known: Arc<Mutex<Known>>,
    changed: watch::Sender<u64>,
    tasks: TaskTracker,
    pub(crate) address: SocketAddr,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let fake = Self {
            known: Arc::default(),
            changed: watch::channel(0).0,
            tasks: TaskTracker::new(),
            address: listener.local_addr().expect("its address"),
        };
        let service = AgentServiceServer::new(fake.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        let serve = server.serve_with_incoming(TcpListenerStream::new(listener));
        fake.tasks.spawn(serve);
        fake
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no case has panicked with it")
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known());
        self.changed.send_modify(|number| *number += 1);
    }

    /// Waits until `look` finds something; the case's own limit bounds it.
    pub(crate) async fn until<T>(&self, look: impl Fn(&Known) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = look(&self.known()) {
                return found;
            }
            changed.changed().await.expect("the coordinator is there");
        }
    }

    /// Sends a frame on the control stream once there is one.
    pub(crate) async fn send(&self, frame: Frame) {
        let control = self.until(|known| known.control.clone()).await;
        let frame = Some(frame);
        control
            .send(Ok(ConnectResponse { frame }))
            .await
            .expect("the agent is connected");
    }

    /// Cuts the data stream, as a network would.
    pub(crate) fn break_data(&self) {
        self.known().data.cancel();
    }

    /// Forgets that anybody is connected.
    pub(crate) fn hang_up(&self) {
        self.known().control = None;
    }

    /// The end of a job's task.
    pub(crate) async fn end(&self, job: u64) -> TaskReport {
        let ended = |known: &Known| known.reports.get(&job).filter(|r| r.end.is_some()).cloned();
        self.until(ended).await
    }

    /// The end, once all records up to its last are there.
    pub(crate) async fn whole_end(&self, job: u64) -> v1::TaskEnd {
        let end = self.end(job).await.end.expect("it has ended");
        self.until(|known| {
            let stored = known.records.get(&job).map_or(0, BTreeMap::len);
            (stored as u64 >= end.last_seq).then_some(())
        })
        .await;
        let records = self.known().records.remove(&job).unwrap_or_default();
        assert!(records.keys().copied().eq(1..=end.last_seq), "no gap");
        self.known().records.insert(job, records);
        end
    }

    /// The hello of a session, from 0.
    pub(crate) async fn hello(&self, session: usize) -> Hello {
        self.until(|known| known.hellos.get(session).cloned()).await
    }

    /// A job's records, in order.
    pub(crate) fn records(&self, job: u64) -> Vec<Record> {
        let known = self.known();
        let records = known.records.get(&job).into_iter().flatten();
        records.map(|(_, record)| record.clone()).collect()
    }

    /// Texts of a job's lines of one stream, in order.
    pub(crate) fn lines(&self, job: u64, stream: v1::LogStream) -> Vec<String> {
        lines(&self.known(), job, stream)
    }
}

/// Texts of a job's lines of one stream, in order.
pub(crate) fn lines(known: &Known, job: u64, stream: v1::LogStream) -> Vec<String> {
    let text = |record: &Record| match &record.body {
        Some(Body::Log(line)) if line.stream() == stream => Some(line.text.clone()),
        _ => None,
    };
    let records = known.records.get(&job).into_iter().flatten();
    records.filter_map(|(_, record)| text(record)).collect()
}

fn job(task: Option<TaskKey>) -> u64 {
    task.expect("it names its task").job_id
}

#[tonic::async_trait]
impl AgentService for Fake {
    type FetchManifestStream =
        Pin<Box<dyn futures::Stream<Item = Result<FetchManifestResponse, Status>> + Send>>;

    async fn fetch_manifest(
        &self,
        request: Request<FetchManifestRequest>,
    ) -> Result<Response<Self::FetchManifestStream>, Status> {
        let request = request.into_inner();
        let job = job(request.task);
        assert_eq!(request.secret, format!("secret-{job}"));
        let mut known = self.known();
        known.asked.push(request.after_path.clone());
        let manifest = known.manifests.get(&job).cloned();
        let manifest = manifest.ok_or_else(|| Status::not_found("no such task"))?;
        let breaks = known.broken > 0;
        known.broken = known.broken.saturating_sub(1);
        drop(known);
        let mut files = manifest.files;
        files.retain(|file| file.path > request.after_path);
        for file in &mut files {
            file.url = manifest.store.way(&file.path);
        }
        let mut pages: Vec<Result<FetchManifestResponse, Status>> = files
            .chunks(PAGE)
            .map(|files| {
                Ok(FetchManifestResponse {
                    files: files.to_vec(),
                    ..FetchManifestResponse::default()
                })
            })
            .collect();
        let parts = manifest.named_parts_json;
        if request.after_path.is_empty() && !parts.is_empty() {
            let (first, second) = parts.split_at(parts.len() / 2);
            let piece = |text: &str| {
                Ok(FetchManifestResponse {
                    named_parts_json: text.to_owned(),
                    ..FetchManifestResponse::default()
                })
            };
            pages.splice(0..0, [piece(first), piece(second)]);
        }
        if breaks {
            pages.truncate(1);
            pages.push(Err(Status::unavailable("broken")));
        }
        Ok(Response::new(Box::pin(futures::stream::iter(pages))))
    }

    async fn sign_upload(
        &self,
        request: Request<SignUploadRequest>,
    ) -> Result<Response<SignUploadResponse>, Status> {
        let request = request.into_inner();
        let store = self.known().uploads.clone();
        let store = store.ok_or_else(|| Status::unimplemented("no store"))?;
        if self.known().over {
            return Err(Status::not_found("Training job not found"));
        }
        let (job, name) = (job(request.task), request.filename);
        let before = self.known().signed.insert(name.clone(), request.upload);
        let is_new = request.upload != 0 && before != Some(request.upload);
        assert!(is_new, "no two uploads are mistaken for one another");
        Ok(Response::new(SignUploadResponse {
            url: format!("http://{}/uploads/{name}", store.address),
            location: format!("s3://training-checkpoints/checkpoints/{job}/{name}"),
            parts: self.parts(&store, &name, request.size_bytes),
        }))
    }

    async fn publish_upload(
        &self,
        request: Request<v1::PublishUploadRequest>,
    ) -> Result<Response<v1::PublishUploadResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.secret, format!("secret-{}", job(request.task)));
        let mut known = self.known();
        if known.refuse_publication {
            known.over = true;
            return Err(Status::not_found("Training job not found"));
        }
        let store = known.uploads.clone().expect("there was a way");
        let signed = known.signed.get(&request.filename);
        assert_eq!(signed, Some(&request.upload), "of the upload that was sent");
        let there = store.shelf().uploads.contains_key(&request.filename);
        assert!(there, "the bytes go before the word");
        known.published.push(request.filename);
        if known.lost.1 > 0 {
            known.lost.1 -= 1;
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(Response::new(v1::PublishUploadResponse {}))
    }

    async fn sign_download(
        &self,
        request: Request<v1::SignDownloadRequest>,
    ) -> Result<Response<v1::SignDownloadResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.secret, format!("secret-{}", job(request.task)));
        let mut known = self.known();
        if known.busy > 0 {
            known.busy -= 1;
            return Err(Status::unavailable("busy"));
        }
        let Some((store, path)) = known.beginning.clone() else {
            return Ok(Response::new(v1::SignDownloadResponse::default()));
        };
        let size = store.shelf().files.get(&path).map(Vec::len);
        let size = size.ok_or_else(|| Status::not_found("checkpoint 'x' is not in the store"))?;
        Ok(Response::new(v1::SignDownloadResponse {
            url: store.way(&path),
            size_bytes: size as u64,
        }))
    }

    async fn complete_upload(
        &self,
        request: Request<v1::CompleteUploadRequest>,
    ) -> Result<Response<v1::CompleteUploadResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.upload_id, "upload");
        let store = self.known().uploads.clone().expect("it has signed");
        let mut shelf = store.shelf();
        let made = shelf.uploads.get(&request.key).map(Vec::len);
        if !request.tags.is_empty() && made.map(|size| size as u64) == Some(request.size_bytes) {
            return Ok(Response::new(v1::CompleteUploadResponse {}));
        }
        let mut whole = Vec::new();
        for (number, tag) in request.tags.iter().enumerate() {
            let name = format!("{}.{number}", request.key);
            let part = shelf.uploads.remove(&name).expect("it was sent");
            assert_eq!(*tag, format!("\"tag of {name}\""));
            whole.extend(part);
        }
        shelf.ended.push((request.key.clone(), request.tags.len()));
        if !request.tags.is_empty() {
            shelf.uploads.insert(request.key, whole);
        }
        drop(shelf);
        let mut known = self.known();
        if known.lost.0 > 0 {
            known.lost.0 -= 1;
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(Response::new(v1::CompleteUploadResponse {}))
    }

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        if request.into_inner().token != TOKEN {
            return Err(Status::unauthenticated("unknown join token"));
        }
        let credential = CREDENTIAL.to_owned();
        Ok(Response::new(v1::JoinResponse { credential }))
    }

    type ConnectStream = Pin<Box<ReceiverStream<Result<ConnectResponse, Status>>>>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|first| first.frame);
        let (out, stream) = mpsc::channel(64);
        let fake = self.clone();
        match first {
            Some(connect_request::Frame::Hello(hello)) => {
                if hello.token != CREDENTIAL {
                    return Err(Status::unauthenticated("unknown join token"));
                }
                self.tasks.spawn(fake.control(hello, incoming, out));
            }
            Some(connect_request::Frame::Attach(attach)) => {
                if attach.token != CREDENTIAL || attach.session != self.known().sessions {
                    return Err(Status::permission_denied("no such session"));
                }
                self.tasks.spawn(fake.data(incoming, out));
            }
            _ => return Err(Status::invalid_argument("neither hello nor attach")),
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl Fake {
    /// The parts of an upload, where a case wants such.
    fn parts(&self, store: &Store, name: &str, size: u64) -> Option<v1::UploadParts> {
        let most = self.known().part_bytes?;
        let sizes = (0..size.div_ceil(most)).map(|number| most.min(size - number * most));
        let part = |(number, size_bytes)| v1::UploadPart {
            url: format!("http://{}/uploads/{name}.{number}", store.address),
            size_bytes,
        };
        Some(v1::UploadParts {
            upload_id: "upload".to_owned(),
            key: name.to_owned(),
            parts: sizes.enumerate().map(part).collect(),
        })
    }

    async fn control(self, hello: Hello, mut incoming: Streaming<ConnectRequest>, out: Out) {
        let session = self.known().sessions + 1;
        let welcome = Frame::Welcome(v1::Welcome {
            session,
            heartbeat_interval: Some(duration(Duration::from_millis(200))),
            coordinator_version: "test".to_owned(),
        });
        self.change(|known| {
            known.sessions = session;
            for report in hello.tasks.clone() {
                known.reports.insert(job(report.task), report);
            }
            known.blocked.clone_from(&hello.blocked_gpus);
            known.hellos.push(hello);
        });
        let frame = Some(welcome);
        out.send(Ok(ConnectResponse { frame })).await.ok();
        self.change(|known| known.control = Some(out));
        while let Ok(Some(request)) = incoming.message().await {
            let reports = match request.frame {
                Some(connect_request::Frame::Heartbeat(beat)) => {
                    self.change(|known| known.blocked = beat.blocked_gpus);
                    beat.tasks
                }
                Some(connect_request::Frame::Report(report)) => vec![report],
                other => panic!("not on a control stream: {other:?}"),
            };
            self.change(|known| {
                for report in reports {
                    known.details.push(report.detail.clone());
                    known.reports.insert(job(report.task), report);
                }
            });
        }
    }

    async fn data(self, mut incoming: Streaming<ConnectRequest>, out: Out) {
        let cut = CancellationToken::new();
        self.change(|known| {
            known.attached += 1;
            known.data = cut.clone();
        });
        while let Some(Ok(Some(request))) = cut.run_until_cancelled(incoming.message()).await {
            let Some(connect_request::Frame::Batch(batch)) = request.frame else {
                panic!("not on a data stream");
            };
            let task = batch.task;
            let last = batch.first_seq + batch.records.len() as u64 - 1;
            let mut deaf = false;
            self.change(|known| {
                deaf = known.deaf;
                let records = known.records.entry(job(task)).or_default();
                for (seq, record) in (batch.first_seq..).zip(batch.records) {
                    let before = records.insert(seq, record.clone());
                    if let Some(before) = before {
                        assert_eq!(before, record, "a number stands for one record");
                        known.doubled += 1;
                    }
                }
            });
            if !deaf {
                let frame = Some(Frame::Ack(v1::RecordAck { task, seq: last }));
                out.send(Ok(ConnectResponse { frame })).await.ok();
            }
        }
        out.send(Err(Status::unavailable("cut"))).await.ok();
    }
}

//! `AgentService.Connect`: an agent's control stream or data stream.
//!
//! The first frame says which. Owns who is let in, reading the streams and handing frames to their actors; knows
//! nothing of jobs. The tasks that read end with the stream or with the coordinator.

use std::{future::Future, pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, async_trait};
use trainyard_core::{
    ids::{NodeName, SessionNo, TaskKey},
    join::{AgentCredential, Joiner},
};
use trainyard_proto::{
    status::Kind,
    v1::{self, agent_service_server::AgentService, connect_request::Frame, connect_response},
};

use super::data;
use crate::{
    actors::{
        ask,
        nodes::NodesMsg,
        session::{SessionMsg, SessionRef},
    },
    api::{ApiError, Service, agents::bad_name},
    datasets::{Sent, UploadKey},
    listen::PeerCertificate,
    storage::{Part, Parts},
};

/// The only version of the conversation so far.
const PROTOCOL: u32 = 1;
/// How long an agent may take to say who it is.
const FIRST_FRAME: Duration = Duration::from_secs(10);
/// Frames that wait for a slow agent before its session waits.
const OUTGOING: usize = 64;

/// The door; all is in the service.
#[derive(Debug)]
pub(super) struct AgentDoor {
    service: Service,
    readers: TaskTracker,
}

impl AgentDoor {
    pub(super) fn new(service: Service) -> Self {
        Self {
            service,
            readers: TaskTracker::new(),
        }
    }
}

#[async_trait]
impl AgentService for AgentDoor {
    type FetchManifestStream =
        Pin<Box<dyn Stream<Item = Result<v1::FetchManifestResponse, Status>> + Send>>;

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let shown = Shown::of(&request);
        let v1::JoinRequest {
            token,
            node_name,
            agent_id,
        } = request.into_inner();
        check_name("node_name", &node_name)?;
        if agent_id.is_empty() {
            return Err(ApiError::field("agent_id", "is missing").into());
        }
        let who = Joiner {
            node: node_name,
            agent_id,
        };
        let joined = self.service.join(&token, who, shown.certificate.as_ref());
        let joined = joined.await?;
        let credential = joined.map_err(|taken| Status::already_exists(taken.to_string()))?;
        Ok(Response::new(v1::JoinResponse { credential }))
    }

    async fn fetch_manifest(
        &self,
        request: Request<v1::FetchManifestRequest>,
    ) -> Result<Response<Self::FetchManifestStream>, Status> {
        let agent = self.agent(&request)?;
        let asked = request.into_inner();
        let task = key(asked.task)?;
        self.service.is_on(task, &agent.agent.node)?;
        let pages = self
            .service
            .manifest(task, asked.secret, asked.after_path)?;
        let stop = self.service.stop().clone();
        let pages = pages.map(|page| page.map_err(Status::from));
        Ok(Response::new(Box::pin(
            pages.take_until(stop.cancelled_owned()),
        )))
    }

    async fn sign_upload(
        &self,
        request: Request<v1::SignUploadRequest>,
    ) -> Result<Response<v1::SignUploadResponse>, Status> {
        let agent = self.agent(&request)?;
        let asked = request.into_inner();
        let own = UploadKey {
            task: key(asked.task)?,
            number: asked.upload,
        };
        self.service.is_on(own.task, &agent.agent.node)?;
        let signed = self.service.sign_upload(
            (own, asked.secret.as_str()),
            &asked.filename,
            asked.size_bytes,
        );
        let upload = signed.await?;
        let parts = self
            .service
            .begin_parts(&upload.at, asked.size_bytes)
            .await?;
        Ok(Response::new(v1::SignUploadResponse {
            url: upload.url,
            location: upload.location,
            parts: parts.map(|parts| parts_to_wire(parts, upload.at)),
        }))
    }

    async fn publish_upload(
        &self,
        request: Request<v1::PublishUploadRequest>,
    ) -> Result<Response<v1::PublishUploadResponse>, Status> {
        let agent = self.agent(&request)?;
        let asked = request.into_inner();
        let own = UploadKey {
            task: key(asked.task)?,
            number: asked.upload,
        };
        self.service.is_on(own.task, &agent.agent.node)?;
        let publishing = self
            .service
            .publish_upload((own, asked.secret), &asked.filename);
        publishing.await?;
        Ok(Response::new(v1::PublishUploadResponse {}))
    }

    async fn sign_download(
        &self,
        request: Request<v1::SignDownloadRequest>,
    ) -> Result<Response<v1::SignDownloadResponse>, Status> {
        let agent = self.agent(&request)?;
        let asked = request.into_inner();
        let task = (key(asked.task)?, asked.secret.as_str());
        self.service.is_on(task.0, &agent.agent.node)?;
        let found = self.service.sign_download(task).await?;
        let answer = found.map_or_else(v1::SignDownloadResponse::default, |found| {
            v1::SignDownloadResponse {
                url: found.url,
                size_bytes: found.size,
            }
        });
        Ok(Response::new(answer))
    }

    async fn complete_upload(
        &self,
        request: Request<v1::CompleteUploadRequest>,
    ) -> Result<Response<v1::CompleteUploadResponse>, Status> {
        let agent = self.agent(&request)?;
        let asked = request.into_inner();
        let task = (key(asked.task)?, asked.secret.as_str());
        self.service.is_on(task.0, &agent.agent.node)?;
        let sent = Sent {
            id: asked.upload_id,
            key: asked.key,
            tags: asked.tags,
            size: asked.size_bytes,
        };
        self.service.end_parts(task, sent).await?;
        Ok(Response::new(v1::CompleteUploadResponse {}))
    }

    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::ConnectResponse, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let shown = Shown::of(&request);
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(FIRST_FRAME, frames.message()).await;
        let late = |_| Status::deadline_exceeded("no first frame came within 10 s");
        let first = first.map_err(late)??.and_then(|message| message.frame);
        match first {
            Some(Frame::Hello(hello)) => self.control(&shown, hello, frames).await,
            Some(Frame::Attach(attach)) => self.data(&shown, attach, frames).await,
            Some(Frame::Heartbeat(_) | Frame::Report(_) | Frame::Batch(_)) | None => Err(
                Status::invalid_argument("the first frame of a connection must be hello or attach"),
            ),
        }
    }
}

type Answer = Result<Response<<AgentDoor as AgentService>::ConnectStream>, Status>;

impl AgentDoor {
    async fn control(
        &self,
        shown: &Shown,
        hello: v1::Hello,
        frames: Streaming<v1::ConnectRequest>,
    ) -> Answer {
        check(&hello)?;
        let agent = self.admit(shown, &hello.token, &hello.node_name)?;
        if agent.agent.agent_id != hello.agent_id {
            let words = "the credential is that of another data folder; give each agent a folder of its own (--data-dir)";
            return Err(Kind::Forbidden.status(words));
        }
        let node = hello.node_name.clone();
        let (outgoing, responses) = mpsc::channel(OUTGOING);
        let question = |reply| NodesMsg::Register {
            hello: Box::new(hello),
            outgoing,
            reply,
        };
        let registered = ask(&self.service.tree().nodes, question).await;
        let session = registered.map_err(ApiError::from)?;
        let session = session.map_err(|taken| Status::already_exists(taken.to_string()))?;
        // Whoever revokes writes first and closes the session then: one of both sees the other.
        if !self.service.agent_seen(&agent).await? {
            self.service.cut(&node, None).await?;
            return Err(Kind::Unauthenticated.status("the agent has just been revoked"));
        }
        self.spawn(read_control(frames, session));
        Ok(Response::new(self.until_stop(responses)))
    }

    async fn data(
        &self,
        shown: &Shown,
        attach: v1::Attach,
        frames: Streaming<v1::ConnectRequest>,
    ) -> Answer {
        self.admit(shown, &attach.token, &attach.node_name)?;
        let (node, session) = (NodeName(attach.node_name), SessionNo(attach.session));
        let question = |reply| NodesMsg::Attach(node.clone(), session, reply);
        let live = ask(&self.service.tree().nodes, question).await;
        let Some(end) = live.map_err(ApiError::from)? else {
            let words = format!("{session} of node {node} is over; connect again");
            return Err(Kind::Stale.status(words));
        };
        let (acks, responses) = mpsc::channel(data::IN_FLIGHT);
        let jobs = self.service.tree().jobs.clone();
        let reading = data::read(frames, jobs, acks, node);
        let over = end.clone();
        self.spawn(async move {
            over.run_until_cancelled(reading).await;
        });
        let responses = ReceiverStream::new(responses).map(data::acknowledge);
        let stop = self.service.stop().clone();
        let responses = responses.take_until(end.cancelled_owned());
        let responses = responses.take_until(stop.cancelled_owned());
        Ok(Response::new(Box::pin(responses)))
    }

    /// The agent that calls, if it may.
    fn agent<T>(&self, request: &Request<T>) -> Result<AgentCredential, Status> {
        let shown = Shown::of(request);
        let credential = shown.credential.as_deref().unwrap_or_default();
        let known = self.service.agent(credential, shown.certificate.as_ref());
        Ok(known?)
    }

    /// As above, for one that says which node it is.
    fn admit(&self, shown: &Shown, token: &str, node: &str) -> Result<AgentCredential, ApiError> {
        let credential = shown.credential.as_deref().unwrap_or(token);
        let known = self.service.agent(credential, shown.certificate.as_ref())?;
        if known.agent.node == node {
            return Ok(known);
        }
        let words = format!(
            "the credential is that of node '{}' and not of '{node}'; give the agent its name (--name) or join it as '{node}' with a token of its own",
            known.agent.node
        );
        Err(ApiError::new(Kind::Forbidden, words))
    }

    /// The agent's stream, which ends when the session does or the coordinator stops.
    fn until_stop(
        &self,
        frames: mpsc::Receiver<Box<connect_response::Frame>>,
    ) -> <Self as AgentService>::ConnectStream {
        let stop = self.service.stop().clone();
        let responses = ReceiverStream::new(frames).map(|frame| {
            let frame = Some(*frame);
            Ok(v1::ConnectResponse { frame })
        });
        Box::pin(responses.take_until(stop.cancelled_owned()))
    }

    /// Reads until the stream ends or the coordinator stops.
    fn spawn(&self, reading: impl Future<Output = ()> + Send + 'static) {
        let stop = self.service.stop().clone();
        self.readers.spawn(async move {
            stop.run_until_cancelled(reading).await;
        });
    }
}

fn parts_to_wire(parts: Parts, key: String) -> v1::UploadParts {
    let part = |part: Part| v1::UploadPart {
        url: part.url,
        size_bytes: part.size,
    };
    v1::UploadParts {
        upload_id: parts.id,
        key,
        parts: parts.parts.into_iter().map(part).collect(),
    }
}

fn key(task: Option<v1::TaskKey>) -> Result<TaskKey, ApiError> {
    let missing = || ApiError::field("task", "is missing; say for which task");
    Ok(task.ok_or_else(missing)?.into())
}

async fn read_control(mut frames: Streaming<v1::ConnectRequest>, session: SessionRef) {
    while let Ok(Some(message)) = frames.message().await {
        let Some(frame) = message.frame else { continue };
        if session.cast(SessionMsg::Incoming(Box::new(frame))).is_err() {
            return;
        }
    }
    // It may have ended first, when a newer session began.
    session.cast(SessionMsg::Closed).ok();
}

fn check(hello: &v1::Hello) -> Result<(), ApiError> {
    if hello.protocol_version != PROTOCOL {
        let words = format!(
            "the agent speaks version {} of the protocol and the coordinator version {PROTOCOL}; install the same release on both",
            hello.protocol_version
        );
        return Err(ApiError::new(Kind::Conflict, words));
    }
    check_name("hello.node_name", &hello.node_name)
}

fn check_name(field: &str, name: &str) -> Result<(), ApiError> {
    bad_name(name).map_or(Ok(()), |words| Err(ApiError::field(field, words)))
}

/// What a call shows of its sender.
struct Shown {
    /// From the metadata.
    credential: Option<String>,
    certificate: Option<PeerCertificate>,
}

impl Shown {
    fn of<T>(request: &Request<T>) -> Self {
        Self {
            credential: super::token(request).map(str::to_owned),
            certificate: request.extensions().get::<PeerCertificate>().cloned(),
        }
    }
}

//! `AgentService.Connect`: an agent's control stream or data stream.
//!
//! The first frame says which. Owns reading the streams and handing frames to their actors; knows
//! nothing of jobs. The tasks that read end with the stream or with the coordinator.

use std::{future::Future, pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, async_trait};
use trainyard_core::ids::{NodeName, SessionNo, TaskKey};
use trainyard_proto::{
    status::Kind,
    v1::{self, agent_service_server::AgentService, connect_request::Frame},
};

use super::data;
use crate::{
    actors::{
        ask,
        nodes::NodesMsg,
        session::{SessionMsg, SessionRef},
    },
    api::{ApiError, Service},
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

    async fn fetch_manifest(
        &self,
        request: Request<v1::FetchManifestRequest>,
    ) -> Result<Response<Self::FetchManifestStream>, Status> {
        let asked = request.into_inner();
        let task = key(asked.task)?;
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
        let asked = request.into_inner();
        let task = (key(asked.task)?, asked.secret.as_str());
        let signed = self
            .service
            .sign_upload(task, &asked.filename, asked.size_bytes);
        let upload = signed.await?;
        Ok(Response::new(v1::SignUploadResponse {
            url: upload.url,
            location: upload.location,
        }))
    }

    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::ConnectResponse, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(FIRST_FRAME, frames.message()).await;
        let late = |_| Status::deadline_exceeded("no first frame came within 10 s");
        let first = first.map_err(late)??.and_then(|message| message.frame);
        match first {
            Some(Frame::Hello(hello)) => self.control(hello, frames).await,
            Some(Frame::Attach(attach)) => self.data(attach, frames).await,
            Some(Frame::Heartbeat(_) | Frame::Report(_) | Frame::Batch(_)) | None => Err(
                Status::invalid_argument("the first frame of a connection must be hello or attach"),
            ),
        }
    }
}

type Answer = Result<Response<<AgentDoor as AgentService>::ConnectStream>, Status>;

impl AgentDoor {
    async fn control(&self, hello: v1::Hello, frames: Streaming<v1::ConnectRequest>) -> Answer {
        self.admit(&hello.token)?;
        check(&hello)?;
        let (outgoing, responses) = mpsc::channel(OUTGOING);
        let question = |reply| NodesMsg::Register {
            hello: Box::new(hello),
            outgoing,
            reply,
        };
        let registered = ask(&self.service.tree().nodes, question).await;
        let session = registered.map_err(ApiError::from)?;
        let session = session.map_err(|taken| Status::already_exists(taken.to_string()))?;
        self.spawn(read_control(frames, session));
        Ok(Response::new(self.until_stop(responses)))
    }

    async fn data(&self, attach: v1::Attach, frames: Streaming<v1::ConnectRequest>) -> Answer {
        self.admit(&attach.token)?;
        let (node, session) = (NodeName(attach.node_name), SessionNo(attach.session));
        let question = |reply| NodesMsg::Attach(node.clone(), session, reply);
        let live = ask(&self.service.tree().nodes, question).await;
        if !live.map_err(ApiError::from)? {
            let words = format!("{session} of node {node} is over; connect again");
            return Err(Kind::Stale.status(words));
        }
        let (acks, responses) = mpsc::channel(data::IN_FLIGHT);
        let jobs = self.service.tree().jobs.clone();
        self.spawn(data::read(frames, jobs, acks, node));
        let responses = ReceiverStream::new(responses).map(data::acknowledge);
        let stop = self.service.stop().clone();
        let responses = responses.take_until(stop.cancelled_owned());
        Ok(Response::new(Box::pin(responses)))
    }

    fn admit(&self, token: &str) -> Result<(), ApiError> {
        if self.service.may_join(token) {
            return Ok(());
        }
        let words = "the join token is not this coordinator's; the right one stands in the file join-token of its data folder";
        Err(ApiError::new(Kind::Unauthenticated, words))
    }

    /// The agent's stream, which ends when the session does or the coordinator stops.
    fn until_stop(
        &self,
        responses: mpsc::Receiver<Result<v1::ConnectResponse, Status>>,
    ) -> <Self as AgentService>::ConnectStream {
        let stop = self.service.stop().clone();
        Box::pin(ReceiverStream::new(responses).take_until(stop.cancelled_owned()))
    }

    /// Reads until the stream ends or the coordinator stops.
    fn spawn(&self, reading: impl Future<Output = ()> + Send + 'static) {
        let stop = self.service.stop().clone();
        self.readers.spawn(async move {
            stop.run_until_cancelled(reading).await;
        });
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
    let name = &hello.node_name;
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 253 || !name.chars().all(fine) {
        let words = format!(
            "'{name}' is no name for a node; use letters, digits, '.', '_' and '-' (--name)"
        );
        return Err(ApiError::field("hello.node_name", words));
    }
    Ok(())
}

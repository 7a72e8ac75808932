//! One session: the control stream from hello to its end, with its data stream beside it.
//!
//! Never retries and never remembers: whatever the coordinator must know is said again in the next
//! hello. A task of the link actor.

use std::{collections::BTreeMap, time::Duration};

use ractor::ActorRef;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tonic::Streaming;
use trainyard_config::Secret;
use trainyard_proto::v1::{
    ConnectRequest, ConnectResponse, Heartbeat, Hello, Welcome, connect_request,
    connect_response::Frame,
};

use crate::{address, board::Blocked};

use super::{LinkArgs, LinkMsg, data, frames, wire};

/// The wire that this agent speaks.
const PROTOCOL: u32 = 1;
/// Control frames that wait for the network.
const QUEUE: usize = 64;

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The coordinator does not know the credential; joining anew may help.
    Unknown(String),
    /// The coordinator does not take this agent, or does not speak this version.
    Refused(String),
    /// Another agent has this name.
    NameTaken(String),
    /// Anything else; a later try may work.
    Lost(String),
}

impl SessionEnd {
    /// For a stream that comes after the token was accepted.
    pub(super) fn without_refusal(self) -> Self {
        match self {
            Self::Unknown(text)
            | Self::Refused(text)
            | Self::NameTaken(text)
            | Self::Lost(text) => Self::Lost(text),
        }
    }
}

/// Connects and stays until either stream ends; both end then.
pub(super) async fn run(link: &LinkArgs, actor: &ActorRef<LinkMsg>) -> SessionEnd {
    let credential = match link.access.enter().await {
        Ok(credential) => credential,
        Err(end) => return end,
    };
    let address = own_address(link).await;
    let (outgoing, requests) = mpsc::channel(QUEUE);
    // The number first: what changes after it is told again, not lost.
    let told = *link.board.watch().borrow();
    if outgoing
        .send(hello(link, &credential, address))
        .await
        .is_err()
    {
        return SessionEnd::Lost("the control stream was not opened".to_owned());
    }
    let mut incoming = match wire::open(&link.access, requests).await {
        Ok(incoming) => incoming,
        Err(end) => return end,
    };
    let (welcome, every) = match welcomed(&mut incoming).await {
        Ok(welcomed) => welcomed,
        Err(end) => return end,
    };
    // Nobody is there any more only when the agent ends.
    actor.cast(LinkMsg::Welcomed(welcome.session)).ok();
    let control = Control {
        link,
        outgoing,
        told,
        blocked: BTreeMap::new(),
        condition: String::new(),
    };
    tokio::select! {
        end = control.run(incoming, every) => end,
        end = data::run(link, (welcome.session, credential)) => end,
    }
}

async fn welcomed(
    incoming: &mut Streaming<ConnectResponse>,
) -> Result<(Welcome, Duration), SessionEnd> {
    let late = |_| SessionEnd::Lost(format!("no welcome within {:?}", wire::PATIENCE));
    let first = tokio::time::timeout(wire::PATIENCE, incoming.message());
    let response = match first.await.map_err(late)? {
        Ok(Some(response)) => response,
        ended => return Err(wire::ended(ended)),
    };
    let Some(Frame::Welcome(welcome)) = response.frame else {
        return Err(SessionEnd::Lost("the first word was no welcome".to_owned()));
    };
    let every = frames::heartbeat_of(&welcome);
    let every = every.map_err(|error| SessionEnd::Lost(error.to_string()))?;
    Ok((welcome, every))
}

/// Where other nodes reach this one: as its settings say, else as the coordinator sees it. Empty where that is not known:
/// then it takes part in no gang.
async fn own_address(link: &LinkArgs) -> String {
    if let Some(address) = &link.identity.address {
        return address.clone();
    }
    let found = address::toward(link.access.connection().url());
    let late = |_| std::io::ErrorKind::TimedOut.into();
    let found = tokio::time::timeout(wire::PATIENCE, found).await;
    found.map_err(late).flatten().unwrap_or_else(|error| {
        tracing::debug!(%error, "where other nodes reach this one is not known");
        String::new()
    })
}

fn hello(link: &LinkArgs, credential: &Secret, address: String) -> ConnectRequest {
    let identity = &link.identity;
    let reports = link.board.reports_after(0);
    frames::request(connect_request::Frame::Hello(Hello {
        node_name: identity.name.clone(),
        token: credential.expose().to_owned(),
        protocol_version: PROTOCOL,
        agent_version: trainyard_proto::version().to_owned(),
        boot_id: identity.boot_id.clone(),
        capacity: Some(identity.capacity.clone().into()),
        labels: identity.labels.clone(),
        tasks: frames::all_tasks(reports),
        agent_id: identity.agent_id.clone(),
        blocked_gpus: frames::blocked(link.board.blocked()),
        address,
        condition: link.board.condition(),
    }))
}

struct Control<'l> {
    link: &'l LinkArgs,
    outgoing: mpsc::Sender<ConnectRequest>,
    /// The board up to this number is told.
    told: u64,
    /// The GPUs that are told to be blocked.
    blocked: BTreeMap<String, Blocked>,
    /// Why the node is told to take no work.
    condition: String,
}

impl Control<'_> {
    async fn run(
        mut self,
        mut incoming: Streaming<ConnectResponse>,
        every: Duration,
    ) -> SessionEnd {
        let mut board = self.link.board.watch();
        board.mark_changed();
        let mut beat = interval(every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The hello was the first.
        beat.reset();
        loop {
            let sent = tokio::select! {
                frame = incoming.message() => match frame {
                    Ok(Some(response)) => {
                        if trainyard_runtime::comes_twice() {
                            self.incoming(response.clone());
                        }
                        self.incoming(response);
                        Ok(())
                    }
                    ended => return wire::ended(ended),
                },
                _ = beat.tick() => self.heartbeat().await,
                changed = board.changed() => match changed {
                    Ok(()) => self.news().await,
                    Err(_) => Err(SessionEnd::Lost("the agent stops".to_owned())),
                },
            };
            if let Err(end) = sent {
                return end;
            }
        }
    }

    async fn heartbeat(&self) -> Result<(), SessionEnd> {
        let reports = self.link.board.reports_after(0);
        let beat = Heartbeat {
            tasks: frames::all_tasks(reports),
            blocked_gpus: frames::blocked(self.link.board.blocked()),
            condition: self.link.board.condition(),
        };
        self.send(connect_request::Frame::Heartbeat(beat)).await
    }

    /// What has changed, each task once.
    async fn news(&mut self) -> Result<(), SessionEnd> {
        let newest = *self.link.board.watch().borrow();
        // Before the end of the task that has held one: it must not be given to another.
        let now = (self.link.board.blocked(), self.link.board.condition());
        if now.0 != self.blocked || now.1 != self.condition {
            (self.blocked, self.condition) = now;
            self.heartbeat().await?;
        }
        for report in self.link.board.reports_after(self.told) {
            let frame = connect_request::Frame::Report(report.into());
            self.send(frame).await?;
        }
        self.told = newest;
        Ok(())
    }

    async fn send(&self, frame: connect_request::Frame) -> Result<(), SessionEnd> {
        let sent = super::send(&self.outgoing, frames::request(frame));
        match tokio::time::timeout(wire::PATIENCE, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(SessionEnd::Lost("the control stream is closed".to_owned())),
            Err(_) => Err(SessionEnd::Lost("the coordinator takes nothing".to_owned())),
        }
    }

    fn incoming(&self, response: ConnectResponse) {
        let message = match response.frame {
            Some(Frame::Start(start)) => frames::order_of(start),
            Some(Frame::Stop(stop)) => frames::stop_of(stop),
            Some(Frame::Forget(forget)) => frames::forget_of(forget),
            Some(Frame::Launch(launch)) => frames::launch_of(launch),
            Some(Frame::Welcome(_) | Frame::Ack(_)) | None => {
                tracing::warn!("a frame that does not belong on a control stream");
                return;
            }
        };
        match message {
            // Nobody is there any more only when the agent ends.
            Ok(message) => drop(self.link.runs.cast(message)),
            Err(error) => tracing::error!(%error, "an order was not understood"),
        }
    }
}

//! The link to the coordinator: one session after the other.
//!
//! Child of Root. Owns when to connect again and who knows of it. Everything that must be said is on
//! the board, so a link that fails is simply started again. Never touches a task: what the
//! coordinator wants is cast to Runs.

mod access;
mod backoff;
mod data;
mod frames;
mod pump;
mod session;
mod wire;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use trainyard_core::resources::Capacity;
use trainyard_proto::v1::ConnectRequest;

pub use access::{Access, AccessError, Bearer, Calls};
pub use session::SessionEnd;
pub use wire::connection;

use crate::{actors::runs::RunsRef, board::Board};

/// A session that lived so long was a good one.
const LASTING: Duration = Duration::from_secs(1);

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Drawn once for the data folder: tells two agents of one name apart.
    pub agent_id: String,
    /// Changes when the machine starts anew.
    pub boot_id: String,
    /// What it offers.
    pub capacity: Capacity,
    /// Where other nodes reach it, where that is set.
    pub address: Option<String>,
    /// What its operator says about it.
    pub labels: BTreeMap<String, String>,
}

/// How the link stands, for whoever started the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// No session.
    Down,
    /// A session.
    Up,
    /// The coordinator does not take this agent: no further try is made.
    Refused(String),
}

/// What a link is given.
#[derive(Debug)]
pub struct LinkArgs {
    /// The way to the coordinator, and what is shown there.
    pub access: Access,
    /// Who this node is.
    pub identity: Identity,
    /// What is to be told.
    pub board: Board,
    /// Who takes what the coordinator wants.
    pub runs: RunsRef,
    /// How the link stands.
    pub state: watch::Sender<LinkState>,
}

/// What a link takes.
#[derive(Debug)]
pub enum LinkMsg {
    /// Try to open a session.
    Connect,
    /// The coordinator has welcomed this node.
    Welcomed(u64),
    /// The session is over, or there was none.
    Ended(SessionEnd),
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct Link;

/// The session, and how often in a row there was none.
#[derive(Debug)]
pub struct State {
    args: Arc<LinkArgs>,
    failures: u32,
    up_since: Option<Instant>,
    told: bool,
    /// Whoever takes the name of a node that was there before will go again.
    was_welcomed: bool,
    tasks: TaskTracker,
    end: CancellationToken,
    /// Ends the session also when this actor fails.
    _guard: DropGuard,
}

impl Actor for Link {
    type Msg = LinkMsg;
    type State = State;
    type Arguments = Arc<LinkArgs>;

    async fn pre_start(
        &self,
        myself: ActorRef<LinkMsg>,
        args: Arc<LinkArgs>,
    ) -> Result<State, ActorProcessingErr> {
        myself.cast(LinkMsg::Connect)?;
        let end = CancellationToken::new();
        Ok(State {
            args,
            failures: 0,
            up_since: None,
            told: false,
            was_welcomed: false,
            tasks: TaskTracker::new(),
            _guard: end.clone().drop_guard(),
            end,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<LinkMsg>,
        message: LinkMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LinkMsg::Connect => state.connect(&myself),
            LinkMsg::Welcomed(session) => state.welcomed(session),
            LinkMsg::Ended(SessionEnd::Refused(text)) => state.refused(text),
            LinkMsg::Ended(SessionEnd::NameTaken(text)) if !state.was_welcomed => {
                state.refused(text);
            }
            LinkMsg::Ended(SessionEnd::Unknown(text)) => {
                if !state.args.access.give_up() {
                    state.refused(text);
                    return Ok(());
                }
                tracing::warn!(why = %text, "the coordinator does not know this agent; joining anew");
                let wait = state.lost(&text);
                myself.send_after(wait, || LinkMsg::Connect);
            }
            LinkMsg::Ended(SessionEnd::NameTaken(why) | SessionEnd::Lost(why)) => {
                let wait = state.lost(&why);
                myself.send_after(wait, || LinkMsg::Connect);
            }
        }
        Ok(())
    }

    /// It has no children; the session is a task.
    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<LinkMsg>,
        event: SupervisionEvent,
        _state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        tracing::debug!(%event, "an event of no child");
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<LinkMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.end.cancel();
        state.tasks.close();
        state.tasks.wait().await;
        Ok(())
    }
}

/// Sends a frame; in a simulation some come twice.
async fn send(
    outgoing: &mpsc::Sender<ConnectRequest>,
    frame: ConnectRequest,
) -> Result<(), mpsc::error::SendError<ConnectRequest>> {
    if trainyard_runtime::comes_twice() {
        outgoing.send(frame.clone()).await?;
    }
    outgoing.send(frame).await
}

/// Tells the link of the session's end also when the session has panicked.
struct Teller {
    link: ActorRef<LinkMsg>,
    end: Option<SessionEnd>,
}

impl Teller {
    fn tell(mut self, end: Option<SessionEnd>) {
        self.end = end;
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let broken = || SessionEnd::Lost("the session broke; report this".to_owned());
        let end = self.end.take().unwrap_or_else(broken);
        // Nobody is there any more only when the agent ends.
        self.link.cast(LinkMsg::Ended(end)).ok();
    }
}

impl State {
    fn connect(&self, myself: &ActorRef<LinkMsg>) {
        let (args, end) = (Arc::clone(&self.args), self.end.clone());
        let teller = Teller {
            link: myself.clone(),
            end: None,
        };
        self.tasks.spawn(async move {
            let session = session::run(&args, &teller.link);
            let ended = end.run_until_cancelled(session).await;
            teller.tell(ended);
        });
    }

    fn welcomed(&mut self, session: u64) {
        self.up_since = Some(Instant::now());
        self.told = false;
        self.was_welcomed = true;
        self.args.state.send_replace(LinkState::Up);
        tracing::info!(node = %self.args.identity.name, session, "connected to the coordinator");
    }

    fn refused(&self, text: String) {
        self.args.state.send_replace(LinkState::Refused(text));
    }

    /// Told once for each change; then it is tried quietly until it works.
    fn lost(&mut self, why: &str) -> Duration {
        self.args.state.send_replace(LinkState::Down);
        let up_since = self.up_since.take();
        let coordinator = self.args.access.connection().url();
        if up_since.is_some() {
            tracing::warn!(%coordinator, %why, "the session has ended; connecting again");
        } else if self.told {
            tracing::debug!(%coordinator, %why, "the coordinator cannot be reached");
        } else {
            tracing::warn!(%coordinator, %why, "the coordinator cannot be reached; trying on");
            self.told = true;
        }
        // A session that ended at once is no better than none.
        let lasted = up_since.is_some_and(|since| since.elapsed() >= LASTING);
        self.failures = if lasted {
            1
        } else {
            self.failures.saturating_add(1)
        };
        backoff::wait(self.failures, rand::random())
    }
}

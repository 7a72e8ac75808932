//! The root: starts Runs and Link and stops them in order.
//!
//! A failed link is started again: what it says is on the board. If Runs fails, the memory of all
//! tasks is in doubt: the process is told to end, and begins again from the folders; trainers go on.
//! Called by the boot.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;

use super::{
    node::Node,
    runs::{Runs, RunsRef},
};
use crate::link::{Access, Identity, Link, LinkArgs, LinkMsg, LinkState};

/// How long a part may take to end in order.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(8));
/// How soon a failed link is started again.
const AGAIN: Duration = Duration::from_secs(1);

/// What Root is given.
#[derive(Debug)]
pub struct RootArgs {
    /// This node.
    pub node: Arc<Node>,
    /// The way to the coordinator, and what is shown there.
    pub access: Access,
    /// Who this node is to it.
    pub identity: Identity,
    /// How the link stands.
    pub link_state: watch::Sender<LinkState>,
    /// Set to the reason when the process must end.
    pub failed: watch::Sender<Option<String>>,
}

/// What Root takes.
#[derive(Debug)]
pub enum RootMsg {
    /// The link has failed a while ago: start it again.
    LinkAgain,
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct Root;

/// The two children.
#[derive(Debug)]
pub struct State {
    runs: RunsRef,
    link: ActorRef<LinkMsg>,
    link_args: Arc<LinkArgs>,
    failed: watch::Sender<Option<String>>,
}

impl Actor for Root {
    type Msg = RootMsg;
    type State = State;
    type Arguments = RootArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RootMsg>,
        args: RootArgs,
    ) -> Result<State, ActorProcessingErr> {
        let board = args.node.board.clone();
        // First the tasks of an earlier life: the first hello tells of all of them.
        let (runs, _) = Runs::spawn_linked(None, Runs, args.node, myself.get_cell()).await?;
        let link_args = Arc::new(LinkArgs {
            access: args.access,
            identity: args.identity,
            board,
            runs: runs.clone(),
            state: args.link_state,
        });
        let of_link = Arc::clone(&link_args);
        let (link, _) = Link::spawn_linked(None, Link, of_link, myself.get_cell()).await?;
        Ok(State {
            runs,
            link,
            link_args,
            failed: args.failed,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<RootMsg>,
        message: RootMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let RootMsg::LinkAgain = message;
        let args = Arc::clone(&state.link_args);
        let (link, _) = Link::spawn_linked(None, Link, args, myself.get_cell()).await?;
        state.link = link;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            SupervisionEvent::ActorTerminated(child, _, reason) => {
                let why = reason.unwrap_or_else(|| "it stopped".to_owned());
                state.child_ended(&myself, child.get_id(), &why);
            }
            SupervisionEvent::ActorFailed(child, error) => {
                state.child_ended(&myself, child.get_id(), &error.to_string());
            }
        }
        Ok(())
    }

    /// In order: no new orders, then the runs; their trainers go on.
    async fn post_stop(
        &self,
        _myself: ActorRef<RootMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // One that has failed before is gone already.
        state.link.stop_and_wait(None, PATIENCE).await.ok();
        state.runs.stop_and_wait(None, PATIENCE).await?;
        Ok(())
    }
}

impl State {
    fn child_ended(&self, myself: &ActorRef<RootMsg>, child: ActorId, why: &str) {
        if child == self.link.get_id() {
            tracing::error!(%why, "the link has failed; it is started again");
            myself.send_after(AGAIN, || RootMsg::LinkAgain);
        } else {
            self.failed.send_replace(Some(why.to_owned()));
        }
    }
}

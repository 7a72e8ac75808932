//! The root: starts the tree from the store and stops it in order.
//!
//! Owns the actors below it. If one of the first three fails, the memory of all is in doubt: the process
//! is told to end, and begins again from the store. Job actors, sessions and trackers are restarted by
//! their own supervisors; without trackers all goes on. Called by the binary.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use trainyard_core::{invariants::Invariant, node::Lease, sched::policy};

use super::{
    job::JobMsg,
    jobs::{Jobs, JobsArgs, JobsMsg, JobsRef},
    nodes::{Nodes, NodesArgs, NodesMsg, NodesRef},
    offers::Offers,
    scheduler::{Scheduler, SchedulerArgs, SchedulerMsg, SchedulerRef},
};
use crate::{
    broken::Broken,
    config::TrackersConfig,
    store::Store,
    trackers::{Board, Trackers, TrackersArgs, TrackersMsg},
};

/// Of so many of the newest jobs the scheduler learns at a start for how long jobs like them run.
const REMEMBERED: usize = 1_000;

/// The way to the three actors.
#[derive(Clone, Debug)]
pub struct Tree {
    /// What nodes could hold at most.
    pub offers: Offers,
    /// Ledger and queue.
    pub scheduler: SchedulerRef,
    /// Submissions and jobs.
    pub jobs: JobsRef,
    /// Nodes and sessions.
    pub nodes: NodesRef,
    /// Broken invariants, counted.
    pub broken: Broken,
    /// Set once the scheduler has looked at the queue that it found at its start.
    pub has_looked: Arc<OnceLock<()>>,
}

/// What Root is given.
#[derive(Debug)]
pub struct RootArgs {
    /// For all that is durable.
    pub store: Store,
    /// Who starts where, and who makes room.
    pub policy: policy::Config,
    /// For how long a silent node is believed.
    pub lease: Lease,
    /// Launches in a row that may fail on a node before it gets no more jobs; 0 for any number.
    pub cordon_after: u32,
    /// For how long a gang waits for a rank that says nothing new.
    pub gang_patience: Duration,
    /// Set to the reason when the process must end.
    pub failed: watch::Sender<Option<String>>,
    /// Who is told what jobs do.
    pub trackers: TrackersConfig,
    /// Shows how they do.
    pub board: Board,
    /// What locations in the artifact store begin with.
    pub artifacts: String,
    /// Where broken invariants are counted.
    pub broken: Broken,
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct Root;

/// The tree, and whom to tell when it is broken.
#[derive(Debug)]
pub struct State {
    tree: Tree,
    trackers: ActorRef<TrackersMsg>,
    failed: watch::Sender<Option<String>>,
}

/// The only question that Root answers.
#[derive(Debug)]
pub enum RootMsg {
    /// The way to the actors.
    Tree(ractor::RpcReplyPort<Tree>),
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
        let cell = myself.get_cell();
        let has_looked = Arc::default();
        let of_scheduler = SchedulerArgs {
            policy: args.policy,
            store: args.store.clone(),
            has_looked: Arc::clone(&has_looked),
        };
        let (scheduler, _) =
            Scheduler::spawn_linked(None, Scheduler, of_scheduler, cell.clone()).await?;
        let offers = Offers::default();
        let of_nodes = NodesArgs {
            offers: offers.clone(),
            store: args.store.clone(),
            scheduler: scheduler.clone(),
            lease: args.lease,
            cordon_after: args.cordon_after,
        };
        let (nodes, _) = Nodes::spawn_linked(None, Nodes, of_nodes, cell.clone()).await?;
        let of_jobs = JobsArgs {
            broken: args.broken.clone(),
            store: args.store.clone(),
            scheduler: scheduler.clone(),
            nodes: nodes.clone(),
            artifacts: args.artifacts,
            gang_patience: args.gang_patience,
        };
        let (jobs, _) = Jobs::spawn_linked(None, Jobs, of_jobs, cell.clone()).await?;
        scheduler.cast(SchedulerMsg::Meet(jobs.clone()))?;
        nodes.cast(NodesMsg::Meet(jobs.clone()))?;
        let of_trackers = TrackersArgs {
            store: args.store.clone(),
            jobs: jobs.clone(),
            board: args.board,
            config: args.trackers,
        };
        let (trackers, _) = Trackers::spawn_linked(None, Trackers, of_trackers, cell).await?;
        let tree = Tree {
            offers,
            scheduler,
            jobs,
            nodes,
            broken: args.broken,
            has_looked,
        };
        resume(&args.store, &tree)?;
        Ok(State {
            tree,
            trackers,
            failed: args.failed,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<RootMsg>,
        message: RootMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let RootMsg::Tree(reply) = message;
        super::scheduler::answer(reply, state.tree.clone());
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            SupervisionEvent::ActorTerminated(child, _, _)
            | SupervisionEvent::ActorFailed(child, _)
                if child.get_id() == state.trackers.get_id() =>
            {
                tracing::error!(
                    "trackers are told nothing more until the coordinator is restarted"
                );
            }
            SupervisionEvent::ActorTerminated(_, _, reason) => {
                let why = reason.unwrap_or_else(|| "it stopped".to_owned());
                state.failed.send_replace(Some(why));
            }
            SupervisionEvent::ActorFailed(_, error) => {
                if let Some(invariant) = Invariant::named_in(&error.to_string()) {
                    state.tree.broken.note(invariant, &error);
                }
                state.failed.send_replace(Some(error.to_string()));
            }
        }
        Ok(())
    }

    /// In order: no trackers, no new placements, then jobs with what waits for them, then the nodes.
    async fn post_stop(
        &self,
        _myself: ActorRef<RootMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let patience = Some(std::time::Duration::from_secs(5));
        // Those that have ended already are no reason to leave the others running.
        state.trackers.stop_and_wait(None, patience).await.ok();
        state.tree.scheduler.stop_and_wait(None, patience).await?;
        state.tree.jobs.drain_and_wait(patience).await?;
        state.tree.nodes.stop_and_wait(None, patience).await?;
        Ok(())
    }
}

/// Tells the scheduler what the store says and wakes every job that holds something.
fn resume(store: &Store, tree: &Tree) -> Result<(), ActorProcessingErr> {
    let (waiting, others) = store.open_jobs_apart()?;
    tracing::info!(
        jobs = waiting.len() + others.len(),
        "jobs that are not over"
    );
    let newest = store.newest_jobs(REMEMBERED)?;
    let ended = newest.into_iter().filter(|job| job.state.is_terminal());
    tree.scheduler.cast(SchedulerMsg::Ended(ended.collect()))?;
    // Those that hold something first: what they hold, and their places in arrays, are nobody else's.
    for job in others {
        let id = job.id;
        let active = job.state.holds_resources();
        tree.scheduler.cast(SchedulerMsg::JobIs(Box::new(job)))?;
        if active {
            tree.jobs.cast(JobsMsg::Route(id, JobMsg::Wake))?;
        }
    }
    tree.scheduler.cast(SchedulerMsg::Waiting(waiting))?;
    Ok(())
}

//! The supervisor of runs: which tasks this node has.
//!
//! Child of Root. Finds the tasks of an earlier life by their folders, starts a run for each wanted
//! task and starts a failed one again. Repeated orders change nothing. Never ends a trainer by its
//! own end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use trainyard_core::{
    failure::StopCause,
    ids::TaskKey,
    task::{Meeting, Phase, Report},
};

use super::{
    give_up::give_up,
    node::Node,
    release::watch,
    room,
    run::{Run, RunArgs, RunMsg, RunRef, blocking, listen},
};
use crate::{
    dataset::Told,
    folder::{self, Order, TaskFolder},
    spool::Spool,
};

/// Where to send [`RunsMsg`].
pub type RunsRef = ActorRef<RunsMsg>;

/// A run that fails so often within [`WINDOW`] is given up.
const MOST_FAILURES: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);
/// What a failed run has under way is over by then.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// How long the runs may take to end in order.
const PATIENCE: Duration = Duration::from_secs(5);

/// What Runs takes.
#[derive(Debug)]
pub enum RunsMsg {
    /// The coordinator wants this task to run.
    Start(Box<Order>),
    /// All of the gang of this task are prepared: it is to start.
    Launch(TaskKey, Meeting),
    /// It wants it to stop.
    Stop {
        /// Which.
        task: TaskKey,
        /// Why.
        cause: StopCause,
        /// The job's own where none is given.
        grace: Option<Duration>,
    },
    /// It has all of it.
    Forget(TaskKey),
    /// A failed run is to begin again.
    Again(TaskKey),
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct Runs;

#[derive(Debug)]
struct Entry {
    order: Arc<Order>,
    run: Option<RunRef>,
    failures: Vec<Instant>,
}

/// All tasks of this node.
#[derive(Debug)]
pub struct State {
    node: Arc<Node>,
    entries: BTreeMap<TaskKey, Entry>,
    actors: BTreeMap<ActorId, TaskKey>,
    tasks: TaskTracker,
    end: CancellationToken,
    /// Ends the watch on GPUs also when this actor fails.
    _guard: DropGuard,
}

impl Actor for Runs {
    type Msg = RunsMsg;
    type State = State;
    type Arguments = Arc<Node>;

    async fn pre_start(
        &self,
        myself: RunsRef,
        node: Arc<Node>,
    ) -> Result<State, ActorProcessingErr> {
        let (tasks, on) = (node.tasks(), Arc::clone(&node));
        // Every port that is lent is known before any run begins, which may want one.
        let find = move || {
            let found = folder::find(&tasks)?;
            for (folder, order) in &found {
                if let Some(port) = folder.lent_port() {
                    on.ports.keep(port, order.task);
                }
            }
            Ok(found)
        };
        let found = blocking(find).await?;
        let end = CancellationToken::new();
        let mut state = State {
            node,
            entries: BTreeMap::new(),
            actors: BTreeMap::new(),
            tasks: TaskTracker::new(),
            _guard: end.clone().drop_guard(),
            end,
        };
        let mut held = BTreeSet::new();
        for (folder, order) in found {
            held.extend(order.gpu_uuids.iter().cloned());
            state.go_on(&myself, folder, order).await?;
        }
        let (node, end) = (Arc::clone(&state.node), state.end.clone());
        state.tasks.spawn(async move {
            end.run_until_cancelled(watch(node, held)).await;
        });
        let (node, end) = (Arc::clone(&state.node), state.end.clone());
        room::look(&node).await;
        state.tasks.spawn(async move {
            end.run_until_cancelled(room::watch(node)).await;
        });
        Ok(state)
    }

    async fn handle(
        &self,
        myself: RunsRef,
        message: RunsMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RunsMsg::Start(order) => {
                if !state.entries.contains_key(&order.task) {
                    tracing::info!(task = %order.task, framework = order.spec.framework, "task begins");
                    state.start(&myself, Arc::new(*order), false).await?;
                }
            }
            RunsMsg::Launch(task, meeting) => {
                let entry = state.entries.get(&task);
                if let Some(run) = entry.and_then(|entry| entry.run.as_ref()) {
                    // One that has just ended needs none; one that begins again says that it waits.
                    run.cast(RunMsg::Launch(meeting)).ok();
                }
            }
            RunsMsg::Stop { task, cause, grace } => {
                let entry = state.entries.get(&task);
                if let Some(run) = entry.and_then(|entry| entry.run.as_ref()) {
                    // One that has just ended needs no stop.
                    run.cast(RunMsg::Stop(cause, grace)).ok();
                }
            }
            RunsMsg::Forget(task) => state.forget(task),
            RunsMsg::Again(task) => state.again(&myself, task).await?,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: RunsRef,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            SupervisionEvent::ActorTerminated(child, _, reason) => {
                let why = reason.unwrap_or_else(|| "it stopped".to_owned());
                state.run_ended(&myself, child.get_id(), &why);
            }
            SupervisionEvent::ActorFailed(child, error) => {
                state.run_ended(&myself, child.get_id(), &error.to_string());
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: RunsRef,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        myself
            .stop_children_and_wait(Some("the agent stops".to_owned()), Some(PATIENCE))
            .await;
        state.end.cancel();
        state.tasks.close();
        if tokio::time::timeout(PATIENCE, state.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("folders of forgotten tasks are still being removed");
        }
        Ok(())
    }
}

impl State {
    /// A task of an earlier life. The board has it before the coordinator is spoken to, and its
    /// trainer is heard before the endpoint answers anybody.
    async fn go_on(
        &mut self,
        myself: &RunsRef,
        folder: TaskFolder,
        order: Order,
    ) -> Result<(), ActorProcessingErr> {
        let (task, order) = (order.task, Arc::new(order));
        let look = {
            let folder = folder.clone();
            move || Ok((folder.end()?, folder.processes()?))
        };
        let looked = blocking(look).await;
        let spool = Spool::open(folder.spool(), self.node.spool_bytes).await;
        let phase = match &looked {
            Ok((Some(ended), _)) => {
                let mut ended = Box::new(ended.clone());
                if spool.is_err() {
                    ended.end.last_seq = 0;
                }
                Phase::Ended(ended)
            }
            Ok((None, Some((_, since)))) => Phase::Running(*since),
            Ok((None, None)) | Err(_) => Phase::Preparing,
        };
        self.node.board.report(Report {
            task,
            phase,
            detail: String::new(),
            kept_from: 0,
        });
        match spool {
            Ok(spool) => {
                listen(&self.node, &order, (spool.clone(), Told::default()));
                self.node.board.spool(task, spool);
            }
            Err(error) => {
                tracing::error!(%task, %error, "records of a task of an earlier life");
                // Its trainer waits, and does not give up.
                self.node.registry.expect(order.secret.expose());
            }
        }
        let entry = Entry {
            order: Arc::clone(&order),
            run: None,
            failures: Vec::new(),
        };
        self.entries.insert(task, entry);
        match looked {
            Ok((Some(_), _)) => {}
            Ok((None, _)) => self.start(myself, order, true).await?,
            Err(error) => {
                let node = Arc::clone(&self.node);
                self.tasks.spawn(give_up(node, order, error.to_string()));
            }
        }
        Ok(())
    }

    async fn start(
        &mut self,
        myself: &RunsRef,
        order: Arc<Order>,
        found: bool,
    ) -> Result<(), ActorProcessingErr> {
        let args = RunArgs {
            node: Arc::clone(&self.node),
            order: Arc::clone(&order),
            found,
        };
        let (run, _) = Run::spawn_linked(None, Run, args, myself.get_cell()).await?;
        self.actors.insert(run.get_id(), order.task);
        let entry = self.entries.entry(order.task).or_insert_with(|| Entry {
            order,
            run: None,
            failures: Vec::new(),
        });
        entry.run = Some(run);
        Ok(())
    }

    fn has_ended(&self, task: TaskKey) -> bool {
        let report = self.node.board.report_of(task);
        report.is_some_and(|report| matches!(report.phase, Phase::Ended(_)))
    }

    /// Well, or by a fault of this program: then it begins again from its folder.
    fn run_ended(&mut self, myself: &RunsRef, actor: ActorId, why: &str) {
        let Some(task) = self.actors.remove(&actor) else {
            return;
        };
        let ended = self.has_ended(task);
        let Some(entry) = self.entries.get_mut(&task) else {
            return;
        };
        entry.run = None;
        if ended {
            return;
        }
        tracing::error!(%task, %why, "a run has failed");
        let now = Instant::now();
        entry.failures.retain(|at| now.duration_since(*at) < WINDOW);
        entry.failures.push(now);
        if entry.failures.len() < MOST_FAILURES {
            myself.send_after(RESTART_AFTER, move || RunsMsg::Again(task));
            return;
        }
        let (node, order) = (Arc::clone(&self.node), Arc::clone(&entry.order));
        self.tasks.spawn(give_up(node, order, why.to_owned()));
    }

    async fn again(&mut self, myself: &RunsRef, task: TaskKey) -> Result<(), ActorProcessingErr> {
        let waits = |entry: &&Entry| entry.run.is_none();
        let Some(entry) = self.entries.get(&task).filter(waits) else {
            return Ok(());
        };
        let order = Arc::clone(&entry.order);
        let folder = TaskFolder::of(&self.node.tasks(), task);
        let found = blocking(move || folder.created()).await?;
        self.start(myself, order, found).await
    }

    /// Only what has ended is forgotten. What the job made lies elsewhere and stays.
    fn forget(&mut self, task: TaskKey) {
        let Some(entry) = self.entries.get(&task) else {
            return;
        };
        if !self.has_ended(task) {
            tracing::warn!(%task, "is to be forgotten but has not ended; it stays");
            return;
        }
        let node = &self.node;
        node.registry.unregister(entry.order.secret.expose());
        let spool = node.board.spool_of(task);
        node.board.remove(task);
        // One that has failed may have left another spool open.
        let whole = entry.failures.is_empty();
        self.entries.remove(&task);
        let (node, folder) = (Arc::clone(node), TaskFolder::of(&node.tasks(), task));
        self.tasks.spawn(async move {
            let closed = match spool {
                Some(spool) => spool.close().await.is_ok(),
                None => false,
            };
            let remove = move || folder.remove(Some(&node.spares).filter(|_| whole && closed));
            if let Err(error) = blocking(remove).await {
                tracing::warn!(%task, %error, "the folder of a forgotten task cannot be removed now");
            }
        });
    }
}

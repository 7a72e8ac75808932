//! The supervisor of runs: which tasks this node has.
//!
//! Child of Root. Finds the tasks of an earlier life by their folders, starts a run for each wanted
//! task and starts a failed one again. Repeated orders change nothing; one with another secret is another task's. Never ends a trainer by its
//! own end, nor for what cannot be read.

mod orders;
mod over;
mod trouble;

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

use self::orders::Going;
use super::{
    damaged,
    node::Node,
    release, room,
    run::{Run, RunArgs, RunMsg, RunRef, blocking, listen},
};
use crate::{
    dataset::Told,
    folder::{self, Found, Order, TaskFolder},
    spool::{Spool, SpoolError},
};

/// Where to send [`RunsMsg`].
pub type RunsRef = ActorRef<RunsMsg>;

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
    /// The folder of a forgotten task has gone.
    Removed(TaskKey),
    /// It cannot be removed, for this reason; it is tried again.
    Stays(TaskKey, String),
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct Runs;

#[derive(Debug)]
struct Entry {
    /// None while the folder's `task.json` cannot be read.
    order: Option<Arc<Order>>,
    /// One for all its runs, and for what comes before them.
    told: Told,
    run: Option<RunRef>,
    failures: u32,
    failed_at: Option<Instant>,
    /// The pauses that were made since it began to fail again and again.
    borne: Duration,
    /// It is to stop, and what keeps it from its work is waited for no longer: the first cause, and the grace that was said
    /// last. Each further run is told so, for one that fails may have taken it along.
    stop: Option<(StopCause, Option<Duration>)>,
}

impl Entry {
    fn new(order: Option<Arc<Order>>, told: Told) -> Self {
        Self {
            order,
            told,
            run: None,
            failures: 0,
            failed_at: None,
            borne: Duration::ZERO,
            stop: None,
        }
    }
}

/// All tasks of this node.
#[derive(Debug)]
pub struct State {
    node: Arc<Node>,
    entries: BTreeMap<TaskKey, Entry>,
    /// Forgotten ones whose folders have not gone yet, and the orders that wait for their places.
    going: BTreeMap<TaskKey, Going>,
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
        // What is lent and taken is known before any run begins, which may want it.
        let find = move || {
            let (found, left) = folder::find(&tasks)?;
            for found in &found {
                if let Some(port) = found.folder.lent_port() {
                    on.ports.keep(port, found.task);
                }
                if let Ok(order) = &found.order
                    && found.folder.may_run()
                {
                    on.slots.keep(order);
                }
            }
            Ok((found, left))
        };
        let (found, left) = blocking(find).await?;
        let end = CancellationToken::new();
        let mut state = State {
            node,
            entries: BTreeMap::new(),
            going: BTreeMap::new(),
            actors: BTreeMap::new(),
            tasks: TaskTracker::new(),
            _guard: end.clone().drop_guard(),
            end,
        };
        state.remove_left(&myself, left);
        let mut held = BTreeSet::new();
        for found in found {
            if found.is_damaged() && damaged::put_aside(&state.node, &found).await {
                continue;
            }
            let order = found.order.iter();
            let gpus: Vec<String> = order.flat_map(|order| order.gpu_uuids.clone()).collect();
            // Those of a task that has ended are nobody's, and may have stayed in use.
            if state.go_on(&myself, found).await? {
                held.extend(gpus);
            }
        }
        let suspects = release::look_first(&state.node, &held).await;
        let (node, end) = (Arc::clone(&state.node), state.end.clone());
        state.tasks.spawn(async move {
            end.run_until_cancelled(release::watch(node, suspects))
                .await;
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
                if let Some(order) = state.takes(&myself, Arc::new(*order)) {
                    state.start(&myself, order, false).await?;
                }
            }
            RunsMsg::Launch(task, meeting) => {
                let entry = state.entries.get(&task);
                if let Some(run) = entry.and_then(|entry| entry.run.as_ref()) {
                    // One that has just ended needs none; one that begins again says that it waits.
                    run.cast(RunMsg::Launch(meeting)).ok();
                }
            }
            RunsMsg::Stop { task, cause, grace } => state.stop(task, cause, grace),
            RunsMsg::Forget(task) => state.forget(&myself, task),
            RunsMsg::Removed(task) => {
                if let Some(order) = state.has_gone(task) {
                    state.start(&myself, order, false).await?;
                }
            }
            RunsMsg::Stays(task, why) => state.stays(task, &why),
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
                let why = (why.as_str(), false);
                state.run_ended(&myself, child.get_id(), why).await;
            }
            SupervisionEvent::ActorFailed(child, error) => {
                let words = error.to_string();
                let why = (words.as_str(), trouble::is_passing(&error));
                state.run_ended(&myself, child.get_id(), why).await;
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
    /// trainer is heard before the endpoint answers anybody. False where it has ended.
    async fn go_on(&mut self, myself: &RunsRef, found: Found) -> Result<bool, ActorProcessingErr> {
        let Found {
            folder,
            task,
            order,
        } = found;
        let order = order.map(Arc::new);
        let look = {
            let folder = folder.clone();
            move || Ok((folder.end()?, folder.processes()?))
        };
        let looked = blocking(look).await;
        let spool = Spool::open(folder.spool(), self.node.spool_bytes).await;
        let phase = match &looked {
            Ok((Some(ended), _)) => over::before(ended),
            Ok((None, Some((_, since)))) => Phase::Running(*since),
            Ok((None, None)) | Err(_) => Phase::Preparing,
        };
        self.tell(task, phase, String::new());
        let told = folder.told();
        told.owing().begin();
        let fault = spool.as_ref().err().cloned();
        self.hear(task, order.as_deref().ok(), (spool, told.clone()));
        let entry = Entry::new(order.as_ref().ok().cloned(), told);
        self.entries.insert(task, entry);
        self.doubt();
        match (looked, order) {
            (Ok((Some(ended), _)), _) => {
                self.over(myself, (task, ended), fault);
                return Ok(false);
            }
            (Ok((None, _)), Ok(order)) => self.start(myself, order, true).await?,
            (Err(error), _) | (Ok(_), Err(error)) => {
                let why = error.to_string();
                self.trouble(myself, task, (&why, false)).await;
            }
        }
        Ok(true)
    }

    /// It has ended: what was kept for it, as long as that was not known, is free.
    fn give_back(&self, task: TaskKey) {
        self.node.slots.give_back(task);
        self.node.ports.give_back(task);
    }

    /// Its records are sent, and its trainer is heard, as far as that can be.
    fn hear(
        &self,
        task: TaskKey,
        order: Option<&Order>,
        (spool, told): (Result<Spool, SpoolError>, Told),
    ) {
        match spool {
            Ok(spool) => {
                if let Some(order) = order {
                    listen(&self.node, order, (spool.clone(), told));
                }
                self.node.board.spool(task, spool);
            }
            Err(error) => {
                tracing::error!(%task, %error, "records of a task of an earlier life");
                if let Some(order) = order {
                    // Its trainer waits, and does not give up.
                    self.node.registry.expect(order.secret.expose());
                }
            }
        }
    }

    /// Whoever calls with a secret that is not known may be a trainer whose order cannot be read.
    fn doubt(&self) {
        let unread = |(task, entry): (&TaskKey, &Entry)| {
            entry.order.is_none() && !has_ended(&self.node, *task)
        };
        let doubts = self.entries.iter().any(unread);
        self.node.registry.doubt(doubts);
    }

    fn tell(&self, task: TaskKey, phase: Phase, detail: String) {
        self.node.board.report(Report {
            task,
            phase,
            detail,
            kept_from: 0,
        });
    }

    async fn start(
        &mut self,
        myself: &RunsRef,
        order: Arc<Order>,
        found: bool,
    ) -> Result<(), ActorProcessingErr> {
        let task = order.task;
        let entry = self.entries.entry(task).or_insert_with(|| {
            let told = TaskFolder::of(&self.node.tasks(), task).told();
            Entry::new(Some(Arc::clone(&order)), told)
        });
        let args = RunArgs {
            node: Arc::clone(&self.node),
            order,
            found,
            told: entry.told.clone(),
        };
        let (run, _) = Run::spawn_linked(None, Run, args, myself.get_cell()).await?;
        self.actors.insert(run.get_id(), task);
        if let Some((cause, grace)) = entry.stop {
            // One that has failed already is followed by another.
            run.cast(RunMsg::Stop(cause, grace)).ok();
        }
        entry.run = Some(run);
        Ok(())
    }

    /// Well, or by a fault of this program or of its disk: then it begins again from its folder. `why` with whether that
    /// passes.
    async fn run_ended(&mut self, myself: &RunsRef, actor: ActorId, why: (&str, bool)) {
        let Some(task) = self.actors.remove(&actor) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(&task) {
            entry.run = None;
        }
        if !has_ended(&self.node, task) {
            self.trouble(myself, task, why).await;
        }
    }
}

fn has_ended(node: &Node, task: TaskKey) -> bool {
    let report = node.board.report_of(task);
    report.is_some_and(|report| matches!(report.phase, Phase::Ended(_)))
}

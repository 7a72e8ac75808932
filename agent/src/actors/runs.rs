//! The supervisor of runs: which tasks this node has.
//!
//! Child of Root. Finds the tasks of an earlier life by their folders, starts a run for each wanted
//! task and starts a failed one again. Repeated orders change nothing. Never ends a trainer by its
//! own end, nor for what cannot be read.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
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
    record::Record,
    task::{Ended, Meeting, Phase, Report, Stop},
};

use super::{
    damaged,
    give_up::give_up,
    node::Node,
    release::watch,
    room,
    run::{Run, RunArgs, RunMsg, RunRef, blocking, listen},
    scribe::{Level, own_line},
};
use crate::{
    dataset::Told,
    folder::{self, Found, Order, TaskFolder},
    spool::{Spool, SpoolError},
};

/// Where to send [`RunsMsg`].
pub type RunsRef = ActorRef<RunsMsg>;

/// A run that fails so often, each time within [`WINDOW`] of the last, is given up when its trainer's shim has gone.
const MOST_FAILURES: u32 = 3;
const WINDOW: Duration = Duration::from_secs(60);
/// What a failed run has under way is over by then. It doubles with each failure, up to a bound.
const RESTART_AFTER: Duration = Duration::from_millis(100);
const RESTART_AT_LATEST: Duration = Duration::from_secs(30);
/// The grace of a trainer that is stopped without a run, where neither the stop nor a readable order names one.
const GRACE: Duration = Duration::from_secs(30);
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
    /// None while the folder's `task.json` cannot be read.
    order: Option<Arc<Order>>,
    run: Option<RunRef>,
    failures: u32,
    failed_at: Option<Instant>,
}

impl Entry {
    fn new(order: Option<Arc<Order>>) -> Self {
        Self {
            order,
            run: None,
            failures: 0,
            failed_at: None,
        }
    }

    /// Counts a failure; after how long it is tried again.
    fn fails(&mut self, now: Instant) -> Duration {
        let again = |at: &Instant| now.duration_since(*at) < WINDOW;
        let before = self.failed_at.replace(now).filter(again);
        self.failures = before.map_or(0, |_| self.failures) + 1;
        let doubled = RESTART_AFTER.saturating_mul(1 << (self.failures - 1).min(16));
        doubled.min(RESTART_AT_LATEST)
    }
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
            for found in &found {
                if let Some(port) = found.folder.lent_port() {
                    on.ports.keep(port, found.task);
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
        for found in found {
            if found.is_damaged() && damaged::put_aside(&state.node, &found).await {
                continue;
            }
            let order = found.order.iter();
            held.extend(order.flat_map(|order| order.gpu_uuids.iter().cloned()));
            state.go_on(&myself, found).await?;
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
            RunsMsg::Stop { task, cause, grace } => state.stop(task, cause, grace),
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
                state.run_ended(&myself, child.get_id(), &why).await;
            }
            SupervisionEvent::ActorFailed(child, error) => {
                state.run_ended(&myself, child.get_id(), &error.to_string())
                    .await;
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
    async fn go_on(&mut self, myself: &RunsRef, found: Found) -> Result<(), ActorProcessingErr> {
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
            Ok((Some(end), _)) => ended(end.clone(), spool.is_ok()),
            Ok((None, Some((_, since)))) => Phase::Running(*since),
            Ok((None, None)) | Err(_) => Phase::Preparing,
        };
        self.tell(task, phase, String::new());
        self.hear(task, order.as_deref().ok(), spool);
        let entry = Entry::new(order.as_ref().ok().cloned());
        self.entries.insert(task, entry);
        self.doubt();
        match (looked, order) {
            (Ok((Some(_), _)), _) => {}
            (Ok((None, _)), Ok(order)) => self.start(myself, order, true).await?,
            (Err(error), _) | (Ok(_), Err(error)) => {
                self.trouble(myself, task, &error.to_string()).await;
            }
        }
        Ok(())
    }

    /// Its records are sent, and its trainer is heard, as far as that can be.
    fn hear(&self, task: TaskKey, order: Option<&Order>, spool: Result<Spool, SpoolError>) {
        match spool {
            Ok(spool) => {
                if let Some(order) = order {
                    listen(&self.node, order, (spool.clone(), Told::default()));
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
        let args = RunArgs {
            node: Arc::clone(&self.node),
            order: Arc::clone(&order),
            found,
        };
        let (run, _) = Run::spawn_linked(None, Run, args, myself.get_cell()).await?;
        self.actors.insert(run.get_id(), order.task);
        let task = order.task;
        let entry = self.entries.entry(task);
        let entry = entry.or_insert_with(|| Entry::new(Some(order)));
        entry.run = Some(run);
        Ok(())
    }

    /// Well, or by a fault of this program or of its disk: then it begins again from its folder.
    async fn run_ended(&mut self, myself: &RunsRef, actor: ActorId, why: &str) {
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

    /// A task has no run that could go on. It is tried again, for as long as there may be a trainer: it is not given up
    /// for what the agent cannot read or write.
    async fn trouble(&mut self, myself: &RunsRef, task: TaskKey, why: &str) {
        let Some(entry) = self.entries.get_mut(&task) else {
            return;
        };
        tracing::error!(%task, %why, "a run has failed");
        let again = entry.fails(Instant::now());
        let (failures, order) = (entry.failures, entry.order.clone());
        if failures >= MOST_FAILURES {
            let folder = TaskFolder::of(&self.node.tasks(), task);
            if let Ok(false) = blocking(move || folder.has_shim()).await {
                let node = Arc::clone(&self.node);
                let given_up = give_up(node, (task, order), why.to_owned());
                self.tasks.spawn(given_up);
                return;
            }
            self.say_trouble(task, why, failures == MOST_FAILURES);
        }
        myself.send_after(again, move || RunsMsg::Again(task));
    }

    /// To the coordinator, and once to the job's log.
    fn say_trouble(&self, task: TaskKey, why: &str, first: bool) {
        let words = format!(
            "the agent of node {} cannot go on with this task for now, and its trainer runs on: {why}; it is tried again",
            self.node.name
        );
        tracing::warn!(%task, words);
        let report = self.node.board.report_of(task);
        let phase = report.map_or(Phase::Preparing, |report| report.phase);
        self.tell(task, phase, words.clone());
        let spool = self.node.board.spool_of(task).filter(|_| first);
        if let Some(spool) = spool {
            self.tasks.spawn(async move {
                // The spool may be the trouble.
                let line = Record::Log(own_line(Level::Warning, words));
                spool.append(vec![(line, None)]).await.ok();
            });
        }
    }

    /// The look at the folder is a part of it: what it holds may have become readable.
    async fn again(&mut self, myself: &RunsRef, task: TaskKey) -> Result<(), ActorProcessingErr> {
        let waits = |entry: &&Entry| entry.run.is_none();
        let Some(entry) = self.entries.get(&task).filter(waits) else {
            return Ok(());
        };
        if has_ended(&self.node, task) {
            return Ok(());
        }
        let folder = TaskFolder::of(&self.node.tasks(), task);
        let known = entry.order.clone();
        let look = move || {
            let order = match known {
                Some(order) => order,
                None => Arc::new(folder.order()?.ok_or(io::ErrorKind::NotFound)?),
            };
            Ok((order, folder.end()?, folder.created()?))
        };
        let (order, end, found) = match blocking(look).await {
            Ok(seen) => seen,
            Err(error) => {
                self.trouble(myself, task, &error.to_string()).await;
                return Ok(());
            }
        };
        if let Some(entry) = self.entries.get_mut(&task) {
            entry.order = Some(Arc::clone(&order));
        }
        // The run makes it known who calls; until then nobody is refused.
        self.node.registry.expect(order.secret.expose());
        self.doubt();
        match end {
            None => self.start(myself, order, found).await,
            Some(end) => {
                let has_spool = self.node.board.spool_of(task).is_some();
                self.tell(task, ended(end, has_spool), String::new());
                Ok(())
            }
        }
    }

    /// One that has just ended needs no stop; one that has no run is stopped by its folder.
    fn stop(&self, task: TaskKey, cause: StopCause, grace: Option<Duration>) {
        let Some(entry) = self.entries.get(&task) else {
            return;
        };
        if let Some(run) = &entry.run {
            run.cast(RunMsg::Stop(cause, grace)).ok();
            return;
        }
        if has_ended(&self.node, task) {
            return;
        }
        let own = entry.order.as_ref().map(|order| order.spec.grace_period);
        let grace = grace.or(own).unwrap_or(GRACE);
        let (node, stop) = (Arc::clone(&self.node), Stop { cause, grace });
        self.tasks.spawn(async move {
            if let Err(error) = stop_alone(node, task, stop).await {
                tracing::error!(%task, %error, "a trainer cannot be stopped");
            }
        });
    }

    /// Only what has ended is forgotten. What the job made lies elsewhere and stays.
    fn forget(&mut self, task: TaskKey) {
        let Some(entry) = self.entries.get(&task) else {
            return;
        };
        if !has_ended(&self.node, task) {
            tracing::warn!(%task, "is to be forgotten but has not ended; it stays");
            return;
        }
        let node = &self.node;
        if let Some(order) = &entry.order {
            node.registry.unregister(order.secret.expose());
        }
        let spool = node.board.spool_of(task);
        node.board.remove(task);
        // One that has failed may have left another spool open.
        let whole = entry.failures == 0;
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

fn has_ended(node: &Node, task: TaskKey) -> bool {
    let report = node.board.report_of(task);
    report.is_some_and(|report| matches!(report.phase, Phase::Ended(_)))
}

/// Records that nobody has are not waited for.
fn ended(mut ended: Ended, has_spool: bool) -> Phase {
    if !has_spool {
        ended.end.last_seq = 0;
    }
    Phase::Ended(Box::new(ended))
}

/// Stops the trainer of a task that has no run. The first cause stays.
async fn stop_alone(node: Arc<Node>, task: TaskKey, stop: Stop) -> io::Result<()> {
    let folder = TaskFolder::of(&node.tasks(), task);
    let work = move || {
        if let Ok(None) = folder.stop() {
            folder.note_stop(&stop)?;
        }
        let Some((processes, _)) = folder.processes()? else {
            return Ok(());
        };
        let trainers = &node.trainers;
        let asked = trainers.request_stop(folder.path(), &processes.shim, stop.grace);
        asked.map(drop).map_err(io::Error::other)
    };
    blocking(work).await
}

//! One task on this node: drives core's machine of a task and carries its effects out.
//!
//! Child of Runs. Owns the task's folder while the task lives; ends itself when `end.json` is there.
//! If it fails, Runs starts it again from the folder. Its own end never ends the trainer.

mod effects;
mod opening;
mod share;

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{process::Child, time::Instant};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use trainyard_core::{
    failure::StopCause,
    task::{Drained, Effect, Ended, Failure, Input, Meeting, Report, Stop, Task},
};

pub(super) use crate::disk::blocking;

use super::{
    courier::Courier,
    gang::Prepared,
    node::Node,
    room,
    scribe::{Level, Scribe, scribe},
};
use crate::{
    callbacks::TaskEndpoint,
    dataset::{Told, forget_copies},
    exec::{ExitRecord, ProcIdent, watch::ShimVanished},
    folder::{Order, TaskFolder},
    objects::TaskObjects,
    spool::{Spool, SpoolError},
};

/// Where to send [`RunMsg`].
pub type RunRef = ActorRef<RunMsg>;

/// How long a launch that an earlier life of the agent began may take to show.
const LAUNCH_PATIENCE: u32 = 250;
const LAUNCH_TICK: Duration = Duration::from_millis(20);
/// How long a task that is new here waits for room on the disk, and how often it looks.
const ROOM_PATIENCE: Duration = Duration::from_secs(600);
const ROOM_TICK: Duration = Duration::from_secs(1);

/// What a run takes.
#[derive(Debug)]
pub enum RunMsg {
    /// Begin, or go on where the folder says.
    Begin,
    /// Stop, with the job's own grace where none is given.
    Stop(StopCause, Option<Duration>),
    /// The preparation says what it does.
    Detail(String),
    /// The preparation has ended.
    Prepared(Result<Box<Prepared>, Failure>),
    /// Its share of the node may be free by now.
    TakeShare,
    /// All others of its gang are prepared too.
    Launch(Meeting),
    /// The process has gone.
    Gone(Box<Result<ExitRecord, ShimVanished>>),
    /// The time limit is over.
    LimitReached,
    /// All that the task said is kept.
    Drained(Result<Drained, SpoolError>),
    /// The end is to be kept.
    KeepEnd(Box<Ended>),
}

/// What a run is given.
#[derive(Clone, Debug)]
pub struct RunArgs {
    /// This node.
    pub node: Arc<Node>,
    /// What is to be run.
    pub order: Arc<Order>,
    /// The folder was there already.
    pub found: bool,
    /// What its trainer says of its checkpoints, to this run and to those before it.
    pub told: Told,
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct Run;

/// The task, and what works for it.
#[derive(Debug)]
pub struct State {
    args: RunArgs,
    folder: TaskFolder,
    task: Task,
    detail: String,
    words: Vec<(Level, String)>,
    scribe: Option<Scribe>,
    prepared: Option<Box<Prepared>>,
    shim: Option<ProcIdent>,
    child: Option<Child>,
    preparation: CancellationToken,
    courier: Courier,
    begun: bool,
    waits_since: Option<Instant>,
    /// Since when another task has what it needs.
    share_since: Option<Instant>,
    tasks: TaskTracker,
    end: CancellationToken,
    /// Ends the tasks also when this actor fails.
    _guard: DropGuard,
}

impl Actor for Run {
    type Msg = RunMsg;
    type State = State;
    type Arguments = RunArgs;

    async fn pre_start(&self, myself: RunRef, args: RunArgs) -> Result<State, ActorProcessingErr> {
        // Runs waits for this: all work is in Begin.
        myself.cast(RunMsg::Begin)?;
        let end = CancellationToken::new();
        let spec = &args.order.spec;
        Ok(State {
            folder: TaskFolder::of(&args.node.tasks(), args.order.task),
            task: Task::new(spec.time_limit, spec.grace_period, None).among(args.order.world_size),
            detail: String::new(),
            words: Vec::new(),
            scribe: None,
            prepared: None,
            shim: None,
            child: None,
            preparation: end.child_token(),
            courier: Courier::new(&args, &end),
            begun: false,
            waits_since: None,
            share_since: None,
            tasks: TaskTracker::new(),
            _guard: end.clone().drop_guard(),
            end,
            args,
        })
    }

    async fn handle(
        &self,
        myself: RunRef,
        message: RunMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RunMsg::Begin => {
                if !state.waits_for_room(&myself).await {
                    state.begin(&myself).await?;
                }
            }
            RunMsg::Stop(cause, grace) => {
                // It is to end in order: what that takes on the disk is little.
                state.begin(&myself).await?;
                let grace = grace.unwrap_or(state.args.order.spec.grace_period);
                state
                    .step(&myself, Input::Stop(Stop { cause, grace }))
                    .await?;
            }
            RunMsg::Detail(detail) => {
                state.detail = detail;
                state.report();
            }
            RunMsg::Prepared(Ok(prepared)) => {
                state.prepared = Some(prepared);
                state.take_share(&myself).await?;
            }
            RunMsg::TakeShare => state.take_share(&myself).await?,
            RunMsg::Launch(meeting) => state.step(&myself, Input::Launch(meeting)).await?,
            RunMsg::Prepared(Err(failure)) => state.step(&myself, Input::Failed(failure)).await?,
            RunMsg::Gone(gone) => {
                let gone = state.gone(*gone);
                state.step(&myself, Input::Gone(gone)).await?;
            }
            RunMsg::LimitReached => state.step(&myself, Input::LimitReached).await?,
            RunMsg::Drained(drained) => state.step(&myself, Input::Drained(drained?)).await?,
            RunMsg::KeepEnd(ended) => state.keep_end(&myself, ended).await?,
        }
        Ok(())
    }

    /// It has no children; what works for it are tasks.
    async fn handle_supervisor_evt(
        &self,
        _myself: RunRef,
        event: SupervisionEvent,
        _state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        tracing::debug!(%event, "an event of no child");
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: RunRef,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.end.cancel();
        state.tasks.close();
        state.tasks.wait().await;
        Ok(())
    }
}

impl State {
    /// A task that is new here waits for room on the disk, without which its launch would fail. The node says that it is
    /// full: this is for what was sent here just before.
    async fn waits_for_room(&mut self, myself: &RunRef) -> bool {
        if self.args.found || self.begun {
            return false;
        }
        let waited = self.waits_since.get_or_insert_with(Instant::now).elapsed();
        let waits = room::lacks(&self.args.node, waited > Duration::ZERO);
        let Some(words) = waits.await.filter(|_| waited < ROOM_PATIENCE) else {
            return false;
        };
        self.detail = format!("waits for room: {words}");
        self.report();
        myself.send_after(ROOM_TICK, || RunMsg::Begin);
        true
    }

    /// Once.
    async fn begin(&mut self, myself: &RunRef) -> Result<(), ActorProcessingErr> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        self.detail.clear();
        let (folder, args) = (self.folder.clone(), self.args.clone());
        let stop = blocking(move || {
            if !args.found {
                folder.create(&args.order, &args.node.spares)?;
                return Ok(None);
            }
            // Without it an old checkpoint would be stored over the one that was called the last.
            args.told.places()?;
            if let Err(error) = forget_copies(folder.path()) {
                tracing::warn!(task = %args.order.task, %error, "copies of checkpoints that nobody needs stay");
            }
            folder.stop()
        })
        .await?;
        let spec = &self.args.order.spec;
        self.task =
            Task::new(spec.time_limit, spec.grace_period, stop).among(self.args.order.world_size);
        let spool = self.open_spool().await?;
        self.start_scribe(myself, spool.clone());
        if stop.is_some() {
            self.courier.stop();
            self.args.node.slots.leaves(self.args.order.task);
        }
        let told = self.args.told.clone();
        listen(&self.args.node, &self.args.order, (spool, told));
        if self.args.found {
            self.note(
                Level::Info,
                "the agent was restarted and goes on with this task",
            );
            if let Some(words) = self.args.told.lost() {
                self.note(Level::Warning, words);
            }
            if let Some(started) = self.adopt().await? {
                self.step(myself, started).await?;
                return self.gone_meanwhile(myself).await;
            }
        }
        self.step(myself, Input::Begin).await
    }

    async fn open_spool(&self) -> Result<Spool, SpoolError> {
        let (node, task) = (&self.args.node, self.args.order.task);
        if node.board.report_of(task).is_none() {
            self.report();
        }
        let owing = self.args.told.owing();
        let place = (self.folder.spool(), node.spool_bytes);
        opening::open((&node.board, task), place, self.args.found.then_some(owing)).await
    }

    fn start_scribe(&mut self, myself: &RunRef, spool: Spool) {
        let task = self.args.order.task;
        let (scribe, desk) = scribe(task, spool, self.folder.output());
        let (myself, end) = (myself.clone(), self.end.clone());
        self.tasks.spawn(async move {
            if let Some(drained) = end.run_until_cancelled(desk.work()).await {
                // Nobody is there any more only when the agent ends.
                myself.cast(RunMsg::Drained(drained)).ok();
            }
        });
        self.scribe = Some(scribe);
    }

    /// The process that an earlier life of the agent has started, or is in the middle of starting.
    async fn adopt(&mut self) -> Result<Option<Input>, ActorProcessingErr> {
        let mut waited = 0;
        while waited < LAUNCH_PATIENCE {
            let folder = self.folder.clone();
            let look = move || Ok((folder.processes()?, folder.launched()?, folder.has_shim()?));
            match blocking(look).await? {
                (Some((processes, since)), ..) => {
                    self.args.node.slots.keep(&self.args.order);
                    self.shim = Some(processes.shim);
                    return Ok(Some(Input::Started(since)));
                }
                (None, false, _) => return Ok(None),
                // As long as there is a shim it is waited for, however slow its disk is.
                (None, true, true) => {}
                (None, true, false) => waited += 1,
            }
            tokio::time::sleep(LAUNCH_TICK).await;
        }
        tracing::warn!(task = %self.args.order.task, "a launch came to nothing; it is begun again");
        Ok(None)
    }

    /// What ended before the agent was there again did so within its time limit, however late it is now.
    async fn gone_meanwhile(&mut self, myself: &RunRef) -> Result<(), ActorProcessingErr> {
        let folder = self.folder.clone();
        match blocking(move || folder.exit()).await? {
            Some(exit) => {
                let gone = self.gone(Ok(exit));
                self.step(myself, Input::Gone(gone)).await
            }
            None => Ok(()),
        }
    }

    /// Takes what happened, and what comes of carrying out its effects.
    async fn step(&mut self, myself: &RunRef, input: Input) -> Result<(), ActorProcessingErr> {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            if let Input::Failed(failure) = &input {
                self.words.push((Level::Warning, failure.error.clone()));
            }
            for effect in self.task.step(input) {
                if let Some(input) = self.carry_out(myself, effect).await? {
                    next = Some(input);
                }
            }
        }
        Ok(())
    }

    async fn carry_out(
        &mut self,
        myself: &RunRef,
        effect: Effect,
    ) -> Result<Option<Input>, ActorProcessingErr> {
        match effect {
            Effect::Prepare => self.prepare(myself),
            Effect::Abandon => self.preparation.cancel(),
            Effect::Launch(meeting) => return Ok(Some(self.launch(meeting).await?)),
            Effect::Watch => self.watch(myself),
            Effect::WatchLimit(at) => self.watch_limit(myself, at),
            Effect::NoteStop(stop) => self.note_stop(stop).await,
            Effect::Signal(grace) => self.signal(grace).await,
            Effect::Drain => self.drain().await,
            Effect::Report => self.report(),
            Effect::End(ended) => myself.cast(RunMsg::KeepEnd(ended))?,
        }
        Ok(None)
    }

    fn note(&self, level: Level, text: impl Into<String>) {
        if let Some(scribe) = &self.scribe {
            scribe.note(level, text);
        }
    }

    fn report(&self) {
        self.args.node.board.report(Report {
            task: self.args.order.task,
            phase: self.task.phase(),
            detail: self.detail.clone(),
            // The board knows the spool.
            kept_from: 0,
        });
    }
}

/// From now on the task's trainer is heard.
pub(super) fn listen(node: &Node, order: &Order, (spool, told): (Spool, Told)) {
    let folder = node.working_folder(order.task);
    let own = TaskFolder::of(&node.tasks(), order.task);
    let objects = TaskObjects::new(order.task.job, order.snapshot.as_ref(), own.view(), &folder);
    let endpoint = TaskEndpoint {
        job: order.task.job,
        total_epochs: order.spec.epochs,
        spool,
        objects: objects.beginning_with(order.spec.resume_from.as_deref(), own.beginning()),
        checkpoint_root: folder,
        told,
    };
    node.registry.register(order.secret.expose(), endpoint);
}

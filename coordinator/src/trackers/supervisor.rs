//! The supervisor of trackers: starts those that are configured, and again after a fault.
//!
//! Child of Root. A tracker that fails is started again from the store a little later; nothing that a
//! tracker does ends the coordinator. Says once at the start which kinds are off.

use std::{collections::BTreeMap, time::Duration};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::{
    actor::{Plan, Tracker, TrackerArgs, TrackerMsg},
    status::{Board, Kind, State as Shown, Status},
};
use crate::{actors::jobs::JobsRef, clock, config::TrackersConfig, store::Store};

/// Until a tracker that failed is started again.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the end of one is waited for.
const STOP: Duration = Duration::from_secs(2);

/// What the supervisor is given.
#[derive(Clone, Debug)]
pub struct TrackersArgs {
    /// All that is sent is read from it.
    pub store: Store,
    /// Told of runs.
    pub jobs: JobsRef,
    /// Shows how they do.
    pub board: Board,
    /// Which trackers.
    pub config: TrackersConfig,
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct Trackers;

/// What the supervisor tells itself.
#[derive(Debug)]
pub enum TrackersMsg {
    /// Start the tracker with this number.
    Start(usize),
}

/// Which trackers there are.
#[derive(Debug)]
pub struct State {
    args: TrackersArgs,
    plans: Vec<Plan>,
    running: BTreeMap<ActorId, (usize, ActorRef<TrackerMsg>)>,
}

impl Actor for Trackers {
    type Msg = TrackersMsg;
    type State = State;
    type Arguments = TrackersArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<TrackersMsg>,
        args: TrackersArgs,
    ) -> Result<State, ActorProcessingErr> {
        let plans = plans(&args);
        for number in 0..plans.len() {
            myself.cast(TrackersMsg::Start(number))?;
        }
        Ok(State {
            args,
            plans,
            running: BTreeMap::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<TrackersMsg>,
        message: TrackersMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let TrackersMsg::Start(number) = message;
        state.start(&myself, number).await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<TrackersMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            SupervisionEvent::ActorTerminated(child, _, reason) => {
                let why = reason.unwrap_or_else(|| "it stopped".to_owned());
                state.gone(&myself, child.get_id(), &why);
            }
            SupervisionEvent::ActorFailed(child, error) => {
                state.gone(&myself, child.get_id(), &error.to_string());
            }
        }
        Ok(())
    }

    /// They hold the store, and one may wait half a minute for its tracker.
    async fn post_stop(
        &self,
        _myself: ActorRef<TrackersMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        for (_, actor) in std::mem::take(&mut state.running).into_values() {
            // One that has ended already is as good.
            actor.kill_and_wait(Some(STOP)).await.ok();
        }
        Ok(())
    }
}

impl State {
    async fn start(&mut self, myself: &ActorRef<TrackersMsg>, number: usize) {
        let Some(plan) = self.plans.get(number) else {
            return;
        };
        let args = TrackerArgs {
            plan: plan.clone(),
            store: self.args.store.clone(),
            jobs: self.args.jobs.clone(),
            board: self.args.board.clone(),
        };
        match Tracker::spawn_linked(None, Tracker, args, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.running.insert(actor.get_id(), (number, actor));
            }
            Err(error) => self.again(myself, number, &error.to_string()),
        }
    }

    fn gone(&mut self, myself: &ActorRef<TrackersMsg>, child: ActorId, why: &str) {
        if let Some((number, _)) = self.running.remove(&child) {
            self.again(myself, number, why);
        }
    }

    fn again(&self, myself: &ActorRef<TrackersMsg>, number: usize, why: &str) {
        let name = self.plans.get(number).map(Plan::name).unwrap_or_default();
        tracing::error!(
            tracker = name,
            error = why,
            "a tracker failed; it starts again from the store"
        );
        self.args.board.change(&name, |shown| {
            shown.state = Shown::Retrying;
            shown.failures += 1;
            shown.last_error = Some("a fault of the coordinator; its log says more".to_owned());
            shown.last_error_at = Some(clock::now());
        });
        // Nobody waits for the timer: it ends with the message.
        drop(myself.send_after(PAUSE, move || TrackersMsg::Start(number)));
    }
}

/// The configured ones; those that are off are shown, and said once.
fn plans(args: &TrackersArgs) -> Vec<Plan> {
    let (config, board) = (&args.config, &args.board);
    let mut plans = Vec::new();
    if config.mlflow.url.is_empty() {
        tracing::info!("tracker mlflow is off: not configured (trackers.mlflow.url)");
        board.put(Status::new("mlflow", Kind::Mlflow, Shown::Off));
    } else {
        plans.push(Plan::Mlflow(config.mlflow.clone()));
    }
    if config.clearml.url.is_empty() {
        tracing::info!("tracker clearml is off: not configured (trackers.clearml.url)");
        board.put(Status::new("clearml", Kind::Clearml, Shown::Off));
    } else {
        plans.push(Plan::Clearml(config.clearml.clone()));
    }
    if config.webhooks.is_empty() {
        tracing::info!("webhooks are off: not configured (trackers.webhooks)");
    }
    plans.extend(config.webhooks.iter().cloned().map(Plan::Webhook));
    for plan in &plans {
        tracing::info!(tracker = plan.name(), kind = plan.kind().name(), "tracker");
        board.put(Status::new(&plan.name(), plan.kind(), Shown::Sending));
    }
    plans
}

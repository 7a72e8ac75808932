//! One tracker: walks the jobs that changed, by its own cursor, and backs off while it is away.
//!
//! Child of the supervisor, which starts it again from the store after a fault. Owns the cursor, the jobs
//! that are left behind for now, the time of the next try and its place on the board. Waits for the tracker in its handler, so nobody
//! ever asks it anything: its state stands on the board. It is killed at the end, wherever it is:
//! whatever it had sent and not noted is sent again, which is harmless.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use trainyard_core::ids::JobId;

use super::{
    clearml::Clearml,
    feed::{self, Feed, Tally},
    hooks::Hook,
    http::{self, Failure},
    mlflow::Mlflow,
    parked::{Failing, Parked},
    rows::CursorRow,
    status::{self, Board, Kind},
    waits::wait_after,
};
use crate::{
    actors::jobs::JobsRef,
    clock,
    config::{ClearmlConfig, MlflowConfig, WebhookConfig},
    store::{Change, Store},
};

/// Which tracker, and how it is reached.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    Mlflow(MlflowConfig),
    Clearml(ClearmlConfig),
    Webhook(WebhookConfig),
}

impl Plan {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Mlflow(_) => "mlflow".to_owned(),
            Self::Clearml(_) => "clearml".to_owned(),
            Self::Webhook(config) => config.shown_name(),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Mlflow(_) => Kind::Mlflow,
            Self::Clearml(_) => Kind::Clearml,
            Self::Webhook(_) => Kind::Webhook,
        }
    }
}

/// What a tracker is given.
#[derive(Clone, Debug)]
pub(super) struct TrackerArgs {
    pub(super) plan: Plan,
    pub(super) store: Store,
    pub(super) jobs: JobsRef,
    pub(super) board: Board,
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub(super) struct Tracker;

/// What a tracker hears. None of it says what to send: the store does.
#[derive(Debug)]
pub(super) enum TrackerMsg {
    /// A job may have changed.
    Wake,
    /// Go on with what is left.
    Next,
    /// The time of the next try has come.
    Due,
}

#[derive(Debug)]
pub(super) enum Worker {
    Mlflow(Feed<Mlflow>),
    Clearml(Feed<Clearml>),
    Webhook(Hook),
}

/// Where it stands.
#[derive(Debug)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) store: Store,
    pub(super) board: Board,
    pub(super) worker: Worker,
    pub(super) cursor: CursorRow,
    /// Jobs that it does not take for now.
    pub(super) parked: Parked,
    /// Times in a row that it was left alone.
    failures: u32,
    /// Until the next try, wakes are ignored.
    backs_off: bool,
    timer: Option<JoinHandle<Result<(), ractor::MessagingErr<TrackerMsg>>>>,
    woken: Arc<AtomicBool>,
    _until_dropped: DropGuard,
}

/// What is left after a step.
enum Left {
    More,
    Nothing,
    /// Nothing before this has passed.
    After(Duration),
}

impl Actor for Tracker {
    type Msg = TrackerMsg;
    type State = State;
    type Arguments = TrackerArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<TrackerMsg>,
        args: TrackerArgs,
    ) -> Result<State, ActorProcessingErr> {
        let name = args.plan.name();
        let kind = args.plan.kind();
        let cursor = cursor(&args.store, &name).await?;
        let woken = Arc::new(AtomicBool::new(true));
        let end = CancellationToken::new();
        let changes = args.store.all_changes();
        let pump = pump(changes, myself.clone(), Arc::clone(&woken), end.clone());
        TaskTracker::new().spawn(pump);
        let mut shown = status::Status::new(&name, kind, status::State::Sending);
        (shown.delivered, shown.dropped) = (cursor.delivered, cursor.dropped);
        shown.behind_since = cursor.behind_since;
        args.board.put(shown);
        let (store, board) = (args.store.clone(), args.board.clone());
        // An outbox may be long.
        let opened = trainyard_runtime::blocking(move || opened(args)).await?;
        let (worker, parked) = opened.map_err(|failure| failure.words().to_owned())?;
        let state = State {
            worker,
            parked,
            name,
            store,
            board,
            cursor,
            failures: 0,
            backs_off: false,
            timer: None,
            woken,
            _until_dropped: end.drop_guard(),
        };
        myself.cast(TrackerMsg::Wake)?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<TrackerMsg>,
        message: TrackerMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            TrackerMsg::Wake => state.woken.store(false, Ordering::SeqCst),
            TrackerMsg::Due => state.backs_off = false,
            TrackerMsg::Next => {}
        }
        if !state.backs_off {
            state.step(&myself).await?;
        }
        Ok(())
    }
}

impl State {
    async fn step(&mut self, myself: &ActorRef<TrackerMsg>) -> Result<(), ActorProcessingErr> {
        let mut tally = Tally::default();
        let outcome = self.work(&mut tally).await;
        self.cursor.delivered += tally.taken;
        self.cursor.dropped += tally.dropped;
        if tally != Tally::default() {
            self.note_cursor().await?;
        }
        let now = clock::now();
        let cursor = &self.cursor;
        self.board.change(&self.name, |shown| {
            (shown.delivered, shown.dropped) = (cursor.delivered, cursor.dropped);
            shown.behind_since = cursor.behind_since;
            if tally.success {
                shown.last_success = Some(now);
            }
        });
        match outcome {
            Ok(Left::More) => {
                self.show(status::State::Sending);
                myself.cast(TrackerMsg::Next)?;
            }
            Ok(Left::Nothing) => {
                self.recovered();
                self.show(status::State::Idle);
            }
            Ok(Left::After(wait)) => {
                if self.lacks_something() {
                    let refused = self.failing().is_refused();
                    self.show(match refused {
                        true => status::State::Refused,
                        false => status::State::Retrying,
                    });
                }
                self.arm(myself, wait);
            }
            Err(failure) => self.failed(myself, &failure),
        }
        Ok(())
    }

    /// One step: some jobs that changed, in the order of their changes, and those left behind that are due;
    /// of a webhook, deliveries then.
    async fn work(&mut self, tally: &mut Tally) -> Result<Left, Failure> {
        let outbox_is_full = matches!(&self.worker, Worker::Webhook(hook) if hook.is_full());
        let full = outbox_is_full || self.parked.is_full();
        let everything = !full && self.walk(tally).await?;
        self.retry(tally).await?;
        if everything {
            self.caught_up().await?;
        }
        let mut next = self.parked.next_due();
        if let Worker::Webhook(hook) = &mut self.worker {
            let delivered = hook.deliver(tally).await;
            next = hook.next_due();
            if tally.success {
                self.recovered();
            }
            if let Some(failure) = delivered? {
                self.note_failure(&failure);
            }
        }
        let now = clock::now();
        Ok(match next {
            // What is full is emptied first.
            Some(due) if due > now && (everything || full) => Left::After(due.since(now)),
            None if everything => Left::Nothing,
            Some(_) | None => Left::More,
        })
    }

    /// Something is left behind or waits for another try.
    fn lacks_something(&self) -> bool {
        !self.failing().is_empty() || !self.parked.is_empty()
    }

    /// Of a webhook, making its deliveries cannot fail: what counts is how they are taken.
    fn failing(&self) -> &Failing {
        match &self.worker {
            Worker::Mlflow(_) | Worker::Clearml(_) => self.parked.failing(),
            Worker::Webhook(hook) => hook.failing(),
        }
    }

    /// What it took and could not say is asked of the store again.
    pub(super) async fn note_cursor(&self) -> Result<(), crate::store::StoreError> {
        let changes = vec![Change::put(&self.cursor)];
        self.store.commit_and_wait(changes).await.map(drop)
    }

    /// It has taken something.
    pub(super) fn recovered(&mut self) {
        self.parked.failing_mut().taken();
        if self.failures > 0 {
            tracing::info!(
                tracker = self.name,
                failures = self.failures,
                "the tracker is back"
            );
            self.failures = 0;
        }
    }

    /// It is left alone for a while.
    fn failed(&mut self, myself: &ActorRef<TrackerMsg>, failure: &Failure) {
        let words = failure.words();
        if self.failures == 0 {
            tracing::warn!(
                tracker = self.name,
                error = words,
                "the tracker does not take what is sent; jobs go on, and it is tried again"
            );
        } else {
            tracing::debug!(
                tracker = self.name,
                error = words,
                "the tracker failed again"
            );
        }
        self.note_failure(failure);
        let wait = wait_after(failure, self.failures);
        self.failures = self.failures.saturating_add(1);
        self.backs_off = true;
        self.arm(myself, wait);
    }

    /// Shows it.
    pub(super) fn note_failure(&self, failure: &Failure) {
        let now = clock::now();
        self.board.change(&self.name, |shown| {
            shown.state = match failure {
                Failure::Refused(_) => status::State::Refused,
                Failure::Away(..) | Failure::Later(..) | Failure::Never(_) | Failure::Ours(_) => {
                    status::State::Retrying
                }
            };
            shown.failures += 1;
            shown.last_error = Some(failure.words().to_owned());
            shown.last_error_at = Some(now);
        });
    }

    /// One timer at a time.
    fn arm(&mut self, myself: &ActorRef<TrackerMsg>, wait: Duration) {
        if let Some(old) = self.timer.take() {
            old.abort();
        }
        self.timer = Some(myself.send_after(wait, || TrackerMsg::Due));
    }

    fn show(&self, state: status::State) {
        self.board.change(&self.name, |shown| shown.state = state);
    }
}

impl Worker {
    pub(super) async fn job(&mut self, job: JobId, tally: &mut Tally) -> Result<(), Failure> {
        match self {
            Self::Mlflow(feed) => feed.job(job, tally).await,
            Self::Clearml(feed) => feed.job(job, tally).await,
            Self::Webhook(hook) => hook.job(job).await,
        }
    }
}

/// With what was left of it in the store.
fn opened(args: TrackerArgs) -> Result<(Worker, Parked), Failure> {
    let client = http::client().map_err(|error| Failure::Ours(error.to_string()))?;
    let (name, store, jobs) = (args.plan.name(), args.store, args.jobs);
    let parked = Parked::open(&store, &name)?;
    let worker = match args.plan {
        Plan::Mlflow(config) => Worker::Mlflow(Feed {
            name,
            server: feed::server(&config.url),
            store,
            jobs,
            sink: Mlflow::new(client, config),
        }),
        Plan::Clearml(config) => Worker::Clearml(Feed {
            name,
            server: feed::server(&config.url),
            store,
            jobs,
            sink: Clearml::new(client, config),
        }),
        Plan::Webhook(config) => Worker::Webhook(Hook::open(name, store, client, config)?),
    };
    Ok((worker, parked))
}

/// A tracker that is new begins with what changes from now on, and then has all of such a job.
async fn cursor(store: &Store, name: &str) -> Result<CursorRow, ActorProcessingErr> {
    if let Some(known) = store.document::<CursorRow>(name)? {
        return Ok(known);
    }
    let new = CursorRow {
        tracker: name.to_owned(),
        change: store.last_change()?,
        ..CursorRow::default()
    };
    store.commit_and_wait(vec![Change::put(&new)]).await?;
    Ok(new)
}

/// Wakes the actor after a change, with one message at most in its mailbox.
async fn pump(
    mut changes: watch::Receiver<u64>,
    to: ActorRef<TrackerMsg>,
    woken: Arc<AtomicBool>,
    end: CancellationToken,
) {
    loop {
        let changed = tokio::select! {
            () = end.cancelled() => return,
            changed = changes.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        if !woken.swap(true, Ordering::SeqCst) && to.cast(TrackerMsg::Wake).is_err() {
            return;
        }
    }
}

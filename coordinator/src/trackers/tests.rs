//! Trackers against a server in the test's hand, while hours pass for them: the clock is put forward, and a
//! tracker is woken as its timer would.

use std::{sync::atomic::Ordering, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tempfile::TempDir;
use tests::wait::until;
use tokio::{net::TcpListener, task::JoinSet};
use trainyard_config::Secret;
use trainyard_core::{
    failure::TaskEnd,
    ids::{AttemptNo, JobId},
    job::Job,
    record::{Checkpoint, Progress},
    spec::JobSpec,
    time::Timestamp,
};

mod server;

pub(crate) use self::server::Server;
use super::{
    actor::{Plan, Tracker, TrackerArgs, TrackerMsg},
    hooks::Hook,
    http,
    rows::DeliveryRow,
    runs::tests::{ended, running},
    status::{Board, State, Status},
};
use crate::{
    actors::{
        job::{ActError, JobMsg},
        jobs::JobsMsg,
    },
    clock,
    config::{ClearmlConfig, MlflowConfig, WebhookConfig},
    store::{Change, Store, StoreOptions},
};

/// The job of these tests.
const JOB: JobId = JobId(7);
const MINUTE: Duration = Duration::from_secs(60);

/// Knows no job: what a run is called is not stored.
struct NoJobs;

impl Actor for NoJobs {
    type Msg = JobsMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<JobsMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<JobsMsg>,
        message: JobsMsg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let JobsMsg::Route(_, JobMsg::Event(_, Some(reply))) = message {
            reply.send(Err(ActError::NotFound))?;
        }
        Ok(())
    }
}

/// One tracker on a store of its own.
pub(crate) struct Desk {
    store: Store,
    board: Board,
    tracker: ActorRef<TrackerMsg>,
    jobs: ActorRef<JobsMsg>,
    _folder: Option<TempDir>,
}

impl Desk {
    async fn of(plan: Plan) -> Self {
        let (folder, store) = store();
        let (jobs, _) = Actor::spawn(None, NoJobs, ()).await.unwrap();
        let mut desk = Self::over(store, jobs, plan).await;
        desk._folder = Some(folder);
        desk
    }

    /// MLflow's at this address, over a store and the jobs of others.
    pub(crate) async fn at(address: &str, store: Store, jobs: ActorRef<JobsMsg>) -> Self {
        Self::over(store, jobs, mlflow(format!("http://{address}"))).await
    }

    async fn over(store: Store, jobs: ActorRef<JobsMsg>, plan: Plan) -> Self {
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let board = Board::default();
        let args = TrackerArgs {
            plan,
            store: store.clone(),
            jobs: jobs.clone(),
            board: board.clone(),
        };
        let (tracker, _) = Actor::spawn(None, Tracker, args).await.unwrap();
        Self {
            store,
            board,
            tracker,
            jobs,
            _folder: None,
        }
    }

    async fn commit(&self, changes: Vec<Change>) {
        let stored = self.store.commit_and_wait(changes);
        let stored = tokio::time::timeout(MINUTE, stored).await;
        stored.expect("nobody waits for a tracker").unwrap();
    }

    pub(crate) fn shown(&self) -> Status {
        self.board.with_lag(&self.store).unwrap().remove(0)
    }

    /// Its timer comes.
    pub(crate) fn due(&self) {
        self.tracker.cast(TrackerMsg::Due).unwrap();
    }

    /// It is tried once more, and does not take it.
    pub(crate) async fn fails_again(&self) {
        let before = self.shown().failures;
        self.due();
        until("it failed again", async || {
            (self.shown().failures > before).then_some(())
        })
        .await;
    }

    pub(crate) async fn has_everything(&self) -> Status {
        until("it has everything", async || {
            let shown = self.shown();
            (shown.state == State::Idle && shown.jobs_pending == 0).then_some(shown)
        })
        .await
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.tracker.kill();
        self.jobs.kill();
    }
}

fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::new(folder.path().join("trainyard.redb"));
    options.reserve_bytes = 0;
    let store = Store::open(options, Box::new(|error| panic!("{error}"))).unwrap();
    (folder, store)
}

fn mlflow(url: String) -> Plan {
    Plan::Mlflow(MlflowConfig {
        url,
        experiment: "trainyard".to_owned(),
        token: Secret::new(String::new()),
        username: String::new(),
        password: Secret::new(String::new()),
    })
}

fn clearml(url: String) -> Plan {
    Plan::Clearml(ClearmlConfig {
        url,
        project: "trainyard".to_owned(),
        access_key: "key".to_owned(),
        secret_key: Secret::new("s3cret".to_owned()),
    })
}

fn webhook(url: String) -> WebhookConfig {
    WebhookConfig {
        url,
        secret: Secret::new("s3cret".to_owned()),
        events: Vec::new(),
        name: "ops".to_owned(),
    }
}

pub(crate) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

fn put(job: &Job) -> Change {
    Change::PutJob(Box::new(job.clone()))
}

fn points(epochs: std::ops::RangeInclusive<u32>) -> Change {
    let point = |epoch| Progress {
        at: Timestamp(i64::from(epoch)),
        epoch,
        total_epochs: 60,
        step: None,
        values: [("loss".to_owned(), 0.5)].into(),
        has_metrics: true,
        checkpoint: Some(Checkpoint {
            path: "/c/last.pt".to_owned(),
            size_bytes: None,
        }),
        best_checkpoint: None,
    };
    Change::AppendPoints {
        task: trainyard_core::ids::TaskKey {
            job: JOB,
            attempt: AttemptNo(1),
            rank: trainyard_core::ids::Rank(0),
        },
        points: epochs.map(point).collect(),
    }
}

fn completed(job: &Job) -> Job {
    let end = TaskEnd {
        exit_code: Some(0),
        ..TaskEnd::default()
    };
    ended(job, end)
}

/// A point a minute for an hour, none of which the tracker takes; then the end of the job.
async fn an_hour_passes(desk: &Desk, job: &Job) {
    for epoch in 2..=61 {
        desk.commit(vec![points(epoch..=epoch)]).await;
        desk.fails_again().await;
        clock::ahead::pass(MINUTE);
    }
    desk.commit(vec![put(&completed(job))]).await;
    desk.fails_again().await;
    let away = desk.shown();
    assert_eq!(away.state, State::Retrying);
    assert_eq!((away.jobs_pending, away.points_pending), (1, 60));
    assert!((3_600..3_700).contains(&away.seconds_behind), "{away:?}");
}

/// It is there for the first point, away for an hour and sixty more, and back for the rest.
async fn is_away_for_an_hour(plan: fn(String) -> Plan) -> Server {
    let (server, mut serving) = (Server::default(), JoinSet::new());
    let url = server.at("127.0.0.1:0", &mut serving).await;
    let desk = Desk::of(plan(url.clone())).await;
    let job = running(JobSpec::default());
    desk.commit(vec![put(&job), points(1..=1)]).await;
    until("the first point is there", async || {
        (desk.shown().delivered == 1).then_some(())
    })
    .await;
    desk.has_everything().await;
    serving.shutdown().await;
    an_hour_passes(&desk, &job).await;
    assert!(!server.ended.load(Ordering::SeqCst));

    let address = url.trim_start_matches("http://");
    server.at(address, &mut serving).await;
    desk.due();
    let back = desk.has_everything().await;
    let told: Vec<_> = (1..=61).map(|step| ("loss".to_owned(), step)).collect();
    assert_eq!(*server.metrics.lock().unwrap(), told, "each point once");
    assert!(server.ended.load(Ordering::SeqCst));
    assert_eq!((back.delivered, back.dropped), (61, 0));
    assert_eq!(back.seconds_behind, 0);
    server
}

#[tokio::test]
async fn tracker_that_is_down_for_an_hour_delays_no_training_and_gets_every_point() {
    is_away_for_an_hour(mlflow).await;
}

#[tokio::test]
async fn clearml_that_is_down_for_an_hour_delays_no_training_and_gets_every_point() {
    let server = is_away_for_an_hour(clearml).await;
    // The token that it had been given before was no longer good.
    assert_eq!(server.tokens.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_tracker_that_had_nothing_to_do_for_hours_is_behind_since_the_change_that_it_lacks() {
    let (server, mut serving) = (Server::default(), JoinSet::new());
    let url = server.at("127.0.0.1:0", &mut serving).await;
    let desk = Desk::of(mlflow(url)).await;
    desk.commit(vec![put(&running(JobSpec::default())), points(1..=1)])
        .await;
    until("the first point is there", async || {
        (desk.shown().delivered == 1).then_some(())
    })
    .await;
    desk.has_everything().await;
    clock::ahead::pass(180 * MINUTE);
    server.ill.store(true, Ordering::SeqCst);
    desk.commit(vec![points(2..=2)]).await;
    until("it failed", async || {
        (desk.shown().failures > 0).then_some(())
    })
    .await;
    let behind = desk.shown();
    assert_eq!((behind.jobs_pending, behind.points_pending), (1, 1));
    assert!(behind.seconds_behind < 60, "{behind:?}");
    // Later changes make it no less behind.
    clock::ahead::pass(10 * MINUTE);
    desk.commit(vec![points(3..=3)]).await;
    desk.fails_again().await;
    let behind = desk.shown();
    assert!((600..660).contains(&behind.seconds_behind), "{behind:?}");
    server.ill.store(false, Ordering::SeqCst);
    clock::ahead::pass(MINUTE);
    desk.due();
    let back = desk.has_everything().await;
    assert_eq!((back.delivered, back.behind_since), (3, None));
}

#[tokio::test]
async fn a_webhook_is_behind_since_its_oldest_delivery() {
    let url = format!("http://{}", nobody().await);
    let desk = Desk::of(Plan::Webhook(webhook(url))).await;
    let job = running(JobSpec::default());
    desk.commit(vec![put(&job)]).await;
    until("it failed", async || {
        (desk.shown().failures > 0).then_some(())
    })
    .await;
    clock::ahead::pass(60 * MINUTE);
    desk.fails_again().await;
    desk.commit(vec![put(&completed(&job))]).await;
    desk.fails_again().await;
    let behind = desk.shown();
    assert_eq!((behind.jobs_pending, behind.points_pending), (1, 3));
    assert!(
        (3_600..3_700).contains(&behind.seconds_behind),
        "{behind:?}"
    );
}

/// A report of 2 MiB, with a checkpoint or without.
fn large(epoch: u32, with_checkpoint: bool) -> Change {
    let text = "x".repeat(2 << 20);
    let checkpoint = Checkpoint {
        path: text.clone(),
        size_bytes: None,
    };
    let point = Progress {
        at: Timestamp(i64::from(epoch)),
        epoch,
        total_epochs: 60,
        step: None,
        values: [(text, 0.5)].into(),
        has_metrics: true,
        checkpoint: Some(checkpoint).filter(|_| with_checkpoint),
        best_checkpoint: None,
    };
    Change::AppendPoints {
        task: trainyard_core::ids::TaskKey {
            job: JOB,
            attempt: AttemptNo(1),
            rank: trainyard_core::ids::Rank(0),
        },
        points: vec![point],
    }
}

#[tokio::test]
async fn checkpoints_behind_reports_that_fill_a_page_by_their_text_are_told_before_the_end() {
    let (_folder, store) = store();
    let job = completed(&running(JobSpec::default()));
    let mut changes = vec![put(&job)];
    changes.extend((1..=5).map(|epoch| large(epoch, false)));
    changes.extend((6..=8).map(|epoch| large(epoch, true)));
    store.commit_and_wait(changes).await.unwrap();
    let config = webhook("http://127.0.0.1:9".to_owned());
    let client = http::client().unwrap();
    let mut hook = Hook::open("ops".to_owned(), store.clone(), client, config).unwrap();
    hook.job(JOB).await.unwrap();
    let waiting = store.documents::<DeliveryRow>("ops/").unwrap();
    let kinds: Vec<_> = waiting.iter().map(|row| row.event.as_str()).collect();
    let expected = [
        "submitted",
        "started",
        "checkpoint",
        "checkpoint",
        "checkpoint",
        "completed",
    ];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn a_webhook_is_told_of_any_number_of_checkpoints_in_order() {
    let (_folder, store) = store();
    let job = completed(&running(JobSpec::default()));
    let changes = vec![put(&job), points(1..=1_000), points(1_001..=2_500)];
    store.commit_and_wait(changes).await.unwrap();
    let config = webhook("http://127.0.0.1:9".to_owned());
    let client = http::client().unwrap();
    let mut hook = Hook::open("ops".to_owned(), store.clone(), client, config).unwrap();
    hook.job(JOB).await.unwrap();
    hook.job(JOB).await.unwrap();
    let waiting = store.documents::<DeliveryRow>("ops/").unwrap();
    let mut kinds: Vec<_> = waiting.iter().map(|row| row.event.as_str()).collect();
    assert_eq!(kinds.len(), 2_503);
    kinds.dedup();
    let expected = ["submitted", "started", "checkpoint", "completed"];
    assert_eq!(kinds, expected);
}

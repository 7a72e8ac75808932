//! The tree as a whole: what becomes of a job whose actor fails, or whose snapshot is gone.

use ractor::{Actor, ActorRef};
use tokio::sync::{mpsc, watch};
use trainyard_core::{
    failure::FailureClass,
    ids::JobId,
    job::{Job, JobState},
    node::Lease,
    resources::Capacity,
    retry::RetryPolicy,
    snapshot::Snapshot,
    spec::JobSpec,
    time::Timestamp,
};
use trainyard_proto::{
    convert::timestamp,
    v1::{self, TaskPhase, connect_request, connect_response::Frame},
};

use super::{
    ask,
    job::JobMsg,
    jobs::{JobsMsg, Prepared, Submission},
    nodes::NodesMsg,
    root::{Root, RootArgs, RootMsg, Tree},
    session::{SessionMsg, SessionRef},
};
use crate::store::{Change, Document, Store, StoreOptions, for_tests::damage_job};

struct World {
    tree: Tree,
    store: Store,
    root: ActorRef<RootMsg>,
    failed: watch::Receiver<Option<String>>,
    folder: tempfile::TempDir,
}

/// The tree over a new store, with nodes that are believed for as long as this.
async fn world(lease: Lease) -> World {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions::new(folder.path().join("trainyard.redb"));
    let store = Store::open(options, Box::new(|error| panic!("{error}"))).unwrap();
    world_on((store, folder), lease).await
}

/// The same over a store that there is.
async fn world_on((store, folder): (Store, tempfile::TempDir), lease: Lease) -> World {
    let (failed_sender, failed) = watch::channel(None);
    let args = RootArgs {
        store: store.clone(),
        policy: trainyard_core::sched::policy::Config::default(),
        lease,
        cordon_after: 3,
        gang_patience: std::time::Duration::from_secs(300),
        failed: failed_sender,
        trackers: crate::config::Config::load(None, []).unwrap().trackers,
        board: crate::trackers::Board::default(),
        artifacts: "/artifacts/".to_owned(),
        broken: crate::broken::Broken::default(),
    };
    let (root, _) = Actor::spawn(None, Root, args).await.unwrap();
    let tree = ask(&root, RootMsg::Tree).await.unwrap();
    World {
        tree,
        store,
        root,
        failed,
        folder,
    }
}

mod ahead;
mod gangs;
mod retries;
mod returns;
mod service;
mod strays;
mod trackers;

type Frames = mpsc::Receiver<Box<Frame>>;

/// A node of one slot.
async fn node(world: &World, name: &str) -> (SessionRef, Frames) {
    node_with(world, name, Vec::new()).await
}

/// The same, on which these tasks are.
async fn node_with(world: &World, name: &str, tasks: Vec<v1::TaskReport>) -> (SessionRef, Frames) {
    let hello = v1::Hello {
        tasks,
        ..v1::Hello::default()
    };
    node_as(world, name, hello).await
}

/// The same, which says this of itself.
async fn node_as(world: &World, name: &str, hello: v1::Hello) -> (SessionRef, Frames) {
    let (outgoing, frames) = mpsc::channel(64);
    let capacity = Capacity {
        cpus: 1,
        ..Capacity::default()
    };
    let hello = Box::new(v1::Hello {
        node_name: name.into(),
        capacity: Some(capacity.into()),
        ..hello
    });
    let question = |reply| NodesMsg::Register {
        hello,
        outgoing,
        reply,
    };
    let session = ask(&world.tree.nodes, question).await.unwrap().unwrap();
    (session, frames)
}

fn submission(retry: RetryPolicy) -> Submission {
    let spec = JobSpec {
        framework: "command".into(),
        command: vec!["true".into()],
        retry,
        ..JobSpec::default()
    };
    Submission {
        spec,
        submitted_by: "ada".into(),
        key: None,
        snapshot: None,
        indices: None,
        coming: None,
    }
}

async fn submit(world: &World, retry: RetryPolicy) -> JobId {
    let submission = Box::new(submission(retry));
    let question = |reply| JobsMsg::Submit(submission, reply);
    ask(&world.tree.jobs, question).await.unwrap().id
}

/// A row of a snapshot that says nothing of one.
#[derive(serde::Serialize, serde::Deserialize)]
struct Damaged(String);

impl Document for Damaged {
    const KIND: &'static str = <Snapshot as Document>::KIND;

    fn key(&self) -> String {
        self.0.clone()
    }
}

async fn start_of(frames: &mut Frames) -> v1::StartTask {
    loop {
        if let Frame::Start(start) = *frames.recv().await.unwrap() {
            return start;
        }
    }
}

#[tokio::test]
async fn a_job_whose_actor_fails_goes_on_from_the_store_and_nobody_else_notices() {
    let world = world(Lease::default()).await;
    let (session, mut frames) = node(&world, "n1").await;
    let job = submit(&world, RetryPolicy::default()).await;
    let start = start_of(&mut frames).await;
    let mut changes = world.store.changes(job);

    world
        .tree
        .jobs
        .cast(JobsMsg::Route(job, JobMsg::Fail))
        .unwrap();
    // The agent says again and again how its task stands.
    let report = || {
        let frame = connect_request::Frame::Report(v1::TaskReport {
            task: start.task,
            phase: TaskPhase::Running.into(),
            started_at: Some(timestamp(Timestamp(0))),
            ..v1::TaskReport::default()
        });
        session.cast(SessionMsg::Incoming(Box::new(frame))).unwrap();
    };
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(5));
    let running = async {
        while world.store.job(job).unwrap().unwrap().state != JobState::Running {
            report();
            tokio::select! {
                _ = changes.changed() => {}
                _ = tick.tick() => {}
            }
        }
    };
    let limit = std::time::Duration::from_secs(30);
    tokio::time::timeout(limit, running)
        .await
        .expect("the job goes on");
    let stored = world.store.job(job).unwrap().unwrap();
    assert_eq!(stored.attempts.len(), 1);
    assert_eq!(*world.failed.borrow(), None);
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn a_job_whose_snapshot_is_gone_or_damaged_fails_in_words_and_never_reaches_a_node() {
    let world = world(Lease::default()).await;
    let (_session, mut frames) = node(&world, "n1").await;
    let damaged = Damaged("snap_damaged".to_owned());
    let change = vec![Change::put(&damaged)];
    world.store.commit_and_wait(change).await.unwrap();
    for (id, words) in [("snap_gone", "is gone"), ("snap_damaged", "cannot be read")] {
        let mut submission = submission(RetryPolicy::default());
        submission.snapshot = Some(Prepared {
            id: id.to_owned(),
            ..Prepared::default()
        });
        let question = |reply| JobsMsg::Submit(Box::new(submission), reply);
        let job = ask(&world.tree.jobs, question).await.unwrap().id;
        let mut changes = world.store.changes(job);
        let failed = async {
            while world.store.job(job).unwrap().unwrap().state != JobState::Failed {
                changes.changed().await.unwrap();
            }
        };
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, failed)
            .await
            .expect("the job fails");
        let outcome = world.store.job(job).unwrap().unwrap().outcome.unwrap();
        assert_eq!(
            outcome.class,
            Some(FailureClass::User),
            "{}",
            outcome.message
        );
        let told = format!("snapshot '{id}' of the job {words}");
        assert!(outcome.message.contains(&told), "{}", outcome.message);
    }
    // Whatever was sent to the node until now is no order to begin.
    while let Ok(frame) = frames.try_recv() {
        assert!(!matches!(*frame, Frame::Start(_)), "{frame:?}");
    }
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn a_dataset_is_held_until_its_job_is_stored_although_the_caller_has_gone() {
    let world = world(Lease::default()).await;
    let lock = std::sync::Arc::new(tokio::sync::Mutex::new(()));
    let mut submission = submission(RetryPolicy::default());
    submission.snapshot = Some(Prepared {
        id: "snap_x".to_owned(),
        held: Some(std::sync::Arc::clone(&lock).lock_owned().await),
        ..Prepared::default()
    });
    let (reply, gone) = ractor::concurrency::oneshot();
    drop(gone);
    let message = JobsMsg::Submit(Box::new(submission), reply.into());
    world.tree.jobs.cast(message).unwrap();
    let limit = std::time::Duration::from_secs(30);
    let freed = tokio::time::timeout(limit, lock.lock()).await;
    drop(freed.expect("it is let go"));
    let stored = world.store.job(trainyard_core::ids::JobId(1)).unwrap();
    assert_eq!(stored.unwrap().snapshot_id.as_deref(), Some("snap_x"));
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn a_damaged_row_of_a_job_that_has_ended_keeps_no_coordinator_from_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trainyard.redb");
    let fatal = || Box::new(|error| panic!("{error}"));
    let store = Store::open(StoreOptions::new(&path), fatal()).unwrap();
    for id in [1, 2] {
        let spec = JobSpec::default();
        let mut job = Job::accepted(JobId(id), spec, "ada".into(), Timestamp(1));
        (job.state, job.ended_at) = (JobState::Completed, Some(Timestamp(2)));
        let change = vec![Change::PutJob(Box::new(job))];
        store.commit_and_wait(change).await.unwrap();
    }
    damage_job(&store, JobId(1));
    drop(store);
    let store = Store::open(StoreOptions::new(&path), fatal()).unwrap();
    let world = world_on((store, folder), Lease::default()).await;
    assert_eq!(submit(&world, RetryPolicy::default()).await, JobId(3));
    // A list leaves it out, too.
    let bounds = crate::store::Bounds {
        rows: 9,
        bytes: usize::MAX,
        looks: 9,
    };
    let found = world.store.jobs(None, bounds, |_| true).unwrap();
    let ids: Vec<_> = found.jobs.iter().map(|job| job.id.0).collect();
    assert_eq!(ids, [3, 2]);
    world.root.stop_and_wait(None, None).await.unwrap();
}

//! The memory of a job is ahead of the disk; what is said of it is not, also where something comes twice.

use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use trainyard_core::{
    ids::{AttemptNo, NodeName, Rank, TaskKey},
    job::Event,
    record::{LogLine, LogStream, Record},
};

use super::{
    retries::{running, runs, say},
    *,
};
use crate::actors::{
    ask::AskError,
    job::{Ack, Batch},
    jobs::RequestKey,
};

/// The committing thread does nothing until the answer is dropped.
pub(super) async fn held(store: &Store) -> std::sync::mpsc::Sender<()> {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let (begun, is_held) = oneshot::channel();
    let hold = move |_: &crate::store::Committed| {
        begun.send(()).ok();
        wait.recv().ok();
    };
    store.commit(Vec::new(), Box::new(hold)).await.unwrap();
    is_held.await.unwrap();
    release
}

/// So many writes wait.
pub(super) async fn waiting(store: &Store, writes: usize) {
    let wait = async {
        while store.waiting() < writes {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, wait).await.expect("in time");
}

/// The first line of the first attempt.
fn line_from(
    node: &str,
    job: JobId,
    (acks, permits): (&mpsc::Sender<Ack>, &std::sync::Arc<Semaphore>),
) -> Batch {
    let line = Record::Log(LogLine {
        at: Timestamp(1),
        stream: LogStream::Stdout,
        level: String::new(),
        text: "x".into(),
    });
    Batch {
        kept_from: 1,
        task: TaskKey {
            job,
            attempt: AttemptNo(1),
            rank: Rank(0),
        },
        node: NodeName(node.into()),
        first_seq: 1,
        records: vec![line],
        acks: acks.clone(),
        permit: std::sync::Arc::clone(permits).try_acquire_owned().unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_task_that_is_not_on_the_node_that_sends_them_are_acknowledged_and_dropped() {
    let world = world(Lease::default()).await;
    let (job, _session, _frames, _task) = running(&world, RetryPolicy::default()).await;
    let (acks, mut acknowledged) = mpsc::channel::<Ack>(4);
    let permits = std::sync::Arc::new(Semaphore::new(4));
    for (node, lines) in [("n2", 0), ("n1", 1)] {
        let batch = line_from(node, job, (&acks, &permits));
        let message = JobsMsg::Route(job, JobMsg::Records(batch));
        world.tree.jobs.cast(message).unwrap();
        assert_eq!(acknowledged.recv().await.unwrap().seq, 1);
        assert_eq!(world.store.logs(job, 0, 10).unwrap().len(), lines);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_comes_twice_is_acknowledged_once_it_is_on_disk_and_not_before() {
    let world = world(Lease::default()).await;
    let (job, _session, _frames, _task) = running(&world, RetryPolicy::default()).await;
    let (acks, mut acknowledged) = mpsc::channel::<Ack>(4);
    let permits = std::sync::Arc::new(Semaphore::new(4));
    let release = held(&world.store).await;
    for copy in 1..=2 {
        let batch = line_from("n1", job, (&acks, &permits));
        let message = JobsMsg::Route(job, JobMsg::Records(batch));
        world.tree.jobs.cast(message).unwrap();
        waiting(&world.store, copy).await;
    }
    assert!(acknowledged.try_recv().is_err(), "nothing is on disk yet");
    drop(release);
    for _ in 0..2 {
        assert_eq!(acknowledged.recv().await.unwrap().seq, 1);
    }
    assert_eq!(world.store.logs(job, 0, 10).unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_is_told_to_stop_once_its_cancel_is_on_disk_and_not_before() {
    let world = world(Lease::default()).await;
    let (job, session, mut frames, task) = running(&world, RetryPolicy::default()).await;
    let release = held(&world.store).await;
    let cancel = JobMsg::Event(Event::CancelRequested, None);
    world.tree.jobs.cast(JobsMsg::Route(job, cancel)).unwrap();
    waiting(&world.store, 1).await;
    // Whose job is cancelled and who still runs is told again.
    say(&session, runs(task));
    waiting(&world.store, 2).await;
    let stopped = |frame: &Frame| matches!(frame, Frame::Stop(_));
    while let Ok(frame) = frames.try_recv() {
        assert!(!stopped(&frame), "the cancel is not on disk yet");
    }
    drop(release);
    for _ in 0..2 {
        while !stopped(&frames.recv().await.unwrap()) {}
    }
}

/// A submission with this key, under way.
fn keyed(world: &World, key: &str) -> tokio::task::JoinHandle<Result<Job, AskError>> {
    let mut submission = submission(RetryPolicy::default());
    submission.key = Some(RequestKey {
        key: key.to_owned(),
        fingerprint: "the same".to_owned(),
    });
    let jobs = world.tree.jobs.clone();
    let question = |reply| JobsMsg::Submit(Box::new(submission), reply);
    tokio_util::task::TaskTracker::new().spawn(async move { ask(&jobs, question).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn submits_with_keys_share_a_commit_and_two_with_one_key_make_one_job_and_both_wait_for_the_disk()
 {
    let world = world(Lease::default()).await;
    let release = held(&world.store).await;
    let before = world.store.commits();
    let mut asked = Vec::new();
    for (n, key) in ["a", "b", "a", "c"].into_iter().enumerate() {
        asked.push(keyed(&world, key));
        // Those with one key make one write; the others do not wait for each other.
        waiting(&world.store, [1, 2, 2, 3][n]).await;
    }
    assert_eq!(world.store.waiting(), 3, "each key once");
    assert!(asked.iter().all(|one| !one.is_finished()), "on no disk yet");
    drop(release);
    let mut ids = Vec::new();
    for one in asked {
        ids.push(one.await.unwrap().unwrap().id.0);
    }
    assert_eq!(ids, [1, 2, 1, 3]);
    assert_eq!(world.store.commits() - before, 1, "one for all of them");
    let again = keyed(&world, "b").await.unwrap().unwrap();
    assert_eq!(again.id, JobId(2));
    assert!(
        world
            .tree
            .broken
            .counts()
            .iter()
            .all(|(_, times)| *times == 0)
    );
    world.root.stop_and_wait(None, None).await.unwrap();
}

/// What refuses a second try, such as a job that both wait for and that was cancelled meanwhile, asks for the first one so.
#[tokio::test(flavor = "multi_thread")]
async fn the_job_of_a_key_that_is_under_way_is_told_once_it_is_on_disk_and_of_a_new_key_nobody_is_told()
 {
    let world = world(Lease::default()).await;
    let release = held(&world.store).await;
    let first = keyed(&world, "a");
    waiting(&world.store, 1).await;
    let of_key = |key: &str| {
        let asked = RequestKey {
            key: key.to_owned(),
            fingerprint: "the same".to_owned(),
        };
        let jobs = world.tree.jobs.clone();
        let question = |reply| JobsMsg::OfKey(asked, reply);
        tokio_util::task::TaskTracker::new().spawn(async move { ask(&jobs, question).await })
    };
    assert!(of_key("b").await.unwrap().is_err(), "nobody has used it");
    let told = of_key("a");
    // Whoever was asked before has answered, so this one was asked.
    assert!(of_key("b").await.unwrap().is_err());
    assert!(!told.is_finished(), "on no disk yet");
    drop(release);
    let first = first.await.unwrap().unwrap();
    assert_eq!(told.await.unwrap().unwrap().id, first.id);
    assert_eq!(of_key("a").await.unwrap().unwrap().id, first.id);
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn a_key_whose_job_is_not_there_is_counted_as_a_broken_invariant_and_makes_a_job() {
    let world = world(Lease::default()).await;
    let key = "lost".to_owned();
    let named = Change::PutRequestKey { key, job: JobId(9) };
    world.store.commit_and_wait(vec![named]).await.unwrap();
    let made = keyed(&world, "lost").await.unwrap().unwrap();
    assert!(world.store.job(made.id).unwrap().is_some());
    let counts = world.tree.broken.counts();
    assert!(counts.contains(&("INV-03", 1)), "{counts:?}");
    world.root.stop_and_wait(None, None).await.unwrap();
}
